// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/layer/adds_residual.hpp"
#include "ssm/layer/diagonal_ssm.hpp"
#include "ssm/layer/linear.hpp"
#include "ssm/layer/shift_ssm.hpp"
#include "ssm/op/h3_mixer.hpp"
#include "ssm/op/h3_step.hpp"
#include "ssm/op/normalized_matmul.hpp"

namespace ssm {

struct H3Config {
  Index channels = dyn;
  Index state = 64;
  Index head_dim = 1;
};
/// The sizes and choices of an H3 that are given at run time.
struct H3Options {
  Index channels = dyn;
  Index state = dyn;     // left out: the type's, or 64
  Index head_dim = dyn;  // left out: the type's, or 1
  Discretization discretization = Discretization::bilinear;
  DiagonalMeasure measure = DiagonalMeasure::lin;  // initialization, as is what follows
  double dt_min = 0.001;                           // seconds
  double dt_max = 0.1;
};

/// The H3 layer: a shift SSM remembers keys, a diagonal SSM accumulates key–value products, queries
/// read them out.
///   q, k, v = projections of x     k̃ = shift(k)
///   s[i,j,h] = diagonal(k̃[h,i]·v[h,j])     o[h,j] = Σ_i q[h,i]·s[i,j,h]     y = output_linear(o)
/// Channel c is head h = c div head_dim, sub-channel c mod head_dim.
/// x, y     [B, L, channels]   y must not overlap x
/// states   shift [B, channels, N], diagonal [B, head_dim, head_dim, heads, N/2, 2]
/// Cost    8·B·L·channels² operations and O(B·L·channels·head_dim·N)
/// Throws  ShapeError; ArgumentError  if head_dim does not divide the channels
/// Source  Fu et al. 2023 (H3) §3; parameter names of HazyResearch/H3
template <H3Config Config>
class H3 : public LayerVerbs<H3<Config>> {
  static_assert(Config.state == dyn || Config.state % 2 == 0,
                "H3: state must be even: complex modes come in conjugate pairs");
  static constexpr Index width = Config.channels;
  static constexpr Index heads =
      width == dyn || Config.head_dim == dyn ? dyn : width / Config.head_dim;
  static constexpr Index modes = Config.state == dyn ? dyn : Config.state / 2;
  using Projection = Linear<LinearConfig{.inputs = width, .outputs = width}>;
  using Shift = ShiftSsm<ShiftSsmConfig{.channels = width, .state = Config.state}>;
  using Diagonal = DiagonalSsm<DiagonalSsmConfig{.channels = heads, .state = Config.state}>;

 public:
  static constexpr auto operand_layout = OperandLayout::even_rows;
  static constexpr bool adds_residual = true;
  static constexpr bool takes_norm = true;
  static constexpr bool leaves_output_bias = true;

  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<H3, T, Space> {
    typename Projection::template Parameters<T, Space> q_proj;
    typename Projection::template Parameters<T, Space> k_proj;
    typename Projection::template Parameters<T, Space> v_proj;
    typename Shift::template Parameters<T, Space> shift;
    typename Diagonal::template Parameters<T, Space> diagonal;
    typename Projection::template Parameters<T, Space> output_linear;
  };
  template <class T, class Space = HostSpace>
  struct State {
    Tensor<Wide<T>, Extents<dyn, width, Config.state>, Space> shift;
    Tensor<Wide<T>, Extents<dyn, Config.head_dim, Config.head_dim, heads, modes, 2>, Space>
        diagonal;
  };
  template <class T, class Space = HostSpace>
  struct Tape : SequenceTape<H3, State<T, Space>>, InputTape<T, Space> {
    View<const T, 3, Space> x;
    DynamicTensor<T, 3, Space> q, k, v;      // all in q, side by side, where products are joined
    DynamicTensor<T, 3, Space> mixed;        // what output_linear reads
    DynamicTensor<Wide<T>, 1, Space> dt;     // of the diagonal SSM
    DynamicTensor<Wide<T>, 3, Space> A;      // likewise
    DynamicTensor<Wide<T>, 1, Space> mixer;  // the mixer's own
  };

