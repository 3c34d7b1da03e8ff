// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/layer.hpp"

#include <doctest/doctest.h>

#include <Eigen/Core>
#include <array>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "ssm/backend/reference.hpp"
#include "ssm/core/compare.hpp"
#include "ssm/core/fill_random.hpp"
#include "ssm/core/overrides.hpp"
#include "ssm/layer/h3.hpp"
#include "ssm/model/blocks.hpp"

namespace {

using ssm::DynamicTensor;
using ssm::Index;

TEST_CASE("prefill takes slices of longer sequences, whatever the batch") {
  ssm::Context<ssm::Reference> ctx;
  const ssm::H3<ssm::H3Config{.channels = 6, .state = 4}> layer;
  const auto parameters = layer.initialize<double>(ctx, ssm::Seed{1});
  DynamicTensor<double, 3> x({3, 20, 6});
  DynamicTensor<double, 3> whole({3, 20, 6});
  DynamicTensor<double, 3> parts({3, 20, 6});
  ssm::fill_normal(x, ssm::Seed{2});
  layer.forward(ctx, parameters, x, whole);
  auto state = layer.initial_state<double>(ctx, 3);
  for (const auto& [begin, end] : {std::pair<Index, Index>{0, 11}, {11, 12}, {12, 20}})
    layer.prefill(ctx, parameters, x.slice(1, begin, end), parts.slice(1, begin, end), state);
  CHECK(ssm::all_close(parts, whole, ssm::tolerance<double>.value));
}

using Rows = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// A layer of four channels with everything that its verbs need, and x, y, dy and dx of batch one.
template <class L>
struct Bench {
  L layer{};
  ssm::Context<ssm::Reference> ctx{};
  typename L::template Parameters<double> p = layer.template initialize<double>(ctx, ssm::Seed{1});
  typename L::template Parameters<double> gradients = layer.template zero_parameters<double>(ctx);
  typename L::template Tape<double> tape{};
  Index length;
  DynamicTensor<double, 3> x, y, dy, dx;

