# SPDX-License-Identifier: Apache-2.0
# cpack -G TGZ makes an archive of what is installed; cpack -G DEB a package for Debian, in its layout:
#   cmake --preset install --install-prefix /usr && cd build/install && cpack -G DEB
set(CPACK_GENERATOR TGZ)
set(CPACK_PACKAGE_NAME ssm-cpp)
set(CPACK_PACKAGE_VENDOR "The ssm authors")
set(CPACK_PACKAGE_CONTACT "The ssm authors")
set(CPACK_RESOURCE_FILE_LICENSE "${PROJECT_SOURCE_DIR}/LICENSE")
set(CPACK_VERBATIM_VARIABLES ON)
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_GROUPING ALL_COMPONENTS_IN_ONE)
set(CPACK_ARCHIVE_COMPONENT_INSTALL ON)
set(CPACK_COMPONENT_INCLUDE_TOPLEVEL_DIRECTORY ON)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_ALL development runtime programs license)
set(CPACK_PROJECT_CONFIG_FILE "${CMAKE_CURRENT_LIST_DIR}/archive_of_generator.cmake")

# libssm-dev is an unrelated library of Debian; no file is in both.
set(CPACK_DEBIAN_PACKAGE_NAME libssm-cpp-dev)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "libxsimd-dev (>= 8.1), nlohmann-json3-dev (>= 3.11)")
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "libutf8proc-dev, libpcre2-dev, libpng-dev, libeigen3-dev, doctest-dev")
if(arch_independent AND NOT SSM_BUILD_TOOLS)
  set(CPACK_SYSTEM_NAME any)
  set(CPACK_DEBIAN_PACKAGE_ARCHITECTURE all)
else()
  set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
endif()
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DATADIR}/doc/${CPACK_DEBIAN_PACKAGE_NAME}"
  RENAME copyright COMPONENT debian EXCLUDE_FROM_ALL)
include(CPack)
