# SPDX-License-Identifier: Apache-2.0
# What is installed decides which components exist; nothing is ever downloaded.
# No versions for packages with a configuration of their own: some of those accept only their own major version, and newer
# ones are welcome. MODULE for the others, whatever CMAKE_FIND_PACKAGE_PREFER_CONFIG says: the targets that Debian's
# configuration of xsimd makes are not the ones that cmake/Findxsimd.cmake makes.
find_package(xsimd 8.1 MODULE QUIET)
find_package(Threads MODULE QUIET)
find_package(Eigen3 CONFIG QUIET)
find_package(nlohmann_json CONFIG QUIET)
find_package(utf8proc MODULE QUIET)
find_package(PCRE2 MODULE QUIET)
find_package(PNG MODULE QUIET)

# Several ranks as processes: C++ bindings of MPI are not used. Looked for where our programs are built, or on request.
option(SSM_WITH_MPI "Make ssm::mpi, which links MPI, where MPI is found" ${PROJECT_IS_TOP_LEVEL})
if(SSM_WITH_MPI)
  set(MPI_CXX_SKIP_MPICXX ON)
  find_package(MPI QUIET COMPONENTS CXX)
endif()

# FFTW is GPL: it is looked for, and linked by what links ssm::fftw, only where that is asked for.
option(SSM_WITH_FFTW "Make ssm::fftw, which links FFTW (GPL-2.0-or-later)" OFF)
if(SSM_WITH_FFTW)
  find_package(FFTW3 MODULE QUIET)
  if(NOT FFTW3_FOUND)
    message(FATAL_ERROR "SSM_WITH_FFTW is ON but fftw3 and fftw3f were not found (Debian: libfftw3-dev)")
  endif()
endif()

set(SSM_HAS_CPU OFF)
set(SSM_HAS_EIGEN OFF)
if(xsimd_FOUND AND Threads_FOUND)
  set(SSM_HAS_CPU ON)
  if(Eigen3_VERSION VERSION_GREATER_EQUAL 3.4)
    set(SSM_HAS_EIGEN ON)
  endif()
else()
  message(STATUS "ssm::cpu is off: it needs xsimd >= 8.1 and threads")
endif()
if(SSM_WITH_FFTW AND NOT SSM_HAS_CPU)
  message(FATAL_ERROR "SSM_WITH_FFTW is ON but ssm::cpu, which ssm::fftw stands on, is off")
endif()

set(SSM_HAS_IO OFF)
if(nlohmann_json_VERSION VERSION_GREATER_EQUAL 3.11)
  set(SSM_HAS_IO ON)
else()
  message(STATUS "ssm::io is off: it needs nlohmann_json >= 3.11")
endif()

set(SSM_HAS_TOKENIZER OFF)
if(SSM_HAS_IO AND utf8proc_FOUND AND PCRE2_FOUND)
  set(SSM_HAS_TOKENIZER ON)
else()
  message(STATUS "ssm::tokenizer is off: it needs ssm::io, utf8proc and PCRE2")
endif()

if((SSM_BUILD_TESTS OR SSM_BUILD_EXAMPLES OR SSM_BUILD_TOOLS OR SSM_BUILD_BENCHMARKS)
   AND NOT (SSM_HAS_CPU AND SSM_HAS_IO))
  message(FATAL_ERROR "Tests, examples, tools and benchmarks need ssm::cpu and ssm::io: run tools/setup.sh, "
                      "or take the preset 'install', which builds none of them")
endif()
if((SSM_BUILD_TESTS OR SSM_BUILD_BENCHMARKS) AND NOT SSM_HAS_EIGEN)
  message(FATAL_ERROR "Tests and benchmarks compare with Eigen >= 3.4: run tools/setup.sh, "
                      "or turn SSM_BUILD_TESTS and SSM_BUILD_BENCHMARKS off")
endif()
