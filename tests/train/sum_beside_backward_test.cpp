// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <map>
#include <span>
#include <vector>

#include "ssm/backend/reference.hpp"
#include "ssm/core/gradient_listener.hpp"
#include "ssm/train/gradient_buckets.hpp"
#include "ssm/train/gradients.hpp"
#include "support/tiny_model.hpp"

namespace ssm::test {
namespace {

using P = H3LanguageModel::Parameters<double>;

/// Doubles what it adds, as two ranks with the same gradients do, and keeps count.
class Doubling final : public DeviceCommunicator {
 public:
  void sum(std::span<const Elements> tensors, SumScalar scalar, void*) override {
    CHECK(scalar == SumScalar::float64);
    for (const auto& [data, count] : tensors) {
      ++times[data];
      for (double& element : std::span(static_cast<double*>(data), count)) {
        if (std::isnan(element)) FAIL("summed before it is written");
        element *= 2;
      }
    }
  }
  void sum_beside(std::span<const Elements> tensors, SumScalar scalar, void* stream) override {
    CHECK(!is_joined);
    sum(tensors, scalar, stream);
    ++groups;
  }
  void join(void*) override { is_joined = true; }
  void send(std::span<const std::byte>, int, void*) override {}
  void receive(std::span<std::byte>, int, void*) override {}
  void exchange(std::span<const std::byte>, int, std::span<std::byte>, int, void*) override {}
  void broadcast(std::span<const Told>, void*) override {}

  std::map<void*, int> times;
  int groups = 0;
  bool is_joined = false;
};

void fill_with_nan(P& gradients) {
  for_each_parameter(
      [](const ParameterSpec&, auto& tensor) {
        std::fill_n(tensor.data(), tensor.size(), std::numeric_limits<double>::quiet_NaN());
      },
      gradients);
}

TEST_CASE("gradients that a layer is done with are summed beside the pass, each once") {
  // Blocks of more than 2^21 parameters go by themselves.
  for (const Index width : {8, 512}) {
    const Model<P> model = tiny_model({.d_model = width,
                                       .n_layer = 2,
                                       .d_inner = 4 * width,
                                       .vocab_size = 7,
                                       .pad_vocab_size_multiple = 4,
                                       .d_state = 4});
    Context<Reference> ctx;
    const std::vector<Token> text{1, 4, 2};
    const TensorView<const Token, Extents<dyn, dyn>> tokens(text.data(), {1, 3});
    DynamicTensor<double, 3> y({1, 3, 8}), dy({1, 3, 8});
    for (Index i = 0; i < dy.size(); ++i) dy.data()[i] = 0.01 * static_cast<double>(i % 5 - 2);
    auto tape = model.layer.make_tape<double>(ctx);
    // What products write first begins as NaN: it must be written, or zero, when it is summed.
    const auto pass = [&](GradientListener* listener, P& gradients, const auto& finish) {
      fill_with_nan(gradients);
      set_zero(ctx, gradients, true);
      model.layer.forward(ctx, model.parameters, tokens, y, tape);
      UnwrittenGradients unwritten(ctx, gradients);
      {
        const GradientListenerScope<Reference> told(ctx, listener);
        model.layer.backward(ctx, model.parameters, tape, dy, gradients);
      }
      finish();
      unwritten.finish();
    };
    P plain = model.layer.zero_parameters<double>(ctx), summed = copy_of(plain, model.layer);
    pass(nullptr, plain, [] {});
    Doubling devices;
    SumBesideBackward<Reference, double> sum(ctx, devices, nullptr);
    pass(&sum, summed, [&] {
      CHECK(devices.groups == (width > 8 ? 2 : 0));
      CHECK(!devices.is_joined);
      sum.finish(summed);
    });
    CHECK(devices.is_joined);
    CHECK(ctx.gradient_listener() == nullptr);
    std::size_t tensors = 0;
    for_each_parameter(
        [&](const ParameterSpec&, auto& tensor, const auto& one) {
          ++tensors;
          CHECK(devices.times[tensor.data()] == 1);
          for (Index i = 0; i < tensor.size(); ++i)
            if (!(tensor.data()[i] == 2 * one.data()[i])) FAIL("another gradient");
        },
        summed, plain);
    CHECK(devices.times.size() == tensors);
  }
}

TEST_CASE("gradients that a pass left unwritten are zero when they are summed") {
  const Model<P> model = tiny_model();
  Context<Reference> ctx;
  P gradients = model.layer.zero_parameters<double>(ctx);
  fill_with_nan(gradients);
  set_zero(ctx, gradients, true);
  Doubling devices;
  {
    UnwrittenGradients unwritten(ctx, gradients);
    SumBesideBackward<Reference, double> sum(ctx, devices, nullptr);
    const GradientListenerScope<Reference> told(ctx, &sum);
    tell_done(ctx, gradients.backbone.blocks[1]);
    sum.finish(gradients);
    unwritten.finish();
  }
  CHECK(distance(gradients, model.layer.zero_parameters<double>(ctx)) == 0);
}

}  // namespace
}  // namespace ssm::test
