# SPDX-License-Identifier: Apache-2.0
# The same tests with the real ssm::cuda, and the laws on it: NAME on the device is NAME.on_device, labeled gpu; without a
# device they are skipped. ssm_test_on_device(TARGET SOURCE…)
function(ssm_test_on_device target)
  add_executable(${target} ${ARGN} cuda/device_main.cpp)
  target_link_libraries(${target} PRIVATE laws_on_device)
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}/cuda")
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF)  # beside the programs, for tools/test_gpu.sh
endfunction()

# One test of such a program: ssm_add_device_test(NAME TARGET ARGUMENT…)
function(ssm_add_device_test name target)
  add_test(NAME ${name}.on_device COMMAND ${target} ${ARGN})
  set_tests_properties(${name}.on_device PROPERTIES LABELS gpu SKIP_RETURN_CODE 77
    RESOURCE_LOCK gpu)  # programs that share a device take turns, each many times slower
endfunction()

add_library(laws_on_device STATIC EXCLUDE_FROM_ALL support/check_subject.cpp)
target_link_libraries(laws_on_device PUBLIC ssm::cpu ssm::laws ssm::cuda ssm_page_locked_new doctest::doctest
  ssm_own_options)
target_include_directories(laws_on_device PUBLIC "${CMAKE_CURRENT_SOURCE_DIR}" "${CMAKE_CURRENT_SOURCE_DIR}/support")
# The driver's own malloc is none of the library's doing: what counts is operator new, and page-locked memory.
target_compile_definitions(laws_on_device PUBLIC SSM_TEST_DATA="${CMAKE_CURRENT_SOURCE_DIR}/data" SSM_TEST_CUDA
  SSM_TEST_ON_DEVICE SSM_LAWS_COUNT_OPERATOR_NEW)
target_compile_options(laws_on_device PUBLIC $<$<CONFIG:Release>:-O1>)
set_target_properties(laws_on_device PROPERTIES CXX_EXTENSIONS OFF)

# Of the tests of primitives those of what the device has.
file(GLOB sources CONFIGURE_DEPENDS RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}" cuda/*_test.cpp primitive/*_test.cpp)
foreach(source IN LISTS sources)
  cmake_path(GET source PARENT_PATH area)
  cmake_path(GET source STEM stem)
  string(REGEX REPLACE "_test$" "" stem "${stem}")
  string(REGEX REPLACE "_gradient$" "" primitive "${stem}")
  if(area STREQUAL "primitive" AND NOT EXISTS "${PROJECT_SOURCE_DIR}/include/ssm/backend/cuda/${primitive}.hpp")
    continue()
  endif()
  ssm_test_on_device(${area}_${stem}_on_device "${source}")
  ssm_add_device_test(${area}.${stem} ${area}_${stem}_on_device)
endforeach()
# The laws of every layer and model that runs there, with the kernels of tensor cores and with the general ones.
foreach(program IN LISTS law_programs)
  ssm_test_on_device(laws_${program}_on_device ${law_sources_${program}})
  target_compile_definitions(laws_${program}_on_device PRIVATE SSM_TEST_TENSOR_CORES)
  foreach(short IN LISTS law_lists_${program})
    ssm_add_device_test(laws.${short} laws_${program}_on_device "--test-case=*of every_${short})")
  endforeach()
endforeach()
