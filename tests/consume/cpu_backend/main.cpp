// SPDX-License-Identifier: Apache-2.0
// A program that uses the layers on the Cpu backend, as users compile it.
#include <cmath>
#include <ssm/backend/cpu.hpp>
#include <ssm/layer/mamba.hpp>
#include <ssm/ssm.hpp>

namespace {

/// Runs a layer over a sequence and one position at a time; whether both say the same.
template <class Layer>
bool streams_what_it_computes(const Layer& layer) {
  constexpr ssm::Index length = 65, channels = 16;
  ssm::Context<ssm::Cpu> ctx(ssm::cpu::Resources(1));
  const auto parameters = layer.template initialize<float>(ctx, ssm::Seed{1});
  ssm::DynamicTensor<float, 3> x({1, length, channels}), y({1, length, channels}),
      streamed({1, length, channels});
  ssm::fill_normal(x, ssm::Seed{2});
  layer.forward(ctx, parameters, x, y);
  auto state = layer.initial_state(ctx, 1);
  for (ssm::Index t = 0; t < length; ++t)
    layer.step(ctx, parameters, x.select(1, t), streamed.select(1, t), state);
  for (ssm::Index t = 0; t < length; ++t)
    for (ssm::Index d = 0; d < channels; ++d)
      if (!(std::abs(y(0, t, d) - streamed(0, t, d)) < 1e-4F)) return false;
  return true;
}

}  // namespace

int main() {
  const bool good =
      streams_what_it_computes(
          ssm::DiagonalSsm<ssm::DiagonalSsmConfig{.channels = 16, .state = 8}>()) &&
      streams_what_it_computes(ssm::H3<ssm::H3Config{.channels = 16, .state = 8}>()) &&
      streams_what_it_computes(ssm::Mamba<ssm::MambaConfig{.channels = 16}>());
  return good ? 0 : 1;
}
