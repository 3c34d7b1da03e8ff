// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/cascaded_scan.hpp"

#include <cmath>
#include <vector>

#include "ssm/op/selective_scan.hpp"
#include "support/primitive_laws.hpp"

namespace ssm::test {
namespace {

struct Case {
  Index sources = 2, batch = 3, length = 7, channels = 2, states = 3;
  bool initial = true;
  Segments segments{};
  Layout layout = Layout::rows;

  Sizes sizes() const { return {{'B', batch}, {'L', length}, {'D', channels}, {'N', states}}; }
};

template <class T>
void make_positive(T& x) {
  x = static_cast<T>(std::abs(static_cast<Wide<T>>(x)));
}

/// What a source has is what a selective scan has in front of its outputs.
template <class T>
struct SourceRun : OperandRun<SelectiveScan<T, HostSpace>, SelectiveScanBackward<T, HostSpace>> {
  SourceRun(const Case& test, Layout layout, Index number)
      : SourceRun::OperandRun(
            test.sizes(), layout, test.segments,
            {"C", "skip", "dt_bias", "gate", "dt_used", "final_state", "dfinal_state", "y"},
            InputGradients::added_to) {
    using W = Wide<T>;
    const W factor = static_cast<W>(std::cos(static_cast<double>(number)));
    const auto scale = [&](T& x) { x = static_cast<T>(static_cast<W>(x) * factor); };
    for_each_element(scale, this->writable(this->forward.u));
    for_each_element(scale, this->writable(this->forward.B));
    for_each_element(make_positive<T>, this->writable(this->forward.dt));
    for_each_element([&](W& x) { x = factor - W{1} - std::exp(x); },
                     this->writable(this->forward.A));
  }
  ScanInputs<T, HostSpace> inputs() const {
    const auto& a = this->forward;
    return {.u = this->writable(a.u),
            .dt = this->writable(a.dt),
            .B = this->writable(a.B),
            .A = this->writable(a.A),
            .initial_state = this->writable(a.initial_state)};
  }
  ScanInputs<T, HostSpace> gradients() const {
    const auto& g = this->gradient;
    return {.u = g.du, .dt = g.ddt, .B = g.dB, .A = g.dA, .initial_state = g.dinitial_state};
  }
};

template <class T>
struct Run : OperandRun<CascadedScan<T, HostSpace>, CascadedScanBackward<T, HostSpace>> {
  using Test = Case;
  Run(const Case& test, Layout layout)
      : Run::OperandRun(test.sizes(), layout, test.segments,
                        left_out({{"gate", test.sources > 0}, {"initial_state", test.initial}})) {
    for_each_element(make_positive<T>, this->writable(this->forward.dt));
    for_each_element([](Wide<T>& x) { x = -std::exp(x); }, this->writable(this->forward.A));
    for (Index i = 0; i < test.sources; ++i) {
      sources.emplace_back(test, layout, i);
      inputs.push_back(sources.back().inputs());
      if (!test.initial) inputs.back().initial_state = {};
      gradients.push_back(sources.back().gradients());
    }
    this->forward.sources = inputs;
    this->gradient.dsources = gradients;
  }
  void evaluate(auto& ctx) { cascaded_scan(ctx, this->forward); }
  void differentiate(auto& ctx) { cascaded_scan_backward(ctx, this->backward()); }
  template <class B>
  static constexpr bool exists = HasCascadedScan<B, T>;

