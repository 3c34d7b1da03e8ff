// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "ssm/layer/diagonal_initialization.hpp"
#include "ssm/layer/layer.hpp"
#include "ssm/op/causal_convolution.hpp"
#include "ssm/op/diagonal_kernel.hpp"
#include "ssm/op/diagonal_parameters.hpp"
#include "ssm/op/diagonal_scan.hpp"
#include "ssm/op/matmul.hpp"
#include "ssm/op/rearrange.hpp"
#include "ssm/op/sequence_work.hpp"

namespace ssm {

/// How the parallel form of a diagonal SSM is computed: `automatic` as the backend's cost model
/// says (prefers_convolution), by scan where it has none. Both give the same numbers; calls that
/// carry states, or whose sequences lie across ranks, always scan.
enum class DiagonalForm { scan, convolution, automatic };

struct DiagonalSsmConfig {
  Index channels = dyn;
  Index state = 64;  // N: real state size; complex modes are stored as N/2 of N conjugates
  bool complex = true;
  DiagonalForm form = DiagonalForm::scan;
  bool shared = false;  // channels share A and B, see n_ssm
};
/// The sizes and choices of a DiagonalSsm that are given at run time.
struct DiagonalSsmOptions {
  Index channels = dyn;
  Index state = dyn;  // left out: the type's, or 64
  Discretization discretization = Discretization::bilinear;
  std::optional<DiagonalMeasure> measure = {};  // initialization; left out: lin, or real
  double dt_min = 0.001;                        // seconds; initialization
  double dt_max = 0.1;
  Index n_ssm = dyn;  // of a shared layer: channel h has A and B number h mod n_ssm; left out: 1
};

/// A diagonal state-space model per channel (S4D), in H3's parametrization.
///   dt = exp(log_dt)    A = −exp(inv_A_real) + i·A_imag    (Ā, B̄) = discretize(dt, A, B)
///   s_t = Ā·s_{t−1} + B̄·x_t
///   y_t = 2·Re Σ_p C_p·s_{t,p} + D·x_t      (without the 2 and Re for real modes)
/// x, y    [B, L, channels]   y must not overlap x
/// state   [B, channels, P, 2|1]    P = N/2 complex or N real modes
/// Cost    O(B·L·channels·P) by scan, O(channels·L·(P + B·log L)) by convolution
/// Throws  ShapeError; ArgumentError  for an odd N with complex modes, which does not compile in
///                                    the type
/// A and B are each channel's own, or of a shared layer one of n_ssm.
/// Source  Gu et al. 2022 (S4D); Fu et al. 2023 (H3) §3.1; parameter names of HazyResearch/H3
template <DiagonalSsmConfig Config>
class DiagonalSsm : public LayerVerbs<DiagonalSsm<Config>> {
  static constexpr Index width = Config.channels;
  static constexpr Index parts = Config.complex ? 2 : 1;
  static constexpr Index modes = Config.state == dyn ? dyn : Config.state / parts;
  static constexpr bool may_convolve = Config.form != DiagonalForm::scan;
  static constexpr Index rows = Config.shared ? dyn : width;  // of A and B

  static_assert(!Config.complex || Config.state == dyn || Config.state % 2 == 0,
                "DiagonalSsm: state must be even: complex modes come in conjugate pairs");

 public:
  static constexpr auto operand_layout = OperandLayout::any;

  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<DiagonalSsm, T, Space> {
    Tensor<Wide<T>, Extents<width>, Space> log_dt;            // log-seconds
    Tensor<Wide<T>, Extents<rows, modes>, Space> inv_A_real;  // A = −exp(inv_A_real) + i·A_imag
    Tensor<Wide<T>, Extents<rows, modes>, Space> A_imag;      // empty for real modes
    Tensor<Wide<T>, Extents<rows, modes, parts>, Space> B;
    Tensor<Wide<T>, Extents<1, width, modes, parts>, Space> C;
    Tensor<Wide<T>, Extents<width>, Space> D;
  };
  template <class T, class Space = HostSpace>
  struct State {
    Tensor<Wide<T>, Extents<dyn, width, modes, parts>, Space> diagonal;
  };
  template <class T, class Space = HostSpace>
  struct Tape : SequenceTape<DiagonalSsm, State<T, Space>>, InputTape<T, Space> {
    View<const T, 3, Space> x;
    bool convolved = false;
    DynamicTensor<Wide<T>, 2, Space> kernel;
    DynamicTensor<Wide<T>, 1, Space> kept;  // of diagonal_scan
  };

