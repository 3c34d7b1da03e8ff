# SPDX-License-Identifier: Apache-2.0
include(GNUInstallDirs)

# ssm_public_headers(target ONLY|EXCEPT regex): gives the target the headers under include/ whose path does
# or does not match, to install and, in our own builds, to compile each one alone with that target's
# requirements (build target all_verify_interface_header_sets).
function(ssm_public_headers target mode regex)
  set(root "${PROJECT_SOURCE_DIR}/include")
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS RELATIVE "${root}" "${root}/ssm/*.hpp")
  if(mode STREQUAL "ONLY")
    list(FILTER headers INCLUDE REGEX "^${regex}")
  else()
    list(FILTER headers EXCLUDE REGEX "^${regex}")
  endif()
  set_property(GLOBAL APPEND PROPERTY SSM_PUBLIC_HEADERS ${headers})
  list(TRANSFORM headers PREPEND "${root}/")
  target_sources(${target} INTERFACE FILE_SET HEADERS BASE_DIRS "${root}" FILES ${headers})
  set_target_properties(${target} PROPERTIES VERIFY_INTERFACE_HEADER_SETS ${PROJECT_IS_TOP_LEVEL})
endfunction()

# ssm_library(component target): the target is ssm::component (ssm::ssm for core), installed under that component.
function(ssm_library component target)
  if(component STREQUAL "core")
    set(name ssm)
  else()
    set(name ${component})
  endif()
  add_library(ssm::${name} ALIAS ${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name})
  set_property(GLOBAL APPEND PROPERTY SSM_COMPONENTS ${component})
  install(TARGETS ${target} EXPORT ssm-${component} FILE_SET HEADERS)
endfunction()
