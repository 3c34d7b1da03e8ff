// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/reference.hpp"
#if !defined(SSM_TEST_CUDA) || defined(SSM_TEST_EVERY_BACKEND)
#define SSM_TEST_ON_HOST
#include "ssm/backend/cpu.hpp"
#endif
#if defined(SSM_TEST_CUDA) || defined(SSM_TEST_EVERY_BACKEND)
#define SSM_TEST_ON_CUDA
#include "ssm/backend/cuda.hpp"
#endif

namespace ssm::laws {

/// Calls visit.operator()<Backend>(name) for every backend under test: a new backend is one more line.
template <class Visit>
void for_each_backend(Visit&& visit) {
#ifdef SSM_TEST_ON_HOST
  visit.template operator()<Reference>("reference");
  visit.template operator()<Cpu>("cpu");
#endif
#ifdef SSM_TEST_ON_CUDA
  visit.template operator()<BasicCuda<HostSpace>>("cuda");
#ifdef SSM_TEST_TENSOR_CORES
  visit.template operator()<BasicCuda<HostSpace, cuda::TensorCoreKernels>>("cuda, tensor cores");
#endif
#endif
}

/// Whether a backend's loops take a register of numbers at a time.
template <class B>
inline constexpr bool has_vectors = false;
/// Whether it shares large operands among threads: the Cuda backend does on a device.
template <class B>
inline constexpr bool has_threads = false;
#ifdef SSM_TEST_ON_HOST
template <>
inline constexpr bool has_vectors<Cpu> = true;
template <>
inline constexpr bool has_threads<Cpu> = true;
#endif
#if defined(SSM_TEST_ON_CUDA) && defined(SSM_TEST_ON_DEVICE)
template <class Kernels>
inline constexpr bool has_threads<BasicCuda<HostSpace, Kernels>> = true;
#endif

/// Calls visit.operator()<Backend, Scalar>(name) for every backend and scalar under test.
template <class Visit>
void for_each_backend_and_scalar(Visit&& visit) {
  for_each_backend([&]<class B>(const char* name) {
    visit.template operator()<B, float>(name);
    visit.template operator()<B, double>(name);
  });
}

}  // namespace ssm::laws
