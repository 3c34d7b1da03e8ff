# SPDX-License-Identifier: Apache-2.0
# What is installed decides which targets exist; nothing is ever downloaded.
# No versions here: some packages' version files accept only their own major version, and newer ones are welcome.
find_package(Eigen3 CONFIG QUIET)
find_package(xsimd QUIET)
find_package(Threads QUIET)
find_package(FFTW3 QUIET)
find_package(nlohmann_json CONFIG QUIET)

# FFTW is GPL: linking it is the user's visible choice.
option(SSM_WITH_FFTW "Let ssm::cpu use FFTW (GPL-2.0-or-later)" ${FFTW3_FOUND})
if(SSM_WITH_FFTW AND NOT FFTW3_FOUND)
  message(FATAL_ERROR "SSM_WITH_FFTW is ON but fftw3 and fftw3f were not found (Debian: libfftw3-dev)")
endif()

set(SSM_HAS_CPU OFF)
if(Eigen3_VERSION VERSION_GREATER_EQUAL 3.4 AND xsimd_VERSION VERSION_GREATER_EQUAL 8.1 AND Threads_FOUND)
  set(SSM_HAS_CPU ON)
else()
  message(STATUS "ssm::cpu is off: it needs Eigen >= 3.4, xsimd >= 8.1 and threads")
endif()

set(SSM_HAS_IO OFF)
if(nlohmann_json_VERSION VERSION_GREATER_EQUAL 3.11)
  set(SSM_HAS_IO ON)
else()
  message(STATUS "ssm::io is off: it needs nlohmann_json >= 3.11")
endif()

if((SSM_BUILD_TESTS OR SSM_BUILD_EXAMPLES OR SSM_BUILD_TOOLS OR SSM_BUILD_BENCHMARKS)
   AND NOT (SSM_HAS_CPU AND SSM_HAS_IO))
  message(FATAL_ERROR "Tests, examples, tools and benchmarks need ssm::cpu and ssm::io: run tools/setup.sh, "
                      "or turn SSM_BUILD_{TESTS,EXAMPLES,TOOLS,BENCHMARKS} off")
endif()
