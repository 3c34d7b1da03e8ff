# SPDX-License-Identifier: Apache-2.0
include(GNUInstallDirs)

# ssm_component(NAME [HEADERS regex] [EXCEPT regex] [ON component…] [PACKAGES "find_package arguments"…] [LINK target…])
# A header-only component: target ssm_NAME, used as ssm::NAME, of the headers under include/ whose path matches HEADERS and
# not EXCEPT. They are installed and, in our own builds, each compiled alone (build target all_verify_interface_header_sets).
# Component core is target ssm_ssm, used as ssm::ssm.
function(ssm_component component)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "HEADERS;EXCEPT" "ON;PACKAGES;LINK")
  ssm_component_target(${component} target)
  add_library(${target} INTERFACE)
  target_compile_features(${target} INTERFACE cxx_std_20)
  foreach(base IN LISTS arg_ON)
    ssm_component_target(${base} base_target)
    target_link_libraries(${target} INTERFACE ${base_target})
  endforeach()
  target_link_libraries(${target} INTERFACE ${arg_LINK})

  set(root "${PROJECT_SOURCE_DIR}/include")
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS RELATIVE "${root}" "${root}/ssm/*.hpp")
  if(arg_HEADERS)
    list(FILTER headers INCLUDE REGEX "^${arg_HEADERS}")
  endif()
  if(arg_EXCEPT)
    list(FILTER headers EXCLUDE REGEX "^${arg_EXCEPT}")
  endif()
  set_property(GLOBAL APPEND PROPERTY SSM_PUBLIC_HEADERS ${headers})
  list(TRANSFORM headers PREPEND "${root}/")
  target_sources(${target} INTERFACE FILE_SET HEADERS BASE_DIRS "${root}" FILES ${headers})
  set_target_properties(${target} PROPERTIES VERIFY_INTERFACE_HEADER_SETS ${PROJECT_IS_TOP_LEVEL})
  ssm_export(${component} ON ${arg_ON} PACKAGES ${arg_PACKAGES})
endfunction()

# ssm_export(NAME [ON component…] [PACKAGES "find_package arguments"…])
# Target ssm_NAME gets its public name and is installed as that component, which find_package(ssm) gives once the
# components and packages that it stands on are found.
function(ssm_export component)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "ON;PACKAGES")
  ssm_component_target(${component} target)
  string(REGEX REPLACE "^ssm_" "" name "${target}")
  add_library(ssm::${name} ALIAS ${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name})
  if(NOT SSM_INSTALL)
    return()
  endif()
  list(JOIN arg_PACKAGES "\" \"" packages)
  list(JOIN arg_ON " " bases)
  set_property(GLOBAL APPEND PROPERTY SSM_COMPONENTS ${component})
  set_property(GLOBAL APPEND_STRING PROPERTY SSM_COMPONENT_TABLE
    "set(ssm_bases_${component} ${bases})\nset(ssm_packages_${component} \"${packages}\")\n")
  get_target_property(type ${target} TYPE)
  if(type STREQUAL "INTERFACE_LIBRARY")
    install(TARGETS ${target} EXPORT ssm-${component} FILE_SET HEADERS COMPONENT development)
  else()
    install(TARGETS ${target} EXPORT ssm-${component}
      LIBRARY COMPONENT runtime NAMELINK_COMPONENT development)
  endif()
endfunction()

# The name of a component's own target: prefixed, so that it meets no target of an application that adds this directory.
function(ssm_component_target component result)
  if(component STREQUAL "core")
    set(${result} ssm_ssm PARENT_SCOPE)
  else()
    set(${result} ssm_${component} PARENT_SCOPE)
  endif()
endfunction()
