// SPDX-License-Identifier: Apache-2.0
// A layer that nobody thought of, from the primitives that there are: what
// docs/15_models_of_your_own.md says of recurrences.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <span>
#include <string>

#include "ssm/core/elementwise.hpp"
#include "ssm/layer/linear.hpp"
#include "ssm/op/activation.hpp"
#include "ssm/op/cascaded_scan.hpp"
#include "ssm/op/rearrange.hpp"
#include "support/check_layer.hpp"
#include "support/test_tensor.hpp"

namespace ssm {
namespace {

/// A minGRU.
///   z = sigmoid(k)   k = gate(x)   v = hidden(x)   h_t = (1 − z_t) ⊙ h_{t−1} + z_t ⊙ v_t
/// As 1 − sigmoid(k) = exp(−softplus(k)), the recurrence is a cascaded scan with one mode whose
/// source is v itself: a scan that forgets everything in a step.
/// x, h    [B, L, D]
/// state   [B, D, 1]
/// Source  Feng et al. 2024, Were RNNs all we needed?, §3.1
template <Index D>
class MinGru : public LayerVerbs<MinGru<D>> {
  using Map = Linear<LinearConfig{.inputs = D, .outputs = D}>;

 public:
  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<MinGru, T, Space> {
    typename Map::template Parameters<T, Space> gate, hidden;
  };
  template <class T, class Space = HostSpace>
  struct State {
    Tensor<Wide<T>, Extents<dyn, D, 1>, Space> h;
  };
  template <class T, class Space = HostSpace>
  struct Tape : SequenceTape<MinGru, State<T, Space>>, InputTape<T, Space> {
    typename Map::template Tape<T, Space> gate, hidden;
    DynamicTensor<T, 3, Space> k, z, v, dt;
  };

  Index channels() const { return D; }

  template <class B, class T>
    requires HasMatmul<B> && HasActivation<B> && HasCascadedScan<B> && HasRearrange<B>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, D> x, Output<B, T, dyn, dyn, D> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options = {}) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    using Kept = Tape<T, Space>;
    const Buffers buffers(frame, tape);
    const auto k = buffers.at(&Kept::k, x.extents()), z = buffers.at(&Kept::z, x.extents()),
               v = buffers.at(&Kept::v, x.extents()), dt = buffers.at(&Kept::dt, x.extents());
    if (tape != nullptr) tape->keep(ctx, options);
    map_.evaluate(ctx, p.gate, x, k, buffers.part(&Kept::gate));
    map_.evaluate(ctx, p.hidden, x, v, buffers.part(&Kept::hidden));
    apply<B, T>(ctx, ActivationKind::sigmoid, k, z);
    apply<B, T>(ctx, ActivationKind::softplus, k, dt);
    const Constants<T, Space> constant(ctx, frame, v);
    const std::array<ScanInputs<T, Space>, 1> sources{constant.forgetting(v)};
    auto scan = constant.scan(sources, z, dt);
    scan.segments = options.segments;
    scan.initial_state = options.initial(&State<T, Space>::h);
    scan.y = y;
    scan.final_state = options.final(&State<T, Space>::h);
    cascaded_scan(ctx, scan);
  }

