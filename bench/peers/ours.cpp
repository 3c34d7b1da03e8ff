// SPDX-License-Identifier: Apache-2.0
// Times one piece of work and prints a line of JSON: the library's side of bench/peers/compare.py.
//   ssm-peers selective_scan fwd+bwd 4x1536x2048 [THREADS]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "../floors.hpp"
#include "ssm/core/fill_random.hpp"
#include "ssm/model/mamba_language_model.hpp"
#include "ssm/op/cross_entropy.hpp"
#include "ssm/op/decayed_attention.hpp"
#include "ssm/train/adamw.hpp"

namespace {

using namespace ssm;
using Space = HostSpace;
using Ctx = Context<Cpu>;

/// What is timed, and what it cannot be faster than.
struct Work {
  std::function<void()> run;
  double floor_seconds = 0;  // 0: not stated
  double tokens = 0;         // of one run, where that is what people count
};
struct Request {
  bool trains = false;
  bool weights_in_bf16 = false;
  std::vector<Index> shape;
  int threads = 1;
};

template <int Rank>
DynamicTensor<float, Rank> random(std::array<Index, static_cast<std::size_t>(Rank)> extents,
                                  std::uint64_t seed, double low = -1, double high = 1) {
  DynamicTensor<float, Rank> tensor(
      std::apply([](auto... n) { return DynamicExtents<Rank>(n...); }, extents));
  const Random numbers(Seed{seed});
  for (Index i = 0; i < tensor.size(); ++i)
    tensor.data()[i] =
        static_cast<float>(numbers.uniform(static_cast<std::uint64_t>(i), low, high));
  return tensor;
}

Work selective_scan_work(Ctx& ctx, const Request& r) {
  const Index batch = r.shape.at(0), width = r.shape.at(1), length = r.shape.at(2), states = 16;
  struct Data {
    DynamicTensor<float, 3> u, dt, B, C, y, dy, du, ddt, dB, dC;
    DynamicTensor<float, 2> A, dA;
  };
  auto data = std::make_shared<Data>();
  data->u = random<3>({batch, length, width}, 1);
  data->dt = random<3>({batch, length, width}, 2, 0.001, 0.1);
  data->B = random<3>({batch, length, states}, 3);
  data->C = random<3>({batch, length, states}, 4);
  data->A = random<2>({width, states}, 5, -16, -1);
  data->dy = random<3>({batch, length, width}, 6);
  for (auto* like_u : {&data->y, &data->du, &data->ddt}) like_u->reset({batch, length, width});
  for (auto* like_B : {&data->dB, &data->dC}) like_B->reset({batch, length, states});
  data->dA.reset({width, states});
  return {.run = [&ctx, data, trains = r.trains] {
    Data& d = *data;
    const SelectiveScan<float, Space> a{
        .u = d.u, .dt = d.dt, .A = d.A, .B = d.B, .C = d.C, .y = d.y};
    selective_scan(ctx, a);
    if (trains)
      selective_scan_backward(ctx, SelectiveScanBackward<float, Space>{.forward = a,
                                                                       .dy = d.dy,
                                                                       .du = d.du,
                                                                       .ddt = d.ddt,
                                                                       .dA = d.dA,
                                                                       .dB = d.dB,
                                                                       .dC = d.dC});
  }};
}

Work short_convolution_work(Ctx& ctx, const Request& r) {
  const Index batch = r.shape.at(0), width = r.shape.at(1), length = r.shape.at(2);
  struct Data {
    DynamicTensor<float, 3> x, y, dy, dx;
    DynamicTensor<float, 2> weight, dweight;
    DynamicTensor<float, 1> bias, dbias;
  };
  auto data = std::make_shared<Data>();
  data->x = random<3>({batch, length, width}, 1);
  data->dy = random<3>({batch, length, width}, 2);
  data->weight = random<2>({width, 4}, 3);
  data->bias = random<1>({width}, 4);
  data->y.reset({batch, length, width});
  data->dx.reset({batch, length, width});
  data->dweight.reset({width, Index{4}});
  data->dbias.reset({width});
  const double passes = r.trains ? 5 : 2;  // x in, y out; then x and dy in, dx out
  return {.run =
              [&ctx, data, trains = r.trains] {
                Data& d = *data;
                const ShortConvolution<float, Space> a{.weight = d.weight,
                                                       .bias = d.bias,
                                                       .activation = ActivationKind::silu,
                                                       .x = d.x,
                                                       .y = d.y};
                short_convolution(ctx, a);
                if (trains)
                  short_convolution_backward(
                      ctx, ShortConvolutionBackward<float, Space>{.forward = a,
                                                                  .dy = d.dy,
                                                                  .dx = d.dx,
                                                                  .dweight = d.dweight,
                                                                  .dbias = d.dbias});
              },
          .floor_seconds =
              passes * static_cast<double>(data->x.size() * 4) / bench::read_rate(r.threads)};
}

/// shape: heads x key channels x value channels x length
Work retention_work(Ctx& ctx, const Request& r) {
  const Index heads = r.shape.at(0), keys = r.shape.at(1), values = r.shape.at(2),
              length = r.shape.at(3);
  struct Data {
    DynamicTensor<float, 4> q, k, v, y, dy, dq, dk, dv;
    DynamicTensor<float, 1> log_decay;
  };
  auto data = std::make_shared<Data>();
  data->q = random<4>({1, length, heads, keys}, 1);
  data->k = random<4>({1, length, heads, keys}, 2);
  data->v = random<4>({1, length, heads, values}, 3);
  data->dy = random<4>({1, length, heads, values}, 4);
  for (auto* like_q : {&data->dq, &data->dk}) like_q->reset({Index{1}, length, heads, keys});
  for (auto* like_v : {&data->y, &data->dv}) like_v->reset({Index{1}, length, heads, values});
  data->log_decay.reset({heads});
  for (Index h = 0; h < heads; ++h)
    data->log_decay(h) = std::log1p(-std::exp2(-5.F - static_cast<float>(h)));
  return {.run = [&ctx, data, trains = r.trains] {
    Data& d = *data;
    const DecayedAttention<float, Space> a{
        .q = d.q, .k = d.k, .v = d.v, .log_decay = d.log_decay, .y = d.y};
    decayed_attention(ctx, a);
    if (trains)
      decayed_attention_backward(ctx,
                                 DecayedAttentionBackward<float, Space>{
                                     .forward = a, .dy = d.dy, .dq = d.dq, .dk = d.dk, .dv = d.dv});
  }};
}

/// A language model of Mamba-130M's shape with random weights.
struct Mamba130M {
  MambaLanguageModel layer = make_language_model(MambaLanguageModelConfig{
      .d_model = 768, .n_layer = 24, .vocab_size = 50280, .d_inner = 1536, .dt_rank = 48});
  MambaLanguageModel::Parameters<float> parameters;
  DynamicTensor<Token, 2> tokens;
  DynamicTensor<float, 3> logits;

