# SPDX-License-Identifier: Apache-2.0
# What our own tests, examples, tools and benchmarks are compiled with. Users of the library get none of it.
add_library(ssm_own_options INTERFACE)
target_compile_options(ssm_own_options INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Wshadow)
if(SSM_WARNINGS_AS_ERRORS)
  target_compile_options(ssm_own_options INTERFACE -Werror)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # False positives from AVX-512 intrinsics in g++ 12, even in system headers.
    target_compile_options(ssm_own_options INTERFACE -Wno-maybe-uninitialized -Wno-uninitialized)
  endif()
endif()
if(SSM_NATIVE)
  target_compile_options(ssm_own_options INTERFACE -march=native)
endif()
if(SSM_SANITIZE)
  target_compile_options(ssm_own_options INTERFACE
    -fsanitize=${SSM_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(ssm_own_options INTERFACE -fsanitize=${SSM_SANITIZE})
endif()

if(PROJECT_IS_TOP_LEVEL AND NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER)
  find_program(SSM_CCACHE ccache)
  mark_as_advanced(SSM_CCACHE)
  if(SSM_CCACHE)
    # Without these two, ccache refuses every file that uses a precompiled header.
    set(CMAKE_CXX_COMPILER_LAUNCHER
      "${CMAKE_COMMAND}" -E env CCACHE_SLOPPINESS=pch_defines,time_macros "${SSM_CCACHE}")
    target_compile_options(ssm_own_options INTERFACE $<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess>)
  endif()
endif()

# ssm_program(target source...): one of our own executables, on the libraries that users link.
function(ssm_program target)
  add_executable(${target} ${ARGN})
  target_link_libraries(${target} PRIVATE ssm::cpu ssm::io ssm_own_options)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF)
endfunction()

# ssm_compares_with_other_libraries(target): one of our own programs that computes the same by Eigen and, where it is asked
# for, by FFTW; SSM_WITH_FFTW tells its source.
function(ssm_compares_with_other_libraries target)
  target_link_libraries(${target} PRIVATE ssm::eigen)
  if(SSM_WITH_FFTW)
    target_link_libraries(${target} PRIVATE ssm::fftw)
    target_compile_definitions(${target} PRIVATE SSM_WITH_FFTW)
  endif()
endfunction()
