// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <type_traits>
#include <vector>

#include "ssm/core/unwritten.hpp"
#include "ssm/op/matmul.hpp"
#include "support/in_double.hpp"
#include "support/primitive_laws.hpp"

namespace ssm::test {
namespace {

struct GradientCase {
  Index rows = 1;
  Index columns = 9;
  Index inputs = 17;
  bool bias = true;
  Layout layout = Layout::rows;
};

template <class T>
struct GradientRun : OperandRun<WeightGradient<T, HostSpace>, NoGradient> {
  GradientRun(const GradientCase& test, Layout layout)
      : GradientRun::OperandRun({{'M', test.rows}, {'N', test.columns}, {'K', test.inputs}},
                                Layout::rows, {}, left_out({{"dbias", test.bias}})) {
    this->lay_out(this->forward.dy, layout);
    this->lay_out(this->forward.x, layout);
  }
  void evaluate(auto& ctx) { weight_gradient(ctx, this->forward); }
  template <class B>
  static constexpr bool exists = HasMatmul<B, T>;
};

TEST_CASE_TEMPLATE("gradients of weights are added to, of half types as sums in float", T, float,
                   double, BFloat16, Float16) {
  constexpr GradientCase cases[] = {{.rows = 0},
                                    {.rows = 1},
                                    {.rows = 1, .bias = false},
                                    {.rows = 300, .bias = false},
                                    {.rows = 300},
                                    {.rows = 64, .columns = 264},
                                    {.rows = 201, .columns = 65}};
  for (const GradientCase& test : cases) {
    CAPTURE(describe(test));
    const GradientRun<T> start(test, Layout::rows);
    const auto& g = start.forward;
    const auto dy = in_double(g.dy), x = in_double(g.x);
    auto dweight = in_double(g.dweight);
    auto dbias = in_double(g.dbias);
    Context<Reference> reference;
    weight_gradient(reference, WeightGradient<double, HostSpace>{
                                   .dy = dy, .x = x, .dweight = dweight, .dbias = dbias});
    on_every_backend<GradientRun<T>>([&](auto& ctx) {
      for (const Layout layout : all_layouts) {
        GradientRun<T> actual(test, layout);
        actual.evaluate(ctx);
        CHECK(difference(actual.forward.dweight, dweight) < tolerance<Wide<T>>.value);
        if (test.bias) CHECK(difference(actual.forward.dbias, dbias) < tolerance<Wide<T>>.value);
      }
    });
  }
}

/// Of two maps, of which one may have no bias.
template <class T>
void are_exact_together(const GradientCase& first, const GradientCase& second) {
  const GradientCase* const tests[] = {&first, &second};
  std::vector<DynamicTensor<double, 2>> dweight;
  std::vector<DynamicTensor<double, 1>> dbias;
  for (const GradientCase* test : tests) {
    const GradientRun<T> start(*test, Layout::rows);
    const auto& g = start.forward;
    const auto dy = in_double(g.dy), x = in_double(g.x);
    dweight.push_back(in_double(g.dweight));
    dbias.push_back(in_double(g.dbias));
    Context<Reference> reference;
    weight_gradient(reference,
                    WeightGradient<double, HostSpace>{
                        .dy = dy, .x = x, .dweight = dweight.back(), .dbias = dbias.back()});
  }
  on_every_backend<GradientRun<T>>([&](auto& ctx) {
    GradientRun<T> runs[] = {{first, Layout::rows}, {second, Layout::rows}};
    const WeightGradient<T, HostSpace> both[] = {runs[0].forward, runs[1].forward};
    weight_gradient(ctx, std::span<const WeightGradient<T, HostSpace>>(both));
    for (std::size_t i = 0; i < 2; ++i) {
      CAPTURE(i);
      CHECK(difference(runs[i].forward.dweight, dweight[i]) < tolerance<Wide<T>>.value);
      if (tests[i]->bias)
        CHECK(difference(runs[i].forward.dbias, dbias[i]) < tolerance<Wide<T>>.value);
    }
  });
}

TEST_CASE("gradients of two weights at once are those gradients") {
  are_exact_together<float>({.rows = 30}, {.rows = 70, .columns = 20, .bias = false});
  are_exact_together<BFloat16>({.rows = 30, .bias = false}, {.rows = 30, .columns = 20});
  // As many tiles as some backends take for one kernel, and odd ends.
  const GradientCase whole{.rows = 340, .columns = 2200, .inputs = 760};
  const GradientCase alone{.rows = 70, .columns = 696, .inputs = 760, .bias = false};
  are_exact_together<BFloat16>(alone, whole);
  are_exact_together<Float16>(whole, alone);
}

/// Counts `numbers` as zero while it is there.
template <class Ctx, class V>
struct Unwritten {
  Unwritten(Ctx& ctx, const V& numbers) : ctx_(ctx) {
    fill(numbers, std::numeric_limits<double>::quiet_NaN());
    tensors.add(numbers.data(), static_cast<std::size_t>(numbers.size()) * sizeof(*numbers.data()));
    ctx.set_unwritten(&tensors);
  }
  ~Unwritten() { ctx_.set_unwritten(nullptr); }
  Ctx& ctx_;
  UnwrittenTensors tensors;
};

TEST_CASE_TEMPLATE("a gradient that nobody has written is overwritten", T, float, double, BFloat16,
                   Float16) {
  for (const Index rows : {0, 1, 300})
    on_every_backend<GradientRun<T>>([&](auto& ctx) {
      GradientRun<T> whole({.rows = rows}, Layout::rows), zero({.rows = rows}, Layout::rows);
      auto& g = whole.forward;
      fill(zero.forward.dweight, 0);
      zero.evaluate(ctx);
      const Unwritten unwritten(ctx, g.dweight);
      whole.evaluate(ctx);
      CHECK(unwritten.tensors.empty());
      CHECK(difference(g.dweight, zero.forward.dweight) == 0);
      whole.evaluate(ctx);  // is added to from then on
      zero.evaluate(ctx);
      CHECK(difference(g.dweight, zero.forward.dweight) == 0);
      CHECK(difference(g.dbias, zero.forward.dbias) == 0);
    });
}

TEST_CASE("a part of such a gradient is added to zeros, by any product") {
  on_every_backend<GradientRun<double>>([](auto& ctx) {
    GradientRun<double> part({.rows = 5}, Layout::rows), zero({.rows = 5}, Layout::rows);
    auto all = zero_tensor(3 * 9, 17), added = zero_tensor(3 * 9, 17);
    fill(zero.forward.dweight, 0);
    zero.evaluate(ctx);
    const auto rows = [](auto& tensor) { return tensor.view().slice(0, 9, 18); };
    {
      const Unwritten unwritten(ctx, all.view());
      part.forward.dweight = rows(all);
      part.evaluate(ctx);
    }
    {
      const Unwritten unwritten(ctx, added.view());
      matmul(ctx, Matmul<double, HostSpace>{.a = part.forward.dy.transpose(0, 1),
                                            .b = part.forward.x,
                                            .accumulate = true,
                                            .c = rows(added)});
    }
    for (auto* tensor : {&all, &added}) {
      CHECK(difference(rows(*tensor), zero.forward.dweight) < tolerance<double>.value);
      fill(rows(*tensor), 0);
      for_each_element([](double x) { CHECK(x == 0); }, *tensor);
    }
  });
}

}  // namespace
}  // namespace ssm::test