  explicit Bench(Index positions = 9)
      : length(positions),
        x({1, length, 4}),
        y({1, length, 4}),
        dy({1, length, 4}),
        dx({1, length, 4}) {
    ssm::fill_normal(x, ssm::Seed{2});
    ssm::fill_normal(dy, ssm::Seed{3});
    layer.forward(ctx, p, x, y, tape);
    layer.backward(ctx, p, tape, dy, dx, gradients);
  }
};
using SmallH3 = ssm::H3<ssm::H3Config{.channels = 4, .state = 4}>;
using SmallLinear = ssm::Linear<ssm::LinearConfig{.inputs = 4, .outputs = 4}>;

TEST_CASE("[L, D] is one sequence in every verb, and a position of it is [D]") {
  Bench<SmallH3> bench;
  const DynamicTensor<double, 2> x = [&] {
    DynamicTensor<double, 2> copy({bench.length, 4});
    ssm::copy(bench.x.select(0, 0), copy);
    return copy;
  }();
  DynamicTensor<double, 2> y({bench.length, 4});
  const auto same = [&] { return ssm::largest_difference(y, bench.y.select(0, 0)).value == 0; };
  bench.layer.forward(bench.ctx, bench.p, x, y);
  CHECK(same());
  auto tape = bench.layer.make_tape(bench.p);
  bench.layer.forward(bench.ctx, bench.p, x, y.view(), tape);
  CHECK(same());
  auto gradients = bench.layer.zero_parameters<double>(bench.ctx);
  bench.layer.backward(bench.ctx, bench.p, tape, bench.dy.select(0, 0), y, gradients);
  CHECK(ssm::largest_difference(y, bench.dx.select(0, 0)).value == 0);
  auto state = bench.layer.initial_state<double>(bench.ctx, 1);
  bench.layer.prefill(bench.ctx, bench.p, x.slice(0, 0, 5), y.slice(0, 0, 5), state);
  for (Index t = 5; t < bench.length; ++t)
    bench.layer.step(bench.ctx, bench.p, x.select(0, t), y.select(0, t), state);
  CHECK(ssm::all_close(y, bench.y.select(0, 0), ssm::tolerance<double>.value));
}

TEST_CASE(
    "verbs take Eigen matrices of either order, maps and blocks that are temporary, and vectors") {
  Bench<SmallH3> bench;
  const Rows x = Eigen::Map<const Rows>(bench.x.data(), bench.length, 4);
  const Rows expected = Eigen::Map<const Rows>(bench.y.data(), bench.length, 4);
  const Eigen::MatrixXd columns = x;
  Rows y(bench.length, 4);
  Eigen::MatrixXd y_columns(bench.length, 4);
  bench.layer.forward(bench.ctx, bench.p, x, y);
  CHECK(y == expected);
  bench.layer.forward(bench.ctx, bench.p, columns, y_columns);
  CHECK(y_columns == expected);
  y.setZero();
  bench.layer.forward(bench.ctx, bench.p, Eigen::Map<const Rows>(bench.x.data(), bench.length, 4),
                      Eigen::Map<Rows>(y.data(), bench.length, 4));
  CHECK(y == expected);

  auto tape = bench.layer.make_tape(bench.p);
  auto gradients = bench.layer.zero_parameters<double>(bench.ctx);
  const Eigen::MatrixXd dy = Eigen::Map<const Rows>(bench.dy.data(), bench.length, 4);
  Eigen::MatrixXd dx(bench.length, 4);
  bench.layer.forward(bench.ctx, bench.p, columns, y_columns, tape);
  bench.layer.backward(bench.ctx, bench.p, tape, dy, dx, gradients);
  CHECK(dx == Eigen::Map<const Rows>(bench.dx.data(), bench.length, 4));

  auto state = bench.layer.initial_state<double>(bench.ctx, 1);
  y.setZero();
  bench.layer.prefill(bench.ctx, bench.p, x.topRows(5), y.topRows(5), state);
  for (Index t = 5; t < bench.length; ++t) {
    const Eigen::VectorXd x_t = x.row(t);
    Eigen::VectorXd y_t(4);
    bench.layer.step(bench.ctx, bench.p, x_t, y_t, state);
    y.row(t) = y_t;
  }
  CHECK((y - expected).cwiseAbs().maxCoeff() <= ssm::tolerance<double>.value);
}

TEST_CASE("forward with a tape takes slices of longer sequences, as it does without") {
  Bench<SmallLinear> bench;
  DynamicTensor<double, 3> all({3, bench.length + 4, 4});
  DynamicTensor<double, 3> y({3, bench.length + 4, 4});
  ssm::fill_normal(all, ssm::Seed{5});
  auto expected = ssm::clone(all.slice(1, 1, 1 + bench.length));
  DynamicTensor<double, 3> y_expected(expected.extents());
  auto g = bench.layer.zero_parameters<double>(bench.ctx);
  auto g_expected = bench.layer.zero_parameters<double>(bench.ctx);
  auto tape = bench.layer.make_tape(bench.p);
  auto other = bench.layer.make_tape(bench.p);
  bench.layer.forward(bench.ctx, bench.p, expected, y_expected, other);
  bench.layer.forward(bench.ctx, bench.p, all.slice(1, 1, 1 + bench.length),
                      y.slice(1, 1, 1 + bench.length), tape);
  CHECK(ssm::largest_difference(y.slice(1, 1, 1 + bench.length), y_expected).value == 0);
  ssm::fill(all, 0);  // the tape has a copy
  DynamicTensor<double, 3> dx(expected.extents());
  bench.layer.backward(bench.ctx, bench.p, tape, y_expected, dx, g);
  bench.layer.backward(bench.ctx, bench.p, other, y_expected, dx, g_expected);
  CHECK(ssm::largest_difference(g.weight, g_expected.weight).value == 0);
}

TEST_CASE("what lies as the layer reads it is not copied") {
  Bench<SmallLinear> bench;
  CHECK_FALSE(static_cast<bool>(bench.tape.copied_x));  // contiguous
  CHECK(bench.tape.x.data() == bench.x.data());
  DynamicTensor<double, 3> wide({2, 5, 9});
  DynamicTensor<double, 3> y({2, 5, 4});
  bench.layer.forward(bench.ctx, bench.p, wide.slice(2, 3, 7), y, bench.tape);  // even rows
  CHECK_FALSE(static_cast<bool>(bench.tape.copied_x));
  CHECK(bench.tape.x.data() == wide.data() + 3);
  bench.layer.forward(bench.ctx, bench.p, wide.slice(2, 3, 7).reverse(1), y, bench.tape);
  CHECK(bench.tape.x.data() == bench.tape.copied_x.data());
}

/// The message of what f throws.
template <class F>
std::string message(F&& f) {
  try {
    f();
  } catch (const ssm::Error& error) {
    return error.what();
  }
  return "nothing thrown";
}

TEST_CASE("an operand of another shape is named with its layer, whatever the layer") {
  Bench<SmallH3> bench(10);
  DynamicTensor<double, 3> wide({1, 10, 5});
  DynamicTensor<double, 3> shorter({1, 9, 4});
  auto state = bench.layer.initial_state<double>(bench.ctx, 1);
  CHECK(message([&] { bench.layer.forward(bench.ctx, bench.p, wide, bench.y); }) ==
        "H3: x must be [1, 10, 4], got [1, 10, 5]");
  CHECK(message([&] { bench.layer.forward(bench.ctx, bench.p, bench.x, shorter, bench.tape); }) ==
        "H3: y must be [1, 10, 4], got [1, 9, 4]");
  CHECK(message([&] {
          bench.layer.step(bench.ctx, bench.p, wide.select(1, 0), bench.y.select(1, 0), state);
        }) == "H3: x_t must be [1, 4], got [1, 5]");
  CHECK(message([&] {
          bench.layer.prefill(bench.ctx, bench.p, ssm::View<const double, 3>(), bench.y, state);
        }) == "H3: x is missing");
  CHECK(message([&] {
          bench.layer.backward(bench.ctx, bench.p, bench.tape, shorter, bench.dx, bench.gradients);
        }) == "H3: dy must be [1, 10, 4], got [1, 9, 4]");
  CHECK(message([&] {
          bench.layer.backward(bench.ctx, bench.p, bench.tape, bench.dy, wide, bench.gradients);
        }) == "H3: dx must be [1, 10, 4], got [1, 10, 5]");
  Bench<SmallLinear> linear(2);
  CHECK(message([&] { linear.layer.forward(linear.ctx, linear.p, wide, wide); }) ==
        "Linear: x must be [1, 10, 4], got [1, 10, 5]");
}

TEST_CASE("no layer works in place: the verbs say so") {
  Bench<SmallH3> bench;
  auto state = bench.layer.initial_state<double>(bench.ctx, 1);
  CHECK(message([&] { bench.layer.forward(bench.ctx, bench.p, bench.x, bench.x); }) ==
        "H3: y must not be the same memory as x");
  CHECK_THROWS_AS(bench.layer.prefill(bench.ctx, bench.p, bench.x, bench.x, state),
                  ssm::ArgumentError);
  CHECK_THROWS_AS(
      bench.layer.step(bench.ctx, bench.p, bench.x.select(1, 0), bench.x.select(1, 0), state),
      ssm::ArgumentError);
  CHECK(message([&] {
          bench.layer.backward(bench.ctx, bench.p, bench.tape, bench.dy, bench.dy, bench.gradients);
        }) == "H3: dx must not be the same memory as dy");
}

struct EmptyTape {};
struct NamedTape : ssm::InputTape<double, ssm::HostSpace> {
  Index sequences = 7;  // its own, as a stack of layers may have it
};

/// y = 2·x, on any backend.
template <class TapeType>
class DoublerWith : public ssm::LayerVerbs<DoublerWith<TapeType>> {
 public:
  template <class T, class Space = ssm::HostSpace>
  struct Parameters : ssm::ParametersOf<DoublerWith, T, Space> {};
  template <class, class = ssm::HostSpace>
  using State = ssm::NoState;
  template <class, class = ssm::HostSpace>
  using Tape = TapeType;

