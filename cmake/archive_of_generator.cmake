# SPDX-License-Identifier: Apache-2.0
# What cpack reads for each kind of archive. In a Debian package the license is the file that Debian wants.
if(CPACK_GENERATOR STREQUAL "DEB")
  list(REMOVE_ITEM CPACK_COMPONENTS_ALL license)
  list(APPEND CPACK_COMPONENTS_ALL debian)
  set(CPACK_COMPONENT_INCLUDE_TOPLEVEL_DIRECTORY OFF)
endif()
