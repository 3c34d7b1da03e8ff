// SPDX-License-Identifier: Apache-2.0
#include <ssm/core/scalar.hpp>

int main() { return ssm::BFloat16(1.0F) == ssm::BFloat16(2.0F) ? 1 : 0; }
