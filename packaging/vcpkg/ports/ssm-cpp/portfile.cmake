# SPDX-License-Identifier: Apache-2.0
# The tree that this port is in: vcpkg install ssm-cpp --overlay-ports=packaging/vcpkg/ports
get_filename_component(SOURCE_PATH "${CURRENT_PORT_DIR}/../../../.." ABSOLUTE)
set(VCPKG_BUILD_TYPE release)  # headers alone: there is no other build
set(VCPKG_POLICY_SKIP_PKGCONFIG_CHECK enabled)  # ssm-cpp-cpu.pc links -pthread, but nothing of an architecture

# A component is there where its packages are; those that were not asked for stay out of sight.
vcpkg_check_features(OUT_FEATURE_OPTIONS FEATURE_OPTIONS
  INVERTED_FEATURES
    cpu       CMAKE_DISABLE_FIND_PACKAGE_xsimd
    eigen     CMAKE_DISABLE_FIND_PACKAGE_Eigen3
    io        CMAKE_DISABLE_FIND_PACKAGE_nlohmann_json
    tokenizer CMAKE_DISABLE_FIND_PACKAGE_PCRE2)

vcpkg_cmake_configure(
  SOURCE_PATH "${SOURCE_PATH}"
  OPTIONS
    ${FEATURE_OPTIONS}
    -DSSM_BUILD_TESTS=OFF
    -DSSM_BUILD_EXAMPLES=OFF
    -DSSM_BUILD_TOOLS=OFF
    -DSSM_BUILD_BENCHMARKS=OFF
    -DSSM_BUILD_API=OFF
    -DSSM_INSTALL_CMAKEDIR=share/ssm)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(PACKAGE_NAME ssm CONFIG_PATH share/ssm)
vcpkg_fixup_pkgconfig()

file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/share/doc")
file(INSTALL "${CMAKE_CURRENT_LIST_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
