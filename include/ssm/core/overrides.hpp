// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"

namespace ssm {

/// Whether backend B has a primitive of its own where the base that it derives from has another. A
/// static function that is named or typed otherwise than the base's hides nothing, so that the
/// base's goes on being called without a word; this asks.
///   struct Mine : ssm::Cpu {
///     template <class T>
///     static void matmul(ssm::Context<Mine>&, const ssm::Matmul<T, ssm::HostSpace>&);
///   };
///   static_assert(ssm::overrides<Mine, ssm::Matmul<float, ssm::HostSpace>>(&Mine::matmul,
///                                                                          &ssm::Cpu::matmul));
/// Call   the struct of operands; both functions are taken for it
template <class B, class Call>
consteval bool overrides(void (*own)(Context<B>&, const Call&),
                         void (*base)(Context<B>&, const Call&)) {
  return own != base;
}

}  // namespace ssm
