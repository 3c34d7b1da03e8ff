// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cuda/matmul.hpp"

#include <algorithm>
#include <tuple>

#include "primitives_on_device.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

using DeviceMatmul = DeviceContext<cuda::primitive::Matmul>;

/// A layer's weight [N, K] in bf16: `gap` unused numbers before each row, so that 16 bytes divide
/// the rows' addresses or not.
struct Bf16Weight {
  Bf16Weight(Index columns, Index depth, Index gap)
      : memory({columns * (depth + gap) + 1}),
        view(memory.data() + gap, DynamicExtents<2>(columns, depth),
             std::array<Index, 2>{depth + gap, 1}) {
    std::fill_n(memory.data(), memory.size(), scalar_cast<BFloat16>(nan_tensor<float>(1)(0)));
    const auto numbers = random_tensor<float>("weight", columns, depth);
    for_each_index(numbers, [&](auto... i) { view(i...) = scalar_cast<BFloat16>(numbers(i...)); });
  }
  DynamicTensor<BFloat16, 1> memory;
  View<BFloat16, 2> view;
};

struct Case {
  Index rows = 1, columns = 1, depth = 1;
  Layout a = Layout::rows;
  Index gap = 0;
  bool bias = false, accumulate = false, keep_z = false;
  ActivationKind activation = ActivationKind::none;
};

template <class T>
auto in_double(const View<const T, 2>& numbers) {
  auto copy = nan_tensor<double>(numbers.extent(0), numbers.extent(1));
  for_each_index(copy, [&](auto... i) { copy(i...) = scalar_cast<double>(numbers(i...)); });
  return copy;
}

/// x·Wᵀ through `ctx`, of numbers in T; and z.
template <class T>
auto product(DeviceMatmul& ctx, const Case& test) {
  const Bf16Weight weight(test.columns, test.depth, test.gap);
  const auto a = place_copy(test.a, random_tensor<T>("a", test.rows, test.depth));
  const auto bias = random_tensor<T>("bias", test.columns);
  auto c = random_tensor<T>("c", test.rows, test.columns);
  auto z = nan_tensor<T>(test.rows, test.columns);
  matmul(ctx, Matmul<T, HostSpace>{.a = a,
                                   .b_bf16 = weight.view.transpose(0, 1),
                                   .bias = test.bias ? bias.view() : View<const T, 1>(),
                                   .activation = test.activation,
                                   .accumulate = test.accumulate,
                                   .c = c,
                                   .z = test.keep_z ? z.view() : View<T, 2>()});
  return std::pair(std::move(c), std::move(z));
}

template <class T>
void expect_exact_product(const Case& test) {
  CAPTURE(test.rows);
  CAPTURE(test.columns);
  CAPTURE(test.depth);
  CAPTURE(test.gap);
  const Bf16Weight weight(test.columns, test.depth, test.gap);
  const auto weight_in_double = in_double<BFloat16>(weight.view);
  const auto a = in_double<T>(random_tensor<T>("a", test.rows, test.depth));
  auto bias = nan_tensor<double>(test.columns);
  const auto bias_in_t = random_tensor<T>("bias", test.columns);
  for (Index n = 0; n < test.columns; ++n) bias(n) = static_cast<double>(bias_in_t(n));
  auto c = in_double<T>(random_tensor<T>("c", test.rows, test.columns));
  auto z = nan_tensor<double>(test.rows, test.columns);
  Context<Reference> reference;
  matmul(reference,
         Matmul<double, HostSpace>{.a = a,
                                   .b = weight_in_double.transpose(0, 1),
                                   .bias = test.bias ? bias.view() : View<const double, 1>(),
                                   .activation = test.activation,
                                   .accumulate = test.accumulate,
                                   .c = c,
                                   .z = test.keep_z ? z.view() : View<double, 2>()});
  DeviceMatmul device;
  const auto [actual, actual_z] = product<T>(device, test);
  CHECK(difference(in_double<T>(actual), c) < tolerance<T>.value);
  if (test.keep_z) CHECK(difference(in_double<T>(actual_z), z) < tolerance<T>.value);
}

}  // namespace

TEST_CASE_TEMPLATE("products by bf16 weights are exact for every size and layout", T, float,
                   double) {
  for (const Index rows : {0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 40})
    for (const Index columns : {1, 4, 31})
      for (const Index depth : {0, 1, 8, 63, 64, 65, 600})
        for (const Index gap : {0, 3}) {
          expect_exact_product<T>(
              {.rows = rows, .columns = columns, .depth = depth, .gap = gap, .bias = true});
          if (depth == 65)
            for (const Layout layout : all_layouts)
              expect_exact_product<T>(
                  {.rows = rows, .columns = columns, .depth = depth, .a = layout, .gap = gap});
        }
}

TEST_CASE_TEMPLATE("products by bf16 weights have every epilogue", T, float, double) {
  for (const auto kind : {ActivationKind::none, ActivationKind::relu, ActivationKind::gelu_tanh,
                          ActivationKind::gelu_erf, ActivationKind::silu})
    for (const int options : {0, 1, 2, 3, 4, 5, 6, 7})
      for (const Index rows : {1, 3, 11, 20})
        expect_exact_product<T>({.rows = rows,
                                 .columns = 9,
                                 .depth = 70,
                                 .bias = (options & 1) != 0,
                                 .accumulate = (options & 2) != 0,
                                 .keep_z = (options & 4) != 0,
                                 .activation = kind});
}

TEST_CASE("a step by bf16 weights does not expand them") {
  DeviceMatmul device;
  for (const Index rows : {Index{1}, cuda::matmul_few_rows_limit})
    product<float>(device, {.rows = rows, .columns = 65, .depth = 64, .bias = true});
  CHECK(device.workspace().capacity() == 0);
}

