// SPDX-License-Identifier: Apache-2.0
// Classifies whole sequences: drawn digits, read as 196 pixels one after the other.
#include <array>
#include <cstdio>
#include <filesystem>
#include <ssm/backend/cpu.hpp>
#include <ssm/io/model_file.hpp>
#include <ssm/layer/s4d.hpp>
#include <ssm/ssm.hpp>

// [classifier model]
constexpr ssm::Index d_model = 32, classes = 10;
using Norm = ssm::LayerNorm<d_model>;
using Mixer = ssm::S4D<ssm::S4DConfig{.channels = d_model, .state = 16}>;
using Mlp = ssm::FeedForward<ssm::FeedForwardConfig{.channels = d_model, .hidden = 2 * d_model}>;
using Block = ssm::Chain<ssm::Residual<Norm, Mixer, "norm1", "s4d">,
                         ssm::Residual<Norm, Mlp, "norm2", "mlp">>;
using Classifier = ssm::Sequential<
    ssm::Named<"encoder", ssm::Linear<ssm::LinearConfig{.inputs = 1, .outputs = d_model}>>, Block,
    Block, Norm, ssm::MeanPool<ssm::MeanPoolConfig{.channels = d_model}>,
    ssm::Named<"head", ssm::Linear<ssm::LinearConfig{.inputs = d_model, .outputs = classes}>>>;
// [/classifier model]

constexpr ssm::Index side = 14, pixels = side * side;

/// Digits of seven segments, somewhere in the image, with noise.
void draw(ssm::DynamicTensor<float, 3>& images, ssm::DynamicTensor<ssm::Token, 1>& labels,
          ssm::Seed seed) {
  constexpr std::array segments{0x77, 0x24, 0x5d, 0x6d, 0x2e, 0x6b, 0x7b, 0x25, 0x7f, 0x6f};
  ssm::fill_normal(images, seed.fork("noise"), 0, 0.15);
  const ssm::Random random(seed);
  for (ssm::Index b = 0; b < images.extent(0); ++b) {
    const auto draws = random.bits(static_cast<std::uint64_t>(b));
    labels(b) = static_cast<ssm::Token>(draws[0] % classes);
    const int on = segments[static_cast<std::size_t>(labels(b))];
    const ssm::Index corner = draws[1] % 3 * side + draws[2] % 3 + 1;
    const auto line = [&](int segment, ssm::Index from, ssm::Index step) {
      for (ssm::Index i = 0; i < 5 && (on & 1 << segment) != 0; ++i)
        images(b, corner + from + i * step, 0) += 1;
    };
    line(0, 0, 1), line(3, 5 * side, 1), line(6, 10 * side, 1);  // across
    line(1, 0, side), line(2, 4, side), line(4, 5 * side, side), line(5, 5 * side + 4, side);
  }
}

int main() {
  // [classifier training]
  ssm::Context<ssm::Cpu> ctx;
  const Classifier layer;
  ssm::Model model{layer, layer.initialize(ctx, ssm::Seed{3})};
  ssm::Trainer trainer(ctx, model, {.rate = 1.2e-2, .ssm_rate = 1.2e-2, .clip_norm = 1});
  const ssm::Schedule schedule{
      .kind = ssm::ScheduleKind::cosine, .base = 1.2e-2, .warmup_steps = 20, .total_steps = 500};
  ssm::DynamicTensor<float, 3> images({32, pixels, 1});
  ssm::DynamicTensor<ssm::Token, 1> labels({32});
  const auto loss = [&](auto y, auto dy) {
    return ssm::cross_entropy(ctx, ssm::last_position(y), labels, ssm::last_position(dy));
  };
  for (std::uint64_t step = 0; step < 500; ++step) {
    draw(images, labels, ssm::Seed{1}.fork(step));
    const auto result =
        trainer.update(images, loss, {.rate = schedule.rate(static_cast<ssm::Index>(step))});
    if (step % 100 == 0) std::printf("step %3d  loss %.3f\n", int(step), result.loss);
  }
  // [/classifier training]

  // [classifier file]
  const auto path = std::filesystem::temp_directory_path() / "ssm_digits.safetensors";
  ssm::save(path, model);
  ssm::Model again{layer, layer.initialize(ctx, ssm::Seed{4})};
  ssm::load(path, again);
  // [/classifier file]
  std::filesystem::remove(path);

  double right = 0;
  bool same = true;
  ssm::DynamicTensor<float, 3> y({32, pixels, classes}), z({32, pixels, classes});
  for (std::uint64_t fresh = 0; fresh < 10; ++fresh) {
    draw(images, labels, ssm::Seed{2}.fork(fresh));
    model.forward(ctx, images, y);
    again.forward(ctx, images, z);
    right += ssm::accuracy(ssm::last_position(y), labels) / 10;
    same = same && ssm::largest_difference(y, z).value == 0;
  }
  std::printf("accuracy %.3f of fresh digits; reloaded: %s\n", right, same ? "same" : "different");
  return right >= 0.8 && same ? 0 : 1;
}