  Mamba130M(Ctx& ctx, Index length) : parameters(layer.initialize(ctx, Seed{1})) {
    tokens.reset({Index{1}, length});
    for (Index t = 0; t < length; ++t) tokens(0, t) = static_cast<Token>((7919 * t + 13) % 50000);
  }
};

/// shape: length of the prompt. Logits of the last position alone.
Work mamba_prompt(Ctx& ctx, const Request& r) {
  const Index length = r.shape.at(0);
  auto model = std::make_shared<Mamba130M>(ctx, length);
  model->logits.reset({Index{1}, Index{1}, Index{50280}});
  auto state =
      std::make_shared<MambaLanguageModel::State<float>>(model->layer.initial_state<float>(ctx, 1));
  return {.run =
              [&ctx, model, state] {
                model->layer.prefill(ctx, model->parameters, model->tokens, model->logits, *state);
              },
          .tokens = static_cast<double>(length)};
}

/// shape: how many tokens. The floor: every weight is read once a token, and every state read and
/// written.
Work mamba_decode(Ctx& ctx, const Request& r) {
  const Index steps = r.shape.at(0);
  auto model = std::make_shared<Mamba130M>(ctx, 1);
  if (r.weights_in_bf16) keep_weights_in(model->parameters, WeightForm::bf16);
  auto state =
      std::make_shared<MambaLanguageModel::State<float>>(model->layer.initial_state<float>(ctx, 1));
  auto logits =
      std::make_shared<DynamicTensor<float, 2>>(DynamicExtents<2>(Index{1}, Index{50280}));
  auto token = std::make_shared<DynamicTensor<Token, 1>>(DynamicExtents<1>(Index{1}));
  Index states = 0;
  MambaLanguageModel::for_each_state(
      [&](const std::string&, const auto& tensor) { states += tensor.size(); }, *state);
  const double bytes =
      static_cast<double>(parameter_bytes(model->parameters)) + 8.0 * static_cast<double>(states);
  return {.run =
              [&ctx, model, state, logits, token, steps] {
                for (Index t = 0; t < steps; ++t) {
                  (*token)(0) = static_cast<Token>(7919 * t % 50000);
                  model->layer.step(ctx, model->parameters, *token, *logits, *state);
                }
              },
          .floor_seconds = static_cast<double>(steps) * bytes / bench::read_rate(r.threads),
          .tokens = static_cast<double>(steps)};
}

/// shape: length of the sequence. Forward, backward and one update.
Work mamba_training(Ctx& ctx, const Request& r) {
  const Index length = r.shape.at(0);
  struct Data : Mamba130M {
    MambaLanguageModel::Parameters<float> gradients;
    TapeOf<MambaLanguageModel::Parameters<float>> tape;
    DynamicTensor<float, 1> loss;
    AdamW<MambaLanguageModel::Parameters<float>> optimizer;
    Data(Ctx& ctx, Index length)
        : Mamba130M(ctx, length),
          gradients(layer.zero_parameters<float>(ctx)),
          loss(DynamicExtents<1>(Index{1})),
          optimizer(ctx, layer, parameters) {
      logits.reset({Index{1}, length, Index{50280}});
    }
  };
  auto data = std::make_shared<Data>(ctx, length);
  return {.run =
              [&ctx, data] {
                Data& d = *data;
                d.layer.forward(ctx, d.parameters, d.tokens, d.logits, d.tape);
                const auto rows = as_rows(d.logits.view());
                cross_entropy(ctx, CrossEntropy<float, Space>{.logits = rows,
                                                              .targets = d.tokens.flatten(),
                                                              .loss = d.loss,
                                                              .dlogits = rows});
                set_zero(ctx, d.gradients);
                d.layer.backward(ctx, d.parameters, d.tape, d.logits, d.gradients);
                d.optimizer.update(ctx, d.parameters, d.gradients);
              },
          .tokens = static_cast<double>(length)};
}

std::vector<Index> shape_of(const std::string& text) {
  std::vector<Index> shape;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t used = 0;
    shape.push_back(std::stol(text.substr(at), &used));
    at += used + 1;
  }
  return shape;
}