  /// All sizes in the type.
  DiagonalSsm() requires(Config.channels != dyn && Config.state != dyn)
      : DiagonalSsm(DiagonalSsmOptions{}) {}
  /// Sizes that are `dyn` in the type, the discretization and the initialization come from here.
  /// Throws  ArgumentError  for what contradicts the type, an odd state with complex modes, another
  ///                        measure than `real` with real ones, steps that are no range, and an
  ///                        n_ssm that does not divide the channels
  explicit DiagonalSsm(DiagonalSsmOptions options)
      : channels_(resolve_extent(Config.channels, options.channels, "channels")),
        state_(resolve_extent(Config.state, options.state, DiagonalSsmConfig{}.state, "state")),
        discretization_(options.discretization),
        measure_(options.measure.value_or(Config.complex ? DiagonalMeasure::lin
                                                         : DiagonalMeasure::real)),
        dt_min_(options.dt_min),
        dt_max_(options.dt_max),
        n_ssm_(options.n_ssm != dyn ? options.n_ssm
               : Config.shared      ? 1
                                    : channels_) {
    require_step_range("DiagonalSsm", dt_min_, dt_max_);
    if (n_ssm_ < 1 || channels_ % n_ssm_ != 0 || (!Config.shared && n_ssm_ != channels_))
      throw ArgumentError(message({"DiagonalSsm: n_ssm ", n_ssm_, " of ", channels_, " channels",
                                   Config.shared ? " must divide them" : " needs a shared layer"}));
    if (!Config.complex && measure_ != DiagonalMeasure::real)
      throw ArgumentError("DiagonalSsm: measure must be real, or left out, with real modes");
    if (Config.complex && state_ % 2 != 0)
      throw ArgumentError(
          message({"DiagonalSsm: state ", state_, " must be even: modes come in conjugate pairs"}));
  }

  Index channels() const { return channels_; }
  Index mode_count() const { return state_ / parts; }
  /// How many A and B there are.
  Index n_ssm() const { return n_ssm_; }
  Discretization discretization() const { return discretization_; }

  template <class B, class T>
  static constexpr bool runs_on =
      (HasDiagonalScan<B, T> && HasDiagonalParameters<B, T> && HasRearrange<B, T> &&
       (!Config.shared || HasMatmul<B, T>)&&(!may_convolve || (HasCausalConvolution<B, T> &&
                                                               HasDiagonalKernel<B, T>)));

  template <class B, class T>
    requires RunsOn<DiagonalSsm, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, width> x, Output<B, T, dyn, dyn, width> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options = {}) const {
    auto frame = ctx.workspace().frame();
    auto scan = operands(ctx, frame, p, View<const T, 3, typename B::Space>(x), options);
    const bool convolve = options.initial_state == nullptr && options.final_state == nullptr &&
                          ctx.sequence_cut() == nullptr &&
                          prefers_convolution<B, T>(
                              {x.extent(0), x.extent(1), channels_, mode_count(), tape != nullptr});
    if (tape != nullptr) {
      tape->keep(ctx, options);
      tape->x = x;
      tape->convolved = convolve;
      tape->kept.resize({0});
    }
    if constexpr (may_convolve) {
      if (convolve) {
        auto kernel =
            Buffers(frame, tape).at(&Tape<T, typename B::Space>::kernel, channels_, x.extent(1));
        diagonal_kernel(ctx, kernel_of(scan, kernel));
        causal_convolution(
            ctx, CausalConvolution<T, typename B::Space>{
                     .kernel = kernel, .skip = p.D, .x = x, .segments = options.segments, .y = y});
        return;
      }
    }
    scan.y = y;
    scan.final_state = options.final(&State<T, typename B::Space>::diagonal);
    if (tape != nullptr) {
      tape->kept.resize({kept_numbers<B, T>(ctx, scan)});
      scan.kept = tape->kept;
    }
    diagonal_scan(ctx, scan);
  }

