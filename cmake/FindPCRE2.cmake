# SPDX-License-Identifier: Apache-2.0
# PCRE2 for texts of bytes as PCRE2::8BIT. Debian's package has no CMake configuration.
find_path(PCRE2_INCLUDE_DIR pcre2.h)
find_library(PCRE2_8BIT_LIBRARY pcre2-8)
mark_as_advanced(PCRE2_INCLUDE_DIR PCRE2_8BIT_LIBRARY)

set(PCRE2_VERSION "")
if(EXISTS "${PCRE2_INCLUDE_DIR}/pcre2.h")
  set(pattern "#define PCRE2_(MAJOR|MINOR) +([0-9]+)")
  file(STRINGS "${PCRE2_INCLUDE_DIR}/pcre2.h" lines REGEX "${pattern}")
  list(TRANSFORM lines REPLACE "${pattern}.*" "\\2")
  list(JOIN lines "." PCRE2_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(PCRE2
  REQUIRED_VARS PCRE2_8BIT_LIBRARY PCRE2_INCLUDE_DIR VERSION_VAR PCRE2_VERSION)

if(PCRE2_FOUND AND NOT TARGET PCRE2::8BIT)
  add_library(PCRE2::8BIT UNKNOWN IMPORTED)
  set_target_properties(PCRE2::8BIT PROPERTIES
    IMPORTED_LOCATION "${PCRE2_8BIT_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${PCRE2_INCLUDE_DIR}")
endif()
