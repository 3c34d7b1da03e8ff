// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "ssm/backend/cpu/parallel.hpp"
#include "ssm/backend/cpu/simd.hpp"
#include "ssm/op/optimizer_update.hpp"

namespace ssm::cpu {

/// ssm::adamw_update and ssm::sum_of_squares, a register at a time.
template <class Arch>
struct OptimizerUpdate {
  template <class Ctx, Real T>
  static void adamw_update(Ctx& ctx, const ssm::AdamWUpdate<T, typename Ctx::Space>& a) {
    using Register = Batch<T, Arch>;
    const std::optional<double> factor = ssm::detail::gradient_factor(a);
    if (!factor) return;
    const auto constant = [](double value) { return Register(static_cast<T>(value)); };
    const double t = static_cast<double>(a.step);
    const Register first_scale = constant(a.rate / (1 - std::pow(a.beta1, t)));
    const Register second_scale = constant(1 / std::sqrt(1 - std::pow(a.beta2, t)));
    const Register keep = constant(1 - a.rate * a.weight_decay), eps = constant(a.eps);
    const Register beta1 = constant(a.beta1), beta2 = constant(a.beta2);
    const Register rest1 = constant(1 - a.beta1), rest2 = constant(1 - a.beta2);
    const Register gradient_scale = constant(*factor);
    const Rows<const T, Arch> gradient(a.gradient);
    const Rows<T, Arch> parameter(a.parameter), first(a.first_moment), second(a.second_moment);
    parallel_pieces(ctx.resources().threads(), 1, a.parameter.extent(0), lane_count<T, Arch>,
                    [&](Index, Index i, Index count) {
                      const Register g = gradient_scale * gradient.load(0, i, count);
                      const Register m = beta1 * first.load(0, i, count) + rest1 * g;
                      const Register v = beta2 * second.load(0, i, count) + rest2 * (g * g);
                      const Register root = xsimd::sqrt(v) * second_scale + eps;
                      first.store(0, i, count, m);
                      second.store(0, i, count, v);
                      parameter.store(0, i, count,
                                      keep * parameter.load(0, i, count) - first_scale * m / root);
                      if (a.copied) round(a.parameter, a.copied, i, count);
                      if (a.rounded_bf16) round(a.parameter, a.rounded_bf16, i, count);
                      if (a.rounded_f16) round(a.parameter, a.rounded_f16, i, count);
                    });
  }

  /// Blocks of a fixed length are summed in lanes, the blocks in order in double: the threads do
  /// not change the sum.
  template <class Ctx, Real T>
  static void sum_of_squares(Ctx& ctx, const ssm::SumOfSquares<T, typename Ctx::Space>& a) {
    constexpr Index lanes = lane_count<T, Arch>;
    constexpr Index block = 1024;
    const Rows<const T, Arch> x(a.x);
    const Index n = a.x.extent(0);
    const Index blocks = (n + block - 1) / block;
    auto frame = ctx.workspace().frame();
    const auto sums = frame.template tensor<double>(blocks);
    parallel(ctx.resources().threads(), blocks, 16, [&](Range range, int) {
      for (Index b = range.begin; b < range.end; ++b) {
        Batch<T, Arch> sum(T{0});
        const Index end = std::min(n, (b + 1) * block);
        for (Index i = b * block; i < end; i += lanes) {
          const auto value = x.load(0, i, std::min(lanes, end - i));
          sum = xsimd::fma(value, value, sum);
        }
        sums(b) = static_cast<double>(sum_of_lanes(sum));
      }
    });
    double total = 0;
    for (Index b = 0; b < blocks; ++b) total += sums(b);
    a.sum(0) += total;
  }

 private:
  /// A few elements that have just been written.
  template <class T, class U>
  static void round(const View<T, 1, HostSpace>& from, const View<U, 1, HostSpace>& to, Index begin,
                    Index count) {
    for (Index i = begin; i < begin + count; ++i) to(i) = scalar_cast<U>(from(i));
  }
};

}  // namespace ssm::cpu
