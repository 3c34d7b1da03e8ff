// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <set>
#include <string_view>
#include <tuple>
#include <type_traits>

#include "support/every_primitive.hpp"

namespace ssm::laws {

/// A backend with the primitives of these parts and no others.
template <class... Parts>
struct MadeOf : Parts... {
  using Space = HostSpace;
  struct Resources {};
};

namespace detail {
template <class Dropped, class Kept, class... Parts>
struct Without;
template <class Dropped, class... Kept>
struct Without<Dropped, std::tuple<Kept...>> {
  using Type = MadeOf<Kept...>;
};
template <class Dropped, class... Kept, class Part, class... Parts>
struct Without<Dropped, std::tuple<Kept...>, Part, Parts...>
    : Without<Dropped,
              std::conditional_t<std::is_same_v<Dropped, Part>, std::tuple<Kept...>,
                                 std::tuple<Kept..., Part>>,
              Parts...> {};

template <class Dropped, class... Parts, class... Exists>
auto without(const std::tuple<PrimitiveCase<Parts, Exists>...>&) ->
    typename Without<Dropped, std::tuple<>, Parts...>::Type;
}  // namespace detail

/// Reference without one of its parts.
template <class Part>
using ReferenceWithout = decltype(detail::without<Part>(every_primitive));

/// Reference, which takes down the names of the primitives that are called.
struct Recorder : Reference {
  static inline std::set<std::string_view> called;

