// SPDX-License-Identifier: Apache-2.0
// A layer that runs wholly in memory of the program's own, with as many threads as it says.
// [own memory]
#include <iostream>
#include <ssm/backend/cpu.hpp>
#include <ssm/ssm.hpp>
#include <vector>

int main() {
  using Layer = ssm::Mamba<ssm::MambaConfig{.channels = 8}>;
  ssm::Context<ssm::Cpu> ctx(ssm::cpu::Resources(2));  // two threads
  const Layer layer;
  auto parameters = layer.initialize(ctx, ssm::Seed{1});

  // Weights that another library holds: each tensor of the parameters borrows its memory.
  std::vector<std::vector<float>> weights;
  ssm::for_each_parameter(
      [&](const ssm::ParameterSpec&, auto& tensor) {
        auto& memory = weights.emplace_back(tensor.data(), tensor.data() + tensor.size());
        using Tensor = std::remove_cvref_t<decltype(tensor)>;
        tensor = Tensor::borrow(memory.data(), tensor.extents());
      },
      parameters);

  // Sequences are views of any memory: pointer, extents, and strides where rows are not dense.
  const ssm::Index length = 50;
  std::vector<float> x(length * 8, 0.5F), y(length * 8);
  layer.forward(ctx, parameters, ssm::view_of(x.data(), {length, 8}),
                ssm::view_of(y.data(), {length, 8}));
  std::cout << "y[0] = " << y[0] << ", y[last] = " << y.back() << "\n";
  return y.back() == y.back() ? 0 : 1;
}
// [/own memory]
