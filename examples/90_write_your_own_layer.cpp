// SPDX-License-Identifier: Apache-2.0
// A layer from scratch: a leaky sum of each channel, y_t = decay·y_{t−1} + gain·x_t, as a diagonal
// SSM of one real mode.
#include <cmath>
#include <cstdio>
#include <ssm/backend/cpu.hpp>
#include <ssm/backend/reference.hpp>
#include <ssm/ssm.hpp>

namespace {

// [the layer]
/// A leaky sum of every channel.
///   y_t = Ā·y_{t−1} + B̄·x_t      Ā = exp(−dt·rate), B̄ = 1 − Ā over rate: a step of dt seconds
/// x, y   [B, L, channels]
template <ssm::Index Channels>
class LeakySum : public ssm::LayerVerbs<LeakySum<Channels>> {
 public:
  template <class T, class Space = ssm::HostSpace>
  struct Parameters : ssm::ParametersOf<LeakySum, T, Space> {
    ssm::Tensor<T, ssm::Extents<Channels>, Space> log_dt;    // log-seconds
    ssm::Tensor<T, ssm::Extents<Channels>, Space> log_rate;  // decay per second
  };
  template <class T, class Space = ssm::HostSpace>
  struct State {
    ssm::Tensor<T, ssm::Extents<ssm::dyn, Channels, 1, 1>, Space> sum;
  };
  template <class T, class Space = ssm::HostSpace>
  struct Tape : ssm::SequenceTape<LeakySum, State<T, Space>>, ssm::InputTape<T, Space> {
    ssm::View<const T, 3, Space> x;
  };

  static constexpr auto operand_layout =
      ssm::OperandLayout::any;  // diagonal_scan takes any strides
  static constexpr ssm::Index channels() { return Channels; }

  /// The primitives that it calls.
  template <class B, class T>
  static constexpr bool runs_on = (ssm::HasDiagonalScan<B, T> && ssm::HasDiagonalParameters<B, T> &&
                                   ssm::HasRearrange<B, T>);

  template <class B, class T>
    requires ssm::RunsOn<LeakySum, B, T>
  void evaluate(ssm::Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                ssm::Input<B, T, ssm::dyn, ssm::dyn, Channels> x,
                ssm::Output<B, T, ssm::dyn, ssm::dyn, Channels> y,
                ssm::NonDeduced<Tape<T, typename B::Space>>* tape,
                const ssm::SequenceOptions<State<T, typename B::Space>>& options = {}) const {
    auto frame = ctx.workspace().frame();
    auto scan = operands(ctx, frame, p, ssm::View<const T, 3, typename B::Space>(x), options);
    scan.y = y;
    scan.final_state = options.final(&State<T, typename B::Space>::sum);
    if (tape != nullptr) {
      tape->keep(ctx, options);
      tape->x = x;
    }
    ssm::diagonal_scan(ctx, scan);
  }

  template <class B, class T>
    requires ssm::RunsOn<LeakySum, B, T>
  void differentiate(ssm::Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape,
                     ssm::Input<B, T, ssm::dyn, ssm::dyn, Channels> dy,
                     ssm::Output<B, T, ssm::dyn, ssm::dyn, Channels> dx,
                     Parameters<T, typename B::Space>& gradients,
                     const ssm::SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    const auto scan = operands(ctx, frame, p, tape.x, tape.options());
    auto ddt = frame.template tensor<T>(Channels);
    auto dA = frame.template tensor<T>(Channels, 1, 1);
    ssm::fill(ctx, ssm::Fill<T, Space>{.y = ddt});
    ssm::fill(ctx, ssm::Fill<T, Space>{.y = dA.flatten()});
    ssm::diagonal_scan_backward(ctx, ssm::DiagonalScanBackward<T, Space>{
                                         .forward = scan,
                                         .dy = dy,
                                         .dfinal_state = ends.final(&State<T, Space>::sum),
                                         .dx = dx,
                                         .dinitial_state = ends.initial(&State<T, Space>::sum),
                                         .ddt = ddt,
                                         .dA = dA});
    ssm::diagonal_parameters_backward(ctx,
                                      ssm::DiagonalParametersBackward<T, Space>{
                                          .dt = scan.dt,
                                          .A = scan.A,
                                          .ddt = ddt,
                                          .dA = dA,
                                          .dlog_dt = gradients.log_dt,
                                          .dinv_A_real = gradients.log_rate.reshape(Channels, 1)});
  }

  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const ssm::Context<B>&, ssm::Index sequences) const {
    State<T, typename B::Space> state;
    state.sum.reset({sequences});
    return state;
  }
  template <class T = float, class B>
  Parameters<T, typename B::Space> zero_parameters(const ssm::Context<B>&) const {
    Parameters<T, typename B::Space> p;
    p.log_dt.reset({});
    p.log_rate.reset({});
    return p;
  }
  template <class T>
  void fill_parameters(Parameters<T>& p, ssm::Seed seed) const {
    ssm::fill_uniform(p.log_dt, seed.fork("log_dt"), std::log(0.01), std::log(0.5));
    ssm::fill(p.log_rate, T{0});
  }
  static void for_each_parameter(auto&& visit, auto&... p) {
    visit(ssm::ParameterSpec{.name = "log_dt", .role = ssm::ParameterRole::ssm}, p.log_dt...);
    visit(ssm::ParameterSpec{.name = "log_rate", .role = ssm::ParameterRole::ssm}, p.log_rate...);
  }
  static void for_each_state(auto&& visit, auto&... state) {
    visit(std::string("sum"), state.sum...);
  }

 private:
  template <class B, class T, class Frame, class Space = typename B::Space>
  static ssm::DiagonalScan<T, Space> operands(
      ssm::Context<B>& ctx, Frame& frame, const Parameters<T, Space>& p,
      ssm::View<const T, 3, Space> x, const ssm::SequenceOptions<State<T, Space>>& options) {
    auto dt = frame.template tensor<T>(Channels);
    auto A = frame.template tensor<T>(Channels, 1, 1);
    auto one = frame.template tensor<T>(Channels, 1, 1);
    ssm::fill(ctx, ssm::Fill<T, Space>{.value = 1, .y = one.flatten()});
    ssm::diagonal_parameters(
        ctx,
        ssm::DiagonalParameters<T, Space>{
            .log_dt = p.log_dt, .inv_A_real = p.log_rate.reshape(Channels, 1), .dt = dt, .A = A});
    return {.dt = dt,
            .A = A,
            .B = one,
            .C = one,
            .discretization = ssm::Discretization::zero_order_hold,
            .x = x,
            .segments = options.segments,
            .initial_state = options.initial(&State<T, Space>::sum)};
  }
};
// [/the layer]

}  // namespace

int main() {
  // [use]
  const LeakySum<8> layer;
  ssm::Context<ssm::Cpu> ctx;
  const auto parameters = layer.initialize(ctx, ssm::Seed{1});
  ssm::DynamicTensor<float, 3> x({2, 50, 8});
  ssm::DynamicTensor<float, 3> y({2, 50, 8});
  ssm::fill_normal(x, ssm::Seed{2});
  layer.forward(ctx, parameters, x, y);
  // [/use]

  ssm::Context<ssm::Reference> oracle;
  ssm::DynamicTensor<float, 3> expected({2, 50, 8});
  layer.forward(oracle, parameters, x, expected);
  std::printf("Cpu and Reference differ by %.1e\n", ssm::largest_difference(y, expected).value);
  return ssm::all_close(y, expected, ssm::tolerance<float>.value) ? 0 : 1;
}
