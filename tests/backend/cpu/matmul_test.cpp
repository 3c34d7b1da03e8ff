// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/matmul.hpp"

#include "compare.hpp"
#include "ssm/core/elementwise.hpp"
#include "ssm/core/weight.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

struct Case {
  Index rows, columns, depth;
  Layout a = Layout::rows, b = Layout::rows, c = Layout::rows;
  bool bias = false, accumulate = false, keep_z = false, sum_a = false;
  ActivationKind activation = ActivationKind::none;
};

template <class T>
void cpu_equals_reference(const Case& test) {
  CAPTURE(test.rows);
  CAPTURE(test.columns);
  CAPTURE(test.depth);
  const auto a = random_tensor<T>("a", test.rows, test.depth);
  const auto b = random_tensor<T>("b", test.depth, test.columns);
  const auto bias = random_tensor<T>("bias", test.columns);
  const auto before = random_tensor<T>("c", test.rows, test.columns);
  const auto run = [&](auto& ctx, View<const T, 2> a_view, View<const T, 2> b_view, View<T, 2> c,
                       View<T, 2> z, View<T, 1> sum) {
    matmul(ctx, Matmul<T, HostSpace>{.a = a_view,
                                     .b = b_view,
                                     .bias = test.bias ? bias.view() : View<const T, 1>(),
                                     .activation = test.activation,
                                     .accumulate = test.accumulate,
                                     .c = c,
                                     .z = test.keep_z ? z : View<T, 2>(),
                                     .a_sum = test.sum_a ? sum : View<T, 1>()});
  };
  auto expected = before.clone();
  auto expected_z = nan_tensor<T>(test.rows, test.columns);
  auto expected_sum = zero_tensor<T>(test.rows);
  Context<Reference> reference;
  run(reference, a, b, expected, expected_z, expected_sum);

  const auto placed_a = place_copy(test.a, a);
  const auto placed_b = place_copy(test.b, b);
  on_each_thread_count([&](auto& ctx) {
    auto c = place<T>(test.c, test.rows, test.columns);
    if (test.accumulate) copy_into(c.view, before);
    auto z = place<T>(test.c, test.rows, test.columns);
    auto sum = zero_tensor<T>(test.rows);
    run(ctx, placed_a, placed_b, c.view, z.view, sum);
    CHECK(difference(c.view, expected) < tolerance<T>.value);
    if (test.keep_z) CHECK(difference(z.view, expected_z) < tolerance<T>.value);
    CHECK(difference(sum, expected_sum) < tolerance<T>.value);
  });
}

}  // namespace

TEST_CASE_TEMPLATE(
    "the CPU's matmul equals the reference for every size and layout of its operands", T, float,
    double) {
  for (const Index rows : {1, 2, 3, 16, 17, 64, 65, 100})
    for (const Index columns : {1, 31, 64, 65})
      for (const Index depth : {1, 63, 257})
        for (const Layout a : all_layouts)
          for (const Layout b : all_layouts)
            cpu_equals_reference<T>(
                {.rows = rows, .columns = columns, .depth = depth, .a = a, .b = b, .bias = true});
}

TEST_CASE_TEMPLATE("the CPU's matmul equals the reference for every epilogue", T, float, double) {
  for (const auto kind : {ActivationKind::none, ActivationKind::relu, ActivationKind::gelu_tanh,
                          ActivationKind::gelu_erf, ActivationKind::silu})
    for (const int options : {0, 1, 2, 3, 4, 5, 6, 7, 8, 15})
      for (const Index rows : {3, 40})
        for (const Index depth : {70, 600})  // 600 is more than one slice of the depth
          for (const Layout layout : all_layouts)
            cpu_equals_reference<T>({.rows = rows,
                                     .columns = 37,
                                     .depth = depth,
                                     .b = Layout::columns,
                                     .c = layout,
                                     .bias = (options & 1) != 0,
                                     .accumulate = (options & 2) != 0,
                                     .keep_z = (options & 4) != 0,
                                     .sum_a = (options & 8) != 0,
                                     .activation = kind});
}

TEST_CASE_TEMPLATE("a bias gradient is the sum of dY over the tokens", T, float, double) {
  cpu_equals_reference<T>({.rows = 70,
                           .columns = 33,
                           .depth = 90,
                           .a = Layout::columns,
                           .accumulate = true,
                           .sum_a = true});
}

TEST_CASE_TEMPLATE("a matmul larger than one block of panels equals the reference", T, float) {
  cpu_equals_reference<T>({.rows = 3100, .columns = 20, .depth = 9, .bias = true});
  cpu_equals_reference<T>({.rows = 20, .columns = 3100, .depth = 9, .bias = true, .keep_z = true});
}

TEST_CASE_TEMPLATE("an empty sum is the bias, and empty outputs are legal", T, float, double) {
  cpu_equals_reference<T>({.rows = 20, .columns = 5, .depth = 0, .bias = true});
  cpu_equals_reference<T>(
      {.rows = 2, .columns = 5, .depth = 0, .b = Layout::columns, .bias = true});
  cpu_equals_reference<T>({.rows = 0, .columns = 5, .depth = 3});
  cpu_equals_reference<T>({.rows = 20, .columns = 0, .depth = 3});
}

