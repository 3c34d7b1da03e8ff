# SPDX-License-Identifier: Apache-2.0
# Objects that were compiled with the same flags become a program; with others they are refused by the linker, unless they
# say that they may be mixed.
#   cmake -D compiler=… -D include=… -D folder=… -P mixed_flags.cmake
function(compile name flags text)
  file(WRITE "${folder}/${name}.cpp" "#include <ssm/core/extents.hpp>\n${text}\n")
  execute_process(COMMAND "${compiler}" -std=c++20 -I "${include}" ${flags} -c "${folder}/${name}.cpp" -o "${folder}/${name}.o"
    COMMAND_ERROR_IS_FATAL ANY)
endfunction()
function(link result)
  execute_process(COMMAND "${compiler}" ${ARGN} -o "${folder}/program" WORKING_DIRECTORY "${folder}"
    RESULT_VARIABLE code ERROR_VARIABLE said)
  string(REGEX REPLACE "\n" " " said "${said}")
  set(${result} "${code} ${said}" PARENT_SCOPE)
endfunction()

set(rank "int rank() { return ssm::Extents<2, 3>::rank(); }")
compile(main "" "int rank(); int main() { return rank() - ssm::Extents<4, 5>::rank(); }")
compile(same "" "${rank}")
compile(avx2 "-mavx2;-mfma" "${rank}")
compile(fast_math "-ffast-math" "${rank}")
compile(allowed "-mavx2;-DSSM_ALLOW_MIXED_FLAGS" "${rank}")

foreach(other same allowed)
  link(result main.o ${other}.o)
  if(NOT result MATCHES "^0 ")
    message(FATAL_ERROR "main.o and ${other}.o do not link: ${result}")
  endif()
endforeach()
foreach(other avx2 fast_math)
  link(result main.o ${other}.o)
  if(result MATCHES "^0 " OR NOT result MATCHES "ssm_objects_differ_in_compiler_flags")
    message(FATAL_ERROR "main.o and ${other}.o: ${result}")
  endif()
endforeach()
