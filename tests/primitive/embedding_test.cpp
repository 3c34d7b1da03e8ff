// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/embedding.hpp"

#include <cmath>
#include <cstdint>
#include <string>

#include "support/primitive_laws.hpp"

namespace ssm::test {
namespace {

struct Case {
  Index rows = 5, vocabulary = 10, width = 3;
  WeightForm form = WeightForm::full;  // of the table
  Layout layout = Layout::rows;
};

/// Tokens repeat, near and far from each other; some never occur.
template <class T>
struct Run : OperandRun<Embedding<T, HostSpace>, EmbeddingBackward<T, HostSpace>> {
  using Test = Case;
  Run(const Case& test, Layout layout)
      : Run::OperandRun({{'M', test.rows}, {'V', test.vocabulary}, {'D', test.width}}, layout, {},
                        left_out({{"table", test.form == WeightForm::full},
                                  {"table_bf16", test.form == WeightForm::bf16},
                                  {"table_f16", test.form == WeightForm::f16},
                                  {"table_int8", test.form == WeightForm::int8},
                                  {"table_scale", test.form == WeightForm::int8}}),
                        InputGradients::overwritten, layout) {
    const auto& a = this->forward;
    const auto tokens = this->writable(a.tokens);
    for_each_index(tokens,
                   [&](Index m) { tokens(m) = static_cast<Token>(m * m % test.vocabulary); });
    if (!a.table_int8) return;
    const auto numbers = this->writable(a.table_int8);
    for_each_index(numbers, [&](Index v, Index d) {
      numbers(v, d) = static_cast<std::int8_t>((v * 91 + d * 53) % 255 - 127);
    });
    const auto scale = this->writable(a.table_scale);
    for_each_index(scale, [&](Index v) { scale(v) = 0.1F * static_cast<float>(v); });
  }
  void evaluate(auto& ctx) { embedding(ctx, this->forward); }
  void differentiate(auto& ctx) { embedding_backward(ctx, this->backward()); }
  template <class B>
  static constexpr bool exists = HasEmbedding<B, T>;

