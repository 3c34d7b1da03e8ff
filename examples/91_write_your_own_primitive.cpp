// SPDX-License-Identifier: Apache-2.0
// A primitive from scratch, a backend that has it, and a layer made of it: the running sum of each
// channel.
#include <cstdio>
#include <ssm/backend/reference.hpp>
#include <ssm/ssm.hpp>
#include <string>

// [operands]
namespace mine {

template <class T, class Space>
struct RunningSumBackward;

/// Running sums.
///   y[b,t,d] = initial_state[b,d] + Σ_{s≤t} x[b,s,d]      final_state[b,d] = y[b,L−1,d]
/// x, y            [B, L, D]   y overwritten
/// segments        optional: B = 1, and S sequences lie one after another in the row; otherwise
///                 S = B
/// initial_state   [S, D]      optional, zero if left out
/// final_state     [S, D]      optional, overwritten; may be the same memory as initial_state
/// Throws  ShapeError
template <class T, class Space>
struct RunningSum {
  ssm::View<const T, 3, Space> x{};
  ssm::Segments segments{};
  ssm::View<const T, 2, Space> initial_state{};
  ssm::View<T, 3, Space> y{};
  ssm::View<T, 2, Space> final_state{};

  static constexpr const char* name = "running_sum";
  static constexpr void for_each_operand(auto&& visit) {
    using Gradient = RunningSumBackward<T, Space>;
    visit(ssm::input("x", "BLD").with_gradient(), &RunningSum::x, &Gradient::dx);
    visit(ssm::initial_state("initial_state", "SD"), &RunningSum::initial_state,
          &Gradient::dinitial_state);
    visit(ssm::final_state("final_state", "SD"), &RunningSum::final_state, &Gradient::dfinal_state);
    visit(ssm::output("y", "BLD"), &RunningSum::y, &Gradient::dy);
  }
};

/// The vector–Jacobian product of RunningSum.
///   dx[b,t,d]           = dfinal_state[b,d] + Σ_{s≥t} dy[b,s,d]
///   dinitial_state[b,d] = dfinal_state[b,d] + Σ_s dy[b,s,d]
template <class T, class Space>
struct RunningSumBackward {
  ssm::View<const T, 3, Space> dy{};
  ssm::Segments segments{};
  ssm::View<const T, 2, Space> dfinal_state{};  // optional, zero if left out
  ssm::View<T, 3, Space> dx{};                  // overwritten
  ssm::View<T, 2, Space> dinitial_state{};      // optional, overwritten
};

template <class B, class T = float>
concept HasRunningSum = requires(ssm::Context<B>& ctx, const RunningSum<T, typename B::Space>& a,
                                 const RunningSumBackward<T, typename B::Space>& g) {
  B::running_sum(ctx, a);
  B::running_sum_backward(ctx, g);
};

template <class B, class T>
  requires HasRunningSum<B, T>
void running_sum(ssm::Context<B>& ctx, const RunningSum<T, typename B::Space>& a) {
  ssm::require_operands(a);
  B::running_sum(ctx, a);
}

template <class B, class T>
  requires HasRunningSum<B, T>
void running_sum_backward(ssm::Context<B>& ctx, const RunningSumBackward<T, typename B::Space>& g) {
  ssm::require_gradients<RunningSum<T, typename B::Space>>(g);
  B::running_sum_backward(ctx, g);
}

}  // namespace mine
// [/operands]

// [backend]
namespace mine {

struct RunningSumLoops {
  template <class Ctx, class T>
  static void running_sum(Ctx&, const RunningSum<T, typename Ctx::Space>& a) {
    ssm::for_each_sequence(a.x.extent(0), a.x.extent(1), a.segments, [&](const ssm::Sequence& s) {
      for (ssm::Index d = 0; d < a.x.extent(2); ++d) {
        double sum = a.initial_state ? a.initial_state(s.row, d) : T{0};
        for (ssm::Index t = s.begin; t < s.end; ++t) {
          sum += a.x(s.batch, t, d);
          a.y(s.batch, t, d) = static_cast<T>(sum);
        }
        if (a.final_state) a.final_state(s.row, d) = static_cast<T>(sum);
      }
    });
  }

  template <class Ctx, class T>
  static void running_sum_backward(Ctx&, const RunningSumBackward<T, typename Ctx::Space>& g) {
    ssm::for_each_sequence(g.dy.extent(0), g.dy.extent(1), g.segments, [&](const ssm::Sequence& s) {
      for (ssm::Index d = 0; d < g.dy.extent(2); ++d) {
        double sum = g.dfinal_state ? g.dfinal_state(s.row, d) : T{0};
        for (ssm::Index t = s.end; t-- > s.begin;) {
          sum += g.dy(s.batch, t, d);
          g.dx(s.batch, t, d) = static_cast<T>(sum);
        }
        if (g.dinitial_state) g.dinitial_state(s.row, d) = static_cast<T>(sum);
      }
    });
  }
};

struct Reference : ssm::Reference, RunningSumLoops {};

}  // namespace mine
// [/backend]

