// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/attention.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "cuda/tensor_cores_on_host.hpp"
#include "support/primitive_laws.hpp"

namespace ssm::test {
namespace {

struct Case {
  Index batch = 1, length = 65, cached = 0, heads = 3, width = 8;
  double scale = 1.7;
  Segments segments{};
  // by sequence; then `cached` is at least the largest of them
  std::span<const std::int64_t> cached_of{};
  Layout layout = Layout::rows;

  Index key_rows() const { return cached_of.empty() ? batch : sequence_count(batch, segments); }
};

template <class T>
struct Run : OperandRun<Attention<T, HostSpace>, AttentionBackward<T, HostSpace>> {
  using Test = Case;
  Run(const Case& test, Layout layout)
      : Run::OperandRun({{'B', test.batch},
                         {'L', test.length},
                         {'R', test.key_rows()},
                         {'T', test.cached + test.length},
                         {'H', test.heads},
                         {'K', test.width}},
                        layout, test.segments) {
    this->forward.scale = test.scale;
    this->forward.cached = test.cached_of;
    if (test.cached_of.empty()) return;
    // What nothing may read is NaN.
    for_each_sequence(test.batch, test.length, test.segments, [&](const Sequence& s) {
      const auto used = test.cached_of[static_cast<std::size_t>(s.row)] + s.end - s.begin;
      for (const auto& keys : {this->forward.k, this->forward.v})
        fill(this->writable(keys)
                 .slice(0, s.row, s.row + 1)
                 .slice(1, used, test.cached + test.length),
             static_cast<T>(std::numeric_limits<Wide<T>>::quiet_NaN()));
    });
  }
  void evaluate(auto& ctx) { attention(ctx, this->forward); }
  void differentiate(auto& ctx) { attention_backward(ctx, this->backward()); }
  template <class B>
  static constexpr bool exists = HasAttention<B, T>;
};

/// Two heads of four channels.
constexpr Case small(Case test) {
  test.heads = 2;
  test.width = 4;
  test.scale = 0.5;
  return test;
}

/// Three packed sequences of 4, 0 and 2 new positions behind 3, 1 and 0 cached ones, or a batch of
/// three with two new ones each.
constexpr Index cached_offsets[] = {0, 4, 4, 6};
constexpr std::int64_t cached_lengths[] = {3, 1, 0};
Case behind_caches(bool is_packed) {
  return small({.batch = is_packed ? 1 : 3,
                .length = is_packed ? 6 : 2,
                .cached = is_packed ? 2 : 6,
                .segments = is_packed ? Segments(cached_offsets) : Segments(),
                .cached_of = cached_lengths});
}

TEST_CASE("two positions give the hand-worked numbers") {
  Run<double> call({.length = 2, .heads = 1, .width = 1, .scale = 1}, Layout::rows);
  auto& a = call.forward;
  call.set(a.q, {1, 1});
  call.set(a.k, {0, std::log(3.0)});
  call.set(a.v, {10, 20});
  on_each_backend<Run<double>>([&](auto& ctx) {
    call.evaluate(ctx);
    CHECK(difference(a.y, tensor_of({10, 17.5}).reshape(1, 2, 1, 1)) < tolerance<double>.value);
    CHECK(difference(a.log_sum, tensor_of({0, std::log(4.0)}).reshape(1, 2, 1)) <
          tolerance<double>.value);
  });
}

/// The positions begin … end−1 of row `row`, whose first `total` keys are those from `first` on.
void expect_alone(auto& ctx, const Run<double>& from, Index row, Index begin, Index end,
                  Index key_row, Index first, Index total) {
  Run<double> alone(small({.length = end - begin}), Layout::rows);
  auto& a = alone.forward;
  a.q = from.forward.q.slice(0, row, row + 1).slice(1, begin, end);
  a.k = from.forward.k.slice(0, key_row, key_row + 1).slice(1, first, first + total);
  a.v = from.forward.v.slice(0, key_row, key_row + 1).slice(1, first, first + total);
  alone.evaluate(ctx);
  CHECK(difference(a.y, from.forward.y.slice(0, row, row + 1).slice(1, begin, end)) <=
        allowed_beside(ctx));
}

TEST_CASE("queries after a cache equal the end of the whole sequence") {
  on_each_backend<Run<double>>([&](auto& ctx) {
    Run<double> whole(small({.batch = 3, .length = 65}), Layout::rows);
    whole.evaluate(ctx);
    for (Index b = 0; b < 3; ++b) expect_alone(ctx, whole, b, 63, 65, b, 0, 65);
  });
}

TEST_CASE("packed segments equal separate sequences") {
  const std::vector<Index> offsets{0, 4, 4, 5, 12};
  on_each_backend<Run<double>>([&](auto& ctx) {
    Run<double> packed(small({.length = 12, .segments = offsets}), Layout::rows);
    packed.evaluate(ctx);
    for_each_sequence(1, 12, offsets, [&](const Sequence& s) {
      expect_alone(ctx, packed, 0, s.begin, s.end, 0, s.begin, s.end - s.begin);
    });
  });
}

TEST_CASE("sequences with as many cached positions as they say equal separate calls") {
  for (const bool is_packed : {true, false}) {
    CAPTURE(is_packed);
    const Case test = behind_caches(is_packed);
    on_each_backend<Run<double>>([&](auto& ctx) {
      Run<double> call(test, Layout::rows);
      call.evaluate(ctx);
      for_each_sequence(test.batch, test.length, test.segments, [&](const Sequence& s) {
        const Index total = cached_lengths[s.row] + s.end - s.begin;
        expect_alone(ctx, call, s.batch, s.begin, s.end, s.row, 0, total);
      });
    });
  }
}

TEST_CASE_TEMPLATE("scores of thousands stay finite", T, float, double) {
  const auto with_large_scores = [] {
    Run<T> run(small({.length = 64}), Layout::rows);
    for_each_element([](T& q) { q *= T(1e4); }, run.writable(run.forward.q));
    return run;
  };
  NanContext<Reference> reference;
  Run<T> expected = with_large_scores();
  expected.evaluate(reference);
  for_each_index(expected.forward.y,
                 [&](auto... i) { CHECK(std::abs(expected.forward.y(i...)) <= 1); });
  on_other_backends<Run<T>>([&](auto& ctx) {
    Run<T> actual = with_large_scores();
    actual.evaluate(ctx);
    CHECK(difference(actual.forward.y, expected.forward.y) < tolerance<T>.value);
  });
}

TEST_CASE("gradients equal central differences, cached positions included") {
  for (const Index length : {0, 1, 5})
    for (const Index cached : {0, 3})
      has_its_gradients<Run<double>>(small({.batch = 2, .length = length, .cached = cached}));
  const std::vector<Index> offsets{0, 2, 2, 6};
  has_its_gradients<Run<double>>(small({.length = 6, .segments = offsets}));
}

TEST_CASE("gradients of sequences behind different numbers of cached positions") {
  // Numbers in place of NaN, so that differences of what nothing reads are zero.
  const auto finite = [](Run<double>& run) {
    for (const auto& keys : {run.forward.k, run.forward.v})
      for_each_element([](double& x) { x = std::isnan(x) ? 1 : x; }, run.writable(keys));
  };
  for (const bool is_packed : {true, false})
    has_its_gradients<Run<double>>(behind_caches(is_packed), finite);
}

TEST_CASE("numbers of cached positions that do not fit are refused") {
  Context<Reference> ctx;
  Run<double> call(behind_caches(true), Layout::rows);
  std::vector<std::int64_t> cached;
  const auto set_cached = [&](std::initializer_list<std::int64_t> numbers) {
    cached = numbers;
    call.forward.cached = cached;
  };
  set_cached({3, 1});
  CHECK_THROWS_WITH_AS(call.evaluate(ctx),
                       "attention: cached must have 3 elements, one for each sequence, got 2",
                       ShapeError);
  set_cached({3, 1, -1});
  CHECK_THROWS_WITH_AS(call.evaluate(ctx), "attention: cached must not be negative, got -1",
                       ShapeError);
  set_cached({5, 1, 0});
  CHECK_THROWS_WITH_AS(call.evaluate(ctx), "attention: k has 8 positions for 9 queries",
                       ShapeError);
  set_cached({std::numeric_limits<std::int64_t>::max(), 1, 0});
  CHECK_THROWS_AS(call.evaluate(ctx), ShapeError);
}

TEST_CASE("fewer keys than queries, or packed keys of another length, are refused") {
  Context<Reference> ctx;
  Run<double> call(small({.length = 5}), Layout::rows);
  const auto short_keys = zero_tensor(1, 4, 2, 4);
  call.forward.k = call.forward.v = short_keys;
  CHECK_THROWS_WITH_AS(call.evaluate(ctx), "attention: k has 4 positions for 5 queries",
                       ShapeError);
  const std::vector<Index> offsets{0, 5};
  Run<double> packed(small({.length = 5, .cached = 2, .segments = offsets}), Layout::rows);
  CHECK_THROWS_AS(packed.evaluate(ctx), ShapeError);
}

TEST_CASE_TEMPLATE("attention and its gradient equal the reference at every length", T, float,
                   double) {
  for (const Index length : {0, 1, 2, 4, 5, 15, 16, 17, 47, 48, 49, 63, 64, 65, 130, 200})
    for (const Index batch : {1, 3}) equals_reference<Run<T>>({.batch = batch, .length = length});
}

TEST_CASE_TEMPLATE("any width of the heads", T, float, double) {
  for (const Index width : {1, 2, 7, 16, 31, 32, 33, 64, 80})
    for (const Index length : {3, 20, 70})
      equals_reference<Run<T>>({.length = length, .heads = 2, .width = width});
}

TEST_CASE_TEMPLATE("new positions see the cached ones", T, float, double) {
  for (const Index cached : {1, 63, 100, 777})
    for (const Index length : {0, 1, 3, 50})
      equals_reference<Run<T>>({.batch = 2, .length = length, .cached = cached});
  equals_reference<Run<T>>({.length = 2, .cached = 2500});
}

TEST_CASE("a step sees the cached positions in heads of whole vectors") {
  const std::vector<std::int64_t> cached{600, 0, 31, 1100};
  for (const Index width : {32, 64, 128}) {
    for (const Index before : {1, 63, 300, 1100})
      for (const Index length : {1, 3})
        equals_reference<Run<float>>(
            {.batch = 2, .length = length, .cached = before, .width = width});
    for (const Layout layout : all_layouts)
      equals_reference<Run<float>>({.batch = 4,
                                    .length = 2,
                                    .cached = 1100,
                                    .width = width,
                                    .cached_of = cached,
                                    .layout = layout});
    repeats_its_bits<Run<float>>({.length = 1, .cached = 1500, .width = width});
  }
}

TEST_CASE_TEMPLATE("any layout of the operands", T, float, double) {
  for (const Layout layout : all_layouts)
    for (const Index length : {2, 60})
      equals_reference<Run<T>>({.length = length, .layout = layout});
}

TEST_CASE_TEMPLATE("packed segments do not see each other", T, float, double) {
  const Index offsets[] = {0, 0, 1, 60, 60, 130, 130};
  equals_reference<Run<T>>({.length = 130, .segments = offsets});
}

TEST_CASE_TEMPLATE("every sequence has as many cached positions as it says, packed or not", T,
                   float, double) {
  const std::vector<std::int64_t> cached{3, 0, 70, 1, 9};
  const std::vector<Index> offsets{0, 0, 4, 5, 70, 130};
  for (const Layout layout : all_layouts) {
    equals_reference<Run<T>>(
        {.length = 130, .cached = 71, .segments = offsets, .cached_of = cached, .layout = layout});
    for (const Index length : {0, 1, 3, 40})
      equals_reference<Run<T>>(
          {.batch = 5, .length = length, .cached = 71, .cached_of = cached, .layout = layout});
  }
}

/// Calls visit() for the general kernels, then for those of the tensor cores where there are any.
void on_each_kernel(auto&& visit) {
  visit();
#ifdef SSM_TEST_ON_CUDA
  cuda::pretend_tensor_core_kernels(true);
  visit();
  cuda::pretend_tensor_core_kernels(false);
#endif
}

TEST_CASE_TEMPLATE("half types at the edges of tiles of queries and keys", T, BFloat16, Float16) {
  on_each_kernel([] {
    for (const Index length : {0, 1, 16, 17, 31, 63, 64, 65, 127, 128, 129, 200})
      equals_reference<Run<T>>({.batch = 2, .length = length, .width = 64, .scale = 0.2});
  });
}

TEST_CASE_TEMPLATE("half types in heads that fill a tile, do not, or have none", T, BFloat16,
                   Float16) {
  on_each_kernel([] {
    for (const Index width : {1, 8, 12, 40, 72, 96, 104, 128, 136, 192, 256, 264})
      for (const Index length : {3, 70, 150})
        equals_reference<Run<T>>({.length = length, .heads = 2, .width = width, .scale = 0.1});
  });
}

TEST_CASE_TEMPLATE("half types in any layout, and with a scale that is not positive", T, BFloat16,
                   Float16) {
  on_each_kernel([] {
    for (const Layout layout : all_layouts)
      for (const double scale : {0.3, 0.0, -0.3})
        equals_reference<Run<T>>({.batch = 2, .length = 70, .scale = scale, .layout = layout});
  });
}

TEST_CASE_TEMPLATE("half types behind caches of any length, few queries and many", T, BFloat16,
                   Float16) {
  on_each_kernel([] {
    for (const Index cached : {1, 63, 128, 777, 1100})
      for (const Index length : {0, 1, 3, 16})
        equals_reference<Run<T>>({.batch = 2,
                                  .length = length,
                                  .cached = cached,
                                  .heads = 1,
                                  .width = 64,
                                  .scale = 0.2});
    for (const Index cached : {1, 64, 150})
      for (const Index length : {17, 130})
        equals_reference<Run<T>>(
            {.length = length, .cached = cached, .heads = 1, .width = 64, .scale = 0.2});
    for (const Index width : {128, 200})
      equals_reference<Run<T>>(
          {.length = 2, .cached = 600, .heads = 1, .width = width, .scale = 0.1});
  });
}

TEST_CASE("half types in long sequences, of wide heads and of narrow ones") {
  on_each_kernel([] {
    equals_reference<Run<BFloat16>>({.length = 1030, .heads = 1, .width = 72, .scale = 0.1});
    equals_reference<Run<Float16>>(
        {.length = 1030, .cached = 70, .heads = 1, .width = 104, .scale = 0.1});
    equals_reference<Run<BFloat16>>({.length = 3080, .heads = 1, .width = 40, .scale = 0.1});
  });
}

TEST_CASE_TEMPLATE("half types in packed sequences, behind caches of their own too", T, BFloat16,
                   Float16) {
  const std::vector<Index> offsets{0, 0, 1, 128, 129, 200, 200};
  const std::vector<std::int64_t> cached{3, 0, 100, 1, 9, 2};
  on_each_kernel([&] {
    for (const Index width : {32, 128}) {
      const Case packed{
          .length = 200, .heads = 1, .width = width, .scale = 0.2, .segments = offsets};
      equals_reference<Run<T>>(packed);
      Case behind_caches = packed;
      behind_caches.cached = 105;
      behind_caches.cached_of = cached;
      equals_reference<Run<T>>(behind_caches);
    }
    for (const Index length : {1, 20, 70})
      equals_reference<Run<T>>({.batch = 6,
                                .length = length,
                                .cached = 520,
                                .heads = 1,
                                .width = 16,
                                .scale = 0.2,
                                .cached_of = cached});
  });
}

TEST_CASE_TEMPLATE("the same call in half types gives the same bits", T, BFloat16, Float16) {
  on_each_kernel([] {
    repeats_its_bits<Run<T>>({.batch = 2, .length = 150, .width = 64, .scale = 0.2});
    repeats_its_bits<Run<T>>({.length = 1, .cached = 1500, .width = 64, .scale = 0.2});
  });
}

constexpr Index rotary_offsets[] = {0, 0, 70, 150};
constexpr std::int64_t rotary_starts[] = {5, 41, 2};

struct RotaryCase {
  Index dimension = 0, batch = 1, length = 150, heads = 2, width = 10;
  bool packed = false;
  int direction = 1;
  Layout layout = Layout::rows;
};

template <class T>
struct RotaryRun : OperandRun<Rotary<T, HostSpace>, NoGradient> {
  using Test = RotaryCase;
  RotaryRun(const RotaryCase& test, Layout layout)
      : RotaryRun::OperandRun(
            {{'B', test.batch}, {'L', test.length}, {'H', test.heads}, {'K', test.width}}, layout,
            test.packed ? Segments(rotary_offsets) : Segments()) {
    this->forward.dimension = test.dimension;
    this->forward.base = 100;
    this->forward.position = 37;
    if (test.packed) this->forward.positions = rotary_starts;
    this->forward.direction = test.direction;
  }
  void evaluate(auto& ctx) { rotary(ctx, this->forward); }
  template <class B>
  static constexpr bool exists = HasAttention<B, T>;
};

TEST_CASE("channel j turns with channel j + r/2 and the rest stays") {
  RotaryRun<double> call({.dimension = 4, .length = 1, .heads = 1, .width = 5}, Layout::rows);
  auto& a = call.forward;
  call.set(a.x, {1, 2, 3, 4, 5});
  a.base = 4;
  a.position = 3;
  const double first = 3;
  const double second = 3 / 2.0;  // base^(−2/4)
  const auto expected = tensor_of(
      {std::cos(first) - 3 * std::sin(first), 2 * std::cos(second) - 4 * std::sin(second),
       3 * std::cos(first) + std::sin(first), 4 * std::cos(second) + 2 * std::sin(second), 5});
  on_each_backend<RotaryRun<double>>([&](auto& ctx) {
    call.evaluate(ctx);
    CHECK(difference(a.y, expected.reshape(1, 1, 1, 5)) < tolerance<double>.value);
  });
}

TEST_CASE("the opposite direction undoes a rotation, in place") {
  on_each_backend<RotaryRun<double>>([](auto& ctx) {
    RotaryRun<double> call({.dimension = 6, .batch = 3, .length = 65, .width = 6}, Layout::rows);
    auto& a = call.forward;
    const auto x = clone(a.x);
    a.y = call.writable(a.x);
    call.evaluate(ctx);
    CHECK(difference(a.y, x) > tolerance<double>.value);
    a.direction = -1;
    call.evaluate(ctx);
    CHECK(difference(a.y, x) < tolerance<double>.value);
  });
}

TEST_CASE("every sequence starts at its own position, packed or not, or at the same") {
  for (const bool packed : {false, true})
    for (const bool same : {false, true}) {
      CAPTURE(packed);
      CAPTURE(same);
      RotaryRun<double> all(
          {.dimension = 4, .batch = packed ? 1 : 3, .length = packed ? 150 : 9, .packed = packed},
          Layout::rows);
      auto& a = all.forward;
      a.positions = same ? std::span<const std::int64_t>() : std::span(rotary_starts);
      on_each_backend<RotaryRun<double>>([&](auto& ctx) {
        all.evaluate(ctx);
        for_each_sequence(a.x.extent(0), a.x.extent(1), a.segments, [&](const Sequence& s) {
          const auto rows = [&](const auto& view) {
            return view.slice(0, s.batch, s.batch + 1).slice(1, s.begin, s.end);
          };
          RotaryRun<double> alone({.dimension = 4, .length = s.end - s.begin}, Layout::rows);
          alone.forward.x = rows(a.x);
          alone.forward.position = same ? a.position : rotary_starts[s.row];
          alone.evaluate(ctx);
          CHECK(difference(rows(a.y), alone.forward.y) <= allowed_beside(ctx));
        });
        // and what is left of a sequence goes on from its place in it
        RotaryRun<double> rest({.dimension = 4, .length = 5}, Layout::rows);
        const Index row = packed ? 0 : 1, begin = packed ? 145 : 4;
        const Index sequence = packed ? 2 : 1, passed = packed ? 75 : 4;
        rest.forward.x = a.x.slice(0, row, row + 1).slice(1, begin, begin + 5);
        rest.forward.position = (same ? a.position : rotary_starts[sequence]) + passed;
        rest.evaluate(ctx);
        CHECK(difference(a.y.slice(0, row, row + 1).slice(1, begin, begin + 5), rest.forward.y) <=
              allowed_beside(ctx));
      });
    }
}

TEST_CASE("channels that cannot be rotated and positions that are too few are refused") {
  Context<Reference> ctx;
  for (const Index dimension : {3, 12, -2}) {
    RotaryRun<double> call({.dimension = dimension, .length = 1}, Layout::rows);
    CHECK_THROWS_AS(call.evaluate(ctx), ShapeError);
  }
  RotaryRun<double> call({.dimension = 4, .packed = true}, Layout::rows);
  call.forward.positions = std::span(rotary_starts).first(2);
  CHECK_THROWS_AS(call.evaluate(ctx), ShapeError);
}

TEST_CASE_TEMPLATE("rotary embeddings equal the reference, forwards and back, in place too", T,
                   float, double, BFloat16, Float16) {
  for (const Index dimension : {0, 2, 6, 10})
    for (const bool packed : {false, true})
      for (const int direction : {1, -1})
        for (const Layout layout : all_layouts) {
          const RotaryCase test{
              .dimension = dimension, .packed = packed, .direction = direction, .layout = layout};
          equals_reference<RotaryRun<T>>(test);
          on_other_backends<RotaryRun<T>>([&](auto& ctx) {
            RotaryRun<T> apart(test, layout), in_place(test, layout);
            in_place.forward.y = in_place.writable(in_place.forward.x);
            apart.evaluate(ctx);
            in_place.evaluate(ctx);
            CHECK(difference(in_place.forward.y, apart.forward.y) < tolerance<T>.value);
          });
        }
}

}  // namespace
}  // namespace ssm::test