  Index channels() const { return 4; }
  template <class B, class T>
  void evaluate(ssm::Context<B>&, const Parameters<T>&,
                ssm::Input<B, T, ssm::dyn, ssm::dyn, ssm::dyn> x,
                ssm::Output<B, T, ssm::dyn, ssm::dyn, ssm::dyn> y, TapeType*,
                const ssm::SequenceOptions<ssm::NoState>& = {}) const {
    CHECK(x.is_contiguous());
    CHECK(y.is_contiguous());
    ssm::map([](T element) { return 2 * element; }, y, x);
  }
};
using Doubler = DoublerWith<EmptyTape>;  // whose tape cannot keep a copy of x

TEST_CASE(
    "a layer that says nothing of its operands gets contiguous ones, on a backend without "
    "primitives too") {
  ssm::Context<ssm::HostMemory> ctx;
  const Doubler::Parameters<double> none;
  DynamicTensor<double, 3> x({2, 6, 4});
  DynamicTensor<double, 3> y({2, 6, 4});
  ssm::fill_normal(x, ssm::Seed{6});
  Doubler().forward(ctx, none, x.slice(1, 0, 3), y.slice(1, 3, 6).reverse(1));
  for (Index t = 0; t < 3; ++t)
    for (Index d = 0; d < 4; ++d) CHECK(y(1, 5 - t, d) == 2 * x(1, t, d));
  auto tape = Doubler().make_tape(none);
  CHECK_NOTHROW(Doubler().forward(ctx, none, x, y, tape));
  CHECK(
      message([&] { Doubler().forward(ctx, none, x.slice(1, 0, 3), y.slice(1, 0, 3), tape); }) ==
      "DoublerWith: x is strided, and the layer's tape, which is no ssm::InputTape, cannot keep a "
      "copy; give it ssm::clone(x)");
}

TEST_CASE(
    "a language model takes tokens as [L], from a vector and in any stride, and steps by [B]") {
  using Model = ssm::LanguageModel<ssm::Vocabulary{11}, ssm::Width{4}, ssm::H3Block>;
  const Model model;
  ssm::Context<ssm::Reference> ctx;
  const auto p = model.initialize<double>(ctx, ssm::Seed{1});
  std::vector<ssm::Token> tokens{3, 1, 4, 1, 5, 9, 2, 6};
  const auto length = static_cast<Index>(tokens.size());
  DynamicTensor<double, 3> expected({1, length, 11});
  model.forward(ctx, p, ssm::view_of(tokens).reshape(1, length), expected);
  const auto row = expected.select(0, 0);

  DynamicTensor<double, 2> logits({length, 11});
  const auto same = [&] { return ssm::largest_difference(logits, row).value == 0; };
  model.forward(ctx, p, tokens, logits);
  CHECK(same());
  const Eigen::Matrix<ssm::Token, Eigen::Dynamic, 1> vector =
      Eigen::Map<const Eigen::Matrix<ssm::Token, Eigen::Dynamic, 1>>(tokens.data(), length);
  ssm::fill(logits, 0);
  model.forward(ctx, p, vector, logits);
  CHECK(same());

  std::vector<ssm::Token> backwards(tokens.rbegin(), tokens.rend());
  auto tape = model.make_tape(p);
  DynamicTensor<double, 2> turned({11, length});
  model.forward(ctx, p, ssm::view_of(backwards).reverse(0), turned.transpose(0, 1), tape);
  CHECK(ssm::largest_difference(turned.transpose(0, 1), row).value == 0);
  auto gradients = model.zero_parameters<double>(ctx);
  auto gradients_expected = model.zero_parameters<double>(ctx);
  model.backward(ctx, p, tape, turned.transpose(0, 1), gradients);
  model.backward(ctx, p, tape, expected, gradients_expected);
  CHECK(ssm::largest_difference(gradients.embedding, gradients_expected.embedding).value == 0);
  CHECK(message([&] { model.backward(ctx, p, tape, expected.slice(1, 0, 3), gradients); }) !=
        "nothing thrown");

  auto state = model.initial_state<double>(ctx, 1);
  ssm::fill(logits, 0);
  for (Index t = 0; t < length; ++t)
    model.step(ctx, p, std::vector{tokens[static_cast<std::size_t>(t)]}, logits.select(0, t),
               state);
  CHECK(ssm::all_close(logits, row, ssm::tolerance<double>.value));
}

TEST_CASE("a tape's own names do not get in the way of what the verbs remember on it") {
  ssm::Context<ssm::HostMemory> ctx;
  const DoublerWith<NamedTape>::Parameters<double> none;
  DynamicTensor<double, 3> x({2, 6, 4});
  DynamicTensor<double, 3> y({2, 3, 4});
  auto tape = DoublerWith<NamedTape>().make_tape(none);
  DoublerWith<NamedTape>().forward(ctx, none, x.slice(1, 0, 3), y, tape);
  CHECK(tape.sequences == 7);
  const ssm::InputTape<double, ssm::HostSpace>& kept = tape;
  CHECK(kept.sequences == std::array<Index, 2>{2, 3});
  CHECK(kept.copied_x.extent(1) == 3);
}

/// A backend with a matrix product of its own.
struct Mine : ssm::Reference {
  template <class T>
  static void matmul(ssm::Context<Mine>& ctx, const ssm::Matmul<T, ssm::HostSpace>& a) {
    ssm::Reference::matmul(ctx, a);
  }
};
static_assert(ssm::overrides<Mine, ssm::Matmul<float, ssm::HostSpace>>(&Mine::matmul,
                                                                       &ssm::Reference::matmul));
static_assert(!ssm::overrides<Mine, ssm::Rearrange<float, ssm::HostSpace>>(
    &Mine::rearrange, &ssm::Reference::rearrange));

// What runs where is a question that the compiler answers.
static_assert(ssm::RunsOn<SmallH3, ssm::Reference> && ssm::RunsOn<SmallH3, Mine, double>);
static_assert(!ssm::RunsOn<SmallH3, ssm::HostMemory> && ssm::RunsOn<Doubler, ssm::HostMemory>);
static_assert(ssm::RunsOn<ssm::BasicLanguageModel<ssm::Sequential<SmallH3>, ssm::LayerNorm<4>>,
                          ssm::Reference>);

}  // namespace
