# SPDX-License-Identifier: Apache-2.0
# xsimd as xsimd::xsimd. Debian 12's own CMake package links xtl, which xsimd neither needs nor depends on there.
find_path(xsimd_INCLUDE_DIR xsimd/xsimd.hpp)
mark_as_advanced(xsimd_INCLUDE_DIR)

set(xsimd_VERSION "")
if(EXISTS "${xsimd_INCLUDE_DIR}/xsimd/config/xsimd_config.hpp")
  set(pattern "#define XSIMD_VERSION_(MAJOR|MINOR|PATCH) +([0-9]+)")
  file(STRINGS "${xsimd_INCLUDE_DIR}/xsimd/config/xsimd_config.hpp" lines REGEX "${pattern}")
  list(TRANSFORM lines REPLACE "${pattern}.*" "\\2")
  list(JOIN lines "." xsimd_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(xsimd REQUIRED_VARS xsimd_INCLUDE_DIR VERSION_VAR xsimd_VERSION)

if(xsimd_FOUND AND NOT TARGET xsimd::xsimd)
  add_library(xsimd::xsimd INTERFACE IMPORTED)
  set_target_properties(xsimd::xsimd PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${xsimd_INCLUDE_DIR}")
endif()
