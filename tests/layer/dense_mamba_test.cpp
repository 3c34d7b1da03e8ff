// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/dense_mamba.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ssm/core/elementwise.hpp"
#include "ssm/core/scalar.hpp"  // tolerance
#include "support/backends.hpp"
#include "support/gradient_check.hpp"
#include "support/test_tensor.hpp"

// Behind the vector headers: it defines what they declare.
#include "ssm/laws/allocation_count.hpp"

namespace ssm::test {
namespace {

constexpr Index channels = 3;
constexpr Index inner = 5;
constexpr Index states = 4;
constexpr std::size_t depth = 3;  // the last reads both before it

using Tensor3 = DynamicTensor<double, 3>;

/// Three layers in a row, each reading the hidden states of all before it.
template <class B, DenseFusion fusion = DenseFusion::readout>
struct Tower {
  using Layer = DenseMamba<DenseMambaConfig{
      .mamba = {.channels = channels, .inner = inner, .state = states}, .select_hidden = 2}>;
  using Parameters = typename Layer::template Parameters<double>;
  using State = typename Layer::template State<double>;
  using Hidden = typename Layer::template Hidden<double>;
  using Kept = typename Layer::template KeptHidden<double>;

  Tower(Index batch, Index length, Segments offsets = {})
      : segments(offsets), x(random_tensor("x", batch, length, channels)) {
    ctx.workspace().fill_with_nan(true);
    for (std::size_t i = 0; i < depth; ++i) {
      parameters.push_back(layer.template initialize<double>(ctx, Seed{i + 1}));
      gradients.push_back(layer.template zero_parameters<double>(ctx));
      for (auto* list : {&initial, &final, &dfinal, &dinitial})
        list->push_back(layer.template initial_state<double>(ctx, sequence_count(batch, segments)));
      randomize(initial[i], "");
      randomize(dfinal[i], "gradient of ");
      y.push_back(nan_tensor(batch, length, channels));
    }
    disturb();
    dy = random_tensor("dy", batch, length, channels);
    dx = nan_tensor(batch, length, channels);
  }

  static void randomize(State& state, const std::string& prefix) {
    Layer::for_each_state(
        [&](const std::string& name, auto& tensor) {
          const auto n = tensor.extents().to_array();
          copy(random_tensor(prefix + name, n[0], n[1], n[2]), tensor);
        },
        state);
  }

  /// The initial steps are so short, and the outputs so small, that gradients would drown in
  /// rounding.
  void disturb() {
    const Random random(Seed{3});
    std::uint64_t i = 0;
    for (Parameters& p : parameters)
      for_each_parameter(
          [&](const ParameterSpec& spec, auto& tensor) {
            for_each_element([&](double& e) { e += 0.3 * random.normal(i++); }, tensor);
            if (spec.name == "dt_proj.bias") for_each_element([&](double& e) { e += 4; }, tensor);
          },
          p);
  }

  template <class Frame>
  std::vector<Hidden> buffers(Frame& frame, std::vector<Kept>* tape) {
    std::vector<Hidden> all;
    for (std::size_t i = 0; i < depth; ++i)
      all.push_back(layer.template hidden_buffer<double>(
          ctx, frame, tape ? &(*tape)[i] : nullptr,
          HiddenShape{.batch = x.extent(0),
                      .length = x.extent(1),
                      .sequences = sequence_count(x.extent(0), segments),
                      .has_initial_state = true}));
    return all;
  }
  std::span<const Hidden> before(const std::vector<Hidden>& all, std::size_t i) const {
    return std::span<const Hidden>(all).first(i);
  }

  void run(bool with_tapes = false) {
    auto frame = ctx.workspace().frame();
    kept.resize(depth);
    tapes.resize(depth);
    const auto hidden = buffers(frame, with_tapes ? &kept : nullptr);
    for (std::size_t i = 0; i < depth; ++i)
      layer.evaluate(ctx, parameters[i], i == 0 ? x : y[i - 1], y[i],
                     with_tapes ? &tapes[i] : nullptr,
                     {.segments = segments, .initial_state = &initial[i], .final_state = &final[i]},
                     before(hidden, i), hidden[i]);
  }

  void run_backward() {
    run(true);
    auto frame = ctx.workspace().frame();
    const auto hidden = buffers(frame, &kept);
    const auto dhidden = buffers(frame, nullptr);
    for (const Hidden& h : dhidden) {
      for (const auto& view : {h.u, h.dt, h.B, h.initial_state}) ssm::fill(view, 0);
      ssm::fill(h.A, 0);
    }
    Tensor3 current = dy.clone();
    for (std::size_t i = depth; i-- > 0;) {
      layer.differentiate(ctx, parameters[i], tapes[i], current, dx, gradients[i],
                          {.final_state = &dfinal[i], .initial_state = &dinitial[i]},
                          before(hidden, i), hidden[i], before(dhidden, i), dhidden[i]);
      current = dx.clone();
    }
  }