TEST_CASE_TEMPLATE("the sums of a step by bf16 weights have one order wherever operands lie", T,
                   float, double) {
  for (const Index rows : {1, 2, 3, 16})
    for (const Index depth : {64, 1000}) {
      DeviceMatmul device;
      const Case test{.rows = rows, .columns = 9, .depth = depth};
      const auto [aligned, none] = product<T>(device, test);
      for (const Index gap : {1, 8})
        for (const Layout layout : all_layouts) {
          auto other = test;
          other.a = layout;
          other.gap = gap;
          const auto [apart, no_z] = product<T>(device, other);
          CHECK(std::equal(aligned.data(), aligned.data() + aligned.size(), apart.data()));
        }
    }
}

TEST_CASE("a bf16 matrix with contiguous rows, and one with a bias gradient, are products too") {
  for (const Index rows : {1, 16, 30}) {
    const auto a = random_tensor<float>("a", rows, 33);
    const auto numbers = random_tensor<float>("b", 33, 20);
    DynamicTensor<BFloat16, 2> bf16(numbers.extents());
    for_each_index(numbers, [&](auto... i) { bf16(i...) = scalar_cast<BFloat16>(numbers(i...)); });
    const Bf16Weight weight(20, 33, 0);
    for (const bool sums : {false, true}) {
      const auto run = [&](auto& ctx) {
        auto c = nan_tensor<float>(rows, 20);
        auto sum = zero_tensor<float>(rows);
        Matmul<float, HostSpace> call{.a = a, .b_bf16 = bf16, .c = c};
        if (sums) {
          call.b_bf16 = weight.view.transpose(0, 1);
          call.a_sum = sum;
        }
        matmul(ctx, call);
        return std::pair(std::move(c), std::move(sum));
      };
      Context<Reference> reference;
      DeviceMatmul device;
      const auto expected = run(reference);
      const auto actual = run(device);
      CHECK(difference(actual.first, expected.first) < tolerance<float>.value);
      CHECK(difference(actual.second, expected.second) < tolerance<float>.value);
    }
  }
}

TEST_CASE_TEMPLATE("products in half types have float sums and every epilogue", T, BFloat16,
                   Float16) {
  for (const Index rows : {0, 1, 3, 16, 17, 40})
    for (const Layout layout : all_layouts)
      for (const bool bf16 : {false, true})
        for (const int options : {0, 1, 2, 3, 4, 7, 8, 9}) {
          CAPTURE(rows);
          CAPTURE(bf16);
          CAPTURE(options);
          const Index depth = 70, columns = 9;
          const auto x = place_copy(layout, random_tensor<T>("a", rows, depth));
          const auto weight = random_tensor<T>("weight", columns, depth);
          DynamicTensor<BFloat16, 2> weight_bf16(weight.extents());
          for_each_index(
              weight, [&](auto... i) { weight_bf16(i...) = scalar_cast<BFloat16>(weight(i...)); });
          const auto bias = random_tensor<float>("bias", columns);
          const auto run = [&](auto& ctx) {
            auto c = random_tensor<T>("c", rows, columns);
            auto z = nan_tensor<T>(rows, columns);
            auto sum = random_tensor<float>("sum", rows);
            Matmul<T, HostSpace> call{
                .a = x,
                .activation = (options & 1) != 0 ? ActivationKind::silu : ActivationKind::none,
                .accumulate = (options & 4) != 0,
                .c = c};
            if (bf16)
              call.b_bf16 = weight_bf16.view().transpose(0, 1);
            else
              call.b = weight.view().transpose(0, 1);
            if ((options & 1) != 0) call.bias = bias;
            if ((options & 2) != 0) call.z = z;
            if ((options & 8) != 0) call.a_sum = sum;
            matmul(ctx, call);
            if ((options & 2) == 0) z.reset(z.extents());
            return std::tuple(std::move(c), std::move(z), std::move(sum));
          };
          Context<Reference> reference;
          DeviceContext<cuda::primitive::Matmul> device;
          const auto expected = run(reference);
          const auto actual = run(device);
          CHECK(difference(std::get<0>(actual), std::get<0>(expected)) < tolerance<T>.value);
          CHECK(difference(std::get<1>(actual), std::get<1>(expected)) < tolerance<T>.value);
          CHECK(difference(std::get<2>(actual), std::get<2>(expected)) < tolerance<float>.value);
        }
}

TEST_CASE_TEMPLATE("gradients of weights in half types are sums in float", T, BFloat16, Float16) {
  for (const Index rows : {0, 1, 300})
    for (const Layout layout : all_layouts)
      for (const bool has_bias : {false, true}) {
        const auto dy = place_copy(layout, random_tensor<T>("dy", rows, 9));
        const auto x = place_copy(layout, random_tensor<T>("x", rows, 17));
        const auto run = [&](auto& ctx) {
          auto dweight = random_tensor<float>("dweight", 9, 17);
          auto dbias = random_tensor<float>("dbias", 9);
          WeightGradient<T, HostSpace> call{.dy = dy, .x = x, .dweight = dweight};
          if (has_bias) call.dbias = dbias;
          weight_gradient(ctx, call);
          return std::pair(std::move(dweight), std::move(dbias));
        };
        Context<Reference> reference;
        DeviceContext<cuda::primitive::Matmul> device;
        const auto expected = run(reference);
        const auto actual = run(device);
        CHECK(difference(actual.first, expected.first) < tolerance<float>.value);
        CHECK(difference(actual.second, expected.second) < tolerance<float>.value);
      }
}
