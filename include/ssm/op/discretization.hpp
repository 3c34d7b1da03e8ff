// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace ssm {

/// How x' = A x + B u becomes x_t = Ā x_{t−1} + B̄ u_t over a step of dt seconds, with z = dt·A.
///   bilinear          Ā = (1 + z/2) / (1 − z/2)    B̄ = dt·B / (1 − z/2)
///   zero_order_hold   Ā = e^z                      B̄ = B·(e^z − 1) / A
enum class Discretization { bilinear, zero_order_hold };

}  // namespace ssm
