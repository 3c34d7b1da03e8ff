// expect: deleted
// SPDX-License-Identifier: Apache-2.0
#include <ssm/core/tensor.hpp>

ssm::DynamicTensor<float, 2> copy(const ssm::DynamicTensor<float, 2>& tensor) { return tensor; }