  /// All sizes in the type.
  H3() requires(heads != dyn && modes != dyn) : H3(H3Options{}) {}
  /// Sizes that are `dyn` in the type, the discretization and the initialization come from here.
  /// Throws  ArgumentError  for what contradicts the type, sizes that do not fit together, and
  ///                        steps that are no range
  explicit H3(H3Options options)
      : head_dim_(
            resolve_extent(Config.head_dim, options.head_dim, H3Config{}.head_dim, "head_dim")),
        projection_({.inputs = resolve_extent(width, options.channels, "channels"),
                     .outputs = options.channels}),
        shift_({.channels = channels(),
                .state = resolve_extent(Config.state, options.state, H3Config{}.state, "state")}),
        diagonal_({.channels = heads_of(channels(), head_dim_),
                   .state = shift_.state(),
                   .discretization = options.discretization,
                   .measure = options.measure,
                   .dt_min = options.dt_min,
                   .dt_max = options.dt_max}) {}

  Index channels() const { return projection_.inputs(); }
  Index head_dim() const { return head_dim_; }

  template <class B, class T>
  static constexpr bool runs_on = (HasMatmul<B, T> && HasH3Mixer<B, T> &&
                                   HasDiagonalParameters<B, T> && HasRearrange<B, T>);

  template <class B, class T>
    requires RunsOn<H3, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, width> x, Output<B, T, dyn, dyn, width> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options = {},
                Input<B, T, dyn, dyn, width> residual = {},
                NonDeduced<FirstNorm<B, T>> norm = nullptr) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    using Kept = Tape<T, Space>;
    const Buffers buffers(frame, tape);
    const DynamicExtents<3> shape = x.extents();
    View<T, 3, Space> q, k, v;
    if constexpr (joins_products<T, Space>)
      if (shape[1] > 1 || shape[0] > rows_apart) {
        const auto all = buffers.at(&Kept::q, shape[0], shape[1], 3 * channels());
        q = part(all, 0), k = part(all, 1), v = part(all, 2);
      }
    if (!q) {
      q = buffers.at(&Kept::q, shape);
      k = buffers.at(&Kept::k, shape);
      v = buffers.at(&Kept::v, shape);
    }
    auto mixed = buffers.at(&Kept::mixed, shape);
    const Matmul<T, Space> projections[] = {linear_product<T, Space>(p.q_proj, x, q),
                                            linear_product<T, Space>(p.k_proj, x, k),
                                            linear_product<T, Space>(p.v_proj, x, v)};
    auto a = operands(p, options);
    a.q = q;
    a.k = k;
    a.v = v;
    a.y = mixed;
    a.final_shift = options.final(&State<T, Space>::shift);
    a.final_diagonal = options.final(&State<T, Space>::diagonal);
    const H3Step<T, Space> step{.log_dt = p.diagonal.log_dt,
                                .inv_A_real = p.diagonal.inv_A_real,
                                .A_imag = p.diagonal.A_imag,
                                .mixer = a};
    if (tape != nullptr || !h3_step<B, T>(ctx, step, projections, norm)) {
      normalized_matmul<B, T>(ctx, norm, projections);
      make_parameters<T>(ctx, buffers, p, a);
      if (tape != nullptr) {
        tape->keep(ctx, options);
        tape->x = x;
        const Index kept = h3_mixer_tape(ctx, a);
        if (kept > 0 || tape->mixer) a.tape = buffers.kept(&Kept::mixer, kept);
      }
      h3_mixer(ctx, a);
    }
    projection_.evaluate(ctx, p.output_linear, mixed, y, nullptr, {}, residual);
  }

  template <class B, class T>
    requires RunsOn<H3, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, width> dy,
                     Output<B, T, dyn, dyn, width> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends = {},
                     OutputBias output_bias = OutputBias::summed) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    const DynamicExtents<3> shape = tape.x.extents();
    auto dmixed = frame.template tensor<T>(shape);
    View<T, 3, Space> dq, dk, dv;
    if constexpr (joins_products<T, Space>) {
      const auto all = frame.template tensor<T>(shape[0], shape[1], 3 * channels());
      dq = part(all, 0), dk = part(all, 1), dv = part(all, 2);
    } else {
      dq = frame.template tensor<T>(shape);
      dk = frame.template tensor<T>(shape);
      dv = frame.template tensor<T>(shape);
    }
    const LinearBackward<T, Space> output{
        .weight = p.output_linear.weight,
        .x = as_rows(tape.mixed),
        .dy = as_rows(dy),
        .dx = as_rows(dmixed),
        .dweight = gradients.output_linear.weight,
        .dbias = bias_unless_left_out(gradients.output_linear, output_bias)};
    detail::linear_backward_input<B, T>(ctx, output);
    mixer_backward(ctx, frame, p, tape, dmixed, dq, dk, dv, gradients, ends);
    const auto map = [&](const auto& weights, auto d, auto& gradient) {
      return LinearBackward<T, Space>{.weight = weights.weight,
                                      .x = as_rows(tape.x),
                                      .dy = as_rows(d),
                                      .dx = as_rows(dx),
                                      .dweight = gradient.weight,
                                      .dbias = gradient.bias};
    };
    const LinearBackward<T, Space> maps[] = {map(p.q_proj, dq, gradients.q_proj),
                                             map(p.k_proj, dk, gradients.k_proj),
                                             map(p.v_proj, dv, gradients.v_proj)};
    linear_backward<B, T>(ctx, maps, &output);
  }

  static auto output_bias(auto& gradients) { return bias_of(gradients.output_linear); }

  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const Context<B>&, Index sequences) const {
    State<T, typename B::Space> state;
    state.shift.reset({sequences, channels(), shift_.state()});
    state.diagonal.reset(
        {sequences, head_dim_, head_dim_, diagonal_.channels(), diagonal_.mode_count(), Index{2}});
    return state;
  }

  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    for (auto* linear : {&p.q_proj, &p.k_proj, &p.v_proj, &p.output_linear})
      *linear = projection_.template zero_parameters<T>(ctx);
    make_adjacent(p.q_proj.weight, p.k_proj.weight, p.v_proj.weight);
    make_adjacent(p.q_proj.bias, p.k_proj.bias, p.v_proj.bias);
    p.shift = shift_.template zero_parameters<T>(ctx);
    p.diagonal = diagonal_.template zero_parameters<T>(ctx);
    return p;
  }

  template <class T>
  [[gnu::cold]] void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    projection_.fill_parameters(p.q_proj, seed.fork("q_proj"));
    projection_.fill_parameters(p.k_proj, seed.fork("k_proj"));
    projection_.fill_parameters(p.v_proj, seed.fork("v_proj"));
    projection_.fill_parameters(p.output_linear, seed.fork("output_linear"));
    shift_.fill_parameters(p.shift, seed.fork("shift"));
    diagonal_.fill_parameters(p.diagonal, seed.fork("diagonal"));
  }

  static void for_each_parameter(auto&& visit, auto&... p) {
    Projection::for_each_parameter(scoped("q_proj", visit), p.q_proj...);
    Projection::for_each_parameter(scoped("k_proj", visit), p.k_proj...);
    Projection::for_each_parameter(scoped("v_proj", visit), p.v_proj...);
    Shift::for_each_parameter(visit, p.shift...);
    Diagonal::for_each_parameter(visit, p.diagonal...);
    Projection::for_each_parameter(scoped("output_linear", visit), p.output_linear...);
  }
  static void for_each_state(auto&& visit, auto&... state) {
    visit(std::string("shift"), state.shift...);
    visit(std::string("diagonal"), state.diagonal...);
  }

 private:
  static Index heads_of(Index channels, Index head_dim) {
    if (channels % head_dim != 0)
      throw ArgumentError(
          message({"H3: head_dim ", head_dim, " does not divide ", channels, " channels"}));
    return channels / head_dim;
  }

  /// Of q, k and v side by side.
  template <class Any>
  Any part(const Any& all, Index number) const {
    return all.slice(2, number * channels(), (number + 1) * channels());
  }

  /// Without dt and A.
  template <class T, class Space>
  H3Mixer<T, Space> operands(const Parameters<T, Space>& p,
                             const SequenceOptions<State<T, Space>>& options) const {
    const Index rows = diagonal_.channels();
    const Index count = diagonal_.mode_count();
    return {.shift_B = p.shift.B,
            .shift_C = p.shift.C.reshape(channels(), shift_.state()),
            .shift_skip = p.shift.D,
            .B = p.diagonal.B,
            .C = p.diagonal.C.reshape(rows, count, 2),
            .skip = p.diagonal.D,
            .discretization = diagonal_.discretization(),
            .segments = options.segments,
            .initial_shift = options.initial(&State<T, Space>::shift),
            .initial_diagonal = options.initial(&State<T, Space>::diagonal)};
  }
  /// The dt and A of a call, which a tape keeps.
  template <class T, class B, class Memory>
  void make_parameters(Context<B>& ctx, const Memory& memory,
                       const Parameters<T, typename B::Space>& p,
                       H3Mixer<T, typename B::Space>& a) const {
    using Kept = Tape<T, typename B::Space>;
    const Index rows = diagonal_.channels();
    auto dt = memory.at(&Kept::dt, rows);
    auto A = memory.at(&Kept::A, rows, diagonal_.mode_count(), 2);
    diagonal_parameters(
        ctx, DiagonalParameters<Wide<T>, typename B::Space>{.log_dt = p.diagonal.log_dt,
                                                            .inv_A_real = p.diagonal.inv_A_real,
                                                            .A_imag = p.diagonal.A_imag,
                                                            .dt = dt,
                                                            .A = A});
    a.dt = dt;
    a.A = A;
  }

  template <class B, class T, class Frame, class Sequence>
  void mixer_backward(Context<B>& ctx, Frame& frame, const Parameters<T, typename B::Space>& p,
                      const Tape<T, typename B::Space>& tape, Sequence dmixed, Sequence dq,
                      Sequence dk, Sequence dv, Parameters<Wide<T>, typename B::Space>& gradients,
                      const SequenceGradients<State<T, typename B::Space>>& ends) const {
    using Space = typename B::Space;
    const Index rows = diagonal_.channels();
    const Index count = diagonal_.mode_count();
    auto ddt = frame.template tensor<Wide<T>>(rows);
    auto dA = frame.template tensor<Wide<T>>(rows, count, 2);
    const Fill<Wide<T>, Space> zeros[] = {{.y = ddt}, {.y = dA.flatten()}};
    fill<B, Wide<T>>(ctx, zeros);
    auto a = operands(p, tape.options());
    a.dt = tape.dt;
    a.A = tape.A;
    a.q = tape.q;
    a.k = tape.k;
    a.v = tape.v;
    if constexpr (joins_products<T, Space>)
      if (const View<const T, 3, Space> all = tape.q; all.extent(2) > channels())
        a.q = part(all, 0), a.k = part(all, 1), a.v = part(all, 2);
    h3_mixer_backward(ctx, H3MixerBackward<T, Space>{
                               .forward = a,
                               .dy = dmixed,
                               .dfinal_shift = ends.final(&State<T, Space>::shift),
                               .dfinal_diagonal = ends.final(&State<T, Space>::diagonal),
                               .dq = dq,
                               .dk = dk,
                               .dv = dv,
                               .dinitial_shift = ends.initial(&State<T, Space>::shift),
                               .dinitial_diagonal = ends.initial(&State<T, Space>::diagonal),
                               .dshift_B = gradients.shift.B,
                               .dshift_C = gradients.shift.C.reshape(channels(), shift_.state()),
                               .dshift_skip = gradients.shift.D,
                               .ddt = ddt,
                               .dA = dA,
                               .dB = gradients.diagonal.B,
                               .dC = gradients.diagonal.C.reshape(rows, count, 2),
                               .dskip = gradients.diagonal.D,
                               .tape = tape.mixer.view()});
    diagonal_parameters_backward(ctx, DiagonalParametersBackward<Wide<T>, Space>{
                                          .dt = a.dt,
                                          .A = a.A,
                                          .ddt = ddt,
                                          .dA = dA,
                                          .dlog_dt = gradients.diagonal.log_dt,
                                          .dinv_A_real = gradients.diagonal.inv_A_real,
                                          .dA_imag = gradients.diagonal.A_imag});
  }

  Index head_dim_;
  Projection projection_;
  Shift shift_;
  Diagonal diagonal_;
};

}  // namespace ssm