  double loss() {
    run();
    double sum = inner_product(dy, y.back());
    for (std::size_t i = 0; i < depth; ++i)
      Layer::for_each_state(
          [&](const std::string&, auto& d, auto& state) { sum += inner_product(d, state); },
          dfinal[i], final[i]);
    return sum;
  }

  Context<B> ctx;
  Layer layer{DenseMambaOptions{.fusion = fusion}};
  Segments segments;
  Tensor3 x, dy, dx;
  std::vector<Tensor3> y;
  std::vector<Parameters> parameters, gradients;
  std::vector<State> initial, final, dfinal, dinitial;
  std::vector<typename Layer::template Tape<double>> tapes;
  std::vector<Kept> kept;
};

/// Calls visit<B, fusion>() for every backend and both kinds of fusion.
template <class Visit>
void for_each_backend_and_fusion(Visit&& visit) {
  laws::for_each_backend([&]<class B>(const char* name) {
    CAPTURE(std::string(name));
    visit.template operator()<B, DenseFusion::readout>();
    INFO("carried");
    visit.template operator()<B, DenseFusion::carried>();
  });
}

/// A source's states, moved on by one position.
template <class Kept, class State>
void advance(const Kept& source, Index t, State& state) {
  for_each_index(state, [&](Index b, Index d, Index n) {
    double& h = state(b, d, n);
    h = std::exp(source.dt(b, t, d) * source.A(d, n)) * h +
        source.dt(b, t, d) * source.B(b, t, n) * source.u(b, t, d);
  });
}

TEST_CASE("reading by another scan equals reading the source's states themselves") {
  laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    Tower<B> tower(2, 6);
    tower.run(true);
    const auto& source = tower.kept[0];
    const auto& tape = tower.tapes[1];
    auto states_of_source = clone(tower.initial[0].ssm);
    for (Index t = 0; t < 6; ++t) {
      advance(source, t, states_of_source);
      for (Index b = 0; b < 2; ++b)
        for (Index d = 0; d < inner; ++d) {
          double read = 0;
          for (Index n = 0; n < states; ++n)
            read += tape.mamba.projected(b, t, 1 + states + n) * states_of_source(b, d, n);
          CHECK(std::abs(tape.reads(b, t, d) - read) < tolerance<double>.value);
        }
    }
    CHECK(difference(states_of_source, tower.final[0].ssm) < tolerance<double>.value);
  });
}

TEST_CASE("carried fusion is one recurrence that what is selected from the sources enters") {
  laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    Tower<B, DenseFusion::carried> tower(2, 6);
    tower.run(true);
    const auto& tape = tower.tapes[2];
    auto first = tower.initial[0].ssm.clone(), second = tower.initial[1].ssm.clone();
    auto fused = tower.initial[2].ssm.clone();
    for_each_index(fused, [&](auto... i) { fused(i...) += tower.initial[2].fused(i...); });
    for (Index t = 0; t < 6; ++t) {
      advance(tower.kept[0], t, first);
      advance(tower.kept[1], t, second);
      advance(tower.kept[2], t, fused);
      for_each_index(fused, [&](Index b, Index d, Index n) {
        fused(b, d, n) += tape.gate(b, t, d) * (first(b, d, n) + second(b, d, n));
      });
      for (Index b = 0; b < 2; ++b)
        for (Index d = 0; d < inner; ++d) {
          double read = tower.parameters[2].mamba.D(d) * tower.kept[2].u(b, t, d);
          for (Index n = 0; n < states; ++n)
            read += tape.mamba.projected(b, t, 1 + states + n) * fused(b, d, n);
          CHECK(std::abs(tape.total(b, t, d) - read) < tolerance<double>.value);
        }
    }
    for_each_index(fused, [&](auto... i) { fused(i...) -= tower.final[2].ssm(i...); });
    CHECK(difference(fused, tower.final[2].fused) < tolerance<double>.value);
  });
}

TEST_CASE("what sources say is forgotten at once where fusion is for reading only") {
  laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    const auto last_after_a_loud_start = []<DenseFusion fusion>(double loud) {
      Tower<B, fusion> tower(1, 4);
      Context<B> ctx;
      auto frame = ctx.workspace().frame();
      const auto hidden = tower.buffers(frame, nullptr);
      for (const auto& view : {hidden[0].u, hidden[0].dt, hidden[0].B, hidden[0].initial_state})
        ssm::fill(view, 0);
      ssm::fill(hidden[0].A, -1e3);  // a source that keeps nothing itself
      for (Index d = 0; d < inner; ++d) {
        hidden[0].u(0, 0, d) = loud;
        for (Index t = 0; t < 4; ++t) hidden[0].dt(0, t, d) = 1;
      }
      for (Index n = 0; n < states; ++n) hidden[0].B(0, 0, n) = 1;
      tower.layer.evaluate(tower.ctx, tower.parameters[1], tower.x, tower.y[1], nullptr, {},
                           tower.before(hidden, 1), hidden[1]);
      return tower.y[1](0, 3, 1);
    };
    const auto readout = [&](double loud) {
      return last_after_a_loud_start.template operator()<DenseFusion::readout>(loud);
    };
    const auto carried = [&](double loud) {
      return last_after_a_loud_start.template operator()<DenseFusion::carried>(loud);
    };
    CHECK(readout(3) == readout(0));
    CHECK(std::abs(carried(3) - carried(0)) > tolerance<double>.value);
    CHECK(carried(0) == doctest::Approx(readout(0)));
  });
}

