// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <type_traits>

#include "ssm/core/context.hpp"
#include "ssm/core/parameter.hpp"
#include "ssm/op/convert.hpp"

namespace ssm {

/// What a forward pass with sequences in T reads while P is trained: P itself, or where T is a half
/// type a copy with its matrices in T, beside which P holds the full numbers. The optimizer's pass
/// keeps the copy up to date.
/// Source  Micikevicius et al. 2018 (mixed-precision training)
template <class P, class T>
class WorkingParameters {
  using L = typename P::Layer;
  using Space = typename P::Space;
  static constexpr bool is_copy = !std::is_same_v<T, typename P::Scalar>;
  static_assert(std::is_same_v<Wide<T>, typename P::Scalar>,
                "what is trained must be of the scalar that goes with the sequences, ssm::Wide<T>");

 public:
  using Type = typename L::template Parameters<T, Space>;

  template <class B>
  WorkingParameters(Context<B>& ctx, const L& layer, const P& trained) {
    if constexpr (is_copy) {
      copy_ = layer.template zero_parameters<T>(ctx);
      refresh(ctx, trained);
    }
  }

  const Type& of(const P& trained) const {
    if constexpr (is_copy)
      return copy_;
    else
      return trained;
  }
  Type& of(P& trained) {
    if constexpr (is_copy)
      return copy_;
    else
      return trained;
  }

  /// After somebody else has changed what is trained.
  template <class B>
  void refresh(Context<B>& ctx, const P& trained) {
    if constexpr (is_copy)
      for_each_parameter(
          [&](const ParameterSpec&, const auto& from, auto& to) { round(ctx, from, to); }, trained,
          copy_);
  }

 private:
  template <class B, class From, class To>
  static void round(Context<B>& ctx, const From& from, To& to) {
    using F = typename std::remove_cvref_t<decltype(from.flatten())>::Value;
    using U = typename std::remove_cvref_t<decltype(to.flatten())>::Value;
    const Index count = from.size();
    if constexpr (std::is_same_v<F, U>)
      ctx.copy(to.data(), from.data(), static_cast<std::size_t>(count) * sizeof(U));
    else
      convert(ctx, Convert<F, U, Space>{.x = from.flatten().reshape(1, 1, count),
                                        .y = to.flatten().reshape(1, 1, count)});
  }

  struct Nothing {};
  [[no_unique_address]] std::conditional_t<is_copy, Type, Nothing> copy_;
};

}  // namespace ssm