  template <class B, class T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, D> dy,
                     Output<B, T, dyn, dyn, D> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    const auto sequence = [&] { return frame.template tensor<T>(dy.extent(0), dy.extent(1), D); };
    const auto v = frame.template tensor<T>(dy.extent(0), dy.extent(1), D);
    add(ctx, Add<T, Space>{.a = tape.v.flatten(), .y = v.flatten()});
    const Constants<T, Space> constant(ctx, frame, v);
    const std::array<ScanInputs<T, Space>, 1> sources{constant.forgetting(v)};
    const auto dz = sequence(), dv = sequence(), ddt = sequence(), dk = sequence();
    fill(ctx, Fill<T, Space>{.y = dv.flatten()});  // gradients of sources are added to
    const std::array<ScanInputs<T, Space>, 1> dsources{ScanInputs<T, Space>{.u = dv}};
    CascadedScanBackward<T, Space> g{.forward = constant.scan(sources, tape.z, tape.dt),
                                     .dy = dy,
                                     .dfinal_state = ends.final(&State<T, Space>::h),
                                     .dsources = dsources,
                                     .dgate = dz,
                                     .ddt = ddt,
                                     .dinitial_state = ends.initial(&State<T, Space>::h)};
    g.forward.segments = tape.segments;
    g.forward.initial_state = tape.options().initial(&State<T, Space>::h);
    cascaded_scan_backward(ctx, g);
    apply_backward<B, T>(ctx, ActivationKind::sigmoid, tape.k, dz, dz);
    apply_backward<B, T>(ctx, ActivationKind::softplus, tape.k, ddt, dk);
    add(ctx, Add<T, Space>{.a = dz.flatten(), .b = dk.flatten(), .y = dk.flatten()});
    map_.differentiate(ctx, p.gate, tape.gate, dk, dz, gradients.gate);
    map_.differentiate(ctx, p.hidden, tape.hidden, dv, dx, gradients.hidden);
    add(ctx, Add<T, Space>{.a = dx.flatten(), .b = dz.flatten(), .y = dx.flatten()});
  }

  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const Context<B>&, Index sequences) const {
    State<T, typename B::Space> state;
    state.h.reset({sequences});
    return state;
  }
  template <class T = float, class B>
  Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    p.gate = map_.template zero_parameters<T>(ctx);
    p.hidden = map_.template zero_parameters<T>(ctx);
    return p;
  }
  template <class T>
  void fill_parameters(Parameters<T>& p, Seed seed) const {
    map_.fill_parameters(p.gate, seed.fork("gate"));
    map_.fill_parameters(p.hidden, seed.fork("hidden"));
  }
  static void for_each_parameter(auto&& visit, auto&... p) {
    Map::for_each_parameter(scoped("gate", visit), p.gate...);
    Map::for_each_parameter(scoped("hidden", visit), p.hidden...);
  }
  static void for_each_state(auto&& visit, auto&... state) { visit(std::string("h"), state.h...); }

 private:
  /// The ones and rates that make a cascaded scan of it, as wide as they must be by strides alone.
  template <class T, class Space>
  struct Constants {
    View<T, 3, Space> ones, one_of_each_position;
    View<Wide<T>, 2, Space> rate, forgetting_rate;

    template <class B, class Frame>
    Constants(Context<B>& ctx, Frame& frame, View<T, 3, Space> like) {
      const auto number = [&]<class X>(double value, std::type_identity<X>) {
        const auto memory = frame.template tensor<X>(1);
        fill(ctx, Fill<X, Space>{.value = value, .y = memory});
        return memory.data();
      };
      constexpr std::type_identity<Wide<T>> wide;
      T* const one = number(1, std::type_identity<T>());
      ones = {one, like.extents(), {0, 0, 0}};
      one_of_each_position = {one, {like.extent(0), like.extent(1), 1}, {0, 0, 0}};
      rate = {number(-1, wide), {D, 1}, {0, 0}};
      forgetting_rate = {number(-1e4, wide), {D, 1}, {0, 0}};
    }
    ScanInputs<T, Space> forgetting(View<T, 3, Space> v) const {
      return {.u = v, .dt = ones, .B = one_of_each_position, .A = forgetting_rate};
    }
    CascadedScan<T, Space> scan(std::span<const ScanInputs<T, Space>> sources,
                                View<const T, 3, Space> z, View<const T, 3, Space> dt) const {
      return {.sources = sources, .gate = z, .dt = dt, .A = rate, .C = one_of_each_position};
    }
  };

  template <class B, class T>
  static void apply(Context<B>& ctx, ActivationKind kind, View<const T, 3, typename B::Space> x,
                    View<T, 3, typename B::Space> y) {
    activation(ctx,
               Activation<T, typename B::Space>{.kind = kind, .x = as_rows(x), .y = as_rows(y)});
  }
  template <class B, class T>
  static void apply_backward(Context<B>& ctx, ActivationKind kind,
                             View<const T, 3, typename B::Space> x,
                             View<const T, 3, typename B::Space> dy,
                             View<T, 3, typename B::Space> dx) {
    activation_backward(
        ctx, ActivationBackward<T, typename B::Space>{
                 .forward = {.kind = kind, .x = as_rows(x)}, .dy = as_rows(dy), .dx = as_rows(dx)});
  }

  Map map_;
};

TEST_CASE("a minGRU made of the library's primitives obeys every law") {
  laws::check_layer(MinGru<3>());
}

TEST_CASE("a minGRU made of the library's primitives is its recurrence") {
  const MinGru<2> layer;
  Context<Reference> ctx;
  const auto p = layer.initialize<double>(ctx, Seed{1});
  const auto x = test::random_tensor("x", 1, 5, 2);
  auto y = test::nan_tensor(1, 5, 2), k = y.clone(), v = y.clone();
  layer.forward(ctx, p, x, y);
  const Linear<LinearConfig{.inputs = 2, .outputs = 2}> map;
  map.forward(ctx, p.gate, x, k);
  map.forward(ctx, p.hidden, x, v);
  for (Index d = 0; d < 2; ++d) {
    double h = 0;
    for (Index t = 0; t < 5; ++t) {
      const double z = 1 / (1 + std::exp(-k(0, t, d)));
      h = (1 - z) * h + z * v(0, t, d);
      CHECK(std::abs(y(0, t, d) - h) <= tolerance<double>.value);
    }
  }
}

}  // namespace
}  // namespace ssm
