# SPDX-License-Identifier: Apache-2.0
# utf8proc as utf8proc::utf8proc. Debian's package has no CMake configuration.
find_path(utf8proc_INCLUDE_DIR utf8proc.h)
find_library(utf8proc_LIBRARY utf8proc)
mark_as_advanced(utf8proc_INCLUDE_DIR utf8proc_LIBRARY)

set(utf8proc_VERSION "")
if(EXISTS "${utf8proc_INCLUDE_DIR}/utf8proc.h")
  set(pattern "#define UTF8PROC_VERSION_(MAJOR|MINOR|PATCH) +([0-9]+)")
  file(STRINGS "${utf8proc_INCLUDE_DIR}/utf8proc.h" lines REGEX "${pattern}")
  list(TRANSFORM lines REPLACE "${pattern}.*" "\\2")
  list(JOIN lines "." utf8proc_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(utf8proc
  REQUIRED_VARS utf8proc_LIBRARY utf8proc_INCLUDE_DIR VERSION_VAR utf8proc_VERSION)

if(utf8proc_FOUND AND NOT TARGET utf8proc::utf8proc)
  add_library(utf8proc::utf8proc UNKNOWN IMPORTED)
  set_target_properties(utf8proc::utf8proc PROPERTIES
    IMPORTED_LOCATION "${utf8proc_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${utf8proc_INCLUDE_DIR}")
endif()
