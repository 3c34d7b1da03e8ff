// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/ssd_scan.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include "cuda/tensor_cores_on_host.hpp"
#include "support/primitive_laws.hpp"

namespace ssm::test {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

struct Case {
  Index batch = 1, length = 65, heads = 4, channels = 6, groups = 2, terms = 9;
  bool states = true;    // initial and final
  bool optional = true;  // skip and bias
  bool softplus = true;
  double dt_min = 0, dt_max = infinity;
  Segments segments{};
  Layout layout = Layout::rows;
};

template <class T>
struct Run : OperandRun<SsdScan<T, HostSpace>, SsdScanBackward<T, HostSpace>> {
  using Test = Case;
  Run(const Case& test, Layout layout)
      : Run::OperandRun({{'B', test.batch},
                         {'L', test.length},
                         {'H', test.heads},
                         {'P', test.channels},
                         {'G', test.groups},
                         {'N', test.terms}},
                        layout, test.segments,
                        left_out({{"skip", test.optional},
                                  {"dt_bias", test.optional},
                                  {"initial_state", test.states},
                                  {"dinitial_state", test.states},
                                  {"final_state", test.states},
                                  {"dfinal_state", test.states}}),
                        InputGradients::overwritten, layout) {
    this->forward.dt_softplus = test.softplus;
    this->forward.dt_min = test.dt_min;
    this->forward.dt_max = test.dt_max;
    for_each_element([](Wide<T>& x) { x = -std::exp(x); }, this->writable(this->forward.A));
  }
  void evaluate(auto& ctx) { ssd_scan(ctx, this->forward); }
  void differentiate(auto& ctx) { ssd_scan_backward(ctx, this->backward()); }
  template <class B>
  static constexpr bool exists = HasSsdScan<B, T>;
};

/// Few channels and states.
constexpr Case small(Case test) {
  test.channels = 3;
  test.terms = 5;
  return test;
}

/// The numbers that the published values were computed from: FNV-1a of the name, then SplitMix64.
template <class V>
void fill_named(const V& operand, std::string_view name) {
  std::uint64_t seed = 0xcbf29ce484222325U;
  for (const char c : name) seed = (seed ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
  for_each_element(
      [&](double& x) {
        std::uint64_t z = seed += 0x9E3779B97F4A7C15U;
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9U;
        z = (z ^ z >> 27) * 0x94D049BB133111EBU;
        z ^= z >> 31;
        x = static_cast<double>(z >> 40) * 0x1p-23 - 1;
      },
      Run<double>::writable(operand));
}

TEST_CASE("outputs and state are those of the published ssd_minimal_discrete") {
  Run<double> call({.length = 16,
                    .heads = 2,
                    .channels = 4,
                    .groups = 2,
                    .terms = 3,
                    .optional = false,
                    .softplus = false},
                   Layout::rows);
  auto& a = call.forward;
  fill_named(a.x, "ssd.x");
  fill_named(a.B, "ssd.B");
  fill_named(a.C, "ssd.C");
  fill_named(a.dt, "ssd.dt");
  for_each_element([](double& dt) { dt = 0.05 + 0.5 * (dt + 1); }, call.writable(a.dt));
  call.set(a.A, {-1, -4});
  a.initial_state = {};
  const std::array first{-0.0221925962, 0.00484046438, -0.00606216992, 0.0382130015};
  const std::array last{0.0452673272, -0.0203472017, 0.0280485101, -0.0140615822};
  const std::array state{-0.420804281, 0.10514991, 0.537382155};
  constexpr double printed = 0.5e-10 * 1.01;  // of the numbers with fewest digits behind the point
  on_each_backend<Run<double>>([&](auto& ctx) {
    call.evaluate(ctx);
    for (Index p = 0; p < 4; ++p) {
      CHECK(std::abs(a.y(0, 0, 0, p) - first[static_cast<std::size_t>(p)]) < printed);
      CHECK(std::abs(a.y(0, 15, 1, p) - last[static_cast<std::size_t>(p)]) < printed);
    }
    double sum = 0;
    for_each_index(a.y, [&](auto... i) { sum += std::abs(a.y(i...)); });
    CHECK(std::abs(sum - 19.7507196738) < printed);
    for (Index n = 0; n < 3; ++n)
      CHECK(std::abs(a.final_state(0, 1, 0, n) - state[static_cast<std::size_t>(n)]) <
            0.5e-9 * 1.01);
  });
}

TEST_CASE("the step is a softplus within its limits, and the number itself without either") {
  for (const bool softplus : {false, true})
    for (const double limit : {0.3, infinity}) {
      Run<double> call(
          small({.length = 1, .softplus = softplus, .dt_min = -limit, .dt_max = limit}),
          Layout::rows);
      const auto& a = call.forward;
      on_each_backend<Run<double>>([&](auto& ctx) {
        call.evaluate(ctx);
        for (Index h = 0; h < 4; ++h) {
          const double raw = a.dt(0, 0, h) + a.dt_bias(h);
          const double free = softplus ? std::log(1 + std::exp(raw)) : raw;
          const double step = std::min(std::max(free, -limit), limit);
          const double expected = std::exp(step * a.A(h)) * a.initial_state(0, h, 2, 1) +
                                  step * a.x(0, 0, h, 2) * a.B(0, 0, h / 2, 1);
          CHECK(a.final_state(0, h, 2, 1) == doctest::Approx(expected).epsilon(1e-12));
        }
      });
    }
}

TEST_CASE("a large step is finite and equals its argument") {
  Run<double> call(small({.length = 1}), Layout::rows);
  const auto& a = call.forward;
  call.set(a.dt, {1000, -1000, 1000, -1000});
  call.set(a.dt_bias, {0, 0, 0, 0});
  on_each_backend<Run<double>>([&](auto& ctx) {
    call.evaluate(ctx);
    CHECK(a.final_state(0, 0, 1, 2) == 1000 * a.x(0, 0, 0, 1) * a.B(0, 0, 0, 2));
    CHECK(a.final_state(0, 1, 1, 2) == a.initial_state(0, 1, 1, 2));
  });
}

TEST_CASE("states are carried, kept apart, and updated in place") {
  for (const Index length : {1, 2})
    carries_its_state<Run<double>>(small({.batch = 2, .length = length}), {0, 1, length});
  for (const Index length : {63, 64, 65})
    carries_its_state<Run<double>>(small({.batch = 2, .length = length}),
                                   {0, 1, 2, 15, 16, 17, 31, 32, 33, 48, 62, length - 1, length});
  const std::vector<Index> offsets{0, 5, 5, 6, 20};
  packs_sequences<Run<double>>(small({.length = 20, .segments = offsets}));
  for (const Index length : {0, 1, 7, 20}) {
    updates_its_state_in_place<Run<double>>(small({.batch = 2, .length = length}));
#ifdef SSM_TEST_ON_HOST
    updates_its_state_in_place<Run<float>>(
        {.batch = 2, .length = length, .channels = 37, .terms = 21}, on_each_thread_count);
#endif
  }
}

TEST_CASE("single precision agrees with double precision") {
  rounds_to_single_precision<Run>(small({.batch = 2, .length = 64}));
}

TEST_CASE("gradients equal central differences") {
  for (const Index length : {0, 1, 2, 7})
    for (const Index groups : {1, 2, 4})
      for (const bool softplus : {false, true})
        has_its_gradients<Run<double>>(small(
            {.batch = 2, .length = length, .groups = groups, .softplus = softplus, .dt_min = -10}));
  const std::vector<Index> offsets{0, 4, 4, 9, 10};
  has_its_gradients<Run<double>>(small({.length = 10, .segments = offsets}));
}

TEST_CASE("a step that was clamped has no gradient, one between the limits has its own") {
  const auto clear_of_limits = [](Run<double>& run) {
    constexpr double steps[] = {-3, 0, 2};  // softplus: 0.05, 0.69, 2.13
    const auto dt = run.writable(run.forward.dt);
    for_each_index(dt, [&](Index b, Index t, Index h) { dt(b, t, h) = steps[(b + t + h) % 3]; });
    run.set(run.forward.dt_bias, {0, 0, 0, 0});
  };
  const Case test = small({.batch = 2, .length = 7, .dt_min = 0.5, .dt_max = 0.9});
  has_its_gradients<Run<double>>(test, clear_of_limits);
  on_each_backend<Run<double>>([&](auto& ctx) {
    Run<double> call(test, Layout::rows);
    clear_of_limits(call);
    compute(ctx, call);
    for_each_index(call.gradient.ddt, [&](Index b, Index t, Index h) {
      CHECK((call.gradient.ddt(b, t, h) == 0) == ((b + t + h) % 3 != 1));
    });
  });
}

TEST_CASE("everything optional may be left out") {
  does_without_optional_operands<Run<double>>(small({.batch = 2, .length = 7}));
}

TEST_CASE("operands that do not fit are named") {
  Context<Reference> ctx;
  Run<double> call(small({.batch = 2, .length = 7}), Layout::rows);
  const auto refuses = [&](auto change, const char* words) {
    auto operands = call.forward;
    change(operands);
    CHECK_THROWS_WITH_AS(ssd_scan(ctx, operands), words, ShapeError);
  };
  const auto wide = zero_tensor(2, 7, 2, 6);
  const auto three = zero_tensor(2, 7, 3, 5);
  const auto none = zero_tensor(2, 7, 0, 5);
  const auto turned = zero_tensor(2, 4, 5, 3);
  refuses([&](auto& a) { a.C = wide; }, "ssd_scan: C must be [2, 7, 2, 5], got [2, 7, 2, 6]");
  refuses([&](auto& a) { a.B = three; },
          "ssd_scan: B has 3 groups, which do not divide the 4 heads");
  refuses([&](auto& a) { a.B = none; },
          "ssd_scan: B has 0 groups, which do not divide the 4 heads");
  refuses([&](auto& a) { a.initial_state = turned; },
          "ssd_scan: initial_state must be [2, 4, 3, 5], got [2, 4, 5, 3]");
  refuses([&](auto& a) { a.y = {}; }, "ssd_scan: y is missing");
  auto limits = call.forward;
  limits.dt_min = 2;
  limits.dt_max = 1;
  CHECK_THROWS_WITH_AS(ssd_scan(ctx, limits), "ssd_scan: dt_min is greater than dt_max",
                       ArgumentError);
  const auto longer = zero_tensor(2, 8, 4, 3);
  auto gradients = call.backward();
  gradients.dy = longer;
  CHECK_THROWS_WITH_AS(ssd_scan_backward(ctx, gradients),
                       "ssd_scan_backward: dy must be [2, 7, 4, 3], got [2, 8, 4, 3]", ShapeError);
}

TEST_CASE_TEMPLATE("the scan equals the reference at every length", T, float, double) {
  for (const Index length : {0, 1, 2, 63, 64, 65, 300})
    for (const Index batch : {1, 3})
      for (const bool states : {false, true})
        equals_reference<Run<T>>({.batch = batch, .length = length, .states = states});
}

TEST_CASE_TEMPLATE("any widths, groups and numbers of states", T, float, double) {
  for (const Index channels : {0, 1, 3, 4, 9, 32})
    for (const Index terms : {0, 1, 7, 16, 33})
      for (const Index groups : {1, 3})
        for (const Index length : {1, 17})
          equals_reference<Run<T>>({.length = length,
                                    .heads = 3,
                                    .channels = channels,
                                    .groups = groups,
                                    .terms = terms});
}

TEST_CASE_TEMPLATE("a head that is alone is divided among the threads", T, float, double) {
  for (const Index channels : {1, 5, 64})
    equals_reference<Run<T>>({.length = 70, .heads = 1, .channels = channels, .groups = 1});
}

TEST_CASE_TEMPLATE("steps as they are, softplus, limits, and nothing optional", T, float, double) {
  for (const bool softplus : {false, true})
    for (const bool optional : {false, true}) {
      equals_reference<Run<T>>({.optional = optional, .softplus = softplus});
      equals_reference<Run<T>>(
          {.optional = optional, .softplus = softplus, .dt_min = 0.1, .dt_max = 0.7});
    }
}

TEST_CASE_TEMPLATE("any layout of the operands", T, float, double) {
  for (const Layout layout : all_layouts)
    for (const Index length : {1, 30})
      equals_reference<Run<T>>({.batch = 2, .length = length, .layout = layout});
}

TEST_CASE_TEMPLATE("packed segments do not see each other", T, float, double) {
  const Index offsets[] = {0, 0, 1, 60, 60, 130};
  for (const bool states : {false, true})
    equals_reference<Run<T>>({.length = 130, .states = states, .segments = offsets});
}

#ifdef SSM_TEST_ON_CUDA
using TensorCores = BasicCuda<HostSpace, cuda::TensorCoreKernels>;

TEST_CASE_TEMPLATE("half types on tensor cores, and in float where those cannot", T, BFloat16,
                   Float16) {
  cuda::pretend_tensor_core_kernels(true);
  const auto equal = [](const Case& test) { equals_reference<Run<T>>(test, only<TensorCores>); };
  for (const Index length : {0, 1, 31, 32, 127, 128, 129, 300})
    for (const bool states : {false, true})
      equal({.batch = 2, .length = length, .channels = 16, .terms = 32, .states = states});
  for (const Index channels : {16, 64, 80, 144, 12})
    for (const Index terms : {16, 48, 128, 144, 24})
      for (const Index groups : {1, 2, 4})
        equal({.length = 140, .channels = channels, .groups = groups, .terms = terms});
  for (const Layout layout : all_layouts)
    equal({.batch = 2, .length = 140, .channels = 16, .terms = 16, .layout = layout});
  for (const bool optional : {false, true})
    equal({.length = 140,
           .channels = 32,
           .terms = 16,
           .optional = optional,
           .dt_min = 0.1,
           .dt_max = 0.7});
  const Index offsets[] = {0, 0, 1, 60, 60, 230, 400};
  for (const bool states : {false, true})
    equal({.length = 400, .channels = 16, .terms = 48, .states = states, .segments = offsets});
  repeats_its_bits<Run<T>>({.length = 300, .channels = 16, .terms = 32});
  cuda::pretend_tensor_core_kernels(false);
}
#endif

}  // namespace
}  // namespace ssm::test
