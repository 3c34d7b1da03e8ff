# SPDX-License-Identifier: Apache-2.0
# ssm_api_for_instruction_sets(): libssm_api once more for each of SSM_INSTRUCTION_SETS, such as x86-64-v3;x86-64-v4, which
# a wheel brings beside the one for every processor; Python loads the best that the processor has. Each is a build of its
# own, because all objects of a library are compiled for the same instructions. Folders are named as glibc names them.
set(SSM_INSTRUCTION_SETS "" CACHE STRING "Instruction sets that a wheel has a library for besides")
include(ExternalProject)
function(ssm_api_for_instruction_sets)
  set(before "")
  set(lists "")
  foreach(name SSM_LANGUAGE_MODEL_FAMILIES SSM_LANGUAGE_MODEL_BACKENDS)
    string(REPLACE ";" "|" list "${${name}}")
    list(APPEND lists "-D${name}=${list}")
  endforeach()
  foreach(set IN LISTS SSM_INSTRUCTION_SETS)
    set(folder "${PROJECT_BINARY_DIR}/${set}")
    ExternalProject_Add(ssm_api_${set}
      SOURCE_DIR "${PROJECT_SOURCE_DIR}" BINARY_DIR "${folder}" PREFIX "${folder}-steps" DEPENDS ${before}
      CMAKE_ARGS "-DCMAKE_CXX_FLAGS=${CMAKE_CXX_FLAGS} -march=${set}" "-DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER}"
        "-DCMAKE_BUILD_TYPE=${CMAKE_BUILD_TYPE}" "-DCMAKE_CXX_FLAGS_RELEASE=${CMAKE_CXX_FLAGS_RELEASE}" ${lists}
        "-DCMAKE_RUNTIME_OUTPUT_DIRECTORY=${folder}" -DSSM_BUILD_API=ON -DSSM_API_PLAIN_NAME=ON
        -DSSM_BUILD_TESTS=OFF -DSSM_BUILD_EXAMPLES=OFF -DSSM_BUILD_TOOLS=OFF -DSSM_BUILD_BENCHMARKS=OFF -DSSM_INSTALL=OFF
        -DSSM_WARNINGS_AS_ERRORS=OFF
      LIST_SEPARATOR |
      BUILD_COMMAND "${CMAKE_COMMAND}" --build "${folder}" --target ssm_api
      INSTALL_COMMAND "" BUILD_ALWAYS ON USES_TERMINAL_BUILD ON)
    add_dependencies(ssm_api ssm_api_${set})
    set(before ssm_api_${set})
    install(PROGRAMS "${folder}/libssm_api.so" DESTINATION "ssm/glibc-hwcaps/${set}" COMPONENT python)
  endforeach()
endfunction()
