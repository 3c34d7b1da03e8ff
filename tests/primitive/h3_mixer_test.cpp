// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/h3_mixer.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include "cuda/tensor_cores_on_host.hpp"
#include "ssm/core/compare.hpp"
#include "ssm/op/h3_step.hpp"
#include "support/primitive_laws.hpp"

namespace ssm::test {
namespace {

struct Case {
  Index batch = 2, length = 6, channels = 4, heads = 4, taps = 3;
  bool states = true, final_states = true, tape = false;
  Segments segments{};
  Layout layout = Layout::rows;
  Index modes = 3;  // of a head
};

template <class T>
struct Run : OperandRun<H3Mixer<T, HostSpace>, H3MixerBackward<T, HostSpace>> {
  using Test = Case;
  Run(const Case& test, Layout layout)
      : Run::OperandRun({{'B', test.batch},
                         {'L', test.length},
                         {'D', test.channels},
                         {'H', test.heads},
                         {'W', test.channels / test.heads},
                         {'N', test.taps},
                         {'P', test.modes},
                         {'Z', 2}},
                        layout, test.segments,
                        left_out({{"initial_shift", test.states},
                                  {"initial_diagonal", test.states},
                                  {"dinitial_shift", test.states},
                                  {"dinitial_diagonal", test.states},
                                  {"dfinal_shift", test.states},
                                  {"dfinal_diagonal", test.states}})),
        has_tape(test.tape) {
    if (!test.final_states) {
      this->forward.final_shift = {};
      this->forward.final_diagonal = {};
    }
    for_each_element([](Wide<T>& dt) { dt = Wide<T>(0.4) + dt / 4; },
                     this->writable(this->forward.dt));
    const auto A = this->writable(this->forward.A);
    for_each_index(
        A, [&](Index h, Index p, Index part) { A(h, p, part) -= part == 0 ? Wide<T>(1.5) : 0; });
  }
  void evaluate(auto& ctx) {
    if (has_tape) {
      tape.reset({h3_mixer_tape(ctx, this->forward)});
      this->forward.tape = tape.view();
    }
    h3_mixer(ctx, this->forward);
  }
  void differentiate(auto& ctx) {
    auto g = this->backward();
    g.tape = tape.view();
    h3_mixer_backward(ctx, g);
  }
  template <class B>
  static constexpr bool exists = HasH3Mixer<B, T>;
  bool has_tape;
  DynamicTensor<Wide<T>, 1> tape;
};

/// By the parameters that a layer keeps, and at once where the backend can.
template <class T>
struct StepRun : Run<T> {
  StepRun(const Case& test, Layout layout)
      : Run<T>(test, layout),
        log_dt(random_tensor<Wide<T>>("log_dt", test.heads)),
        inv_A_real(random_tensor<Wide<T>>("inv_A_real", test.heads, test.modes)),
        A_imag(random_tensor<Wide<T>>("A_imag", test.heads, test.modes)) {
    Context<Reference> ctx;
    diagonal_parameters(
        ctx, DiagonalParameters<Wide<T>, HostSpace>{.log_dt = log_dt,
                                                    .inv_A_real = inv_A_real,
                                                    .A_imag = A_imag,
                                                    .dt = this->writable(this->forward.dt),
                                                    .A = this->writable(this->forward.A)});
  }
  void evaluate(auto& ctx) {
    H3Step<T, HostSpace> step{log_dt, inv_A_real, A_imag, this->forward};
    step.mixer.dt = {};
    step.mixer.A = {};
    is_at_once = h3_step(ctx, step);
    if (!is_at_once) h3_mixer(ctx, this->forward);
  }
  DynamicTensor<Wide<T>, 1> log_dt;
  DynamicTensor<Wide<T>, 2> inv_A_real, A_imag;
  bool is_at_once = false;
};

struct ProjectedCase {
  Index batch = 1, depth = 8, channels = 6;
  bool in_bf16 = false, has_norm = true;
  Layout layout = Layout::rows;  // one alone
};

/// With q, k and v as products of a normalized row.
template <class T>
struct ProjectedRun : StepRun<T> {
  using Test = ProjectedCase;
  ProjectedRun(const ProjectedCase& test, Layout)
      : StepRun<T>({.batch = test.batch,
                    .length = 1,
                    .channels = test.channels,
                    .heads = test.channels,
                    .taps = 20},
                   Layout::rows),
        x(random_tensor<T>("x", test.batch, test.depth)),
        normed(nan_tensor<T>(test.batch, test.depth)),
        weights(random_tensor<T>("weights", 3, test.channels, test.depth)),
        bias(random_tensor<Wide<T>>("bias", 3, test.channels)),
        norm_weight(random_tensor<Wide<T>>("norm weight", test.depth)),
        has_norm(test.has_norm) {
    this->gradient = {};  // of q, k and v that may stay unwritten
    if (!test.in_bf16) return;
    bf16.reset(weights.extents());
    std::transform(weights.data(), weights.data() + weights.size(), bf16.data(),
                   [](T number) { return scalar_cast<BFloat16>(number); });
  }
  void evaluate(auto& ctx) {
    auto& a = this->forward;
    const Normalization<T, HostSpace> norm{.x = x, .weight = norm_weight, .y = normed};
    const auto product = [&](Index which, const View<const T, 3, HostSpace>& to) {
      Matmul<T, HostSpace> call{.a = has_norm ? normed.view() : x.view(),
                                .bias = bias.select(0, which),
                                .c = this->writable(to).select(1, 0)};
      if (bf16)
        call.b_bf16 = bf16.select(0, which).transpose(0, 1);
      else
        call.b = weights.select(0, which).transpose(0, 1);
      return call;
    };
    const Matmul<T, HostSpace> projections[] = {product(0, a.q), product(1, a.k), product(2, a.v)};
    const std::span<const Matmul<T, HostSpace>> all(projections);
    H3Step<T, HostSpace> step{this->log_dt, this->inv_A_real, this->A_imag, a};
    if (h3_step(ctx, step, all, has_norm ? &norm : nullptr)) return;
    normalized_matmul(ctx, has_norm ? &norm : nullptr, all);
    h3_mixer(ctx, a);
  }
  void differentiate(auto&) = delete;
  DynamicTensor<T, 2> x, normed;
  DynamicTensor<T, 3> weights;
  DynamicTensor<Wide<T>, 2> bias;
  DynamicTensor<Wide<T>, 1> norm_weight;
  DynamicTensor<BFloat16, 3> bf16;
  bool has_norm;
};

TEST_CASE("every head width equals the printed formula, one diagonal scan for each product") {
  for (const Index heads : {4, 2, 1}) {
    CAPTURE(heads);
    const Index batch = 2, length = 6, width = 4 / heads;
    NanContext<Reference> ctx;
    Run<double> call({.batch = batch, .length = length, .heads = heads}, Layout::rows);
    const auto& a = call.forward;
    call.evaluate(ctx);
    auto shifted = nan_tensor(batch, length, 4);
    shift_convolution(ctx, ShiftConvolution<double, HostSpace>{.B = a.shift_B,
                                                               .C = a.shift_C,
                                                               .skip = a.shift_skip,
                                                               .x = a.k,
                                                               .initial_state = a.initial_shift,
                                                               .y = shifted});
    auto expected = zero_tensor(batch, length, 4);
    auto kv = nan_tensor(batch, length, 1);
    auto s = nan_tensor(batch, length, 1);
    auto state = nan_tensor(batch, 1, 3, 2);
    auto states = nan_tensor(batch, width, width, heads, 3, 2);
    for (Index h = 0; h < heads; ++h)
      for (Index i = 0; i < width; ++i)
        for (Index j = 0; j < width; ++j) {
          for_each_index(kv, [&](Index b, Index t, Index) {
            kv(b, t, 0) = shifted(b, t, h * width + i) * a.v(b, t, h * width + j);
          });
          const auto initial =
              a.initial_diagonal.slice(1, i, i + 1).select(2, j).slice(2, h, h + 1);
          diagonal_scan(ctx, DiagonalScan<double, HostSpace>{.dt = a.dt.slice(0, h, h + 1),
                                                             .A = a.A.slice(0, h, h + 1),
                                                             .B = a.B.slice(0, h, h + 1),
                                                             .C = a.C.slice(0, h, h + 1),
                                                             .skip = a.skip.slice(0, h, h + 1),
                                                             .x = kv,
                                                             .initial_state = initial.select(1, 0),
                                                             .final_state = state,
                                                             .y = s});
          for_each_index(s, [&](Index b, Index t, Index) {
            expected(b, t, h * width + j) += a.q(b, t, h * width + i) * s(b, t, 0);
          });
          for_each_index(state, [&](Index b, Index, Index p, Index part) {
            states(b, i, j, h, p, part) = state(b, 0, p, part);
          });
        }
    CHECK(difference(a.y, expected) < tolerance<double>.value);
    CHECK(difference(a.final_diagonal, states) < tolerance<double>.value);
  }
}

TEST_CASE("states are carried, kept apart, and updated in place") {
  const std::vector<Index> offsets{0, 4, 4, 9};
  for (const Index heads : {4, 2}) {
    packs_sequences<Run<double>>({.batch = 1, .length = 9, .heads = heads, .segments = offsets});
    carries_its_state<Run<double>>({.length = 65, .heads = heads}, {0, 1, 40, 65});
    for (const Index length : {0, 1, 5, 70})
      updates_its_state_in_place<Run<double>>({.length = length, .heads = heads, .taps = 20});
  }
}

TEST_CASE("gradients equal central differences for every head width") {
  for (const Index heads : {4, 2, 1})
    for (const Index length : {0, 1, 5})
      has_its_gradients<Run<double>>({.length = length, .heads = heads});
  const std::vector<Index> offsets{0, 2, 2, 5};
  has_its_gradients<Run<double>>({.batch = 1, .length = 5, .heads = 2, .segments = offsets});
}

TEST_CASE("states with gaps between heads are refused, not misread") {
  Context<Reference> ctx;
  const Run<double> call({.heads = 2}, Layout::rows);
  auto operands = call.forward;
  operands.final_diagonal = call.forward.final_diagonal.transpose(1, 2);
  CHECK_THROWS_WITH_AS(h3_mixer(ctx, operands),
                       "h3_mixer: diagonal state must have one stride over its axes i, j, h",
                       ShapeError);
  const auto three = zero_tensor(3);
  operands = call.forward;
  auto tape = zero_tensor(3);
  operands.tape = tape.view();
  CHECK_THROWS_WITH_AS(h3_mixer(ctx, operands),
                       "h3_mixer: tape must have as many numbers as h3_mixer_tape says",
                       ShapeError);
  operands = call.forward;
  operands.dt = three;
  CHECK_THROWS_WITH_AS(h3_mixer(ctx, operands),
                       "h3_mixer: dt has 3 heads, which do not divide the 4 channels", ShapeError);
}

TEST_CASE_TEMPLATE("heads of every width equal the reference, forwards and back", T, float,
                   double) {
  for (const Index heads : {4, 2, 1})
    for (const Index length : {0, 1, 5, 70})
      for (const bool states : {false, true}) {
        const Case test{.length = length, .heads = heads, .taps = 20, .states = states};
        equals_reference<Run<T>>(test);
#ifdef SSM_TEST_ON_CUDA
        for (const bool tensor_cores : {false, true}) {
          cuda::pretend_tensor_core_kernels(tensor_cores);
          equals_reference<Run<T>>(test, only<BasicCuda<HostSpace>>);
        }
        cuda::pretend_tensor_core_kernels(false);
#endif
      }
}

TEST_CASE_TEMPLATE("a step by the parameters that a layer keeps", T, float, double, BFloat16,
                   Float16) {
  for (const Index heads : {4, 2})
    for (const Index taps : {1, 20, 33, 64, 65})
      for (const bool states : {false, true})
        equals_reference<StepRun<T>>({.length = 1, .heads = heads, .taps = taps, .states = states});
  for (const Layout layout : all_layouts)
    equals_reference<StepRun<T>>({.length = 1, .taps = 20, .layout = layout});
  equals_reference<StepRun<T>>({.batch = 4099, .length = 1, .taps = 5});  // several sequences a row
  updates_its_state_in_place<StepRun<double>>({.length = 1, .taps = 20});
#ifdef SSM_TEST_ON_CUDA
  only<Device>([](auto& ctx) {
    for (const Index length : {1, 2}) {
      StepRun<T> run({.length = length}, Layout::rows);
      run.evaluate(ctx);
      CHECK(run.is_at_once == (length == 1));
    }
  });
#endif
}

TEST_CASE_TEMPLATE("a step of many sequences whose states fill all lanes", T, float, BFloat16) {
  constexpr Index batch = 130, channels = 64;
  const Case test{.batch = batch,
                  .length = 1,
                  .channels = channels,
                  .heads = channels,
                  .taps = 64,
                  .modes = 32};
  equals_reference<StepRun<T>>(test);
#ifdef SSM_TEST_ON_CUDA
  only<Device>([&](auto& ctx) {  // q, k and v of one product
    StepRun<T> apart(test, Layout::rows), beside(test, Layout::rows);
    DynamicTensor<T, 3> all({batch, 1, 3 * channels});
    Index number = 0;
    for (View<const T, 3>* x : {&beside.forward.q, &beside.forward.k, &beside.forward.v}) {
      const auto part = all.slice(2, number, number + channels);
      for_each_index(part, [&](Index b, Index t, Index d) { part(b, t, d) = (*x)(b, t, d); });
      *x = part;
      number += channels;
    }
    apart.evaluate(ctx);
    beside.evaluate(ctx);
    CHECK(beside.is_at_once);
    CHECK(largest_difference(beside.forward.y, apart.forward.y).value == 0);
    CHECK(largest_difference(beside.forward.final_shift, apart.forward.final_shift).value == 0);
    CHECK(largest_difference(beside.forward.final_diagonal, apart.forward.final_diagonal).value ==
          0);
  });
#endif
}

TEST_CASE_TEMPLATE("a step with its projections", T, float, double, BFloat16, Float16) {
  for (const Index depth : {7, 8, 768, 776})
    for (const bool in_bf16 : {false, true})
      for (const bool has_norm : {false, true})
        for (const Index batch : {1, 2})
          equals_reference<ProjectedRun<T>>(
              {.batch = batch, .depth = depth, .in_bf16 = in_bf16, .has_norm = has_norm});
}

TEST_CASE_TEMPLATE("any layout of the sequences", T, float, double) {
  for (const Layout layout : all_layouts)
    for (const Index heads : {4, 2})
      equals_reference<Run<T>>({.length = 70, .heads = heads, .taps = 20, .layout = layout});
}

TEST_CASE_TEMPLATE("packed segments, empty ones among them", T, float, double) {
  const Index offsets[] = {0, 0, 1, 40, 40, 110, 110};
  for (const Index heads : {4, 2})
    equals_reference<Run<T>>(
        {.batch = 1, .length = 110, .heads = heads, .taps = 20, .segments = offsets});
}

#ifdef SSM_TEST_ON_CUDA
using TensorCores = BasicCuda<HostSpace, cuda::TensorCoreKernels>;

TEST_CASE_TEMPLATE("sequences in half types, by fused kernels where there are no states", T,
                   BFloat16, Float16) {
  const Index offsets[] = {0, 0, 1, 40, 40, 110, 110};
  for (const bool tensor_cores : {false, true}) {
    CAPTURE(tensor_cores);
    cuda::pretend_tensor_core_kernels(tensor_cores);
    for (const Index heads : {4, 2})
      for (const Index length : {0, 1, 70})
        for (const bool states : {false, true})
          for (const bool final_states : {false, true}) {
            const Case test{.length = length,
                            .heads = heads,
                            .taps = 20,
                            .states = states,
                            .final_states = final_states};
            equals_reference<Run<T>>(test, only<TensorCores>);
            if (!states) equals_reference<Run<T>>(test, only<BasicCuda<HostSpace>>);
          }
    for (const Layout layout : all_layouts)
      equals_reference<Run<T>>(
          {.length = 70, .taps = 20, .states = false, .final_states = false, .layout = layout},
          only<TensorCores>);
    equals_reference<Run<T>>({.batch = 1,
                              .length = 110,
                              .taps = 20,
                              .states = false,
                              .final_states = false,
                              .segments = offsets},
                             only<TensorCores>);
  }
  cuda::pretend_tensor_core_kernels(false);
}

TEST_CASE("bf16 heads of several channels, by pairs of positions where there are no states") {
  const Index offsets[] = {0, 0, 1, 40, 40, 110, 110};
  for (const bool tensor_cores : {false, true}) {
    CAPTURE(tensor_cores);
    cuda::pretend_tensor_core_kernels(tensor_cores);
    // Packs of channels and tiles of positions that are not full; of the first head are too few
    // channels, of the last too many.
    for (const Index width : {3, 5, 8, 16, 17})
      for (const Index length : {1, 64, 70, 130}) {
        const Case test{.batch = 3,
                        .length = length,
                        .channels = 2 * width,
                        .heads = 2,
                        .taps = 20,
                        .states = false,
                        .final_states = false};
        equals_reference<Run<BFloat16>>(test, only<BasicCuda<HostSpace>>);
        equals_reference<Run<BFloat16>>(test, only<TensorCores>);
      }
    for (const Layout layout : all_layouts)
      equals_reference<Run<BFloat16>>({.length = 70,
                                       .channels = 16,
                                       .heads = 2,
                                       .taps = 20,
                                       .states = false,
                                       .final_states = false,
                                       .layout = layout},
                                      only<TensorCores>);
    for (const bool states : {false, true})
      equals_reference<Run<BFloat16>>(
          {.length = 70, .channels = 16, .heads = 2, .taps = 20, .states = states},
          only<TensorCores>);
    equals_reference<Run<BFloat16>>({.batch = 1,
                                     .length = 110,
                                     .channels = 16,
                                     .heads = 2,
                                     .taps = 20,
                                     .states = false,
                                     .final_states = false,
                                     .segments = offsets},
                                    only<TensorCores>);
  }
  cuda::pretend_tensor_core_kernels(false);
}

TEST_CASE("batches of bf16 sequences, in place, with states and without") {
  for (const bool tensor_cores : {false, true}) {
    CAPTURE(tensor_cores);
    cuda::pretend_tensor_core_kernels(tensor_cores);
    // Tiles of sequences and steps of positions that are not full, several of them, few taps, and
    // few sequences, which are cut into segments.
    for (const auto& [batch, length, taps] : {std::array<Index, 3>{8, 192, 64},
                                              {9, 208, 20},
                                              {5, 272, 64},
                                              {70, 16, 20},
                                              {1, 4096, 64},
                                              {2, 2048, 20}})
      for (const bool states : {false, true})
        for (const bool final_states : {false, true})
          equals_reference<Run<BFloat16>>({.batch = batch,
                                           .length = length,
                                           .channels = 72,
                                           .heads = 72,
                                           .taps = taps,
                                           .states = states,
                                           .final_states = final_states,
                                           .tape = final_states},
                                          only<BasicCuda<HostSpace>>);
    for (const Layout layout : all_layouts)
      equals_reference<Run<BFloat16>>(
          {.batch = 8, .length = 192, .channels = 72, .heads = 72, .taps = 20, .layout = layout},
          only<BasicCuda<HostSpace>>);
  }
  cuda::pretend_tensor_core_kernels(false);
}

#ifndef SSM_TEST_ON_DEVICE
TEST_CASE_TEMPLATE("fused kernels round once", T, BFloat16, Float16) {
  const Case test{.length = 70, .taps = 20, .states = false, .final_states = false};
  cuda::pretend_tensor_core_kernels(true);
  Context<TensorCores> fused;
  Run<T> actual(test, Layout::rows);
  compute(fused, actual);
  cuda::pretend_tensor_core_kernels(false);
  Context<Reference> reference;
  Run<T> expected(test, Layout::rows);
  compute(reference, expected);
  CHECK(difference(actual.forward.y, expected.forward.y) == 0);
  CHECK(difference(actual.gradient.dk, expected.gradient.dk) == 0);
}
#endif
#endif

}  // namespace
}  // namespace ssm::test