// [layer]
namespace mine {

/// The sum of everything so far, channel by channel.
/// x, y    [B, L, channels]
/// state   sum [B, channels]
class Accumulate : public ssm::LayerVerbs<Accumulate> {
 public:
  static constexpr auto operand_layout = ssm::OperandLayout::any;  // loops read any strides

  template <class T, class Space = ssm::HostSpace>
  struct Parameters : ssm::ParametersOf<Accumulate, T, Space> {};
  template <class T, class Space = ssm::HostSpace>
  struct State {
    ssm::DynamicTensor<T, 2, Space> sum;
  };
  template <class T, class Space = ssm::HostSpace>
  struct Tape : ssm::SequenceTape<Accumulate, State<T, Space>>, ssm::InputTape<T, Space> {};

  explicit Accumulate(ssm::Index channels) : channels_(channels) {}
  ssm::Index channels() const { return channels_; }

  template <class B, class T>
  static constexpr bool runs_on = HasRunningSum<B, T>;

  template <class B, class T>
    requires HasRunningSum<B, T>
  void evaluate(ssm::Context<B>& ctx, const Parameters<T, typename B::Space>&,
                ssm::Input<B, T, ssm::dyn, ssm::dyn, ssm::dyn> x,
                ssm::Output<B, T, ssm::dyn, ssm::dyn, ssm::dyn> y,
                ssm::NonDeduced<Tape<T, typename B::Space>>* tape,
                const ssm::SequenceOptions<State<T, typename B::Space>>& options = {}) const {
    if (tape != nullptr) tape->keep(ctx, options);
    using Own = State<T, typename B::Space>;
    running_sum(ctx, RunningSum<T, typename B::Space>{.x = x,
                                                      .segments = options.segments,
                                                      .initial_state = options.initial(&Own::sum),
                                                      .y = y,
                                                      .final_state = options.final(&Own::sum)});
  }

  template <class B, class T>
  void differentiate(ssm::Context<B>& ctx, const Parameters<T, typename B::Space>&,
                     const Tape<T, typename B::Space>& tape,
                     ssm::Input<B, T, ssm::dyn, ssm::dyn, ssm::dyn> dy,
                     ssm::Output<B, T, ssm::dyn, ssm::dyn, ssm::dyn> dx,
                     Parameters<T, typename B::Space>&,
                     const ssm::SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    using Own = State<T, typename B::Space>;
    running_sum_backward(
        ctx, RunningSumBackward<T, typename B::Space>{.dy = dy,
                                                      .segments = tape.segments,
                                                      .dfinal_state = ends.final(&Own::sum),
                                                      .dx = dx,
                                                      .dinitial_state = ends.initial(&Own::sum)});
  }

  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const ssm::Context<B>&, ssm::Index sequences) const {
    State<T, typename B::Space> state;
    state.sum.reset({sequences, channels_});
    return state;
  }
  template <class T = float, class B>
  Parameters<T, typename B::Space> zero_parameters(const ssm::Context<B>&) const {
    return {};
  }
  template <class T>
  void fill_parameters(Parameters<T>&, ssm::Seed) const {}
  static void for_each_parameter(auto&&, auto&...) {}
  static void for_each_state(auto&& visit, auto&... state) {
    visit(std::string("sum"), state.sum...);
  }

 private:
  ssm::Index channels_;
};

}  // namespace mine
// [/layer]

int main() {
  // [use]
  ssm::Context<mine::Reference> ctx;
  ssm::DynamicTensor<float, 3> x({1, 4, 1});
  ssm::DynamicTensor<float, 3> y({1, 4, 1});
  ssm::fill(x, 1.0F);
  mine::running_sum(ctx, mine::RunningSum<float, ssm::HostSpace>{.x = x, .y = y});
  // [/use]
  static_assert(!mine::HasRunningSum<ssm::Reference>);
  std::printf("%g %g %g %g\n", y(0, 0, 0), y(0, 1, 0), y(0, 2, 0), y(0, 3, 0));

  const mine::Accumulate layer(1);
  auto state = layer.initial_state(ctx, 1);
  layer.prefill(ctx, layer.initialize(ctx, ssm::Seed{1}), x, y, state);
  return y(0, 3, 0) == 4.0F && state.sum(0, 0) == 4.0F ? 0 : 1;
}