  template <class B, class T>
    requires RunsOn<DiagonalSsm, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, width> dy,
                     Output<B, T, dyn, dyn, width> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    auto scan = operands(ctx, frame, p, tape.x, tape.options());
    auto ddt = frame.template tensor<Wide<T>>(channels_);
    auto dA = frame.template tensor<Wide<T>>(channels_, mode_count(), parts);
    fill(ctx, Fill<Wide<T>, Space>{.y = ddt});
    fill(ctx, Fill<Wide<T>, Space>{.y = dA.flatten()});
    auto dC = gradients.C.reshape(channels_, mode_count(), parts);
    const auto dreal = gradient_of_rows<Wide<T>>(ctx, frame, flat(gradients.inv_A_real));
    const auto dB = gradient_of_rows<Wide<T>>(ctx, frame, flat(gradients.B));
    // A forward call that convolved carried no states; their gradients alone can still force a scan
    // here.
    const bool convolve =
        tape.convolved && ends.final_state == nullptr && ends.initial_state == nullptr;
    if (!convolve)
      diagonal_scan_backward(ctx, DiagonalScanBackward<T, Space>{
                                      .forward = scan,
                                      .kept = tape.kept,
                                      .dy = dy,
                                      .dfinal_state = ends.final(&State<T, Space>::diagonal),
                                      .dx = dx,
                                      .dinitial_state = ends.initial(&State<T, Space>::diagonal),
                                      .ddt = ddt,
                                      .dA = dA,
                                      .dB = dB.reshape(channels_, mode_count(), parts),
                                      .dC = dC,
                                      .dskip = gradients.D});
    if constexpr (may_convolve)
      if (convolve) {
        auto dkernel = frame.template tensor<Wide<T>>(channels_, dy.extent(1));
        fill(ctx, Fill<Wide<T>, Space>{.y = dkernel.flatten()});
        causal_convolution_backward(
            ctx, CausalConvolutionBackward<T, Space>{.forward = {.kernel = tape.kernel,
                                                                 .skip = p.D,
                                                                 .x = tape.x,
                                                                 .segments = tape.segments},
                                                     .dy = dy,
                                                     .dx = dx,
                                                     .dkernel = dkernel,
                                                     .dskip = gradients.D});
        diagonal_kernel_backward(ctx, DiagonalKernelBackward<Wide<T>, Space>{
                                          .forward = kernel_of(scan, {}),
                                          .dkernel = dkernel,
                                          .ddt = ddt,
                                          .dA = dA,
                                          .dB = dB.reshape(channels_, mode_count(), parts),
                                          .dC = dC});
      }
    DiagonalParametersBackward<Wide<T>, Space> g{.dt = scan.dt,
                                                 .A = scan.A,
                                                 .ddt = ddt,
                                                 .dA = dA,
                                                 .dlog_dt = gradients.log_dt,
                                                 .dinv_A_real = dreal};
    if (Config.complex) g.dA_imag = gradient_of_rows<Wide<T>>(ctx, frame, flat(gradients.A_imag));
    diagonal_parameters_backward(ctx, g);
    add_shared<Wide<T>>(ctx, frame, dreal, flat(gradients.inv_A_real));
    add_shared<Wide<T>>(ctx, frame, dB, flat(gradients.B));
    if (Config.complex) add_shared<Wide<T>>(ctx, frame, g.dA_imag, flat(gradients.A_imag));
  }

  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const Context<B>&, Index sequences) const {
    State<T, typename B::Space> state;
    state.diagonal.reset({sequences, channels_, mode_count(), parts});
    return state;
  }

  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>&) const {
    Parameters<T, typename B::Space> p;
    p.log_dt.reset({channels_});
    p.inv_A_real.reset({n_ssm_, mode_count()});
    if (Config.complex) p.A_imag.reset({n_ssm_, mode_count()});
    p.B.reset({n_ssm_, mode_count(), parts});
    p.C.reset({Index{1}, channels_, mode_count(), parts});
    p.D.reset({channels_});
    return p;
  }

  template <class T>
  [[gnu::cold]] void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    const Random step(seed.fork("log_dt"));
    const Random frequency(seed.fork("A_imag"));
    const Random readout(seed.fork("C"));
    const Random skip(seed.fork("D"));
    const bool decaying_reals = measure_ == DiagonalMeasure::real;
    for (Index d = 0; d < channels_; ++d) {
      const auto channel = static_cast<std::uint64_t>(d);
      p.log_dt(d) =
          static_cast<Wide<T>>(step.uniform(channel, std::log(dt_min_), std::log(dt_max_)));
      p.D(d) = static_cast<Wide<T>>(skip.normal(channel));
      const Index first = d * mode_count();
      for (Index n = 0; n < mode_count(); ++n)
        for (Index part = 0; part < parts; ++part)  // total variance 1
          p.C(0, d, n, part) = static_cast<Wide<T>>(
              readout.normal(static_cast<std::uint64_t>((first + n) * parts + part)) /
              std::sqrt(static_cast<double>(parts)));
    }
    for (Index d = 0; d < n_ssm_; ++d) {
      const auto imaginary =
          measure_frequencies(measure_, state_, mode_count(), frequency, d * mode_count());
      for (Index n = 0; n < mode_count(); ++n) {
        p.inv_A_real(d, n) = static_cast<Wide<T>>(
            decaying_reals ? std::log(1.0 + static_cast<double>(n)) : std::log(0.5));
        if (Config.complex)
          p.A_imag(d, n) = static_cast<Wide<T>>(imaginary[static_cast<std::size_t>(n)]);
        p.B(d, n, 0) = Wide<T>{1};
      }
    }
  }

  static void for_each_parameter(auto&& visit, auto&... p) {
    const auto dynamics = [](const char* name) {
      return ParameterSpec{.name = name,
                           .role = ParameterRole::ssm,
                           .weight_decay = false,
                           .own_learning_rate = true};
    };
    visit(dynamics("kernel.kernel.log_dt"), p.log_dt...);
    visit(dynamics("kernel.kernel.inv_A_real"), p.inv_A_real...);
    if constexpr (Config.complex) visit(dynamics("kernel.kernel.A_imag"), p.A_imag...);
    visit(dynamics("kernel.kernel.B"), p.B...);
    visit(ParameterSpec{.name = "kernel.kernel.C", .role = ParameterRole::ssm}, p.C...);
    visit(ParameterSpec{.name = "D", .role = ParameterRole::ssm}, p.D...);
  }
  static void for_each_state(auto&& visit, auto&... state) {
    visit(std::string("diagonal"), state.diagonal...);
  }

 private:
  template <class B, class T>
  static bool prefers_convolution(const SequenceWork& work) {
    if constexpr (Config.form == DiagonalForm::automatic && ChoosesDiagonalForm<B, T>)
      return B::template prefers_convolution<T>(work);
    else
      return Config.form == DiagonalForm::convolution;
  }

  template <class B, class T, class Frame>
  DiagonalScan<T, typename B::Space> operands(
      Context<B>& ctx, Frame& frame, const Parameters<T, typename B::Space>& p,
      View<const T, 3, typename B::Space> x,
      const SequenceOptions<State<T, typename B::Space>>& options) const {
    auto dt = frame.template tensor<Wide<T>>(channels_);
    auto A = frame.template tensor<Wide<T>>(channels_, mode_count(), parts);
    DiagonalParameters<Wide<T>, typename B::Space> call{
        .log_dt = p.log_dt,
        .inv_A_real = of_channels<Wide<T>>(ctx, frame, flat(p.inv_A_real)),
        .dt = dt,
        .A = A};
    if (Config.complex) call.A_imag = of_channels<Wide<T>>(ctx, frame, flat(p.A_imag));
    diagonal_parameters(ctx, call);
    return {
        .dt = dt,
        .A = A,
        .B = of_channels<Wide<T>>(ctx, frame, flat(p.B)).reshape(channels_, mode_count(), parts),
        .C = p.C.reshape(channels_, mode_count(), parts),
        .skip = p.D,
        .discretization = discretization_,
        .x = x,
        .segments = options.segments,
        .initial_state = options.initial(&State<T, typename B::Space>::diagonal)};
  }
  /// A parameter, or its gradient, as [n_ssm, …].
  template <class P>
  auto flat(P& tensor) const {
    return tensor.reshape(n_ssm_, tensor.size() / n_ssm_);
  }
  /// What every channel reads of a parameter [n_ssm, N]: [channels, N].
  template <class W, class B, class Frame>
  View<const W, 2, typename B::Space> of_channels(
      Context<B>& ctx, Frame& frame, View<const W, 2, typename B::Space> parameter) const {
    if constexpr (!Config.shared) {
      return parameter;
    } else {
      const Index groups = channels_ / n_ssm_, columns = parameter.extent(1);
      const auto repeated = frame.template tensor<W>(groups, n_ssm_, columns);
      rearrange(ctx, Rearrange<W, typename B::Space>{
                         .x = {parameter.data(), {groups, n_ssm_, columns}, {0, columns, 1}},
                         .y = repeated});
      return repeated.reshape(channels_, columns);
    }
  }
  /// Where the gradients of all channels are added up: the gradient itself, or zeros [channels, N]
  /// that add_shared adds to it.
  template <class W, class B, class Frame>
  View<W, 2, typename B::Space> gradient_of_rows(Context<B>& ctx, Frame& frame,
                                                 View<W, 2, typename B::Space> gradient) const {
    if constexpr (!Config.shared) {
      return gradient;
    } else {
      const View<W, 2, typename B::Space> all =
          frame.template tensor<W>(channels_, gradient.extent(1));
      fill(ctx, Fill<W, typename B::Space>{.y = all.flatten()});
      return all;
    }
  }
  /// The sum over the channels of each of n_ssm, as a product with ones.
  template <class W, class B, class Frame>
  void add_shared(Context<B>& ctx, Frame& frame, View<const W, 2, typename B::Space> all,
                  View<W, 2, typename B::Space> gradient) const {
    if constexpr (Config.shared) {
      const Index groups = channels_ / n_ssm_;
      const auto ones = frame.template tensor<W>(1, groups);
      fill(ctx, Fill<W, typename B::Space>{.value = 1, .y = ones.flatten()});
      matmul(ctx, Matmul<W, typename B::Space>{.a = ones,
                                               .b = all.reshape(groups, gradient.size()),
                                               .accumulate = true,
                                               .c = gradient.reshape(1, gradient.size())});
    }
  }
  template <class T, class Space>
  static DiagonalKernel<Wide<T>, Space> kernel_of(const DiagonalScan<T, Space>& scan,
                                                  View<Wide<T>, 2, Space> kernel) {
    return {.dt = scan.dt,
            .A = scan.A,
            .B = scan.B,
            .C = scan.C,
            .discretization = scan.discretization,
            .kernel = kernel};
  }

  Index channels_;
  Index state_;
  Discretization discretization_;
  DiagonalMeasure measure_;
  double dt_min_;
  double dt_max_;
  Index n_ssm_;
};

}  // namespace ssm
