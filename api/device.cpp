// SPDX-License-Identifier: Apache-2.0
// What calls of a device have beside their tensors: the current device, and its memory.
#include "backends.hpp"
#include "guarded.hpp"
#include "layer.hpp"

namespace ssm::api {

int current_cuda_device() {
#if defined(SSM_API_WITH_CUDA)
  return cuda::current_device();
#else
  return 0;
#endif
}

}  // namespace ssm::api

ssm_code ssm_set_device_allocator(ssm_device_allocate allocate, ssm_device_free free, void* user) {
  return ssm::api::guarded([&] {
    if ((allocate == nullptr) != (free == nullptr))
      throw ssm::ArgumentError("allocate and free go together");
#if defined(SSM_API_WITH_CUDA)
    ssm::cuda::use_allocator({.allocate = allocate, .deallocate = free, .user = user});
#else
    static_cast<void>(user);
    throw ssm::ArgumentError("this library was built without SSM_BUILD_CUDA");
#endif
  });
}
