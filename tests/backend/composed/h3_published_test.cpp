// SPDX-License-Identifier: Apache-2.0
// Numbers of HazyResearch/H3's layer in double precision: every tensor is
// base + scale·sin(phase + 0.7·i), printed to seven digits.
#include <doctest/doctest.h>

#include <array>
#include <numbers>

#include "ssm/backend/reference.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

constexpr double last_digit = 1e-7;
constexpr Index taps = 8;
constexpr Index modes = 4;

/// The layer of width 4 with its input; `heads` decides the width of a head.
struct PublishedLayer {
  explicit PublishedLayer(Index heads_) : heads(heads_) {
    for (Index d = 0; d < 4; ++d) {
      shift_B(d, 0) += 1;
      shift_skip(d) += 1;
    }
    auto log_dt = wave_tensor(0.5, 1.0, heads);
    auto inv_A_real = wave_tensor(0.1, 1.2, heads, modes);
    auto A_imag = wave_tensor(0.1, 1.3, heads, modes);
    for (Index h = 0; h < heads; ++h) {
      log_dt(h) += std::log(0.05);
      for (Index p = 0; p < modes; ++p) {
        inv_A_real(h, p) += std::log(0.5);
        A_imag(h, p) += std::numbers::pi * static_cast<double>(p);
        B(h, p, 0) += 1;
      }
    }
    diagonal_parameters(
        ctx, DiagonalParameters<double, HostSpace>{
                 .log_dt = log_dt, .inv_A_real = inv_A_real, .A_imag = A_imag, .dt = dt, .A = A});
  }

  /// A linear layer whose weight and bias start at these phases.
  DynamicTensor<double, 3> project(const DynamicTensor<double, 3>& x, double weight_phase,
                                   double bias_phase) {
    const auto weight = wave_tensor(0.5, weight_phase, 4, 4);
    const auto bias = wave_tensor(0.1, bias_phase, 4);
    auto y = nan_tensor(1, x.extent(1), 4);
    matmul(ctx, Matmul<double, HostSpace>{.a = x.reshape(x.extent(1), 4),
                                          .b = weight.transpose(0, 1),
                                          .bias = bias,
                                          .c = y.reshape(x.extent(1), 4)});
    return y;
  }

  /// The mixer's output before the last projection; the states advance.
  DynamicTensor<double, 3> mix(const DynamicTensor<double, 3>& u) {
    const auto q = project(u, 0.1, 0.2);
    const auto k = project(u, 0.3, 0.4);
    const auto v = project(u, 0.5, 0.6);
    auto y = nan_tensor(1, u.extent(1), 4);
    h3_mixer(ctx, H3Mixer<double, HostSpace>{.q = q,
                                             .k = k,
                                             .v = v,
                                             .shift_B = shift_B,
                                             .shift_C = shift_C,
                                             .shift_skip = shift_skip,
                                             .dt = dt,
                                             .A = A,
                                             .B = B,
                                             .C = C,
                                             .skip = skip,
                                             .initial_shift = shift,
                                             .final_shift = shift,
                                             .initial_diagonal = diagonal,
                                             .final_diagonal = diagonal,
                                             .y = y});
    return y;
  }

  Context<Reference> ctx;
  Index heads;
  DynamicTensor<double, 2> shift_B = wave_tensor(0.05, 0.7, 4, taps);
  DynamicTensor<double, 2> shift_C = wave_tensor(0.3, 0.8, 4, taps);
  DynamicTensor<double, 1> shift_skip = wave_tensor(0.1, 0.9, 4);
  DynamicTensor<double, 1> dt = nan_tensor(heads);
  DynamicTensor<double, 3> A = nan_tensor(heads, modes, 2);
  DynamicTensor<double, 3> B = wave_tensor(0.1, 1.1, heads, modes, 2);
  DynamicTensor<double, 3> C = wave_tensor(0.7, 1.4, heads, modes, 2);
  DynamicTensor<double, 1> skip = wave_tensor(0.5, 1.5, heads);
  DynamicTensor<double, 3> shift = zero_tensor(1, 4, taps);
  DynamicTensor<double, 6> diagonal = zero_tensor(1, 4 / heads, 4 / heads, heads, modes, 2);
};

void check_row(const DynamicTensor<double, 3>& y, Index t, std::array<double, 4> expected) {
  for (Index d = 0; d < 4; ++d) {
    CAPTURE(t);
    CAPTURE(d);
    CHECK(std::abs(y(0, t, d) - expected[static_cast<std::size_t>(d)]) < last_digit);
  }
}

TEST_CASE("heads of one channel give the published outputs, states and next step") {
  PublishedLayer layer(4);
  const auto u = wave_tensor(1, 1.8, 1, 7, 4);
  const auto y = layer.project(layer.mix(positions(u, 0, 6)), 1.6, 1.7);
  check_row(y, 0, {0.1147408, 0.0611308, 0.0006735, -0.0482037});
  check_row(y, 1, {0.0741592, 0.0898048, -0.0127796, -0.0515261});
  check_row(y, 2, {0.2760345, -0.0982748, 0.1397708, -0.1509194});
  check_row(y, 3, {-0.0851178, 0.1958872, -0.0534090, -0.0810448});
  check_row(y, 4, {0.5736598, -0.3448181, 0.3067426, -0.2190252});
  check_row(y, 5, {-0.1104778, 0.1595484, 0.0404295, -0.2215394});
  const auto shift = tensor_of(
      {-1.0766330, 1.1396842, -0.9999081, 0.8556797, -0.4377515, 0.2015839, 0.0209825, 0.0039247});
  CHECK(difference(layer.shift.select(0, 0).select(0, 0), shift) < last_digit);
  const auto diagonal = tensor_of(
      {0.4133808, 0.0432338, 0.3362941, 0.1810616, 0.1935702, 0.2188249, 0.0550575, 0.2211326});
  CHECK(difference(layer.diagonal.reshape(4, 8).select(0, 0), diagonal) < last_digit);
  const auto next = layer.project(layer.mix(positions(u, 6, 7)), 1.6, 1.7);
  check_row(next, 0, {0.4829014, -0.2547130, 0.2277030, -0.1601845});
}

TEST_CASE("heads of two channels give the published outputs, head index slow") {
  PublishedLayer layer(2);
  const auto u = wave_tensor(1, 1.8, 1, 6, 4);
  const auto o = layer.mix(u);
  check_row(o, 0, {0.0233328, 0.0056428, -0.0639295, 0.1912928});
  check_row(o, 1, {-0.0644302, 0.0492546, 0.0207981, -0.0798650});
  check_row(o, 5, {-2.6310220, 2.7016068, -0.5950783, 0.5444681});
  const auto y = layer.project(o, 1.6, 1.7);
  check_row(y, 0, {0.0577441, 0.0892588, 0.0046645, -0.0838527});
  check_row(y, 5, {-0.3947106, 0.2655960, 0.1248215, -0.4866190});
}

}  // namespace
}  // namespace ssm::test
