// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <complex>
#include <vector>

#include "ssm/layer/diagonal_initialization.hpp"
#include "ssm/layer/linear.hpp"
#include "ssm/op/diagonal_parameters.hpp"
#include "ssm/op/diagonal_scan.hpp"
#include "ssm/op/rearrange.hpp"

namespace ssm {

struct S4DConfig {
  Index channels = dyn;
  Index state = 64;  // N: real state size, stored as N/2 complex modes
};
/// The sizes and choices of an S4D that are given at run time.
struct S4DOptions {
  Index channels = dyn;
  Index state = dyn;  // left out: the type's, or 64
  Discretization discretization = Discretization::zero_order_hold;
  DiagonalMeasure measure = DiagonalMeasure::inv;  // initialization, as is what follows
  double dt_min = 0.001;                           // seconds
  double dt_max = 0.1;
};

/// S4D as the layer of a residual block: an SSM per channel, a nonlinearity, and one linear map
/// over the channels.
///   y = output_linear(gelu_erf(K∗x + D·x))      K[l] = 2·Re Σ_p C_p·B̄_p·Ā_p^l
/// All channels share one A = −exp(log_w_real) + i·w_imag; dt, C and D are each channel's own. B is
/// one: what it could learn, C learns. For an A per channel, or a B that learns, combine
/// DiagonalSsm and Linear.
/// x, y    [B, L, channels]   y must not overlap x
/// state   [B, channels, P, 2]    P = N/2
/// Cost    O(B·L·channels·P) + 2·B·L·channels² operations
/// Throws  ShapeError; ArgumentError  for an odd N, which does not compile in the type
/// Source  Gu et al. 2022 (S4D); parameter names and initialization of HazyResearch/safari, S4D
///         with n_ssm = 1
template <S4DConfig Config>
class S4D : public LayerVerbs<S4D<Config>> {
  static_assert(Config.state == dyn || Config.state % 2 == 0,
                "S4D: state must be even: complex modes come in conjugate pairs");
  static constexpr Index width = Config.channels;
  static constexpr Index modes = Config.state == dyn ? dyn : Config.state / 2;
  using Readout = Linear<LinearConfig{.inputs = width, .outputs = width}>;

 public:
  static constexpr auto operand_layout = OperandLayout::even_rows;

  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<S4D, T, Space> {
    Tensor<Wide<T>, Extents<width>, Space> log_dt;         // log-seconds
    Tensor<Wide<T>, Extents<1, modes>, Space> log_w_real;  // A = −exp(log_w_real) + i·w_imag
    Tensor<Wide<T>, Extents<1, modes>, Space> w_imag;
    Tensor<Wide<T>, Extents<1, width, modes, 2>, Space> C;
    Tensor<Wide<T>, Extents<1, width>, Space> D;
    typename Readout::template Parameters<T, Space> output_linear;
  };
  template <class T, class Space = HostSpace>
  struct State {
    Tensor<Wide<T>, Extents<dyn, width, modes, 2>, Space> diagonal;
  };
  template <class T, class Space = HostSpace>
  struct Tape : SequenceTape<S4D, State<T, Space>>, InputTape<T, Space> {
    View<const T, 3, Space> x;
    DynamicTensor<T, 3, Space> filtered;    // what the nonlinearity reads
    DynamicTensor<T, 3, Space> hidden;      // what output_linear reads
    DynamicTensor<Wide<T>, 1, Space> kept;  // of diagonal_scan
  };

  /// All sizes in the type.
  S4D() requires(width != dyn && modes != dyn) : S4D(S4DOptions{}) {}
  /// Sizes that are `dyn` in the type, the discretization and the initialization come from here.
  /// Throws  ArgumentError  for what contradicts the type, an odd state, and steps that are no
  ///                        range
  explicit S4D(S4DOptions options)
      : state_(resolve_extent(Config.state, options.state, S4DConfig{}.state, "state")),
        discretization_(options.discretization),
        measure_(options.measure),
        dt_min_(options.dt_min),
        dt_max_(options.dt_max),
        readout_({.inputs = resolve_extent(width, options.channels, "channels"),
                  .outputs = options.channels}) {
    require_step_range("S4D", dt_min_, dt_max_);
    if (state_ % 2 != 0)
      throw ArgumentError(
          message({"S4D: state ", state_, " must be even: modes come in conjugate pairs"}));
  }

