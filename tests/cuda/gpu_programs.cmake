# SPDX-License-Identifier: Apache-2.0
# cmake --build build/cuda --target gpu_programs: everything that tools/test_gpu.sh runs, and nothing else.
get_property(programs DIRECTORY PROPERTY BUILDSYSTEM_TARGETS)
list(FILTER programs INCLUDE REGEX "_on_device$")
add_custom_target(gpu_programs)
add_dependencies(gpu_programs ${programs} flashconv)
foreach(program example_10_cuda ssm-cli ssm-conformance ssm_api ssm_onnxruntime ssm-synthetics)
  if(TARGET ${program})
    add_dependencies(gpu_programs ${program})
  endif()
endforeach()
