// SPDX-License-Identifier: Apache-2.0
// The same layers on a GPU. Built with SSM_BUILD_CUDA; plain g++ compiles this file.

// [includes]
#include <ssm/backend/cpu.hpp>
#include <ssm/backend/cuda.hpp>
#include <ssm/ssm.hpp>
// [/includes]

#include <cstdio>

namespace {

using H3 = ssm::H3<ssm::H3Config{.channels = 64, .state = 16}>;

double train_and_stream() {
  const ssm::Index batch = 2;
  const ssm::Index length = 100;
  const H3 layer;
  ssm::DynamicTensor<float, 3> x({batch, length, 64});
  ssm::DynamicTensor<float, 3> y({batch, length, 64});
  ssm::fill_normal(x, ssm::Seed{1});
  ssm::Context<ssm::Cpu> cpu;
  const auto parameters = layer.initialize(cpu, ssm::Seed{42});
  layer.forward(cpu, parameters, x, y);

  // [copies]
  ssm::Context<ssm::Cuda> gpu;  // cuda::Resources(ssm::Device{1}) for the second device
  const auto on_gpu = ssm::copy_to(gpu, layer, parameters);  // a parameter struct of device tensors
  ssm::DynamicTensor<float, 3, ssm::cuda::CudaSpace> x_gpu, y_gpu;
  ssm::copy_tensor(x, x_gpu);
  y_gpu.resize(x_gpu.extents());
  layer.forward(gpu, on_gpu, x_gpu, y_gpu);  // queued: returns at once
  ssm::DynamicTensor<float, 3> back;
  ssm::copy_tensor(y_gpu, back);  // waits
  // [/copies]

  // [training]
  auto gradients = layer.zero_parameters<float>(gpu);
  ssm::DynamicTensor<float, 3, ssm::cuda::CudaSpace> dx(x_gpu.extents());
  auto tape = layer.make_tape(gpu);
  layer.forward(gpu, on_gpu, x_gpu, y_gpu, tape);
  layer.backward(gpu, on_gpu, tape, y_gpu, dx, gradients);  // of half the sum of squares of y
  // [/training]

  // [recording]
  auto state = layer.initial_state(gpu, batch);
  ssm::DynamicTensor<float, 2, ssm::cuda::CudaSpace> x_t({batch, 64}), y_t({batch, 64});
  layer.step(gpu, on_gpu, x_t, y_t, state);  // once as usual, so that nothing allocates later
  ssm::cuda::Resources::Recording step;
  for (int i = 0; i < 100; ++i)
    step(gpu, [&] { layer.step(gpu, on_gpu, x_t, y_t, state); });  // one launch of a CUDA graph
  // [/recording]
  gpu.resources().synchronize();
  return ssm::largest_difference(y, back).value;
}

}  // namespace

int main() {
  if (ssm::cuda::device_count() == 0) {
    std::puts("skipped: no CUDA device");
    return 77;
  }
  const double difference = train_and_stream();
  std::printf("the GPU's output differs from the CPU's by %.1e\n", difference);
  return difference < 1e-4 ? 0 : 1;
}
