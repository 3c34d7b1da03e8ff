# SPDX-License-Identifier: Apache-2.0
# What is installed beside the components' headers and libraries. Installation components: development (headers, CMake and
# pkg-config files), runtime (libssm_cuda, libssm_api, and what find_package knows them by), programs, license.
include(CMakePackageConfigHelpers)
set(SSM_INSTALL_CMAKEDIR "${CMAKE_INSTALL_DATADIR}/cmake/ssm" CACHE STRING "Where the files for find_package are installed")
mark_as_advanced(SSM_INSTALL_CMAKEDIR)
set(package_dir "${SSM_INSTALL_CMAKEDIR}")

get_property(SSM_COMPONENTS GLOBAL PROPERTY SSM_COMPONENTS)
get_property(SSM_COMPONENT_TABLE GLOBAL PROPERTY SSM_COMPONENT_TABLE)
foreach(component IN LISTS SSM_COMPONENTS)
  ssm_component_target(${component} target)
  get_target_property(type ${target} TYPE)
  set(part development)
  if(type STREQUAL "SHARED_LIBRARY")
    set(part runtime)
  endif()
  install(EXPORT ssm-${component} NAMESPACE ssm:: DESTINATION "${package_dir}" FILE ssm-${component}.cmake COMPONENT ${part})
endforeach()

# Components primitives and language_model are sources that the project which uses them compiles.
cmake_path(RELATIVE_PATH CMAKE_INSTALL_FULL_INCLUDEDIR
  BASE_DIRECTORY "${CMAKE_INSTALL_PREFIX}/${package_dir}" OUTPUT_VARIABLE SSM_CMAKE_INCLUDEDIR)
if(TARGET ssm_primitives)
  list(APPEND SSM_COMPONENTS primitives)
  string(APPEND SSM_COMPONENT_TABLE "set(ssm_bases_primitives cpu)\nset(ssm_packages_primitives \"\")\n")
  configure_file("${CMAKE_CURRENT_LIST_DIR}/ssm-primitives.cmake.in" "${PROJECT_BINARY_DIR}/ssm-primitives.cmake" @ONLY)
  install(FILES "${PROJECT_BINARY_DIR}/ssm-primitives.cmake" "${CMAKE_CURRENT_LIST_DIR}/primitives.cmake"
    DESTINATION "${package_dir}" COMPONENT development)
endif()
if(TARGET ssm_language_model)
  list(APPEND SSM_COMPONENTS language_model)  # the last: it takes ssm::cuda in where that was found
  string(APPEND SSM_COMPONENT_TABLE "set(ssm_bases_language_model cpu io primitives)\nset(ssm_packages_language_model \"\")\n")
  configure_file("${CMAKE_CURRENT_LIST_DIR}/ssm-language_model.cmake.in" "${PROJECT_BINARY_DIR}/ssm-language_model.cmake" @ONLY)
  install(FILES "${PROJECT_BINARY_DIR}/ssm-language_model.cmake" "${CMAKE_CURRENT_LIST_DIR}/language_model.cmake"
    DESTINATION "${package_dir}" COMPONENT development)
  install(DIRECTORY "${CMAKE_CURRENT_LIST_DIR}/language_model" DESTINATION "${package_dir}" COMPONENT development)
endif()

configure_package_config_file("${CMAKE_CURRENT_LIST_DIR}/ssmConfig.cmake.in" "${PROJECT_BINARY_DIR}/ssmConfig.cmake"
  INSTALL_DESTINATION "${package_dir}" NO_SET_AND_CHECK_MACRO)
set(arch_independent ARCH_INDEPENDENT)
if(SSM_BUILD_CUDA OR TARGET ssm_api)
  set(arch_independent "")
endif()
write_basic_package_version_file("${PROJECT_BINARY_DIR}/ssmConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion ${arch_independent})
install(FILES "${PROJECT_BINARY_DIR}/ssmConfig.cmake" "${PROJECT_BINARY_DIR}/ssmConfigVersion.cmake"
  "${CMAKE_CURRENT_LIST_DIR}/FindFFTW3.cmake" "${CMAKE_CURRENT_LIST_DIR}/FindPCRE2.cmake"
  "${CMAKE_CURRENT_LIST_DIR}/Findutf8proc.cmake" "${CMAKE_CURRENT_LIST_DIR}/Findxsimd.cmake"
  DESTINATION "${package_dir}" COMPONENT development)

# Named ssm-cpp: Debian's libssm-dev, an unrelated library, owns ssm.pc. They find the headers from where they lie.
set(pkgconfig_dir "${CMAKE_INSTALL_DATADIR}/pkgconfig")
cmake_path(RELATIVE_PATH CMAKE_INSTALL_FULL_INCLUDEDIR
  BASE_DIRECTORY "${CMAKE_INSTALL_PREFIX}/${pkgconfig_dir}" OUTPUT_VARIABLE SSM_PKGCONFIG_INCLUDEDIR)
foreach(package ssm-cpp ssm-cpp-cpu)
  configure_file("${CMAKE_CURRENT_LIST_DIR}/${package}.pc.in" "${PROJECT_BINARY_DIR}/${package}.pc" @ONLY)
endforeach()
install(FILES "${PROJECT_BINARY_DIR}/ssm-cpp.pc" DESTINATION "${pkgconfig_dir}" COMPONENT development)
if(SSM_HAS_CPU)
  install(FILES "${PROJECT_BINARY_DIR}/ssm-cpp-cpu.pc" DESTINATION "${pkgconfig_dir}" COMPONENT development)
endif()
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DOCDIR}" COMPONENT license)
if(PROJECT_IS_TOP_LEVEL)
  include(archives)
endif()