  std::vector<SourceRun<T>> sources;
  std::vector<ScanInputs<T, HostSpace>> inputs, gradients;
};

template <class T>
using Base = OperandRun<CascadedScan<T, HostSpace>, CascadedScanBackward<T, HostSpace>>;

// The laws, of the sources too.
template <class T>
void expect_equal(const Run<T>& actual, const Run<T>& expected) {
  expect_equal(static_cast<const Base<T>&>(actual), static_cast<const Base<T>&>(expected));
  for (std::size_t i = 0; i < actual.sources.size(); ++i)
    expect_equal(actual.sources[i], expected.sources[i]);
}
template <class T>
void expect_same(const Run<T>& actual, const Run<T>& expected) {
  expect_same(static_cast<const Base<T>&>(actual), static_cast<const Base<T>&>(expected));
  for (std::size_t i = 0; i < actual.sources.size(); ++i)
    expect_same(actual.sources[i], expected.sources[i]);
}
template <class T>
void take_part(Run<T>& to, const Run<T>& from, Index row, Index begin, Index end) {
  take_part(static_cast<Base<T>&>(to), static_cast<const Base<T>&>(from), row, begin, end);
  for (std::size_t i = 0; i < to.sources.size(); ++i)
    take_part(to.sources[i], from.sources[i], row, begin, end);
}

TEST_CASE("what one source drives is the sum of its states that the gates let in, faded") {
  on_each_backend<Run<double>>([](auto& ctx) {
    Run<double> call({.sources = 1, .batch = 1, .length = 5, .channels = 1, .states = 1},
                     Layout::rows);
    call.evaluate(ctx);
    const auto& a = call.forward;
    const auto& source = call.inputs[0];
    double state = source.initial_state(0, 0, 0), own = a.initial_state(0, 0, 0);
    for (Index t = 0; t < 5; ++t) {
      const double dt = source.dt(0, t, 0);
      state = std::exp(dt * source.A(0, 0)) * state + dt * source.B(0, t, 0) * source.u(0, t, 0);
      own = std::exp(a.dt(0, t, 0) * a.A(0, 0)) * own + a.gate(0, t, 0) * state;
      CHECK(a.y(0, t, 0) == doctest::Approx(a.C(0, t, 0) * own));
    }
    CHECK(a.final_state(0, 0, 0) == doctest::Approx(own));
  });
}

TEST_CASE("sources add up") {
  on_each_backend<Run<double>>([](auto& ctx) {
    for (const Index sources : {2, 8}) {
      const Case test{.sources = sources, .initial = false};
      Run<double> all(test, Layout::rows), one(test, Layout::rows);
      all.evaluate(ctx);
      auto sum = zero_tensor(3, 7, 2);
      for (std::size_t i = 0; i < all.sources.size(); ++i) {
        one.forward.sources =
            std::span<const ScanInputs<double, HostSpace>>(one.inputs).subspan(i, 1);
        one.evaluate(ctx);
        for_each_element([](double& x, double y) { x += y; }, sum, one.forward.y);
      }
      CHECK(difference(all.forward.y, sum) < tolerance<double>.value);
    }
  });
}

TEST_CASE("without sources a state fades") {
  on_each_backend<Run<double>>([](auto& ctx) {
    Run<double> call({.sources = 0, .length = 2}, Layout::rows);
    call.evaluate(ctx);
    const auto& a = call.forward;
    const double dt = a.dt(1, 0, 1) + a.dt(1, 1, 1);
    CHECK(a.final_state(1, 1, 2) ==
          doctest::Approx(std::exp(dt * a.A(1, 2)) * a.initial_state(1, 1, 2)));
  });
}

TEST_CASE("states are kept apart, and updated in place") {
  const std::vector<Index> offsets{0, 5, 5, 6, 20};
  packs_sequences<Run<double>>({.batch = 1, .length = 20, .segments = offsets});
  for (const Index length : {0, 1, 40}) {
    updates_its_state_in_place<Run<double>>({.length = length});
    updates_its_state_in_place<Run<float>>({.length = length});
  }
}

TEST_CASE("gradients equal central differences") {
  const std::vector<Index> offsets{0, 4, 4, 9, 10};
  std::vector<Case> cases{{.batch = 1, .length = 10, .segments = offsets}};
  for (const Index length : {0, 1, 2, 7})
    for (const Index sources : {0, 1, 3})
      cases.push_back({.sources = sources, .batch = 2, .length = length});
  for (const Case& test : cases) {
    CAPTURE(describe(test));
    CAPTURE(test.sources);
    has_its_gradients<Run<double>>(test);
    on_each_backend<Run<double>>([&](auto& ctx) {
      Run<double> start(test, Layout::rows), run(test, Layout::rows);
      compute(ctx, run);
      const auto loss = [&] {
        run.evaluate(ctx);
        return inner_product(run.gradient.dy, run.forward.y) +
               inner_product(run.gradient.dfinal_state, run.forward.final_state);
      };
      for (std::size_t i = 0; i < run.sources.size(); ++i) {
        const auto added = [&](auto member, const auto& values) {
          const auto& from = start.gradients[i].*member;
          const auto& to = run.gradients[i].*member;
          CHECK(gradient_error(loss, values, [&](auto... at) { return to(at...) - from(at...); }) <
                tolerance<double>.gradient);
        };
        using Inputs = ScanInputs<double, HostSpace>;
        added(&Inputs::u, run.inputs[i].u);
        added(&Inputs::dt, run.inputs[i].dt);
        added(&Inputs::A, run.inputs[i].A);
        added(&Inputs::B, run.inputs[i].B);
        added(&Inputs::initial_state, run.inputs[i].initial_state);
      }
    });
  }
}

TEST_CASE("gradients of sources may be left out") {
  on_each_backend<Run<double>>([](auto& ctx) {
    Run<double> with({}, Layout::rows), without({}, Layout::rows);
    with.differentiate(ctx);
    without.gradient.dsources = {};
    CHECK_NOTHROW(without.differentiate(ctx));
    CHECK(difference(without.gradient.ddt, with.gradient.ddt) == 0);
    without.gradients[0] = {};
    without.gradient.dsources = without.gradients;
    CHECK_NOTHROW(without.differentiate(ctx));
  });
}

TEST_CASE("operands that do not fit are named") {
  Context<Reference> ctx;
  Run<double> call({}, Layout::rows);
  const auto wide = zero_tensor(3, 7, 4);
  auto operands = call.forward;
  operands.C = wide;
  CHECK_THROWS_WITH_AS(cascaded_scan(ctx, operands),
                       "cascaded_scan: C must be [3, 7, 3], got [3, 7, 4]", ShapeError);
  operands = call.forward;
  operands.gate = {};
  CHECK_THROWS_WITH_AS(cascaded_scan(ctx, operands), "cascaded_scan: gate is missing", ShapeError);
  call.inputs[1].u = {};
  CHECK_THROWS_WITH_AS(call.evaluate(ctx), "cascaded_scan: source u is missing", ShapeError);
  Run<double> many({.sources = 9}, Layout::rows);
  CHECK_THROWS_WITH_AS(many.evaluate(ctx), "cascaded_scan: 9 sources, 8 at most", ArgumentError);
}

TEST_CASE_TEMPLATE("the scan and its gradient equal the reference at every length", T, float,
                   double) {
  for (const Index length : {0, 1, 2, 31, 32, 33, 63, 64, 65, 1000})
    for (const Index batch : {1, 3})
      equals_reference<Run<T>>(
          {.batch = batch, .length = length, .channels = 20, .initial = batch == 3});
}

TEST_CASE_TEMPLATE("any number of sources, channels and states", T, float, double) {
  for (const Index sources : {0, 1, 3, 8})
    equals_reference<Run<T>>({.sources = sources, .length = 40, .channels = 17, .states = 5});
  for (const Index channels : {1, 15, 16, 40})
    for (const Index states : {1, 2, 4, 7, 16, 33})
      equals_reference<Run<T>>({.length = 35, .channels = channels, .states = states});
  equals_reference<Run<T>>({.batch = 0, .length = 5});
}

TEST_CASE_TEMPLATE("more blocks of channels than one group has, and more sequences than slots", T,
                   float, double) {
  equals_reference<Run<T>>({.batch = 11, .length = 5, .channels = 600, .states = 4});
}

TEST_CASE_TEMPLATE("packed segments, empty ones among them", T, float, double) {
  const Index offsets[] = {0, 0, 1, 4, 4, 110};
  equals_reference<Run<T>>({.batch = 1, .length = 110, .channels = 20, .segments = offsets});
}

TEST_CASE_TEMPLATE("any layout of the sequences", T, float, double) {
  for (const Layout layout : all_layouts)
    equals_reference<Run<T>>({.length = 40, .channels = 20, .states = 5, .layout = layout});
}

TEST_CASE_TEMPLATE("walks, with tiles and chunks that are full and that are not", T, float,
                   BFloat16, Float16) {
  for (const Index sources : {0, 1, 2, 3})
    for (const Index states : {1, 15, 16, 17})
      for (const Index channels : {31, 32, 66})
        for (const Index length : {1, 33, 130})
          equals_reference<Run<T>>({.sources = sources,
                                    .batch = 2,
                                    .length = length,
                                    .channels = channels,
                                    .states = states},
                                   only<Device>);
}

TEST_CASE_TEMPLATE("half types of any layout, packed", T, BFloat16, Float16) {
  const Index offsets[] = {0, 0, 1, 4, 4, 110};
  for (const bool initial : {false, true}) {
    for (const Layout layout : all_layouts)
      equals_reference<Run<T>>({.length = 70, .channels = 20, .initial = initial, .layout = layout},
                               only<Device>);
    equals_reference<Run<T>>(
        {.batch = 1, .length = 110, .channels = 20, .initial = initial, .segments = offsets},
        only<Device>);
  }
}

TEST_CASE("the same thread count gives the same gradient bits") {
  repeats_its_bits<Run<float>>({.batch = 5, .length = 300, .channels = 96});
}

}  // namespace
}  // namespace ssm::test
