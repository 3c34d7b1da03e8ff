// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "ssm/op/matmul.hpp"
#include "ssm/op/normalized_matmul.hpp"
#include "support/products.hpp"

namespace ssm::test {
namespace {

struct Case {
  Index rows = 1, depth = 8, hidden = 8, columns = 8;
  WeightForm form = WeightForm::full;
  ActivationKind activation = ActivationKind::gelu_tanh;
  bool norm = true;
  NormalizationKind kind = NormalizationKind::layer;
  bool parameters = true;  // of the norm
  bool bias = true, residual = true;
  Layout layout = Layout::rows;  // one alone
};

/// One product; b as the transpose of a layer's weight, of whole runs of 16 bytes.
template <class T>
struct Product : OperandRun<Matmul<T, HostSpace>, NoGradient> {
  Product(const Case& test, Index columns, Index depth, bool residual)
      : Product::OperandRun({{'M', test.rows}, {'N', columns}, {'K', depth}}, Layout::rows, {},
                            left_out({{"b", test.form == WeightForm::full},
                                      {"b_bf16", test.form == WeightForm::bf16},
                                      {"b_f16", test.form == WeightForm::f16},
                                      {"b_int8", test.form == WeightForm::int8},
                                      {"b_scale", test.form == WeightForm::int8},
                                      {"bias", test.bias},
                                      {"residual", residual},
                                      {"z", false},
                                      {"a_sum", false}})) {
    auto& a = this->forward;
    fill_int8_weight(*this, [](Index n) { return 0.01F / static_cast<float>(n % 7 + 1); });
    constexpr Index gap = 8;
    this->lay_out(a.b, Layout::columns, gap);
    this->lay_out(a.b_bf16, Layout::columns, gap);
    this->lay_out(a.b_f16, Layout::columns, gap);
    this->lay_out(a.b_int8, Layout::columns, gap);
    fill(a.c, scalar_cast<T>(std::nan("")));
  }
  template <class B>
  static constexpr bool exists = HasMatmul<B, T>;
};

template <class T>
struct Run : Product<T> {
  using Test = Case;
  Run(const Case& test, Layout)
      : Product<T>(test, test.columns, test.hidden, test.residual),
        first(test, test.hidden, test.depth, false),
        x(random_tensor<T>("x", test.rows, test.depth)),
        weight(random_tensor<Wide<T>>("weight", test.depth)),
        bias(random_tensor<Wide<T>>("norm bias", test.depth)),
        has_norm(test.norm) {
    first.forward.activation = test.activation;
    this->forward.a = first.forward.c;
    norm = {.kind = test.kind, .x = x, .y = this->writable(first.forward.a)};
    if (test.parameters) {
      norm.weight = weight;
      norm.bias = bias;
    }
  }
  void evaluate(auto& ctx) {
    if (has_norm)
      matmul_pair(ctx, &norm, first.forward, this->forward);
    else
      matmul_pair(ctx, nullptr, first.forward, this->forward);
  }
  Product<T> first;
  DynamicTensor<T, 2> x;
  DynamicTensor<Wide<T>, 1> weight, bias;
  Normalization<T, HostSpace> norm;
  bool has_norm;
};

constexpr WeightForm all_forms[] = {WeightForm::full, WeightForm::bf16, WeightForm::f16,
                                    WeightForm::int8};

TEST_CASE_TEMPLATE("two products at once are one behind the other", T, float, double, BFloat16,
                   Float16) {
  struct Sizes {
    Index depth, hidden, columns;
  };
  // The smallest, no whole warps, and beyond what one kernel takes.
  for (const auto [depth, hidden, columns] :
       {Sizes{8, 8, 3}, Sizes{72, 264, 40}, Sizes{64, 256, 64}, Sizes{776, 520, 30},
        Sizes{1032, 64, 64}, Sizes{16, 8, 900}})
    for (const WeightForm form : all_forms)
      equals_reference<Run<T>>(
          {.depth = depth, .hidden = hidden, .columns = columns, .form = form});
  const Case small{.depth = 40, .hidden = 136, .columns = 24, .form = WeightForm::bf16};
  for (const bool parameters : {false, true})
    for (const auto kind : {NormalizationKind::rms, NormalizationKind::layer}) {
      Case test = small;
      test.kind = kind;
      test.parameters = parameters;
      equals_reference<Run<T>>(test);
    }
  for (const auto activation : {ActivationKind::none, ActivationKind::relu, ActivationKind::silu}) {
    Case test = small;
    test.activation = activation;
    test.norm = test.bias = test.residual = false;
    equals_reference<Run<T>>(test);
  }
  Case rows = small;
  rows.rows = 2;
  equals_reference<Run<T>>(rows);
}

TEST_CASE("a norm far from zero loses no digits on the way to two products") {
  loses_no_digits_far_from_zero<Run<float>>({.depth = 768, .hidden = 256, .columns = 64});
}

TEST_CASE("two products as wide as a model's are one behind the other") {
  equals_reference<Run<float>>({.depth = 768, .hidden = 3072, .columns = 768});
  equals_reference<Run<float>>(
      {.depth = 1024, .hidden = 4096, .columns = 1024, .form = WeightForm::bf16});
  equals_reference<Run<BFloat16>>({.depth = 768, .hidden = 3080, .columns = 770});
}

TEST_CASE("two products at once give the same bits, call for call") {
  for (int call = 0; call < 10; ++call)
    for (const Index hidden : {1024, 64})
      repeats_its_bits<Run<float>>(
          {.depth = 256, .hidden = hidden, .columns = 256, .form = WeightForm::bf16});
}

}  // namespace
}  // namespace ssm::test