TEST_CASE("gradients through layers that read each other equal central differences") {
  for_each_backend_and_fusion([]<class B, DenseFusion fusion>() {
    Tower<B, fusion> tower(2, 5);
    tower.run_backward();
    const auto loss = [&] { return tower.loss(); };
    const double bound = tolerance<double>.gradient;
    CHECK(gradient_error(loss, tower.x, tower.dx) < bound);
    for (std::size_t i = 0; i < depth; ++i) {
      CAPTURE(i);
      for_each_parameter(
          [&](const ParameterSpec& spec, auto& values, auto& gradient) {
            CAPTURE(spec.name);
            CHECK(gradient_error(loss, values, gradient) < bound);
          },
          tower.parameters[i], tower.gradients[i]);
      Tower<B, fusion>::Layer::for_each_state(
          [&](const std::string& part, auto& values, auto& gradient) {
            CAPTURE(part);
            CHECK(gradient_error(loss, values, gradient) < bound);
          },
          tower.initial[i], tower.dinitial[i]);
    }
  });
}

TEST_CASE("a tower in two parts with the states between them equals the whole") {
  for_each_backend_and_fusion([]<class B, DenseFusion fusion>() {
    for (const Index cut : {0, 1, 30, 64, 65}) {
      CAPTURE(cut);
      Tower<B, fusion> whole(2, 65);
      whole.run();
      Tower<B, fusion> first(2, cut);
      first.x = positions(whole.x, 0, cut);
      first.run();
      Tower<B, fusion> second(2, 65 - cut);
      second.x = positions(whole.x, cut, 65);
      second.initial = std::move(first.final);
      second.run();
      CHECK(difference(first.y.back(), positions(whole.y.back(), 0, cut)) <
            tolerance<double>.value);
      CHECK(difference(second.y.back(), positions(whole.y.back(), cut, 65)) <
            tolerance<double>.value);
    }
  });
}

TEST_CASE("packed segments of a tower equal separate sequences") {
  for_each_backend_and_fusion([]<class B, DenseFusion fusion>() {
    const std::vector<Index> offsets{0, 4, 4, 9, 10};
    Tower<B, fusion> packed(1, 10, offsets);
    packed.run_backward();
    for (Index i = 0; i + 1 < static_cast<Index>(offsets.size()); ++i) {
      const Index begin = offsets[static_cast<std::size_t>(i)];
      const Index end = offsets[static_cast<std::size_t>(i) + 1];
      Tower<B, fusion> alone(1, end - begin);
      alone.x = positions(packed.x, begin, end);
      alone.dy = positions(packed.dy, begin, end);
      for (std::size_t l = 0; l < depth; ++l)
        for (auto [to, from] : {std::pair{&alone.initial[l], &packed.initial[l]},
                                std::pair{&alone.dfinal[l], &packed.dfinal[l]}})
          Tower<B, fusion>::Layer::for_each_state(
              [&](const std::string&, auto& target, auto& source) {
                copy(source.slice(0, i, i + 1), target);
              },
              *to, *from);
      alone.run_backward();
      CHECK(difference(alone.y.back(), positions(packed.y.back(), begin, end)) <
            tolerance<double>.value);
      CHECK(difference(alone.dx, positions(packed.dx, begin, end)) < tolerance<double>.gradient);
    }
  });
}

TEST_CASE("a step with sources allocates nothing after the first") {
  for_each_backend_and_fusion([]<class B, DenseFusion fusion>() {
    Tower<B, fusion> tower(2, 1);
    auto frame = tower.ctx.workspace().frame();
    const auto hidden = tower.buffers(frame, nullptr);
    std::size_t before = 0;
    for (int t = 0; t < 5; ++t) {
      if (t == 1) before = laws::allocation_count();
      for (std::size_t i = 0; i < depth; ++i)
        tower.layer.evaluate(tower.ctx, tower.parameters[i], i == 0 ? tower.x : tower.y[i - 1],
                             tower.y[i], nullptr,
                             {.initial_state = &tower.initial[i], .final_state = &tower.initial[i]},
                             tower.before(hidden, i), hidden[i]);
    }
    CHECK(laws::allocation_count() == before);
  });
}

}  // namespace
}  // namespace ssm::test
