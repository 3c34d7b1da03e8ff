// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/matmul.hpp"

#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "ssm/op/normalized_matmul.hpp"
#include "support/in_double.hpp"
#include "support/primitive_laws.hpp"
#include "support/products.hpp"

namespace ssm::test {
namespace {

struct Case {
  Index rows = 1, columns = 1, depth = 1;
  WeightForm form = WeightForm::full;  // of b
  bool bias = false, accumulate = false, keep_z = false, sum_a = false, residual = false;
  ActivationKind activation = ActivationKind::none;
};

/// How the matrices lie in memory; z as c. The rows of a layer's weight are the columns of b, with
/// `gap` unused numbers before each, so that 16 bytes divide their addresses or not.
struct Placement {
  Layout a = Layout::rows, b = Layout::rows, c = Layout::rows;
  Index gap = 0;
};
constexpr std::array rounded_forms{WeightForm::bf16, WeightForm::f16, WeightForm::int8};
constexpr std::array all_forms{WeightForm::full, WeightForm::bf16, WeightForm::f16,
                               WeightForm::int8};
constexpr std::array rows_alone{Placement{}};
constexpr std::array weight_alone{Placement{.b = Layout::columns}};
constexpr std::array layouts_of_both = [] {
  std::array<Placement, 9> all{};
  for (std::size_t i = 0; i < all.size(); ++i)
    all[i] = {.a = all_layouts[i / 3], .b = all_layouts[i % 3]};
  return all;
}();

template <class T>
struct Run : OperandRun<Matmul<T, HostSpace>, NoGradient> {
  using Test = Case;
  Run(const Case& test, Layout layout) : Run(test, Placement{layout, layout, layout}) {}
  Run(const Case& test, const Placement& placement)
      : Run::OperandRun({{'M', test.rows}, {'N', test.columns}, {'K', test.depth}}, Layout::rows,
                        {},
                        left_out({{"b", test.form == WeightForm::full},
                                  {"b_bf16", test.form == WeightForm::bf16},
                                  {"b_f16", test.form == WeightForm::f16},
                                  {"b_int8", test.form == WeightForm::int8},
                                  {"b_scale", test.form == WeightForm::int8},
                                  {"bias", test.bias},
                                  {"residual", test.residual},
                                  {"z", test.keep_z},
                                  {"a_sum", test.sum_a}})) {
    auto& a = this->forward;
    a.activation = test.activation;
    a.accumulate = test.accumulate;
    fill_int8_weight(*this, [](Index n) { return 0.125F / static_cast<float>(n + 1); });
    this->lay_out(a.a, placement.a);
    this->lay_out(a.b, placement.b, placement.gap);
    this->lay_out(a.b_bf16, placement.b, placement.gap);
    this->lay_out(a.b_f16, placement.b, placement.gap);
    this->lay_out(a.b_int8, placement.b, placement.gap);
    this->lay_out(a.residual, placement.a);
    this->lay_out(a.c, placement.c);
    this->lay_out(a.z, placement.c);
    has_contiguous_rows = placement.c == Layout::rows;
    begin();
  }
  /// What is written is again what it was before a call.
  void begin() {
    const auto& a = this->forward;
    const auto not_a_number = scalar_cast<T>(std::nan(""));
    fill(a.c, not_a_number);
    if (a.accumulate) copy(random_tensor<T>("c", a.c.extent(0), a.c.extent(1)), a.c);
    if (a.z) fill(a.z, not_a_number);
    if (a.a_sum) copy(random_tensor<Wide<T>>("a_sum", a.a_sum.extent(0)), a.a_sum);
  }
  void evaluate(auto& ctx) { matmul(ctx, this->forward); }
  template <class B>
  static constexpr bool exists = HasMatmul<B, T>;

