// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>

#include "ssm/core/error.hpp"  // Index

namespace ssm {

/// The size of a call over sequences, by which kernels and forms are chosen. `terms`: multiply-adds
/// per output of the direct form, that is modes, taps or kernel terms.
struct SequenceWork {
  Index batch = 0;
  Index length = 0;
  Index channels = 0;
  Index terms = 0;
  bool is_backward = false;  // a backward call; where a form is chosen, one follows

  constexpr Index products() const { return batch * length * terms; }  // a channel
};

/// A backend that knows where a diagonal SSM is faster as a convolution than as a scan, `terms` being its modes.
template <class B, class T>
concept ChoosesDiagonalForm = requires(const SequenceWork& work) {
  { B::template prefers_convolution<T>(work) } -> std::same_as<bool>;
};

}  // namespace ssm
