# SPDX-License-Identifier: Apache-2.0
# cmake -D program=… -D expected=… -P same_output.cmake: fails unless the program prints exactly that file.
execute_process(COMMAND "${program}" OUTPUT_VARIABLE printed RESULT_VARIABLE code)
file(READ "${expected}" text)
if(NOT code EQUAL 0 OR NOT printed STREQUAL text)
  message(FATAL_ERROR "${expected} is not what ${program} prints: write it anew")
endif()
