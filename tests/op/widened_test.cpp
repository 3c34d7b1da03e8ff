// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/widened.hpp"

#include <doctest/doctest.h>

#include <vector>

#include "ssm/backend/cpu.hpp"
#include "ssm/backend/reference.hpp"
#include "ssm/core/fill_random.hpp"
#include "ssm/op/attention.hpp"
#include "ssm/op/cascaded_scan.hpp"
#include "ssm/op/diagonal_scan.hpp"
#include "ssm/op/embedding.hpp"
#include "ssm/op/matmul.hpp"
#include "ssm/op/rearrange.hpp"

namespace ssm {
namespace {

/// A tensor in float whose numbers the half type holds, and the same in the half type.
template <class T, int Rank>
struct Pair {
  DynamicTensor<float, Rank> wide;
  DynamicTensor<T, Rank> narrow;

  template <class... N>
  Pair(std::uint64_t seed, N... extents) : wide({extents...}), narrow({extents...}) {
    const Random random(Seed{seed});
    for (Index i = 0; i < wide.size(); ++i) {
      narrow.data()[i] = T(static_cast<float>(random.normal(static_cast<std::uint64_t>(i))));
      wide.data()[i] = static_cast<float>(narrow.data()[i]);
    }
  }
  /// Whether the half tensor is the float one, rounded.
  void expect_rounded() const {
    for (Index i = 0; i < wide.size(); ++i) {
      CAPTURE(i);
      CHECK(static_cast<float>(narrow.data()[i]) == static_cast<float>(T(wide.data()[i])));
    }
  }
};

template <class B, class T>
void expect_matmul() {
  Context<B> ctx;
  // a is a transposed slice, b a slice of rows, c a slice of columns that is added to.
  Pair<T, 2> a(1, 7, 20), b(2, 9, 6), c(3, 16, 11);
  DynamicTensor<float, 1> bias({5}), sums({16});
  fill(bias, 0.25F);
  fill(sums, 1.0F);
  const auto call = [&]<class U>(auto& a_of, auto& b_of, auto& c_of, DynamicTensor<float, 1>& sum) {
    matmul(ctx, Matmul<U, HostSpace>{.a = a_of.view().slice(1, 3, 19).transpose(0, 1),
                                     .b = b_of.view().slice(0, 1, 8).slice(1, 1, 6),
                                     .bias = bias,
                                     .accumulate = true,
                                     .c = c_of.view().slice(1, 2, 7),
                                     .a_sum = sum});
  };
  DynamicTensor<float, 1> narrow_sums = sums.clone();
  call.template operator()<float>(a.wide, b.wide, c.wide, sums);
  call.template operator()<T>(a.narrow, b.narrow, c.narrow, narrow_sums);
  c.expect_rounded();  // what lies beside the slice is as it was
  for (Index i = 0; i < sums.size(); ++i) CHECK(narrow_sums(i) == sums(i));

  Pair<T, 2> x(4, 12, 6), dy(5, 12, 5);
  DynamicTensor<float, 2> dweight({5, 6}), narrow_dweight({5, 6});
  weight_gradient(ctx, WeightGradient<float, HostSpace>{
                           .dy = dy.wide, .x = x.wide, .dweight = dweight, .dbias = bias});
  weight_gradient(
      ctx, WeightGradient<T, HostSpace>{.dy = dy.narrow, .x = x.narrow, .dweight = narrow_dweight});
  for (Index i = 0; i < dweight.size(); ++i) CHECK(narrow_dweight.data()[i] == dweight.data()[i]);
}

template <class B, class T>
void expect_attention() {
  Context<B> ctx;
  // Heads of a joint buffer: four axes that do not join.
  Pair<T, 3> qkv(6, 2, 9, 24), y(7, 2, 9, 8), dqkv(8, 2, 9, 24);
  DynamicTensor<float, 3> log_sum({2, 9, 2}), narrow_log_sum({2, 9, 2});
  const auto call = [&]<class U>(auto& joint, auto& out, auto& gradient, auto& sums) {
    const auto heads = [](auto view, Index which) {
      const auto part = view.slice(2, which * 8, which * 8 + 8);
      using E = std::remove_pointer_t<decltype(part.data())>;
      return View<E, 4>(part.data(), {2, 9, 2, 4}, {part.stride(0), part.stride(1), 4, 1});
    };
    const Attention<U, HostSpace> a{.scale = 0.5,
                                    .q = heads(joint.view(), 0),
                                    .k = heads(joint.view(), 1),
                                    .v = heads(joint.view(), 2),
                                    .y = heads(out.view(), 0),
                                    .log_sum = sums};
    attention(ctx, a);
    attention_backward(ctx, AttentionBackward<U, HostSpace>{.forward = a,
                                                            .y = a.y,
                                                            .log_sum = sums,
                                                            .dy = heads(joint.view(), 1),
                                                            .dq = heads(gradient.view(), 0),
                                                            .dk = heads(gradient.view(), 1),
                                                            .dv = heads(gradient.view(), 2)});
  };
  call.template operator()<float>(qkv.wide, y.wide, dqkv.wide, log_sum);
  call.template operator()<T>(qkv.narrow, y.narrow, dqkv.narrow, narrow_log_sum);
  y.expect_rounded();
  for (Index i = 0; i < log_sum.size(); ++i) CHECK(narrow_log_sum.data()[i] == log_sum.data()[i]);
}

/// States and parameters are float in both; a sequence may run backwards.
template <class B, class T>
void expect_scan() {
  Context<B> ctx;
  Pair<T, 3> x(9, 2, 70, 3), gate(10, 2, 70, 3), y(11, 2, 70, 3), dx(12, 2, 70, 3);
  DynamicTensor<float, 1> dt({3}), skip({3}), ddt({3}), narrow_ddt({3});
  DynamicTensor<float, 3> A({3, 2, 2}), B_({3, 2, 2}), C({3, 2, 2});
  DynamicTensor<float, 4> state({2, 3, 2, 2}), final_state({2, 3, 2, 2}),
      narrow_final({2, 3, 2, 2});
  fill(dt, 0.1F);
  fill(skip, 0.5F);
  for (auto* tensor : {&B_, &C}) fill_uniform(*tensor, Seed{13}, -1, 1);
  fill_uniform(A, Seed{14}, -1, -0.1);
  fill_uniform(state, Seed{15}, -1, 1);
  const auto call = [&]<class U>(auto& x_of, auto& gate_of, auto& y_of, auto& dx_of, auto& final,
                                 auto& ddt_of) {
    const DiagonalScan<U, HostSpace> a{.dt = dt,
                                       .A = A,
                                       .B = B_,
                                       .C = C,
                                       .skip = skip,
                                       .x = x_of.view().reverse(1),
                                       .gate_out = gate_of,
                                       .initial_state = state,
                                       .final_state = final,
                                       .y = y_of.view().reverse(1)};
    diagonal_scan(ctx, a);
    diagonal_scan_backward(
        ctx, DiagonalScanBackward<U, HostSpace>{
                 .forward = a, .dy = gate_of, .dx = dx_of.view().reverse(1), .ddt = ddt_of});
  };
  call.template operator()<float>(x.wide, gate.wide, y.wide, dx.wide, final_state, ddt);
  call.template operator()<T>(x.narrow, gate.narrow, y.narrow, dx.narrow, narrow_final, narrow_ddt);
  y.expect_rounded();
  dx.expect_rounded();
  for (Index i = 0; i < final_state.size(); ++i)
    CHECK(narrow_final.data()[i] == final_state.data()[i]);
  for (Index i = 0; i < ddt.size(); ++i) CHECK(narrow_ddt(i) == ddt(i));
}

template <class B, class T>
void expect_embedding() {
  Context<B> ctx;
  Pair<T, 2> table(16, 5, 6), y(17, 3, 6), dy(18, 3, 6);
  DynamicTensor<Token, 1> tokens({3});
  tokens(0) = 4;
  tokens(1) = 0;
  tokens(2) = 4;
  embedding(ctx, Embedding<float, HostSpace>{.table = table.wide, .tokens = tokens, .y = y.wide});
  embedding(ctx, Embedding<T, HostSpace>{.table = table.narrow, .tokens = tokens, .y = y.narrow});
  y.expect_rounded();
  DynamicTensor<float, 2> dtable({5, 6}), narrow_dtable({5, 6});
  embedding_backward(
      ctx, EmbeddingBackward<float, HostSpace>{.tokens = tokens, .dy = dy.wide, .dtable = dtable});
  embedding_backward(ctx, EmbeddingBackward<T, HostSpace>{
                              .tokens = tokens, .dy = dy.narrow, .dtable = narrow_dtable});
  for (Index i = 0; i < dtable.size(); ++i) CHECK(narrow_dtable.data()[i] == dtable.data()[i]);
}

template <class B, class T>
void expect_conversions() {
  Context<B> ctx;
  DynamicTensor<float, 3> x({3, 5, 70});
  fill_uniform(x, Seed{19}, -300, 300);
  DynamicTensor<T, 3> narrow({5, 3, 70});
  convert(ctx, Convert<float, T, HostSpace>{.x = x, .y = narrow.view().transpose(0, 1)});
  DynamicTensor<float, 3> back({3, 5, 70});
  convert(ctx, Convert<T, float, HostSpace>{.x = narrow.view().transpose(0, 1), .y = back});
  for (Index i = 0; i < x.size(); ++i) CHECK(back.data()[i] == static_cast<float>(T(x.data()[i])));
  fill(ctx, Fill<T, HostSpace>{.value = -1.5, .y = narrow.flatten()});
  CHECK(static_cast<float>(narrow(4, 2, 69)) == -1.5F);
}

template <class B>
void expect_half_types() {
  expect_matmul<B, BFloat16>();
  expect_matmul<B, Float16>();
  expect_attention<B, BFloat16>();
  expect_scan<B, BFloat16>();
  expect_scan<B, Float16>();
  expect_embedding<B, BFloat16>();
  expect_embedding<B, Float16>();
  expect_conversions<B, BFloat16>();
  expect_conversions<B, Float16>();
}

TEST_CASE("a call in a half type is the call in float, its results rounded, on Reference") {
  expect_half_types<Reference>();
}
TEST_CASE("a call in a half type is the call in float, its results rounded, on Cpu") {
  expect_half_types<Cpu>();
}

TEST_CASE("a call in a half type allocates nothing the second time") {
  Context<Cpu> ctx;
  Pair<BFloat16, 2> a(1, 8, 8), b(2, 8, 8), c(3, 8, 8);
  const Matmul<BFloat16, HostSpace> call{.a = a.narrow, .b = b.narrow, .c = c.narrow};
  matmul(ctx, call);
  const std::size_t before = ctx.workspace().capacity();
  matmul(ctx, call);
  CHECK(ctx.workspace().capacity() == before);
}

}  // namespace
}  // namespace ssm
