// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/layer/linear.hpp"
#include "ssm/op/activation.hpp"
#include "ssm/op/rearrange.hpp"

namespace ssm {

struct GauProjectionsConfig {
  Index channels = dyn;
  Index query_key_dim = dyn;
  Index value_dim = dyn;
};

/// What a gated attention unit reads of its input.
///   q = SiLU(Wq·x)    k = k_scale·SiLU(Wk·x)    v = SiLU(to_hidden[v]·x)    g = to_hidden[g]·x
/// x      [B, L, channels]
/// q, k   [B, L, query_key_dim]   contiguous
/// v, g   [B, L, value_dim]       contiguous; g before its activation
/// to_hidden.weight [2·value_dim, channels]: rows of v, then of g
/// Source  Hua et al. 2022 (FLASH) §2; parameter names of the published DenseRetNet
template <GauProjectionsConfig Config>
class GauProjections {
  static constexpr Index width = Config.channels;
  static constexpr Index values = Config.value_dim;
  using Key = Linear<LinearConfig{.inputs = width, .outputs = Config.query_key_dim, .bias = false}>;
  using Value = Linear<LinearConfig{
      .inputs = width, .outputs = values == dyn ? dyn : 2 * values, .bias = false}>;

 public:
  template <class T, class Space = HostSpace>
  struct Parameters {
    typename Key::template Parameters<T, Space> q_proj;
    typename Key::template Parameters<T, Space> k_proj;
    typename Value::template Parameters<T, Space> to_hidden;
  };
  template <class T, class Space = HostSpace>
  struct Tape {
    View<const T, 3, Space> x;
    DynamicTensor<T, 3, Space> q, k, v;  // before SiLU
  };
  /// Where q, k [B, L, query_key_dim] and v, g [B, L, value_dim] are written.
  template <class T, class Space = HostSpace>
  struct Results {
    View<T, 3, Space> q{}, k{}, v{}, g{};
  };

  GauProjections(GauProjectionsConfig options, double k_scale)
      : k_scale_(k_scale),
        value_dim_(options.value_dim),
        key_({.inputs = options.channels, .outputs = options.query_key_dim}),
        value_({.inputs = options.channels, .outputs = 2 * value_dim_}) {}

  template <class B, class T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                std::type_identity_t<View<const T, 3, typename B::Space>> x,
                const Results<T, typename B::Space>& to,
                NonDeduced<Tape<T, typename B::Space>>* tape) const {
    using Space = typename B::Space;
    using Kept = Tape<T, Space>;
    const OptionalTape saved(tape);
    if (tape != nullptr) tape->x = x;
    const auto project = [&](const WeightView<T, Space>& weight, const View<T, 3, Space>& y,
                             DynamicTensor<T, 3, Space> Kept::*input) {
      matmul(ctx, by_weight<T, Space>(weight, {.a = as_rows(x),
                                               .activation = ActivationKind::silu,
                                               .c = as_rows(y),
                                               .z = as_rows(saved.kept(input, y.extents()))}));
    };
    const WeightView<T, Space> hidden = p.to_hidden.weight;
    project(p.q_proj.weight, to.q, &Kept::q);
    project(p.k_proj.weight, to.k, &Kept::k);
    project(hidden.rows(0, value_dim_), to.v, &Kept::v);
    matmul(ctx, by_weight<T, Space>(hidden.rows(value_dim_, 2 * value_dim_),
                                    {.a = as_rows(x), .c = as_rows(to.g)}));
    add(ctx, Add<T, Space>{.a = to.k.flatten(), .a_scale = k_scale_, .y = to.k.flatten()});
  }

  /// dx is written as `dx_mode` says; the gradients in `d` are used up.
  template <class B, class T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, const Results<T, typename B::Space>& d,
                     std::type_identity_t<View<T, 3, typename B::Space>> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients, WriteMode dx_mode) const {
    using Space = typename B::Space;
    bool accumulate = dx_mode == WriteMode::accumulate;
    const auto project = [&](const View<T, 3, Space>& dy, const DynamicTensor<T, 3, Space>* input,
                             View<const T, 2, Space> weight, View<Wide<T>, 2, Space> dweight) {
      if (input != nullptr)
        activation_backward(
            ctx, ActivationBackward<T, Space>{
                     .forward = {.kind = ActivationKind::silu, .x = as_rows(input->view())},
                     .dy = as_rows(dy),
                     .dx = as_rows(dy)});
      linear_backward(ctx, LinearBackward<T, Space>{.weight = weight,
                                                    .x = as_rows(tape.x),
                                                    .dy = as_rows(dy),
                                                    .accumulate = accumulate,
                                                    .dx = as_rows(dx),
                                                    .dweight = dweight});
      accumulate = true;
    };
    add(ctx, Add<T, Space>{.a = d.k.flatten(), .a_scale = k_scale_, .y = d.k.flatten()});
    project(d.q, &tape.q, p.q_proj.weight, gradients.q_proj.weight);
    project(d.k, &tape.k, p.k_proj.weight, gradients.k_proj.weight);
    project(d.v, &tape.v, v_rows<const T, Space>(p.to_hidden.weight),
            v_rows<Wide<T>, Space>(gradients.to_hidden.weight));
    project(d.g, nullptr, g_rows<const T, Space>(p.to_hidden.weight),
            g_rows<Wide<T>, Space>(gradients.to_hidden.weight));
  }

  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    p.q_proj = key_.template zero_parameters<T>(ctx);
    p.k_proj = key_.template zero_parameters<T>(ctx);
    p.to_hidden = value_.template zero_parameters<T>(ctx);
    return p;
  }
  template <class T>
  [[gnu::cold]] void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    key_.fill_parameters(p.q_proj, seed.fork("q_proj"));
    key_.fill_parameters(p.k_proj, seed.fork("k_proj"));
    value_.fill_parameters(p.to_hidden, seed.fork("to_hidden"));
  }
  static void for_each_parameter(auto&& visit, auto&... p) {
    Key::for_each_parameter(scoped("q_proj", visit), p.q_proj...);
    Key::for_each_parameter(scoped("k_proj", visit), p.k_proj...);
    Value::for_each_parameter(scoped("to_hidden.0", visit), p.to_hidden...);
  }

 private:
  /// Null where the weight is kept in the other form.
  template <class T, class Space>
  View<T, 2, Space> v_rows(auto& weight) const {
    const View<T, 2, Space> rows(weight);
    return rows ? rows.slice(0, 0, value_dim_) : rows;
  }
  template <class T, class Space>
  View<T, 2, Space> g_rows(auto& weight) const {
    const View<T, 2, Space> rows(weight);
    return rows ? rows.slice(0, value_dim_, 2 * value_dim_) : rows;
  }

  double k_scale_;
  Index value_dim_;
  Key key_;
  Value value_;
};

}  // namespace ssm
