// SPDX-License-Identifier: Apache-2.0
// Numbers that the published implementations compute from parameters that a formula gives.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <string>

#include "ssm/backend/reference.hpp"
#include "ssm/core/elementwise.hpp"
#include "ssm/model/dense_retnet_language_model.hpp"
#include "ssm/model/mamba_language_model.hpp"
#include "ssm/model/retnet_language_model.hpp"
#include "ssm/op/cross_entropy.hpp"

namespace ssm::test {
namespace {

/// Pseudo-random numbers in [−1, 1) that depend on a tensor's name alone.
class NamedNumbers {
 public:
  explicit NamedNumbers(const std::string& name) {
    for (const char c : name) seed_ = (seed_ ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
  }
  double operator()(Index i) const {
    std::uint64_t x = seed_ + (static_cast<std::uint64_t>(i) + 1) * 0x9E3779B97F4A7C15U;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9U;
    x = (x ^ x >> 27) * 0x94D049BB133111EBU;
    x ^= x >> 31;
    return static_cast<double>(x >> 40) * 0x1p-23 - 1;
  }

 private:
  std::uint64_t seed_ = 0xcbf29ce484222325U;
};

/// The rule for a tensor with this name and shape, before it is rounded to single precision.
double named_value(const std::string& name, int rank, Index columns, Index i) {
  const double u = NamedNumbers(name)(i);
  if (name.ends_with("A_log")) return std::log(static_cast<double>(i % columns + 1)) + 0.1 * u;
  if (name.ends_with("dt_proj.bias")) return -4 + 1.5 * u;
  if (name.ends_with("conv1d.bias")) return 0.2 * u;
  if (rank == 1) return 1 + 0.2 * u;
  if (name.find("embed") != std::string::npos) return std::sqrt(3.0) * u;
  return std::sqrt(3 / static_cast<double>(columns)) * u;
}

/// A model with those parameters; `stored` says what the published code calls a tensor.
template <class M>
struct Golden {
  explicit Golden(M model) : layer(std::move(model)) {
    parameters = layer.template zero_parameters<double>(ctx);
    for_each_parameter(
        [&](const ParameterSpec& spec, auto& tensor) {
          constexpr int rank = std::remove_reference_t<decltype(tensor)>::rank();
          for (Index i = 0; i < tensor.size(); ++i)
            tensor.data()[i] = static_cast<float>(
                named_value(stored(spec.name), rank, tensor.extent(rank - 1), i));
        },
        parameters);
    tokens.reset({2, 12});
    for (Index b = 0; b < 2; ++b)
      for (Index t = 0; t < 12; ++t) tokens(b, t) = static_cast<Token>((7 * b + 5 * t + 3) % 97);
    logits.reset({2, 12, 97});
    gradients = layer.template zero_parameters<double>(ctx);
  }

  static std::string stored(std::string name) {
    if (name == "backbone.embeddings.weight") name = "backbone.embedding.weight";
    return name;
  }

  void run() {
    auto tape = layer.template make_tape<double>();
    layer.forward(ctx, parameters, tokens, logits, tape);
    DynamicTensor<Token, 2> targets({2, 12});
    fill(targets, Token{-100});
    copy(tokens.slice(1, 1, 12), targets.slice(1, 0, 11));
    DynamicTensor<double, 3> dlogits({2, 12, 97});
    DynamicTensor<double, 1> value({1});
    cross_entropy(ctx, CrossEntropy<double, HostSpace>{.logits = logits.reshape(24, 97),
                                                       .targets = targets.flatten(),
                                                       .loss = value,
                                                       .dlogits = dlogits.reshape(24, 97)});
    loss = value(0);
    layer.backward(ctx, parameters, tape, dlogits, gradients);
  }

  double total() const {
    double sum = 0;
    for (Index i = 0; i < logits.size(); ++i) sum += std::abs(logits.data()[i]);
    return sum;
  }
  /// The 2-norm of a gradient and its first element.
  void check_gradient(const std::string& name, double norm, double first) const {
    bool found = false;
    for_each_parameter(
        [&](const ParameterSpec& spec, const auto& tensor) {
          if (spec.name != name) return;
          found = true;
          double sum = 0;
          for (Index i = 0; i < tensor.size(); ++i) sum += tensor.data()[i] * tensor.data()[i];
          CAPTURE(name);
          CHECK(std::sqrt(sum) == doctest::Approx(norm).epsilon(1e-6));
          CHECK(tensor.data()[0] == doctest::Approx(first).epsilon(1e-6));
        },
        gradients);
    CHECK_MESSAGE(found, name);
  }

