// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "ssm/core/context.hpp"
#include "ssm/core/parameter.hpp"

namespace ssm {

/// Hears, while a backward pass goes on, which gradients it is done with: those can go to other
/// ranks beside the rest of it.
class GradientListener {
 public:
  virtual void add(void* data, std::size_t count) = 0;
  /// Behind the tensors of one layer.
  virtual void end_part() = 0;

 protected:
  ~GradientListener() = default;
};

/// A context's backward passes tell `listener` as long as it is there; null is nobody.
template <class B>
class GradientListenerScope {
 public:
  GradientListenerScope(Context<B>& ctx, GradientListener* listener)
      : ctx_(ctx), before_(ctx.gradient_listener()) {
    ctx.set_gradient_listener(listener);
  }
  GradientListenerScope(const GradientListenerScope&) = delete;
  GradientListenerScope& operator=(const GradientListenerScope&) = delete;
  ~GradientListenerScope() { ctx_.set_gradient_listener(before_); }

 private:
  Context<B>& ctx_;
  GradientListener* before_;
};

/// What a combinator says of a layer whose gradients are done.
template <class B, class P>
void tell_done(Context<B>& ctx, P& gradients) {
  GradientListener* const listener = ctx.gradient_listener();
  if (listener == nullptr) return;
  for_each_parameter(
      [&](const ParameterSpec&, auto& tensor) {
        listener->add(tensor.data(), static_cast<std::size_t>(tensor.size()));
      },
      gradients);
  listener->end_part();
}

}  // namespace ssm
