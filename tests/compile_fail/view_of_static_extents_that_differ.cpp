// expect: could not convert|cannot convert|no viable conversion|conversion from
// SPDX-License-Identifier: Apache-2.0
#include <ssm/core/tensor.hpp>

using Wide = ssm::TensorView<float, ssm::Extents<ssm::dyn, 256>>;

Wide as_wide(ssm::Tensor<float, ssm::Extents<ssm::dyn, 192>>& narrow) { return narrow; }
