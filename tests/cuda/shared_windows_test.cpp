// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

#include "ssm/backend/cuda.hpp"
#include "ssm/backend/reference.hpp"
#include "ssm/core/transfer.hpp"
#include "ssm/model/h3_language_model.hpp"
#include "ssm/model/mamba_language_model.hpp"
#include "ssm/parallel/in_process.hpp"
#include "ssm/parallel/primitives_across_ranks.hpp"
#include "ssm/train/language_model_trainer.hpp"
#include "ssm/train/text_streams.hpp"
#include "tensor_cores_on_host.hpp"

namespace ssm::test {
namespace {

#ifdef SSM_TEST_ON_DEVICE
using Device = Cuda;  // all ranks on one
constexpr Index long_window = 65536;
#else
using Device = BasicCuda<HostSpace>;
constexpr Index long_window = 2560;
#endif

struct Update {
  TrainingStep step;
  std::vector<std::string> names;
  std::vector<std::vector<float>> gradients;
};

/// The first update of a model with sequences in T, made by this process or by one of its ranks.
template <class T, class L>
Update first_update(const L& layer, Communicator* ranks, Index batch, Index length) {
  Context<Reference> host;
  Context<Device> ctx;
  auto parameters = copy_to(ctx, layer, layer.template initialize<float>(host, Seed{5}));
  std::vector<Token> text;
  for (Index i = 0; i < batch * (length + 1); ++i)
    text.push_back(static_cast<Token>(i * i % 9973 % 251));
  const TextStreams streams(text, length, batch, Seed{2});
  LanguageModelTrainer<decltype(parameters), T> trainer(
      ctx, layer, parameters,
      {.batch = batch,
       .ranks = ranks,
       .sequence_parallel = ranks == nullptr ? 1 : ranks->size(),
       .across_ranks = &primitives_across_ranks<Device, T, float>()});
  Update result{.step = trainer.update(ctx, layer, parameters, streams, 1e-3)};
  for_each_parameter(
      [&](const ParameterSpec& spec, const auto& gradient) {
        result.names.push_back(spec.name);
        auto& own = result.gradients.emplace_back(static_cast<std::size_t>(gradient.size()));
        Device::Space::copy(own.data(), gradient.data(), own.size() * sizeof(float));
      },
      trainer.gradients());
  return result;
}

/// The distance of two tensors by the size of the second.
double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double square = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    square += std::pow(double{a[i]} - double{b[i]}, 2);
    size += std::pow(double{b[i]}, 2);
  }
  return square == 0 ? 0 : std::sqrt(square / size);
}

/// near   how far a tensor of the gradient may be from that of one rank
template <class T, class L>
void shares_windows(const L& layer, Index batch, Index length, int size, double near) {
  CAPTURE(batch);
  CAPTURE(length);
  const Update expected = first_update<T>(layer, nullptr, batch, length);
  std::vector<Update> actual(static_cast<std::size_t>(size));
  InProcess::run(size, [&](Communicator& ranks) {
    actual[static_cast<std::size_t>(ranks.rank())] = first_update<T>(layer, &ranks, batch, length);
  });
  for (const Update& update : actual) {
    CHECK(update.step.loss == doctest::Approx(expected.step.loss).epsilon(near / 10));
    for (std::size_t i = 0; i < expected.names.size(); ++i) {
      CAPTURE(expected.names[i]);
      CHECK(distance(update.gradients[i], expected.gradients[i]) < near);
    }
  }
}

TEST_CASE("H3 in batches of bf16, whose mixers have a tape and states at both ends") {
  cuda::pretend_tensor_core_kernels(true);
  // Many sequences are columns of products, few are cut into segments.
  for (const auto& [batch, length, taps] :
       {std::array<Index, 3>{10, 256, 20}, {5, 544, 16}, {1, long_window, 32}}) {
    REQUIRE(cuda::BatchedH3::suits(batch, length / 2, 72));
    const auto layer = make_language_model(H3LanguageModelConfig{
        .d_model = 72, .n_layer = 2, .d_inner = 72, .vocab_size = 256, .d_state = taps});
    shares_windows<BFloat16>(layer, batch, length, 2, 5e-2);
  }
  cuda::pretend_tensor_core_kernels(false);
}

TEST_CASE_TEMPLATE("Mamba", T, float, BFloat16) {
  const auto layer = make_language_model(MambaLanguageModelConfig{
      .d_model = 32, .n_layer = 2, .vocab_size = 256, .d_inner = 64, .dt_rank = 2});
  shares_windows<T>(layer, 2, 1100, 3, std::is_same_v<T, float> ? 1e-4 : 5e-2);
}

}  // namespace
}  // namespace ssm::test
