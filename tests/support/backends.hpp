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

/// Whether models are checked in both scalars on a backend.
template <class B>
inline constexpr bool has_every_scalar = false;
#ifdef SSM_TEST_ON_HOST
template <>
inline constexpr bool has_every_scalar<Cpu> = true;
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