  bool has_contiguous_rows;
};

/// b, in whichever form it is.
template <class T>
auto b_in_double(const Matmul<T, HostSpace>& call) {
  if (call.b) return in_double(call.b);
  if (call.b_bf16) return in_double(call.b_bf16);
  if (call.b_f16) return in_double(call.b_f16);
  auto b = in_double(call.b_int8);
  for_each_index(b, [&](Index k, Index n) { b(k, n) *= double{call.b_scale(n)}; });
  return b;
}

/// What a call gives in exact arithmetic: the reference in double, of the values of its operands.
struct Exact {
  template <class T>
  explicit Exact(const Matmul<T, HostSpace>& call)
      : c(in_double(call.c)), z(in_double(call.z)), a_sum(in_double(call.a_sum)) {
    const auto residual = in_double(call.residual);
    const auto a = in_double(call.a), b = b_in_double(call);
    const auto bias = in_double(call.bias);
    Context<Reference> reference;
    matmul(reference, Matmul<double, HostSpace>{.a = a,
                                                .b = b,
                                                .bias = bias,
                                                .activation = call.activation,
                                                .accumulate = call.accumulate,
                                                .residual = residual,
                                                .c = c,
                                                .z = z,
                                                .a_sum = a_sum});
  }
  DynamicTensor<double, 2> c, z;
  DynamicTensor<double, 1> a_sum;
};

/// Whether a backend writes to c as it lies: the Cuda backend where its rows are contiguous.
template <class T, class Ctx>
bool writes_result_of([[maybe_unused]] const Run<T>& run, const Ctx&) {
#ifdef SSM_TEST_ON_CUDA
  if constexpr (std::is_base_of_v<Context<Device>, Ctx>) return run.has_contiguous_rows;
#endif
  return true;
}

/// Everything that a call writes, on every backend, is what exact arithmetic gives.
template <class T>
void is_exact(const Case& test, std::span<const Placement> placements = rows_alone) {
  CAPTURE(describe(test));
  CAPTURE(scalar_name<T>());
  std::vector<Run<T>> runs;
  for (const Placement& placement : placements) runs.emplace_back(test, placement);
  const Exact exact(runs.front().forward);
  const auto check = [&](auto& ctx, Run<T>& run) {
    const auto& a = run.forward;
    run.begin();
    run.evaluate(ctx);
    CHECK(difference(a.c, exact.c) < tolerance<T>.value);
    if (a.z) CHECK(difference(a.z, exact.z) < tolerance<T>.value);
    if (a.a_sum) CHECK(difference(a.a_sum, exact.a_sum) < tolerance<Wide<T>>.value);
  };
  only<Reference>([&](auto& ctx) { check(ctx, runs.front()); });
  on_other_backends<Run<T>>([&](auto& ctx) {
    for (std::size_t i = 0; i < runs.size(); ++i) {
      CAPTURE(i);  // of the placements
      if (writes_result_of(runs[i], ctx)) check(ctx, runs[i]);
    }
  });
}

TEST_CASE("a product of two small matrices gives the hand-worked numbers") {
  on_each_backend<Run<double>>([](auto& ctx) {
    Run<double> call({.rows = 2,
                      .columns = 2,
                      .depth = 3,
                      .bias = true,
                      .keep_z = true,
                      .sum_a = true,
                      .activation = ActivationKind::relu},
                     Layout::rows);
    auto& a = call.forward;
    call.set(a.a, {1, 2, 3, 4, 5, 6});
    call.set(a.b, {1, -1, 0, 2, 3, 1});
    call.set(a.bias, {10, -20});
    call.set(a.a_sum, {100, 200});
    call.evaluate(ctx);
    CHECK(difference(a.z, tensor_of({20, -14, 32, -8}).reshape(2, 2)) == 0);
    CHECK(difference(a.c, tensor_of({20, 0, 32, 0}).reshape(2, 2)) == 0);
    CHECK(difference(a.a_sum, tensor_of({106, 215})) == 0);
    matmul(ctx, Matmul<double, HostSpace>{.a = a.a, .b = a.b, .accumulate = true, .c = a.c});
    CHECK(difference(a.c, tensor_of({30, 6, 54, 12}).reshape(2, 2)) == 0);
  });
}

TEST_CASE("transposed views are read where they are") {
  const auto a = random_tensor("a", 5, 3);
  const auto b = random_tensor("b", 4, 5);
  on_each_backend<Run<double>>([&](auto& ctx) {
    auto c = nan_tensor(3, 4);
    matmul(ctx, Matmul<double, HostSpace>{.a = a.transpose(0, 1), .b = b.transpose(0, 1), .c = c});
    for_each_index(c, [&](Index m, Index n) {
      double expected = 0;
      for (Index k = 0; k < 5; ++k) expected += a(k, m) * b(n, k);
      CHECK(std::abs(c(m, n) - expected) < tolerance<double>.value);
    });
  });
}

TEST_CASE("the gradients of a linear layer are products too") {
  on_each_backend<Run<double>>([](auto& ctx) {
    auto x = random_tensor("x", 7, 3);
    auto weight = random_tensor("weight", 2, 3);
    auto bias = random_tensor("bias", 2);
    const auto dy = random_tensor("dy", 7, 2);
    auto y = nan_tensor(7, 2);
    auto dx = nan_tensor(7, 3);
    auto dweight = zero_tensor(2, 3);
    auto dbias = zero_tensor(2);
    matmul(ctx, Matmul<double, HostSpace>{.a = dy, .b = weight, .c = dx});
    matmul(ctx,
           Matmul<double, HostSpace>{
               .a = dy.transpose(0, 1), .b = x, .accumulate = true, .c = dweight, .a_sum = dbias});
    const auto loss = [&] {
      matmul(ctx,
             Matmul<double, HostSpace>{.a = x, .b = weight.transpose(0, 1), .bias = bias, .c = y});
      return inner_product(dy, y);
    };
    CHECK(gradient_error(loss, x, dx) < tolerance<double>.gradient);
    CHECK(gradient_error(loss, weight, dweight) < tolerance<double>.gradient);
    CHECK(gradient_error(loss, bias, dbias) < tolerance<double>.gradient);
  });
}

TEST_CASE("an empty sum is the bias, and no rows are no work") {
  const auto bias = tensor_of({1, 2});
  on_each_backend<Run<double>>([&](auto& ctx) {
    auto c = nan_tensor(3, 2);
    matmul(ctx,
           Matmul<double, HostSpace>{
               .a = zero_tensor(3, 0).view(), .b = zero_tensor(0, 2).view(), .bias = bias, .c = c});
    for (Index m = 0; m < 3; ++m) CHECK(difference(c.select(0, m), bias) == 0);
    auto none = nan_tensor(0, 2);
    CHECK_NOTHROW(
        matmul(ctx, Matmul<double, HostSpace>{
                        .a = zero_tensor(0, 3).view(), .b = zero_tensor(3, 2).view(), .c = none}));
  });
}

TEST_CASE("inner extents that disagree are named") {
  on_each_backend<Run<double>>([](auto& ctx) {
    const auto a = zero_tensor(2, 3);
    const auto b = zero_tensor(4, 2);
    auto c = nan_tensor(2, 2);
    CHECK_THROWS_WITH_AS(matmul(ctx, Matmul<double, HostSpace>{.a = a, .b = b, .c = c}),
                         "matmul: b must be [3, *], got [4, 2]", ShapeError);
  });
}

TEST_CASE("a product by numbers kept in bf16 is that by their values") {
  on_each_backend<Run<double>>([](auto& ctx) {
    Run<double> call({.rows = 2, .columns = 2, .depth = 3, .form = WeightForm::bf16}, Layout::rows);
    auto& a = call.forward;
    call.set(a.a, {1, 2, 3, 4, 5, 6});
    call.set(a.b_bf16, {1, -1, 0, 2, 3, 1.00390625});  // the last lies between two bf16
    call.evaluate(ctx);
    CHECK(difference(a.c, tensor_of({10, 6, 22, 12}).reshape(2, 2)) == 0);
    const auto b = zero_tensor(3, 2);
    a.b = b;
    CHECK_THROWS_WITH_AS(call.evaluate(ctx), "matmul: b is given in more than one form",
                         ArgumentError);
    a.b = {};
    a.a = b;
    CHECK_THROWS_WITH_AS(call.evaluate(ctx), "matmul: b_bf16 must be [2, *], got [3, 2]",
                         ShapeError);
  });
}

TEST_CASE("a product by whole numbers and a scale for each column is that by their values") {
  on_each_backend<Run<double>>([](auto& ctx) {
    Run<double> call({.rows = 2, .columns = 2, .depth = 3, .form = WeightForm::int8, .bias = true},
                     Layout::rows);
    auto& a = call.forward;
    call.set(a.a, {1, 2, 3, 4, 5, 6});
    call.set(a.b_int8, {1, -127, 0, 2, 3, 1});
    call.set(a.b_scale, {0.5, 2});
    call.set(a.bias, {10, 20});
    call.evaluate(ctx);
    CHECK(difference(a.c, tensor_of({15, -220, 21, -964}).reshape(2, 2)) == 0);
    const auto scale = a.b_scale;
    a.b_scale = {};
    CHECK_THROWS_WITH_AS(call.evaluate(ctx), "matmul: b_scale is missing", ShapeError);
    a.b_scale = scale.slice(0, 0, 1);
    CHECK_THROWS_WITH_AS(call.evaluate(ctx), "matmul: b_scale must be [2], got [1]", ShapeError);
    a.b_scale = scale;
    const DynamicTensor<BFloat16, 2> bf16({3, 2});
    a.b_bf16 = bf16;
    CHECK_THROWS_WITH_AS(call.evaluate(ctx), "matmul: b is given in more than one form",
                         ArgumentError);
  });
}

TEST_CASE_TEMPLATE("products are exact for every size and layout of their operands", T, float,
                   double) {
  for (const Index rows : {1, 2, 3, 16, 17, 64, 65, 100})
    for (const Index columns : {1, 31, 64, 65})
      for (const Index depth : {1, 63, 257})
        is_exact<T>({.rows = rows, .columns = columns, .depth = depth, .bias = true},
                    layouts_of_both);
}

constexpr ActivationKind activations[] = {ActivationKind::none, ActivationKind::relu,
                                          ActivationKind::gelu_tanh, ActivationKind::gelu_erf,
                                          ActivationKind::silu};
/// Everything beside the sum is a bit of `options`.
constexpr Case with_epilogue(Case test, int options, ActivationKind kind) {
  test.bias = (options & 1) != 0;
  test.accumulate = (options & 2) != 0;
  test.keep_z = (options & 4) != 0;
  test.sum_a = (options & 8) != 0;
  test.residual = (options & 16) != 0;
  test.activation = kind;
  return test;
}

TEST_CASE_TEMPLATE("products have every epilogue", T, float, double) {
  std::array<Placement, 3> placements{};
  for (std::size_t i = 0; i < placements.size(); ++i)
    placements[i] = {.b = Layout::columns, .c = all_layouts[i]};
  for (const ActivationKind kind : activations)
    for (const int options : {0, 1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 17, 31}) {
      for (const Index rows : {3, 40})
        for (const Index depth : {70, 600})  // 600 is more than one slice of the depth
          is_exact<T>(with_epilogue({.rows = rows, .columns = 37, .depth = depth}, options, kind),
                      placements);
      for (const Index rows : {1, 3, 11, 20})
        is_exact<T>(
            with_epilogue({.rows = rows, .columns = 9, .depth = 70, .form = WeightForm::bf16},
                          options, kind),
            weight_alone);
    }
}

TEST_CASE_TEMPLATE("a bias gradient is the sum of dY over the tokens", T, float, double) {
  constexpr std::array transposed{Placement{.a = Layout::columns}};
  is_exact<T>({.rows = 70, .columns = 33, .depth = 90, .accumulate = true, .sum_a = true},
              transposed);
}

TEST_CASE("products larger than one block of panels are exact, in every form of their weights") {
  is_exact<float>({.rows = 3100, .columns = 20, .depth = 9, .bias = true});
  is_exact<float>({.rows = 20, .columns = 3100, .depth = 9, .bias = true, .keep_z = true});
  for (const WeightForm form : rounded_forms)
    is_exact<float>({.rows = 20, .columns = 3100, .depth = 9, .form = form}, weight_alone);
}

TEST_CASE_TEMPLATE("sums of nothing and empty outputs are legal", T, float, double) {
  is_exact<T>({.rows = 20, .columns = 5, .depth = 0, .bias = true});
  is_exact<T>({.rows = 2, .columns = 5, .depth = 0, .bias = true}, weight_alone);
  is_exact<T>({.rows = 0, .columns = 5, .depth = 3});
  is_exact<T>({.rows = 20, .columns = 0, .depth = 3});
}

TEST_CASE("the same thread count gives the same bits") {
  repeats_its_bits<Run<float>>({.rows = 300, .columns = 200, .depth = 500});
}

TEST_CASE_TEMPLATE("a matrix kept in another form is its values, for every size and layout", T,
                   float, double) {
  std::array<Placement, 6> placements{};
  for (std::size_t i = 0; i < placements.size(); ++i)
    placements[i] = {.a = i < 3 ? Layout::rows : all_layouts[i % 3], .b = all_layouts[i % 3]};
  for (const Index rows : {0, 1, 2, 3, 7, 16, 17, 64})
    for (const Index columns : {1, 31, 65})
      for (const Index depth : {0, 1, 63, 257})
        for (const WeightForm form : rounded_forms)
          is_exact<T>({.rows = rows,
                       .columns = columns,
                       .depth = depth,
                       .form = form,
                       .bias = true,
                       .activation = ActivationKind::silu},
                      placements);
}

TEST_CASE_TEMPLATE("products of few rows by rounded weights, aligned and not", T, float, double) {
  std::array<Placement, 6> placements{};
  for (std::size_t i = 0; i < placements.size(); ++i)
    placements[i] = {.a = all_layouts[i / 2], .b = Layout::columns, .gap = i % 2 == 0 ? 0 : 3};
  for (const Index rows : {0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 40})
    for (const Index columns : {1, 4, 31})
      for (const Index depth : {0, 1, 8, 63, 64, 65, 600, 2100})
        for (const WeightForm form : rounded_forms) {
          Case test{.rows = rows, .columns = columns, .depth = depth, .form = form, .bias = true};
          is_exact<T>(test, std::span(placements).first(2));
          test.bias = false;
          if (depth == 65) is_exact<T>(test, placements);
        }
}

TEST_CASE_TEMPLATE("a rounded matrix with contiguous rows, and one with a bias gradient", T, float,
                   double) {
  for (const Index rows : {1, 16, 30})
    for (const WeightForm form : rounded_forms) {
      Case test{.rows = rows, .columns = 20, .depth = 33, .form = form};
      is_exact<T>(test);
      test.sum_a = true;
      is_exact<T>(test, weight_alone);
    }
}

TEST_CASE_TEMPLATE("products in half types have float sums and every epilogue", T, BFloat16,
                   Float16) {
  std::array<Placement, 3> placements{};
  for (std::size_t i = 0; i < placements.size(); ++i)
    placements[i] = {.a = all_layouts[i], .b = Layout::columns};
  for (const Index rows : {0, 1, 3, 16, 17, 40})
    for (const WeightForm form : all_forms)
      for (const int options : {0, 1, 2, 4, 5, 7, 8, 9, 16, 17, 18, 21})
        for (const ActivationKind kind : {ActivationKind::none, ActivationKind::silu})
          is_exact<T>(
              with_epilogue({.rows = rows, .columns = 9, .depth = 70, .form = form}, options, kind),
              placements);
}

TEST_CASE_TEMPLATE("gelu_tanh goes with a product in half types, and keeps what it had", T,
                   BFloat16, Float16) {
  for (const Index columns : {64, 72, 73})
    for (const int options : {0, 1, 4, 5})
      is_exact<T>(with_epilogue({.rows = 40, .columns = columns, .depth = 72}, options,
                                ActivationKind::gelu_tanh),
                  weight_alone);
}

/// As many tiles of 128 × 128 as some backends take for kernels of their own, and odd ends.
constexpr Case of_many_tiles{.rows = 1000, .columns = 4352, .depth = 72};

TEST_CASE("products of many tiles have every epilogue that training needs") {
  constexpr std::array weight_rows{Placement{}};
  is_exact<BFloat16>(with_epilogue(of_many_tiles, 1 | 4, ActivationKind::gelu_tanh), weight_alone);
  is_exact<Float16>(with_epilogue(of_many_tiles, 1 | 16, ActivationKind::none), weight_alone);
  is_exact<BFloat16>(with_epilogue(of_many_tiles, 2, ActivationKind::none), weight_rows);
}

struct SlopedCase {
  Index rows = 1, columns = 1, depth = 16;
  ActivationKind activation = ActivationKind::gelu_tanh;
};
template <class T>
struct SlopedRun : OperandRun<SlopedMatmul<T, HostSpace>, NoGradient> {
  explicit SlopedRun(const SlopedCase& test)
      : SlopedRun::OperandRun({{'M', test.rows}, {'N', test.columns}, {'K', test.depth}},
                              Layout::rows) {
    this->forward.activation = test.activation;
  }
  void evaluate(auto& ctx) { sloped_matmul(ctx, this->forward); }
  template <class B>
  static constexpr bool exists = HasMatmul<B, T>&& HasActivation<B, T>;
};

TEST_CASE_TEMPLATE("a product goes back through an activation", T, float, double, BFloat16,
                   Float16) {
  for (const Index rows : {0, 1, 17, 70})
    for (const Index columns : {1, 64, 73})
      for (const ActivationKind kind : {ActivationKind::gelu_tanh, ActivationKind::silu}) {
        const SlopedCase test{.rows = rows, .columns = columns, .activation = kind};
        CAPTURE(describe(test));
        const SlopedRun<T> start(test);
        const auto a = in_double(start.forward.a), b = in_double(start.forward.b),
                   x = in_double(start.forward.x);
        auto c = in_double(start.forward.c);
        Context<Reference> reference;
        sloped_matmul(reference, SlopedMatmul<double, HostSpace>{
                                     .a = a, .b = b, .activation = kind, .x = x, .c = c});
        on_every_backend<SlopedRun<T>>([&](auto& ctx) {
          SlopedRun<T> actual(test);
          actual.evaluate(ctx);
          CHECK(difference(actual.forward.c, c) < tolerance<T>.value);
        });
      }
}

template <class T>
struct SlopedAgainRun : OperandRun<SlopedMatmulAgain<T, HostSpace>, NoGradient> {
  explicit SlopedAgainRun(const SlopedCase& test)
      : SlopedAgainRun::OperandRun({{'M', test.rows}, {'N', test.columns}, {'K', test.depth}},
                                   Layout::rows) {
    this->forward.activation = test.activation;
  }
  void evaluate(auto& ctx) { is_done = sloped_matmul_again(ctx, this->forward); }
  template <class B>
  static constexpr bool exists = HasMatmul<B, T>&& HasActivation<B, T>;
  bool is_done = false;
};

/// Returns whether a backend did it.
template <class T>
bool is_sloped_again(const SlopedCase& test) {
  bool was_done = false;
  CAPTURE(describe(test));
  const SlopedAgainRun<T> start(test);
  const auto a = in_double(start.forward.a), b = in_double(start.forward.b),
             x = in_double(start.forward.x);
  auto c = in_double(start.forward.c), y = in_double(start.forward.y);
  auto dbias = in_double(start.forward.dbias);
  Context<Reference> reference;
  sloped_matmul(reference, SlopedMatmul<double, HostSpace>{
                               .a = a, .b = b, .activation = test.activation, .x = x, .c = c});
  activation(reference, Activation<double, HostSpace>{.kind = test.activation, .x = x, .y = y});
  for_each_index(c, [&](Index m, Index n) { dbias(n) += c(m, n); });
  on_every_backend<SlopedAgainRun<T>>([&](auto& ctx) {
    SlopedAgainRun<T> actual(test);
    actual.evaluate(ctx);
    if (!actual.is_done) return;
    was_done = true;
    CHECK(difference(actual.forward.c, c) < tolerance<T>.value);
    CHECK(difference(actual.forward.y, y) < tolerance<T>.value);
    CHECK(difference(actual.forward.dbias, dbias) < tolerance<T>.gradient);
  });
  return was_done;
}

TEST_CASE_TEMPLATE("it makes the activation once more on the way, and the gradient of a bias", T,
                   BFloat16, Float16) {
  bool was_done = false;
  for (const Index rows : {0, 1, 17, 200})
    for (const Index columns : {1, 64, 73})
      for (const ActivationKind kind : {ActivationKind::gelu_tanh, ActivationKind::silu})
        was_done |= is_sloped_again<T>({.rows = rows, .columns = columns, .activation = kind});
  was_done |= is_sloped_again<T>(
      {.rows = of_many_tiles.rows, .columns = of_many_tiles.columns, .depth = of_many_tiles.depth});
  CHECK(was_done);
}

TEST_CASE_TEMPLATE("several products at once are those products", T, float, double, BFloat16,
                   Float16) {
  constexpr Case cases[] = {{.columns = 7, .depth = 70, .bias = true},
                            {.columns = 65, .depth = 70, .keep_z = true},
                            {.columns = 1, .depth = 70, .residual = true}};
  for (const Index rows : {1, 3, 40})
    for (const WeightForm form : all_forms)
      for (const std::size_t count : {std::size_t{1}, std::size_t{3}, std::size_t{10}})
        for (const bool one_is_longer : {false, true}) {
          std::vector<Run<T>> apart, together;
          for (std::size_t i = 0; i < count; ++i) {
            Case test = cases[i % 3];
            test.rows = rows;
            test.form = form;
            if (one_is_longer && i == 1) test.depth = 9;
            for (auto* runs : {&apart, &together})
              runs->emplace_back(test, Placement{.b = Layout::columns});
          }
          on_each_backend<Run<T>>([&](auto& ctx) {
            std::vector<Matmul<T, HostSpace>> calls;
            for (std::size_t i = 0; i < count; ++i) {
              for (auto* runs : {&apart, &together}) (*runs)[i].begin();
              apart[i].evaluate(ctx);
              calls.push_back(together[i].forward);
            }
            matmul(ctx, std::span<const Matmul<T, HostSpace>>(calls));
            for (std::size_t i = 0; i < count; ++i) expect_same(together[i], apart[i]);
          });
        }
}

struct NormedCase {
  Index rows = 1, depth = 8;
  WeightForm form = WeightForm::full;
  NormalizationKind kind = NormalizationKind::layer;
  bool weight = true, bias = true;
  Layout layout = Layout::rows;  // one alone
};

/// Two products of rows that are normalized before.
template <class T>
struct NormedRun : Run<T> {
  using Test = NormedCase;
  static constexpr Index gap = 8;
  NormedRun(const NormedCase& test, Layout)
      : Run<T>({.rows = test.rows,
                .columns = 5,
                .depth = test.depth,
                .form = test.form,
                .bias = true,
                .residual = true},
               Placement{.b = Layout::columns, .gap = gap}),
        more({.rows = test.rows, .columns = 2, .depth = test.depth, .form = test.form},
             Placement{.b = Layout::columns, .gap = gap}),
        x(random_tensor<T>("x", test.rows, test.depth)),
        weight(random_tensor<Wide<T>>("weight", test.depth)),
        bias(random_tensor<Wide<T>>("norm bias", test.depth)) {
    norm = {.kind = test.kind, .x = x, .y = this->writable(this->forward.a)};
    if (test.weight) norm.weight = weight;
    if (test.bias) norm.bias = bias;
  }
  void evaluate(auto& ctx) {
    auto second = more.forward;
    second.a = this->forward.a;
    const Matmul<T, HostSpace> products[] = {this->forward, second};
    normalized_matmul(ctx, &norm, std::span<const Matmul<T, HostSpace>>(products));
  }
  Run<T> more;
  DynamicTensor<T, 2> x;
  DynamicTensor<Wide<T>, 1> weight, bias;
  Normalization<T, HostSpace> norm;
};

TEST_CASE_TEMPLATE("products of a normalized row are those behind a normalization", T, float,
                   double, BFloat16, Float16) {
  for (const Index depth : {8, 63, 768, 776, 1024, 1032, 2048, 3072, 4096, 8192, 8200})
    for (const WeightForm form : all_forms)
      for (const Index rows : {1, 2}) {
        if (depth > 1032 && rows > 1) continue;
        const NormedCase test{.rows = rows, .depth = depth, .form = form};
        equals_reference<NormedRun<T>>(test);
        if (depth > 768) continue;
        for (const bool has_weight : {false, true})
          for (const auto kind : {NormalizationKind::rms, NormalizationKind::layer})
            equals_reference<NormedRun<T>>({.rows = rows,
                                            .depth = depth,
                                            .form = form,
                                            .kind = kind,
                                            .weight = has_weight,
                                            .bias = false});
      }
}

TEST_CASE("a norm far from zero loses no digits on the way to a product") {
  loses_no_digits_far_from_zero<NormedRun<float>>({.depth = 768});
}

#ifdef SSM_TEST_ON_CUDA
TEST_CASE("a step by rounded weights does not expand them") {
  only<Device>([](auto& ctx) {
    for (const WeightForm form : rounded_forms)
      for (const Index rows : {Index{1}, cuda::matmul_few_rows_limit})
        Run<float>({.rows = rows, .columns = 65, .depth = 64, .form = form, .bias = true},
                   Placement{.b = Layout::columns})
            .evaluate(ctx);
    CHECK(ctx.workspace().capacity() == 0);
  });
}

TEST_CASE_TEMPLATE("the sums of a step by rounded weights have one order wherever operands lie", T,
                   float, double) {
  for (const Index rows : {1, 2, 3, 16})
    for (const Index depth : {64, 1000, 2100})
      for (const WeightForm form : rounded_forms)
        only<Device>([&](auto& ctx) {
          const Case test{.rows = rows, .columns = 9, .depth = depth, .form = form, .bias = true};
          Run<T> aligned(test, Placement{.b = Layout::columns});
          aligned.evaluate(ctx);
          for (const Index gap : {1, 8})
            for (const Layout layout : all_layouts) {
              Run<T> apart(test, Placement{.a = layout, .b = Layout::columns, .gap = gap});
              apart.evaluate(ctx);
              expect_same(apart, aligned);
            }
        });
}
#endif

}  // namespace
}  // namespace ssm::test
