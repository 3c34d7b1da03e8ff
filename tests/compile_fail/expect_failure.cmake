# SPDX-License-Identifier: Apache-2.0
# Compiles a source that must not compile, and compares what the compiler says with the source's first line:
#   // expect: REGULAR EXPRESSION
# The second line may be one flag for the compiler:
#   // flags: -std=c++17
file(STRINGS "${source}" lines LIMIT_COUNT 2)
list(GET lines 0 first_line)
list(GET lines 1 second_line)
if(NOT first_line MATCHES "^// expect: (.+)$")
  message(FATAL_ERROR "${source}: the first line must be '// expect: REGULAR EXPRESSION'")
endif()
set(expected "${CMAKE_MATCH_1}")
set(standard -std=c++20)
if(second_line MATCHES "^// flags: (.+)$")
  set(standard "${CMAKE_MATCH_1}")
endif()

execute_process(COMMAND "${compiler}" ${standard} -fsyntax-only "-I${include}" "${source}"
  RESULT_VARIABLE result OUTPUT_VARIABLE said ERROR_VARIABLE said)
if(result EQUAL 0)
  message(FATAL_ERROR "${source} compiles, and must not")
endif()
if(NOT said MATCHES "error: " OR NOT said MATCHES "${expected}")
  message(FATAL_ERROR "${source} fails, but not with '${expected}':\n${said}")
endif()
