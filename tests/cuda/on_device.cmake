# SPDX-License-Identifier: Apache-2.0
# The same tests with the real ssm::cuda, and the laws of the layers on it: NAME on the device is NAME.on_device, labelled
# gpu; without a device they are skipped.
function(ssm_test_on_device source)
  string(REGEX REPLACE "_test\\.cpp$" "" path "${source}")
  string(REPLACE "/" "." name "${path}")
  string(REPLACE "/" "_" target "${path}_on_device")
  add_executable(${target} ${source} cuda/device_main.cpp)
  target_link_libraries(${target} PRIVATE ssm::cpu ssm::io ssm::cuda ssm_page_locked_new doctest::doctest
    ssm_own_options)
  target_include_directories(${target} PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}" "${CMAKE_CURRENT_SOURCE_DIR}/support")
  target_compile_definitions(${target} PRIVATE SSM_TEST_DATA="${CMAKE_CURRENT_SOURCE_DIR}/data" SSM_TEST_CUDA
    SSM_TEST_ON_DEVICE)
  if(path MATCHES "ssm|h3|s4d")  # layers that have tensor-core kernels and general ones
    target_compile_definitions(${target} PRIVATE SSM_TEST_TENSOR_CORES)
  endif()
  target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O1>)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF)  # beside the programs, for tools/test_gpu.sh
  add_test(NAME ${name}.on_device COMMAND ${target})
  set_tests_properties(${name}.on_device PROPERTIES LABELS gpu SKIP_RETURN_CODE 77)
endfunction()

file(GLOB sources CONFIGURE_DEPENDS RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}" cuda/*_test.cpp)
list(APPEND sources layer/attention_test.cpp layer/diagonal_ssm_laws_test.cpp layer/feed_forward_test.cpp
  layer/h3_laws_test.cpp layer/linear_test.cpp layer/norm_test.cpp layer/s4d_test.cpp layer/shift_ssm_test.cpp)
foreach(source IN LISTS sources)
  ssm_test_on_device(${source})
endforeach()