  Index channels() const { return readout_.inputs(); }
  Index mode_count() const { return state_ / 2; }

  template <class B, class T>
  static constexpr bool runs_on = (HasDiagonalScan<B, T> && HasDiagonalParameters<B, T> &&
                                   HasActivation<B, T> && HasMatmul<B, T> && HasRearrange<B, T>);

  template <class B, class T>
    requires RunsOn<S4D, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, width> x, Output<B, T, dyn, dyn, width> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options = {}) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    const Buffers buffers(frame, tape);
    auto filtered = buffers.at(&Tape<T, Space>::filtered, x.extents());
    auto hidden = buffers.at(&Tape<T, Space>::hidden, x.extents());
    if (tape != nullptr) {
      tape->keep(ctx, options);
      tape->x = x;
    }
    auto scan = operands(ctx, frame, p, View<const T, 3, Space>(x), options);
    scan.y = filtered;
    scan.final_state = options.final(&State<T, Space>::diagonal);
    if (tape != nullptr) {
      tape->kept.resize({kept_numbers<B, T>(ctx, scan)});
      scan.kept = tape->kept;
    }
    diagonal_scan(ctx, scan);
    activation(ctx, nonlinearity<T, Space>(filtered, as_rows(hidden)));
    readout_.evaluate(ctx, p.output_linear, hidden, y, nullptr);
  }

  template <class B, class T>
    requires RunsOn<S4D, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, width> dy,
                     Output<B, T, dyn, dyn, width> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    auto dfiltered = frame.template tensor<T>(tape.filtered.extents());
    const auto rows = as_rows(dfiltered);
    linear_backward(ctx, LinearBackward<T, Space>{.weight = p.output_linear.weight,
                                                  .x = as_rows(tape.hidden),
                                                  .dy = as_rows(dy),
                                                  .dx = rows,
                                                  .dweight = gradients.output_linear.weight,
                                                  .dbias = gradients.output_linear.bias});
    activation_backward(
        ctx, ActivationBackward<T, Space>{
                 .forward = nonlinearity<T, Space>(tape.filtered, {}), .dy = rows, .dx = rows});
    scan_backward<B, T>(ctx, frame, p, tape, dfiltered, dx, gradients, ends);
  }

  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const Context<B>&, Index sequences) const {
    State<T, typename B::Space> state;
    state.diagonal.reset({sequences, channels(), mode_count(), Index{2}});
    return state;
  }

  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    p.log_dt.reset({channels()});
    p.log_w_real.reset({Index{1}, mode_count()});
    p.w_imag.reset({Index{1}, mode_count()});
    p.C.reset({Index{1}, channels(), mode_count(), Index{2}});
    p.D.reset({Index{1}, channels()});
    p.output_linear = readout_.template zero_parameters<T>(ctx);
    return p;
  }

  template <class T>
  [[gnu::cold]] void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    const Random step(seed.fork("log_dt"));
    const Random skip(seed.fork("D"));
    const auto frequencies =
        measure_frequencies(measure_, state_, mode_count(), Random(seed.fork("w_imag")), 0);
    for (Index n = 0; n < mode_count(); ++n) {
      p.log_w_real(0, n) = static_cast<Wide<T>>(std::log(decay(n) + 1e-4));
      p.w_imag(0, n) = static_cast<Wide<T>>(frequencies[static_cast<std::size_t>(n)]);
    }
    for (Index d = 0; d < channels(); ++d) {
      const auto channel = static_cast<std::uint64_t>(d);
      p.log_dt(d) =
          static_cast<Wide<T>>(step.uniform(channel, std::log(dt_min_), std::log(dt_max_)));
      p.D(0, d) = static_cast<Wide<T>>(skip.normal(channel));
    }
    fill_readout(p, frequencies, seed);
    readout_.fill_parameters(p.output_linear, seed.fork("output_linear"));
  }

  static void for_each_parameter(auto&& visit, auto&... p) {
    const auto dynamics = [](const char* name) {
      return ParameterSpec{.name = name,
                           .role = ParameterRole::ssm,
                           .weight_decay = false,
                           .own_learning_rate = true};
    };
    visit(dynamics("kernel.kernel.log_dt"), p.log_dt...);
    visit(dynamics("kernel.kernel.log_w_real"), p.log_w_real...);
    visit(dynamics("kernel.kernel.w_imag"), p.w_imag...);
    visit(ParameterSpec{.name = "kernel.kernel.C", .role = ParameterRole::ssm}, p.C...);
    visit(ParameterSpec{.name = "D", .role = ParameterRole::ssm}, p.D...);
    Readout::for_each_parameter(scoped("output_linear", visit), p.output_linear...);
  }
  static void for_each_state(auto&& visit, auto&... state) {
    visit(std::string("diagonal"), state.diagonal...);
  }

 private:
  /// −Re A at the start.
  double decay(Index mode) const {
    return measure_ == DiagonalMeasure::real ? 1.0 + static_cast<double>(mode) : 0.5;
  }

  /// C = c·b with c a standard complex normal number of each channel, and b one of each mode,
  /// scaled so that the response to a constant input has variance one.
  template <class T>
  void fill_readout(Parameters<T>& p, const std::vector<double>& frequencies, Seed seed) const {
    const auto complex_normal = [](const Random& random, Index i) {
      const auto first = 2 * static_cast<std::uint64_t>(i);
      return std::complex<double>(random.normal(first), random.normal(first + 1)) / std::sqrt(2.0);
    };
    const Random input(seed.fork("B"));
    const Random output(seed.fork("C"));
    std::vector<std::complex<double>> b;
    double variance = 0;
    for (Index n = 0; n < mode_count(); ++n) {
      b.push_back(complex_normal(input, n));
      const std::complex<double> A(-decay(n), frequencies[static_cast<std::size_t>(n)]);
      variance += 2 * std::norm(b.back() / A);
    }
    for (Index d = 0; d < channels(); ++d)
      for (Index n = 0; n < mode_count(); ++n) {
        const auto c = complex_normal(output, d * mode_count() + n) *
                       b[static_cast<std::size_t>(n)] / std::sqrt(variance);
        p.C(0, d, n, 0) = static_cast<Wide<T>>(c.real());
        p.C(0, d, n, 1) = static_cast<Wide<T>>(c.imag());
      }
  }

  template <class T, class Space>
  static Activation<T, Space> nonlinearity(View<const T, 3, Space> x, View<T, 2, Space> y) {
    return {.kind = ActivationKind::gelu_erf, .x = as_rows(x), .y = y};
  }

  /// One row for all channels.
  template <class T, class Space>
  View<const T, 2, Space> for_every_channel(View<const T, 2, Space> row) const {
    return {row.data(), {channels(), mode_count()}, {0, row.stride(1)}};
  }

  template <class B, class T, class Frame>
  DiagonalScan<T, typename B::Space> operands(
      Context<B>& ctx, Frame& frame, const Parameters<T, typename B::Space>& p,
      View<const T, 3, typename B::Space> x,
      const SequenceOptions<State<T, typename B::Space>>& options) const {
    using Space = typename B::Space;
    auto dt = frame.template tensor<Wide<T>>(channels());
    auto A = frame.template tensor<Wide<T>>(channels(), mode_count(), 2);
    auto one = frame.template tensor<Wide<T>>(2);
    diagonal_parameters(ctx, DiagonalParameters<Wide<T>, Space>{
                                 .log_dt = p.log_dt,
                                 .inv_A_real = for_every_channel<Wide<T>, Space>(p.log_w_real),
                                 .A_imag = for_every_channel<Wide<T>, Space>(p.w_imag),
                                 .dt = dt,
                                 .A = A});
    fill(ctx, Fill<Wide<T>, Space>{.value = 1, .y = one.slice(0, 0, 1)});
    fill(ctx, Fill<Wide<T>, Space>{.value = 0, .y = one.slice(0, 1, 2)});
    return {
        .dt = dt,
        .A = A,
        .B = View<const Wide<T>, 3, Space>(one.data(), {channels(), mode_count(), 2}, {0, 0, 1}),
        .C = p.C.reshape(channels(), mode_count(), 2),
        .skip = p.D.flatten(),
        .discretization = discretization_,
        .x = x,
        .segments = options.segments,
        .initial_state = options.initial(&State<T, Space>::diagonal)};
  }

  template <class B, class T, class Frame>
  void scan_backward(Context<B>& ctx, Frame& frame, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, View<const T, 3, typename B::Space> dy,
                     View<T, 3, typename B::Space> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends) const {
    using Space = typename B::Space;
    auto ddt = frame.template tensor<Wide<T>>(channels());
    auto dA = frame.template tensor<Wide<T>>(channels(), mode_count(), 2);
    fill(ctx, Fill<Wide<T>, Space>{.y = ddt});
    fill(ctx, Fill<Wide<T>, Space>{.y = dA.flatten()});
    const auto scan = operands(ctx, frame, p, tape.x, tape.options());
    diagonal_scan_backward(ctx, DiagonalScanBackward<T, Space>{
                                    .forward = scan,
                                    .kept = tape.kept,
                                    .dy = dy,
                                    .dfinal_state = ends.final(&State<T, Space>::diagonal),
                                    .dx = dx,
                                    .dinitial_state = ends.initial(&State<T, Space>::diagonal),
                                    .ddt = ddt,
                                    .dA = dA,
                                    .dC = gradients.C.reshape(channels(), mode_count(), 2),
                                    .dskip = gradients.D.flatten()});
    dynamics_backward<B, T>(ctx, frame, scan, ddt, dA, gradients);
  }

  /// What all channels say about the A they share is added up by a product with ones.
  template <class B, class T, class Frame>
  void dynamics_backward(Context<B>& ctx, Frame& frame,
                         const DiagonalScan<T, typename B::Space>& scan,
                         View<const Wide<T>, 1, typename B::Space> ddt,
                         View<const Wide<T>, 3, typename B::Space> dA,
                         Parameters<Wide<T>, typename B::Space>& gradients) const {
    using Space = typename B::Space;
    auto ones = frame.template tensor<Wide<T>>(1, channels());
    auto dreal = frame.template tensor<Wide<T>>(channels(), mode_count());
    auto dimag = frame.template tensor<Wide<T>>(channels(), mode_count());
    fill(ctx, Fill<Wide<T>, Space>{.value = 1, .y = ones.flatten()});
    fill(ctx, Fill<Wide<T>, Space>{.y = dreal.flatten()});
    fill(ctx, Fill<Wide<T>, Space>{.y = dimag.flatten()});
    diagonal_parameters_backward(
        ctx, DiagonalParametersBackward<Wide<T>, Space>{.dt = scan.dt,
                                                        .A = scan.A,
                                                        .ddt = ddt,
                                                        .dA = dA,
                                                        .dlog_dt = gradients.log_dt,
                                                        .dinv_A_real = dreal,
                                                        .dA_imag = dimag});
    matmul(ctx, Matmul<Wide<T>, Space>{
                    .a = ones, .b = dreal, .accumulate = true, .c = gradients.log_w_real});
    matmul(ctx, Matmul<Wide<T>, Space>{
                    .a = ones, .b = dimag, .accumulate = true, .c = gradients.w_imag});
  }

  Index state_;
  Discretization discretization_;
  DiagonalMeasure measure_;
  double dt_min_;
  double dt_max_;
  Readout readout_;
};

}  // namespace ssm
