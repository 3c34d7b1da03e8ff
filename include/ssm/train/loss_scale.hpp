// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <type_traits>

#include "ssm/core/error.hpp"  // Index
#include "ssm/core/scalar.hpp"

namespace ssm {

/// What a loss is multiplied by before its gradient is taken, so that gradients in f16 are neither
/// too small nor too large for it: halved where one was not finite, doubled after so many updates
/// without that. Other types have the range of float, and no need of it.
/// Source  Micikevicius et al. 2018 §3.2
class LossScale {
 public:
  static constexpr Index growth_interval = 2000;  // updates
  static constexpr double largest = 65536;

  /// One, for good.
  LossScale() = default;
  /// For sequences in T.
  template <class T>
  static LossScale for_sequences() {
    return LossScale(std::is_same_v<T, Float16> ? largest : 1, std::is_same_v<T, Float16>);
  }

  double value() const { return value_; }
  bool is_dynamic() const { return is_dynamic_; }
  /// Updates since it changed.
  Index age() const { return age_; }

  void count_update() {
    if (!is_dynamic_ || ++age_ < growth_interval) return;
    value_ = std::min(2 * value_, largest);
    age_ = 0;
  }
  /// Returns whether it is worth another try.
  bool shrink() {
    if (!is_dynamic_ || value_ <= 1) return false;
    value_ /= 2;
    age_ = 0;
    return true;
  }
  /// As it was when a run was stopped.
  void restore(double value, Index age) {
    if (!is_dynamic_) return;
    value_ = value;
    age_ = age;
  }

 private:
  LossScale(double value, bool is_dynamic) : value_(value), is_dynamic_(is_dynamic) {}

  double value_ = 1;
  bool is_dynamic_ = false;
  Index age_ = 0;
};

}  // namespace ssm
