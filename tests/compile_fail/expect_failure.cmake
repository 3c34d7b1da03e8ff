# SPDX-License-Identifier: Apache-2.0
# Compiles a source that must not compile, and compares what the compiler says with the source's first line:
#   // expect: REGULAR EXPRESSION
file(STRINGS "${source}" first_line LIMIT_COUNT 1)
if(NOT first_line MATCHES "^// expect: (.+)$")
  message(FATAL_ERROR "${source}: the first line must be '// expect: REGULAR EXPRESSION'")
endif()
set(expected "${CMAKE_MATCH_1}")

execute_process(COMMAND "${compiler}" -std=c++20 -fsyntax-only "-I${include}" "${source}"
  RESULT_VARIABLE result OUTPUT_VARIABLE said ERROR_VARIABLE said)
if(result EQUAL 0)
  message(FATAL_ERROR "${source} compiles, and must not")
endif()
if(NOT said MATCHES "error: " OR NOT said MATCHES "${expected}")
  message(FATAL_ERROR "${source} fails, but not with '${expected}':\n${said}")
endif()