  Context<Reference> ctx;
  M layer;
  typename M::template Parameters<double> parameters, gradients;
  DynamicTensor<Token, 2> tokens;
  DynamicTensor<double, 3> logits;
  double loss = 0;
};

TEST_CASE("the numbers are those of the published generator") {
  const NamedNumbers u("model.embed_tokens.weight");
  CHECK(u(0) == -0.2574191093444824);
  CHECK(u(1) == -0.35996365547180176);
  CHECK(u(2) == 0.026570439338684082);
}

DenseRetNetLanguageModel dense_retnet(Index sources, Index k_reduction, Index v_reduction) {
  return make_language_model(DenseRetNetLanguageModelConfig{.d_model = 64,
                                                            .n_layer = 4,
                                                            .vocab_size = 97,
                                                            .num_heads = 2,
                                                            .d_key = 32,
                                                            .d_value = 128,
                                                            .dense_block_layers = sources,
                                                            .k_select_reduction = k_reduction,
                                                            .v_select_reduction = v_reduction});
}

// The published logits are those of the parallel form; the recurrent one differs by eps in the head
// norm alone.
constexpr double form_tolerance = 2e-5;

TEST_CASE("DenseRetNet is the published one, for one to three sources") {
  struct Expected {
    Index sources, k_reduction, v_reduction;
    double loss, total;
    double last[4];
  };
  for (const Expected& e : {Expected{1,
                                     32,
                                     32,
                                     5.211593724340528,
                                     1906.2013879,
                                     {-0.126466838, 0.517946241, -0.0208391996, 0.462196036}},
                            Expected{2,
                                     32,
                                     32,
                                     5.214616413347993,
                                     1895.1573255,
                                     {0.171186237, 0.000879603267, -0.299030626, 0.415643879}},
                            Expected{3,
                                     32,
                                     32,
                                     5.188143582708722,
                                     1887.4691617,
                                     {0.0192138554, -0.203675145, -0.318135001, 0.301159689}}}) {
    CAPTURE(e.sources);
    Golden golden(dense_retnet(e.sources, e.k_reduction, e.v_reduction));
    golden.run();
    CHECK(std::abs(golden.loss - e.loss) < form_tolerance);
    CHECK(std::abs(golden.total() - e.total) < 100 * form_tolerance);
    for (Index i = 0; i < 4; ++i) CHECK(std::abs(golden.logits(1, 11, i) - e.last[i]) < 1e-6);
  }
  Golden other(dense_retnet(2, 8, 32));
  other.run();
  CHECK(std::abs(other.loss - 5.157578613006763) < form_tolerance);
  CHECK(std::abs(other.total() - 1874.0715801) < 100 * form_tolerance);
}

TEST_CASE("RetNet is torchscale's") {
  Golden golden(make_language_model(RetNetLanguageModelConfig{.d_model = 64,
                                                              .n_layer = 3,
                                                              .vocab_size = 97,
                                                              .num_heads = 2,
                                                              .d_value = 128,
                                                              .d_inner = 96}));
  golden.run();
  CHECK(std::abs(golden.loss - 5.096858201297625) < form_tolerance);
  CHECK(std::abs(golden.total() - 1829.4428015) < 1000 * form_tolerance);
  const double last[] = {-0.506824296, 2.82351995, 0.0206401512, 0.460424063};
  for (Index i = 0; i < 4; ++i) CHECK(std::abs(golden.logits(1, 11, i) - last[i]) < 1e-6);
}

MambaLanguageModelConfig mamba(Index sources) {
  return {.d_model = 32,
          .n_layer = 3,
          .vocab_size = 97,
          .d_inner = 64,
          .dt_rank = 2,
          .dense_block_layers = sources,
          .h_select_reduction = 8};
}

template <class M>
void check_mamba(M model, double loss, double total, const double (&first)[4],
                 const double (&last)[4]) {
  Golden golden(std::move(model));
  golden.run();
  CHECK(golden.loss == doctest::Approx(loss).epsilon(1e-12));
  CHECK(golden.total() == doctest::Approx(total).epsilon(1e-9));
  for (Index i = 0; i < 4; ++i) {
    CHECK(golden.logits(0, 0, i) == doctest::Approx(first[i]).epsilon(1e-7));
    CHECK(golden.logits(1, 11, i) == doctest::Approx(last[i]).epsilon(1e-7));
  }
}

TEST_CASE("Mamba is the published one, with its gradients") {
  check_mamba(make_language_model(mamba(0)), 26.981113847205084, 10702.1608730,
              {-0.540914559, -5.7153184, 3.51876737, 28.3673841},
              {-3.25869416, 6.99660024, 0.693005399, -3.10856606});
  Golden golden(make_language_model(mamba(0)));
  golden.run();
  const std::string layer = "backbone.layers.1.";
  golden.check_gradient(layer + "mixer.A_log", 0.01762061104, 3.99413228e-06);
  golden.check_gradient(layer + "mixer.D", 0.5607690481, -0.0294471598);
  golden.check_gradient(layer + "mixer.in_proj.weight", 4.033795668, 0.0341595547);
  golden.check_gradient(layer + "mixer.conv1d.weight", 1.048506412, 0.0147524646);
  golden.check_gradient(layer + "mixer.conv1d.bias", 0.5602211688, -0.00967007766);
  golden.check_gradient(layer + "mixer.x_proj.weight", 0.4632485155, 0.000452945453);
  golden.check_gradient(layer + "mixer.dt_proj.weight", 0.0212446608, -7.41320671e-05);
  golden.check_gradient(layer + "mixer.dt_proj.bias", 0.02236452653, -1.66214232e-06);
  golden.check_gradient(layer + "mixer.out_proj.weight", 3.296552985, -0.131332996);
  golden.check_gradient(layer + "norm.weight", 1.04810067, -0.0877391827);
  golden.check_gradient("backbone.norm_f.weight", 5.137817993, 0.832664621);
}

TEST_CASE("Dense Mamba without sources is Mamba, and with one or two what is fixed for it") {
  check_mamba(make_dense_language_model(mamba(0)), 26.981113847205084, 10702.1608730,
              {-0.540914559, -5.7153184, 3.51876737, 28.3673841},
              {-3.25869416, 6.99660024, 0.693005399, -3.10856606});
  check_mamba(make_dense_language_model(mamba(1)), 26.97884685623013, 10703.6831469,
              {-0.537553289, -5.71857966, 3.51732061, 28.3671383},
              {-3.25160539, 6.93890921, 0.677787116, -3.16799443});
  check_mamba(make_dense_language_model(mamba(2)), 26.971550246016452, 10700.0921560,
              {-0.539180038, -5.7185443, 3.51705473, 28.3669895},
              {-3.23749668, 6.94443261, 0.691728886, -3.12211689});
}

}  // namespace
}  // namespace ssm::test
