# SPDX-License-Identifier: Apache-2.0
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(package_dir "${CMAKE_INSTALL_DATADIR}/cmake/ssm")

get_property(SSM_COMPONENTS GLOBAL PROPERTY SSM_COMPONENTS)
foreach(component IN LISTS SSM_COMPONENTS)
  install(EXPORT ssm-${component} NAMESPACE ssm:: DESTINATION "${package_dir}" FILE ssm-${component}.cmake)
endforeach()

configure_package_config_file("${CMAKE_CURRENT_LIST_DIR}/ssmConfig.cmake.in" "${PROJECT_BINARY_DIR}/ssmConfig.cmake"
  INSTALL_DESTINATION "${package_dir}" NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/ssmConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES "${PROJECT_BINARY_DIR}/ssmConfig.cmake" "${PROJECT_BINARY_DIR}/ssmConfigVersion.cmake"
  "${CMAKE_CURRENT_LIST_DIR}/FindFFTW3.cmake" "${CMAKE_CURRENT_LIST_DIR}/Findxsimd.cmake" DESTINATION "${package_dir}")

# Named ssm-cpp: Debian's libssm-dev, an unrelated library, owns ssm.pc.
configure_file("${CMAKE_CURRENT_LIST_DIR}/ssm-cpp.pc.in" "${PROJECT_BINARY_DIR}/ssm-cpp.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/ssm-cpp.pc" DESTINATION "${CMAKE_INSTALL_DATADIR}/pkgconfig")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DOCDIR}")
