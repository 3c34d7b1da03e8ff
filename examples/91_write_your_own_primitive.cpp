// SPDX-License-Identifier: Apache-2.0
// A primitive from scratch, and a backend that has it: the running sum of each channel.
#include <cstdio>
#include <ssm/backend/reference.hpp>
#include <ssm/ssm.hpp>

// [operands]
namespace mine {

/// Running sums.
///   y[b,t,d] = Σ_{s≤t} x[b,s,d]
/// x, y   [B, L, D]   y overwritten
template <class T, class Space>
struct RunningSum {
  ssm::View<const T, 3, Space> x;
  ssm::View<T, 3, Space> y;
};

template <class B>
concept HasRunningSum = requires(ssm::Context<B>& ctx,
                                 const RunningSum<float, typename B::Space>& a) {
  B::running_sum(ctx, a);
};

template <HasRunningSum B, class T>
void running_sum(ssm::Context<B>& ctx, const RunningSum<T, typename B::Space>& a) {
  ssm::require_extents("running_sum", "x", a.x, {ssm::dyn, ssm::dyn, ssm::dyn});
  ssm::require_extents("running_sum", "y", a.y, a.x.extents().to_array());
  B::running_sum(ctx, a);
}

}  // namespace mine
// [/operands]

// [backend]
namespace mine {

struct RunningSumLoops {
  template <class Ctx, class T>
  static void running_sum(Ctx&, const RunningSum<T, typename Ctx::Space>& a) {
    for (ssm::Index b = 0; b < a.x.extent(0); ++b)
      for (ssm::Index d = 0; d < a.x.extent(2); ++d) {
        double sum = 0;
        for (ssm::Index t = 0; t < a.x.extent(1); ++t) {
          sum += a.x(b, t, d);
          a.y(b, t, d) = static_cast<T>(sum);
        }
      }
  }
};

struct Backend : ssm::Reference, RunningSumLoops {};

}  // namespace mine
// [/backend]

int main() {
  // [use]
  ssm::Context<mine::Backend> ctx;
  ssm::DynamicTensor<float, 3> x({1, 4, 1});
  ssm::DynamicTensor<float, 3> y({1, 4, 1});
  ssm::fill(x, 1.0F);
  mine::running_sum(ctx, mine::RunningSum<float, ssm::HostSpace>{.x = x, .y = y});
  // [/use]
  static_assert(!mine::HasRunningSum<ssm::Reference>);
  std::printf("%g %g %g %g\n", y(0, 0, 0), y(0, 1, 0), y(0, 2, 0), y(0, 3, 0));
  return y(0, 3, 0) == 4.0F ? 0 : 1;
}