  /// Layers that ask convolve where they may.
  template <class T>
  static bool prefers_convolution(const SequenceWork&) {
    return true;
  }
  template <class Ctx, class A>
  static void causal_convolution(Ctx& ctx, const A& a) {
    called.insert("causal_convolution");
    Reference::causal_convolution(ctx, a);
  }
  template <class Ctx, class A>
  static void causal_convolution_backward(Ctx& ctx, const A& a) {
    called.insert("causal_convolution");
    Reference::causal_convolution_backward(ctx, a);
  }
  template <class Ctx, class A>
  static void diagonal_kernel(Ctx& ctx, const A& a) {
    called.insert("diagonal_kernel");
    Reference::diagonal_kernel(ctx, a);
  }
  template <class Ctx, class A>
  static void diagonal_kernel_backward(Ctx& ctx, const A& a) {
    called.insert("diagonal_kernel");
    Reference::diagonal_kernel_backward(ctx, a);
  }
  template <class Ctx, class A>
  static void diagonal_parameters(Ctx& ctx, const A& a) {
    called.insert("diagonal_parameters");
    Reference::diagonal_parameters(ctx, a);
  }
  template <class Ctx, class A>
  static void diagonal_parameters_backward(Ctx& ctx, const A& a) {
    called.insert("diagonal_parameters");
    Reference::diagonal_parameters_backward(ctx, a);
  }
  template <class Ctx, class A>
  static void diagonal_scan(Ctx& ctx, const A& a) {
    called.insert("diagonal_scan");
    Reference::diagonal_scan(ctx, a);
  }
  template <class Ctx, class A>
  static void diagonal_scan_backward(Ctx& ctx, const A& a) {
    called.insert("diagonal_scan");
    Reference::diagonal_scan_backward(ctx, a);
  }
  template <class Ctx, class A>
  static void shift_convolution(Ctx& ctx, const A& a) {
    called.insert("shift_convolution");
    Reference::shift_convolution(ctx, a);
  }
  template <class Ctx, class A>
  static void shift_convolution_backward(Ctx& ctx, const A& a) {
    called.insert("shift_convolution");
    Reference::shift_convolution_backward(ctx, a);
  }
  template <class Ctx, class A>
  static void short_convolution(Ctx& ctx, const A& a) {
    called.insert("short_convolution");
    Reference::short_convolution(ctx, a);
  }
  template <class Ctx, class A>
  static void short_convolution_backward(Ctx& ctx, const A& a) {
    called.insert("short_convolution");
    Reference::short_convolution_backward(ctx, a);
  }
  template <class Ctx, class A>
  static void selective_scan(Ctx& ctx, const A& a) {
    called.insert("selective_scan");
    Reference::selective_scan(ctx, a);
  }
  template <class Ctx, class A>
  static void selective_scan_backward(Ctx& ctx, const A& a) {
    called.insert("selective_scan");
    Reference::selective_scan_backward(ctx, a);
  }
  template <class Ctx, class A>
  static void ssd_scan(Ctx& ctx, const A& a) {
    called.insert("ssd_scan");
    Reference::ssd_scan(ctx, a);
  }
  template <class Ctx, class A>
  static void ssd_scan_backward(Ctx& ctx, const A& a) {
    called.insert("ssd_scan");
    Reference::ssd_scan_backward(ctx, a);
  }
  template <class Ctx, class A>
  static void cascaded_scan(Ctx& ctx, const A& a) {
    called.insert("cascaded_scan");
    Reference::cascaded_scan(ctx, a);
  }
  template <class Ctx, class A>
  static void cascaded_scan_backward(Ctx& ctx, const A& a) {
    called.insert("cascaded_scan");
    Reference::cascaded_scan_backward(ctx, a);
  }
  template <class Ctx, class A>
  static void h3_mixer(Ctx& ctx, const A& a) {
    called.insert("h3_mixer");
    Reference::h3_mixer(ctx, a);
  }
  template <class Ctx, class A>
  static void h3_mixer_backward(Ctx& ctx, const A& a) {
    called.insert("h3_mixer");
    Reference::h3_mixer_backward(ctx, a);
  }
  template <class Ctx, class A>
  static void attention(Ctx& ctx, const A& a) {
    called.insert("attention, rotary");
    Reference::attention(ctx, a);
  }
  template <class Ctx, class A>
  static void attention_backward(Ctx& ctx, const A& a) {
    called.insert("attention, rotary");
    Reference::attention_backward(ctx, a);
  }
  template <class Ctx, class A>
  static void rotary(Ctx& ctx, const A& a) {
    called.insert("attention, rotary");
    Reference::rotary(ctx, a);
  }
  template <class Ctx, class A>
  static void decayed_attention(Ctx& ctx, const A& a) {
    called.insert("decayed_attention, decayed_score_norm, retention_scale");
    Reference::decayed_attention(ctx, a);
  }
  template <class Ctx, class A>
  static void decayed_attention_backward(Ctx& ctx, const A& a) {
    called.insert("decayed_attention, decayed_score_norm, retention_scale");
    Reference::decayed_attention_backward(ctx, a);
  }
  template <class Ctx, class A>
  static void decayed_score_norm(Ctx& ctx, const A& a) {
    called.insert("decayed_attention, decayed_score_norm, retention_scale");
    Reference::decayed_score_norm(ctx, a);
  }
  template <class Ctx, class A>
  static void retention_scale(Ctx& ctx, const A& a) {
    called.insert("decayed_attention, decayed_score_norm, retention_scale");
    Reference::retention_scale(ctx, a);
  }
  template <class Ctx, class A>
  static void pair_rotation(Ctx& ctx, const A& a) {
    called.insert("pair_rotation, advance_position");
    Reference::pair_rotation(ctx, a);
  }
  template <class Ctx, class A>
  static void advance_position(Ctx& ctx, const A& a) {
    called.insert("pair_rotation, advance_position");
    Reference::advance_position(ctx, a);
  }
  template <class Ctx, class A>
  static void matmul(Ctx& ctx, const A& a) {
    called.insert("matmul");
    Reference::matmul(ctx, a);
  }
  template <class Ctx, class A>
  static void normalization(Ctx& ctx, const A& a) {
    called.insert("normalization");
    Reference::normalization(ctx, a);
  }
  template <class Ctx, class A>
  static void normalization_backward(Ctx& ctx, const A& a) {
    called.insert("normalization");
    Reference::normalization_backward(ctx, a);
  }
  template <class Ctx, class A>
  static void activation(Ctx& ctx, const A& a) {
    called.insert("activation");
    Reference::activation(ctx, a);
  }
  template <class Ctx, class A>
  static void activation_backward(Ctx& ctx, const A& a) {
    called.insert("activation");
    Reference::activation_backward(ctx, a);
  }
  template <class Ctx, class A>
  static void running_mean(Ctx& ctx, const A& a) {
    called.insert("running_mean");
    Reference::running_mean(ctx, a);
  }
  template <class Ctx, class A>
  static void running_mean_backward(Ctx& ctx, const A& a) {
    called.insert("running_mean");
    Reference::running_mean_backward(ctx, a);
  }
  template <class Ctx, class A>
  static void embedding(Ctx& ctx, const A& a) {
    called.insert("embedding");
    Reference::embedding(ctx, a);
  }
  template <class Ctx, class A>
  static void embedding_backward(Ctx& ctx, const A& a) {
    called.insert("embedding");
    Reference::embedding_backward(ctx, a);
  }
  template <class Ctx, class A>
  static void cross_entropy(Ctx& ctx, const A& a) {
    called.insert("cross_entropy");
    Reference::cross_entropy(ctx, a);
  }
  template <class Ctx, class A>
  static void dropout(Ctx& ctx, const A& a) {
    called.insert("dropout");
    Reference::dropout(ctx, a);
  }
  template <class Ctx, class A>
  static void rearrange(Ctx& ctx, const A& a) {
    called.insert("rearrange, add, fill");
    Reference::rearrange(ctx, a);
  }
  template <class Ctx, class A>
  static void add(Ctx& ctx, const A& a) {
    called.insert("rearrange, add, fill");
    Reference::add(ctx, a);
  }
  template <class Ctx, class A>
  static void fill(Ctx& ctx, const A& a) {
    called.insert("rearrange, add, fill");
    Reference::fill(ctx, a);
  }
  template <class Ctx, class A>
  static void adamw_update(Ctx& ctx, const A& a) {
    called.insert("adamw_update, sum_of_squares");
    Reference::adamw_update(ctx, a);
  }
  template <class Ctx, class A>
  static void sum_of_squares(Ctx& ctx, const A& a) {
    called.insert("adamw_update, sum_of_squares");
    Reference::sum_of_squares(ctx, a);
  }
  template <class Ctx, class A>
  static void sample(Ctx& ctx, const A& a) {
    called.insert("sample");
    Reference::sample(ctx, a);
  }
};

}  // namespace ssm::laws
