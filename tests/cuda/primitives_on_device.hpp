// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backend/cpu/compare.hpp"
#include "ssm/backend/cuda/on_device.hpp"

namespace ssm::test {

/// A backend of these primitives alone, on memory that the host reads too.
template <class... Primitives>
struct OnDevice : Primitives... {
  using Space = HostSpace;
  using Resources = cuda::Resources;
};

/// A context of it whose scratch memory starts as NaN.
template <class... Primitives>
struct DeviceContext : Context<OnDevice<Primitives...>> {
  DeviceContext() { this->workspace().fill_with_nan(true); }
};

}  // namespace ssm::test
