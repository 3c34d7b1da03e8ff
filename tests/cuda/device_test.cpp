// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>
#include <vector>

#include "ssm/backend/cuda.hpp"
#include "ssm/core/adjacent.hpp"
#include "ssm/core/compare.hpp"
#include "ssm/core/fill_random.hpp"
#include "ssm/model/generate.hpp"
#include "ssm/model/h3_language_model.hpp"
#include "ssm/model/recorded_steps.hpp"
#include "ssm/train/language_model_trainer.hpp"
#include "ssm/train/text_loss.hpp"
#include "ssm/train/text_streams.hpp"

namespace {

using ssm::Cuda;
using ssm::HostSpace;
using ssm::Index;
using ssm::Seed;
using ssm::Token;
using OnHost = ssm::BasicCuda<HostSpace>;  // the same kernels on memory that the test reads
using Device = ssm::cuda::CudaSpace;

ssm::H3LanguageModel small_model(double dropout = 0.1, std::vector<Index> attends = {}) {
  return ssm::make_language_model(ssm::H3LanguageModelConfig{.d_model = 16,
                                                             .n_layer = 2,
                                                             .d_inner = 32,
                                                             .vocab_size = 40,
                                                             .d_state = 8,
                                                             .head_dim = 1,
                                                             .attn_layer_idx = std::move(attends),
                                                             .num_heads = 2,
                                                             .embed_dropout = dropout,
                                                             .resid_dropout = dropout});
}

std::vector<Token> text_of(std::size_t length) {
  std::vector<Token> text(length);
  for (std::size_t i = 0; i < length; ++i) text[i] = static_cast<Token>(i * i % 37);
  return text;
}

/// Every element of every tensor, on the host.
template <class P>
std::vector<float> elements(const typename P::Layer& layer, const P& parameters) {
  const auto on_host = ssm::copy_to(ssm::Context<ssm::HostMemory>(), layer, parameters);
  std::vector<float> all;
  ssm::for_each_parameter(
      [&](const ssm::ParameterSpec&, const auto& tensor) {
        all.insert(all.end(), tensor.data(), tensor.data() + tensor.size());
      },
      on_host);
  return all;
}

TEST_CASE("a tensor comes back from the device as it was, and an empty one stays empty") {
  ssm::Context<Cuda> gpu;
  ssm::DynamicTensor<float, 3> x({3, 5, 7}), back;
  ssm::fill_normal(x, Seed{1});
  ssm::DynamicTensor<float, 3, Device> on_device;
  ssm::copy_tensor(x, on_device);
  ssm::copy_tensor(on_device, back);
  CHECK(std::equal(x.data(), x.data() + x.size(), back.data()));
  ssm::copy_tensor(ssm::DynamicTensor<float, 3>(), on_device);
  CHECK_FALSE(on_device);
}

TEST_CASE("parameters are initialized on the device with the same numbers as on the host") {
  ssm::Context<Cuda> gpu;
  const auto model = small_model();
  const auto on_host = model.initialize(ssm::Context<ssm::HostMemory>(), Seed{3});
  CHECK(elements(model, model.initialize(gpu, Seed{3})) == elements(model, on_host));
  CHECK(elements(model, ssm::copy_to(gpu, model, on_host)) == elements(model, on_host));
}

TEST_CASE("weights that are kept in bf16 stay so on the device") {
  ssm::Context<Cuda> gpu;
  const auto model = small_model();
  auto on_host = model.initialize(ssm::Context<ssm::HostMemory>(), Seed{3});
  ssm::keep_weights_in(on_host, ssm::WeightForm::bf16);
  const auto there = ssm::copy_to(gpu, model, on_host);
  CHECK(ssm::weight_form(there) == ssm::WeightForm::bf16);
  CHECK_FALSE(there.embedding.data() != nullptr);
  CHECK(there.embedding.bf16.size() == on_host.embedding.bf16.size());
}

TEST_CASE("zeroing and copying are in order with what a context has queued") {
  ssm::Context<Cuda> gpu;
  constexpr Index count = 1 << 20;
  ssm::DynamicTensor<float, 1, Device> x({count});
  ssm::DynamicTensor<float, 1> ones({count}), back;
  std::fill_n(ones.data(), count, 1.0F);
  const auto fill_often = [&] {  // so that the device is behind when this returns
    for (int i = 0; i < 100; ++i) ssm::fill(gpu, ssm::Fill<float, Device>{.value = 2, .y = x});
  };
  const auto all_are = [&](float value) {
    ssm::copy_tensor(x, back);
    return std::all_of(back.data(), back.data() + count, [&](float y) { return y == value; });
  };
  fill_often();
  x.reset(x.extents());
  CHECK(all_are(0));
  fill_often();
  ssm::copy_tensor(ones, x);
  CHECK(all_are(1));
  x.reset(x.extents());
  fill_often();
  CHECK(all_are(2));
  ssm::copy_tensor(ones, x);
  fill_often();
  CHECK(all_are(2));
}

/// Losses of a few updates with the state carried along, and the weights at the end.
template <class B>
std::vector<float> train(double dropout) {
  ssm::Context<B> ctx;
  const auto model = small_model(dropout);
  auto parameters = model.initialize(ctx, Seed{5});
  const auto text = text_of(400);
  const ssm::TextStreams streams(text, 12, 3, Seed{7});
  ssm::LanguageModelTrainer trainer(ctx, model, parameters,
                                    {.batch = 3, .carry = 2, .seed = Seed{9}});
  std::vector<float> result;
  for (int step = 0; step < 8; ++step)
    result.push_back(
        static_cast<float>(trainer.update(ctx, model, parameters, streams, 1e-3).loss));
  CHECK(result.back() > 0);
#ifdef SSM_TEST_ON_DEVICE
  constexpr bool records = std::is_same_v<B, Cuda>;
#else
  constexpr bool records = false;
#endif
  CHECK((trainer.recorded_batches() > 0) == (records && dropout == 0));
  const auto weights = elements(model, parameters);
  result.insert(result.end(), weights.begin(), weights.end());
  return result;
}

TEST_CASE("a language model trains in device memory to the same bits as in memory the host reads") {
  CHECK(train<Cuda>(0.1) == train<OnHost>(0.1));
}

TEST_CASE("updates that are recorded give the same bits as those that are not") {
  CHECK(train<Cuda>(0) == train<OnHost>(0));
}

template <class B>
std::vector<Token> continuation(const ssm::H3LanguageModel& model,
                                const ssm::GenerateOptions& options, bool has_state) {
  ssm::Context<B> ctx;
  const auto parameters = model.initialize(ctx, Seed{5});
  auto state = model.initial_state(ctx, 1);
  std::vector<Token> result;
  for (int part = 0; part < (has_state ? 2 : 1); ++part)
    for (const Token token :
         ssm::Generation(ctx, model, parameters, text_of(9), options, has_state ? &state : nullptr))
      result.push_back(token);
  result.push_back(static_cast<Token>(state.position(0)));  // moved on by recorded steps too
  return result;
}

TEST_CASE(
    "generation in device memory draws the same tokens, through recorded steps where it can") {
#ifdef SSM_TEST_ON_DEVICE
  constexpr Index tokens = 50;
#else
  constexpr Index tokens = 2;  // the host records nothing
#endif
  for (const double temperature : {0.9, 0.0})
    for (const std::vector<Index>& attends : {std::vector<Index>{}, {1}}) {
      const auto model = small_model(0.1, attends);
      ssm::GenerateOptions options{.temperature = temperature, .tokens = tokens, .seed = Seed{2}};
      CHECK(continuation<Cuda>(model, options, false) ==
            continuation<OnHost>(model, options, false));
#ifdef SSM_TEST_ON_DEVICE
      const auto whole = continuation<OnHost>(model, options, true);
      CHECK(continuation<Cuda>(model, options, true) == whole);
      options.stop = {whole[tokens / 2]};  // no token is read ahead
      CHECK(continuation<Cuda>(model, options, true) == continuation<OnHost>(model, options, true));
#endif
    }
}

TEST_CASE("products of one row are the same by weights that are read ahead") {
  const ssm::Context<OnHost> ctx;
  const auto stream = ctx.resources().stream();
  struct Sizes {
    Index depth, columns;
  };
  for (const auto [depth, columns] :
       {Sizes{64, 31}, Sizes{64, 4501}, Sizes{768, 400}, Sizes{776, 2120}, Sizes{3080, 70}})
    for (const bool in_bf16 : {false, true}) {
      ssm::DynamicTensor<float, 2> x({1, depth}), weight({columns, depth}), residual({1, columns});
      ssm::DynamicTensor<ssm::BFloat16, 2> rounded({columns, depth});
      ssm::DynamicTensor<float, 1> bias({columns});
      ssm::fill_normal(x, Seed{1});
      ssm::fill_normal(weight, Seed{2});
      ssm::fill_normal(residual, Seed{3});
      ssm::fill_normal(bias, Seed{4});
      std::transform(weight.data(), weight.data() + weight.size(), rounded.data(),
                     [](float value) { return ssm::BFloat16(value); });
      const ssm::Normalization<float, HostSpace> norm{.x = x};
      std::vector<float> results[2];
      for (const bool stay : {false, true}) {
        ssm::DynamicTensor<float, 2> y({1, columns});
        ssm::Matmul<float, HostSpace> call{.a = x, .bias = bias, .residual = residual, .c = y};
        if (in_bf16)
          call.b_bf16 = rounded.transpose(0, 1);
        else
          call.b = weight.transpose(0, 1);
        const auto first = ssm::cuda::on_device(norm);
        const auto product = ssm::cuda::on_device(call);
        ssm::cuda::matmul_one_row<float>(&first, {&product, 1}, stay, stream);
        ssm::cuda::synchronize(stream);
        results[stay ? 1 : 0].assign(y.data(), y.data() + y.size());
      }
      CHECK(std::ranges::all_of(results[0], [](float value) { return std::isfinite(value); }));
      CHECK(results[0] == results[1]);
    }
}

/// The likeliest tokens of three sequences and their positions, then those behind a second state.
template <class B>
std::vector<Token> steps_of_several(const ssm::H3LanguageModel& model, int steps) {
  constexpr Index sequences = 3;
  ssm::Context<B> ctx;
  const auto parameters = model.initialize(ctx, Seed{5});
  ssm::DynamicTensor<Token, 1, typename B::Space> tokens({sequences});
  ssm::DynamicTensor<Token, 1> drawn({sequences});
  ssm::DynamicTensor<float, 2, typename B::Space> logits({sequences, 40});
  ssm::RecordedSteps<B> recorded;
  std::vector<Token> result;
  for (int part = 0; part < 2; ++part) {
    auto state = model.initial_state(ctx, sequences);
    std::ranges::copy(text_of(sequences), drawn.data());
    ssm::copy_tensor(drawn, tokens);
    const auto size = [&] {
      Index all = 0;
      ssm::H3LanguageModel::for_each_state(
          [&](const auto&, const auto& tensor) { all += tensor.size(); }, state);
      return all;
    };
    for (int step = 0; step < steps; ++step) {
      recorded(ctx, &state, 40, size, [&] {
        model.step(ctx, parameters, tokens, logits, state);
        ssm::sample(ctx, ssm::Sample<float, typename B::Space>{.logits = logits,
                                                               .vocabulary = 40,
                                                               .sampling = {.temperature = 0},
                                                               .tokens = tokens});
      });
      ssm::copy_tensor(tokens, drawn);
      result.insert(result.end(), drawn.data(), drawn.data() + sequences);
    }
    result.push_back(static_cast<Token>(state.position(2)));
  }
  return result;
}

TEST_CASE("steps of several sequences are the same through recorded ones, of each state") {
#ifdef SSM_TEST_ON_DEVICE
  constexpr int steps = 40;  // so that caches grow
#else
  constexpr int steps = 1;     // the host records nothing
#endif
  for (const std::vector<Index>& attends : {std::vector<Index>{}, {1}}) {
    const auto model = small_model(0.1, attends);
    CHECK(steps_of_several<Cuda>(model, steps) == steps_of_several<OnHost>(model, steps));
  }
}

#ifdef SSM_TEST_ON_DEVICE
TEST_CASE("training passes record into a graph, for nothing in them waits") {
  ssm::Context<Cuda> gpu;
  const auto model = small_model();
  const auto parameters = model.initialize(gpu, Seed{5});
  auto state = model.initial_state(gpu, 2);
  ssm::DynamicTensor<Token, 2> tokens({2, 70});
  std::ranges::copy(text_of(140), tokens.data());
  ssm::DynamicTensor<Token, 2, Device> on_device;
  ssm::copy_tensor(tokens, on_device);
  ssm::DynamicTensor<float, 3, Device> logits({2, 70, 40});
  auto tape = model.make_tape(gpu);
  auto gradients = model.zero_parameters(gpu);
  const auto pass = [&] {  // of half the sum of squares of the logits
    model.forward(gpu, parameters, on_device, logits, tape,
                  {.initial_state = &state, .final_state = &state});
    model.backward(gpu, parameters, tape, logits, gradients);
  };
  pass();
  const auto first = elements(model, gradients);
  pass();
  const auto second = elements(model, gradients);
  CHECK(first != second);  // which the state brings about

  state = model.initial_state(gpu, 2);
  ssm::set_zero(gpu, gradients);
  ssm::cuda::Resources::Recording recorded;
  recorded(gpu, pass);
  CHECK(elements(model, gradients) == first);
  recorded(gpu, pass);
  CHECK(elements(model, gradients) == second);
}
#endif

#ifdef SSM_TEST_ON_DEVICE
TEST_CASE("products in TF32 are coarser than exact ones, and no more than that") {
  constexpr Index size = 256;
  ssm::DynamicTensor<float, 2> a({size, size}), b({size, size}), c({size, size});
  ssm::fill_normal(a, Seed{1});
  ssm::fill_normal(b, Seed{2});
  const auto error = [&](ssm::cuda::MatmulPrecision precision) {
    ssm::Context<OnHost> ctx(ssm::cuda::Resources(ssm::Device{}, precision));
    ssm::matmul(ctx, ssm::Matmul<float, HostSpace>{.a = a, .b = b, .c = c});
    double difference = 0, norm = 0;
    for (Index m = 0; m < size; ++m)
      for (Index n = 0; n < size; ++n) {
        double sum = 0;
        for (Index k = 0; k < size; ++k) sum += double{a(m, k)} * double{b(k, n)};
        difference += (double{c(m, n)} - sum) * (double{c(m, n)} - sum);
        norm += sum * sum;
      }
    return std::sqrt(difference / norm);
  };
  CHECK(error(ssm::cuda::MatmulPrecision::exact) < 1e-6);
  const double coarse = error(ssm::cuda::MatmulPrecision::tf32);
  CHECK(coarse > 1e-5);
  CHECK(coarse < 2e-3);
}
#endif

TEST_CASE("the loss of a text is the same in device memory") {
  const auto model = small_model();
  const auto text = text_of(100);
  ssm::Context<Cuda> gpu;
  ssm::Context<OnHost> host;
  const auto loss = ssm::text_loss(gpu, model, model.initialize(gpu, Seed{5}), text);
  CHECK(loss.nats > 0);
  CHECK(loss.nats == ssm::text_loss(host, model, model.initialize(host, Seed{5}), text).nats);
}

/// Outputs of an H3 layer in bf16, its state and its gradients.
template <class B>
std::vector<float> bf16_layer(Index channels, Index sequences, Index length) {
  using ssm::BFloat16;
  using Space = typename B::Space;
  const ssm::DynamicExtents<3> shape(sequences, length, channels);
  ssm::Context<B> ctx;
  const ssm::H3<ssm::H3Config{.state = 8}> layer({.channels = channels});
  const auto parameters = layer.template initialize<BFloat16>(ctx, Seed{5});
  ssm::DynamicTensor<float, 3> numbers(shape);
  ssm::fill_normal(numbers, Seed{6});
  ssm::DynamicTensor<BFloat16, 3> on_host(shape);
  std::transform(numbers.data(), numbers.data() + numbers.size(), on_host.data(),
                 [](float number) { return BFloat16(number); });
  ssm::DynamicTensor<BFloat16, 3, Space> x, y(shape), dx(shape);
  ssm::copy_tensor(on_host, x);
  std::vector<float> result;
  const auto keep = [&](const auto& tensor) {
    ssm::copy_tensor(tensor, on_host);
    for (Index i = 0; i < on_host.size(); ++i)
      result.push_back(static_cast<float>(on_host.data()[i]));
  };
  auto tape = layer.template make_tape<BFloat16>(ctx);
  auto gradients = layer.zero_parameters(ctx);
  layer.forward(ctx, parameters, x, y, tape);
  layer.backward(ctx, parameters, tape, y, dx, gradients);
  keep(y);
  keep(dx);
  auto state = layer.template initial_state<BFloat16>(ctx, sequences);
  layer.forward(ctx, parameters, x, y, {.initial_state = &state, .final_state = &state});
  keep(y);
  const auto all = elements(layer, gradients);
  result.insert(result.end(), all.begin(), all.end());
  return result;
}

TEST_CASE(
    "a layer in bf16 gives the same in device memory, where its projections are one product") {
  for (const Index channels : {16, 64})  // of 16 biases do not lie together
    for (const bool is_step : {false, true}) {
      const Index sequences = is_step ? 20 : 3, length = is_step ? 1 : 100;
      const auto there = bf16_layer<Cuda>(channels, sequences, length);
      const auto here = bf16_layer<OnHost>(channels, sequences, length);
      const ssm::View<const float, 1> x(there.data(), {Index(there.size())});
      CHECK(ssm::all_close(x, ssm::View<const float, 1>(here.data(), x.extents()), 0.01));
      CHECK(there == bf16_layer<Cuda>(channels, sequences, length));
    }
}

TEST_CASE("projections of an H3 lie one behind the other in device memory, each by itself") {
  ssm::Context<Cuda> gpu;
  const ssm::H3<ssm::H3Config{.state = 8}> layer({.channels = 64});
  auto p = layer.initialize(gpu, Seed{5});
  const auto weights =
      ssm::joined(0, std::array{&p.q_proj, &p.k_proj, &p.v_proj},
                  [](const auto* one) { return ssm::View<const float, 2, Device>(one->weight); });
  REQUIRE(weights);
  CHECK(weights.extent(0) == 3 * 64);
  const auto before = elements(layer, p);
  p.q_proj.weight = p.q_proj.weight.clone();  // gives back its part of the memory
  p.k_proj.bias.resize({1000});
  p.k_proj.bias.resize({64});
  ssm::copy_tensor(layer.initialize(gpu, Seed{5}).k_proj.bias, p.k_proj.bias);
  CHECK(elements(layer, p) == before);
}

TEST_CASE("a context of a device that is not there says so") {
  CHECK_THROWS_AS(ssm::cuda::Resources(ssm::Device{1000}), ssm::cuda::Failure);
}

}  // namespace