  /// An element of the table, in whichever form it is.
  T element(Token token, Index d) const {
    const auto& a = this->forward;
    if (a.table_int8)
      return scalar_cast<T>(Wide<T>{a.table_scale(token)} *
                            static_cast<Wide<T>>(a.table_int8(token, d)));
    if (a.table_bf16) return scalar_cast<T>(a.table_bf16(token, d));
    return a.table_f16 ? scalar_cast<T>(a.table_f16(token, d)) : a.table(token, d);
  }
};

TEST_CASE("every token gets its row, and rows gather the gradients of all their tokens") {
  const auto set_tokens = [](auto& call) { call.set(call.forward.tokens, {2, 0, 2, 2, 3}); };
  has_its_gradients<Run<double>>({.vocabulary = 4}, set_tokens);
  on_each_backend<Run<double>>([&](auto& ctx) {
    Run<double> call({.vocabulary = 4}, Layout::rows);
    set_tokens(call);
    const auto& a = call.forward;
    const auto& g = call.gradient;
    fill(g.dtable, 0);
    compute(ctx, call);
    for (Index m = 0; m < 5; ++m)
      CHECK(difference(a.y.select(0, m), a.table.select(0, a.tokens(m))) == 0);
    for (Index d = 0; d < 3; ++d) {
      CHECK(g.dtable(1, d) == 0);
      CHECK(g.dtable(2, d) == g.dy(0, d) + g.dy(2, d) + g.dy(3, d));
    }
  });
}

TEST_CASE("a token outside the table is named and nothing is written") {
  on_each_backend<Run<double>>([](auto& ctx) {
    Run<double> call({.rows = 2, .vocabulary = 4}, Layout::rows);
    fill(call.gradient.dtable, 7);
    for (const Token wrong : {Token{4}, Token{-1}}) {
      call.set(call.forward.tokens, {0, static_cast<double>(wrong)});
      const std::string rest =
          ": token " + std::to_string(wrong) + " at position 1 is outside the vocabulary of 4";
      const std::string message = "embedding" + rest, of_gradient = "embedding_backward" + rest;
      CHECK_THROWS_WITH_AS(call.evaluate(ctx), message.c_str(), ArgumentError);
      CHECK_THROWS_WITH_AS(call.differentiate(ctx), of_gradient.c_str(), ArgumentError);
      CHECK(std::isnan(call.forward.y(0, 0)));
      CHECK(call.gradient.dtable(0, 0) == 7);
    }
  });
}

TEST_CASE("no tokens are no work") {
  on_each_backend<Run<double>>([](auto& ctx) {
    Run<double> call({.rows = 0, .vocabulary = 4}, Layout::rows);
    CHECK_NOTHROW(compute(ctx, call));
  });
}

TEST_CASE("a table in two forms, and whole numbers without their scale, are refused") {
  for (const Layout layout : all_layouts)
    on_each_backend<Run<float>>([&](auto& ctx) {
      Run<float> call({.form = WeightForm::int8}, layout);
      const Run<float> other({}, layout);
      const auto scale = call.forward.table_scale;
      call.forward.table_scale = {};
      CHECK_THROWS_WITH_AS(call.evaluate(ctx), "embedding: table_scale is missing", ShapeError);
      call.forward.table_scale = scale;
      call.forward.table = other.forward.table;
      CHECK_THROWS_WITH_AS(call.evaluate(ctx),
                           "embedding: the table is given in more than one form", ArgumentError);
    });
}

TEST_CASE_TEMPLATE("rows are those of the table, in any form that it is kept in", T, float, double,
                   BFloat16, Float16) {
  for (const WeightForm form :
       {WeightForm::full, WeightForm::bf16, WeightForm::f16, WeightForm::int8})
    for (const Index rows : {0, 1, 3, 7, 1000})
      for (const Index width : {1, 16, 33, 192})
        for (const Layout layout : all_layouts) {
          const Case test{.rows = rows, .width = width, .form = form};
          CAPTURE(describe(test));
          Run<T> call(test, layout);
          const auto& a = call.forward;
          on_every_backend<Run<T>>([&](auto& ctx) {
            fill(a.y, scalar_cast<T>(std::nan("")));
            call.evaluate(ctx);
            Index wrong = 0;
            for_each_index(a.y, [&](Index m, Index d) {
              wrong += !(a.y(m, d) == call.element(a.tokens(m), d));
            });
            CHECK(wrong == 0);
          });
        }
}

TEST_CASE_TEMPLATE("gradients of a token's row are the reference's, the same bits each time", T,
                   float, double, BFloat16, Float16) {
  const auto check = [](const Case& test) {
    equals_reference<Run<T>>(test);
    repeats_its_bits<Run<T>>(test);
  };
  for (const Layout layout : all_layouts) {
    for (const Index rows : {0, 1, 3, 1000})
      for (const Index width : {1, 16, 33, 192})
        check({.rows = rows, .width = width, .layout = layout});
    for (const Index vocabulary : {1, 10, 64, 300})
      for (const Index rows : {0, 1, 256, 257, 3000, 20000})
        check({.rows = rows,
               .vocabulary = vocabulary,
               .width = rows > 3000 ? 3 : 33,
               .layout = layout});
  }
}

#ifdef SSM_TEST_ON_CUDA
TEST_CASE("tokens outside the table, where nobody could look, give NaN and no gradient") {
  Run<float> call({.vocabulary = 4}, Layout::rows);
  const auto& a = call.forward;
  const auto& g = call.gradient;
  call.set(a.tokens, {0, -1, 0, 1, 4});
  fill(a.y, 0);
  fill(g.dtable, 0);
  only<Device>([&](auto& ctx) {
    Device::embedding(ctx, a);
    Device::embedding_backward(ctx, g);
  });
  for (Index d = 0; d < 3; ++d) {
    for (const Index m : {1, 4}) CHECK(std::isnan(a.y(m, d)));
    for (const Index m : {0, 2, 3}) CHECK(a.y(m, d) == a.table(a.tokens(m), d));
    CHECK(g.dtable(0, d) == g.dy(0, d) + g.dy(2, d));
    CHECK(g.dtable(1, d) == g.dy(3, d));
    for (const Index v : {2, 3}) CHECK(g.dtable(v, d) == 0);
  }
}
#endif

}  // namespace
}  // namespace ssm::test