TEST_CASE("the same thread count gives the same bits") {
  const auto a = random_tensor<float>("a", 300, 500);
  const auto b = random_tensor<float>("b", 500, 200);
  on_each_thread_count([&](auto& ctx) {
    auto once = nan_tensor<float>(300, 200);
    auto again = nan_tensor<float>(300, 200);
    for (auto* c : {&once, &again}) matmul(ctx, Matmul<float, HostSpace>{.a = a, .b = b, .c = *c});
    CHECK(std::equal(once.data(), once.data() + once.size(), again.data()));
  });
}

TEST_CASE_TEMPLATE(
    "a matmul by a matrix kept in bf16, f16 or int8 is that by its values, for every size and "
    "layout",
    T, float, double) {
  Context<Reference> reference;
  for (const Index rows : {0, 1, 2, 3, 7, 16, 17, 64})
    for (const Index columns : {1, 31, 65})
      for (const Index depth : {0, 1, 63, 257})
        for (const Layout layout : all_layouts) {
          CAPTURE(rows);
          CAPTURE(columns);
          CAPTURE(depth);
          const auto a = random_tensor<T>("a", rows, depth);
          const auto bias = random_tensor<T>("bias", columns);
          const auto random = random_tensor<T>("b", depth, columns);
          const auto bf16 = place<BFloat16>(layout, depth, columns);
          const auto f16 = place<Float16>(layout, depth, columns);
          const auto int8 = place<std::int8_t>(layout, depth, columns);
          DynamicTensor<float, 1> scale({columns});
          for (Index n = 0; n < columns; ++n) scale(n) = 0.125F / static_cast<float>(n + 1);
          for_each_index(random, [&](Index k, Index n) {
            bf16.view(k, n) = scalar_cast<BFloat16>(random(k, n));
            f16.view(k, n) = scalar_cast<Float16>(random(k, n));
            int8.view(k, n) = static_cast<std::int8_t>((k * 37 + n * 11) % 255 - 127);
          });
          for (const WeightForm form : {WeightForm::bf16, WeightForm::f16, WeightForm::int8}) {
            CAPTURE(std::string(weight_form_name(form)));
            auto b = nan_tensor<T>(depth, columns);
            for_each_index(b, [&](Index k, Index n) {
              b(k, n) = form == WeightForm::bf16  ? scalar_cast<T>(bf16.view(k, n))
                        : form == WeightForm::f16 ? scalar_cast<T>(f16.view(k, n))
                                                  : T{scale(n)} * T(int8.view(k, n));
            });
            auto expected = nan_tensor<T>(rows, columns);
            auto plain = nan_tensor<T>(rows, columns);
            Matmul<T, HostSpace> product{
                .a = a, .bias = bias, .activation = ActivationKind::silu, .c = plain};
            auto by_values = product;
            by_values.b = b;
            by_values.c = expected;
            if (form == WeightForm::bf16) {
              product.b_bf16 = bf16;
            } else if (form == WeightForm::f16) {
              product.b_f16 = f16;
            } else {
              product.b_int8 = int8;
              product.b_scale = scale;
            }
            matmul(reference, product);
            matmul(reference, by_values);
            CHECK(difference(plain, expected) < tolerance<T>.value);
            const auto placed_a = place_copy(layout, a);
            on_each_thread_count([&](auto& ctx) {
              for (const View<const T, 2>& left :
                   {View<const T, 2>(a), View<const T, 2>(placed_a)}) {
                auto c = nan_tensor<T>(rows, columns);
                product.a = left;
                product.c = c;
                matmul(ctx, product);
                CHECK(difference(c, expected) < tolerance<T>.value);
              }
            });
          }
        }
}

TEST_CASE(
    "a matmul by a matrix kept in bf16, f16 or int8 larger than one block of panels equals the "
    "reference") {
  const auto a = random_tensor<float>("a", 20, 9);
  const auto numbers = random_tensor<float>("b", 3100, 9);
  DynamicTensor<BFloat16, 2> bf16(numbers.extents());
  map([](float x) { return scalar_cast<BFloat16>(x); }, bf16, numbers);
  DynamicTensor<Float16, 2> f16(numbers.extents());
  map([](float x) { return scalar_cast<Float16>(x); }, f16, numbers);
  DynamicTensor<std::int8_t, 2> int8(numbers.extents());
  DynamicTensor<float, 1> scale({3100});
  CHECK(round_rows_to_int8<float>(numbers, int8, scale) == std::nullopt);
  auto expected = nan_tensor<float>(20, 3100);
  for (Matmul<float, HostSpace> product :
       {Matmul<float, HostSpace>{.a = a, .b_bf16 = bf16.transpose(0, 1), .c = expected},
        Matmul<float, HostSpace>{.a = a, .b_f16 = f16.transpose(0, 1), .c = expected},
        Matmul<float, HostSpace>{
            .a = a, .b_int8 = int8.transpose(0, 1), .b_scale = scale, .c = expected}}) {
    Context<Reference> reference;
    matmul(reference, product);
    on_each_thread_count([&](auto& ctx) {
      auto c = nan_tensor<float>(20, 3100);
      product.c = c;
      matmul(ctx, product);
      CHECK(difference(c, expected) < tolerance<float>.value);
    });
  }
}