void report(const Work& work) {
  using Clock = std::chrono::steady_clock;
  work.run();  // the first call takes memory
  std::vector<double> seconds;
  const auto begin = Clock::now();
  do {
    seconds.push_back(bench::seconds_of(work.run));
  } while (seconds.size() < 5 || (seconds.size() < 200 &&
                                  std::chrono::duration<double>(Clock::now() - begin).count() < 2));
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  std::printf(
      "{\"ms\": %.6g, \"best_ms\": %.6g, \"runs\": %zu, \"floor_ms\": %.6g, "
      "\"tokens_per_second\": %.6g}\n",
      1e3 * median, 1e3 * seconds.front(), seconds.size(), 1e3 * work.floor_seconds,
      work.tokens / median);
}

}  // namespace

int main(int argc, char** argv) {
  const std::map<std::string, Work (*)(Ctx&, const Request&)> works{
      {"selective_scan", selective_scan_work}, {"short_convolution", short_convolution_work},
      {"retention", retention_work},           {"mamba_prompt", mamba_prompt},
      {"mamba_decode", mamba_decode},          {"mamba_training", mamba_training}};
  if (argc < 4 || !works.contains(argv[1])) {
    std::fprintf(stderr, "usage: ssm-peers WORK fwd|fwd-bf16|fwd+bwd SHAPE [THREADS]\nWORK:");
    for (const auto& [name, make] : works) std::fprintf(stderr, " %s", name.c_str());
    std::fprintf(stderr, "\n");
    return 2;
  }
  try {
    Ctx ctx = argc > 4 ? Ctx(cpu::Resources(std::stoi(argv[4]))) : Ctx();
    report(works.at(argv[1])(ctx, {.trains = std::string(argv[2]) == "fwd+bwd",
                                   .weights_in_bf16 = std::string(argv[2]) == "fwd-bf16",
                                   .shape = shape_of(argv[3]),
                                   .threads = ctx.resources().threads()}));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ssm-peers: %s\n", error.what());
    return 1;
  }
  return 0;
}
