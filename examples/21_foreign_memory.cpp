// SPDX-License-Identifier: Apache-2.0
// A layer on data that somebody else owns: matrices, raw memory, windows of longer sequences; and
// on parameters, gradients and scratch memory that are not the library's.
#include <cstddef>
#include <cstdio>
#include <ssm/backend/cpu.hpp>
#include <ssm/layer/s4d.hpp>
#include <ssm/ssm.hpp>
#include <type_traits>
#include <utility>
#include <vector>

#include "data/dlpack.hpp"
#if __has_include(<Eigen/Core>)
#include <Eigen/Core>
using Matrix = Eigen::MatrixXf;
Matrix matrix(ssm::Index rows, ssm::Index cols) { return Matrix::Random(rows, cols); }
#else
using Matrix = ssm::DynamicTensor<float, 2>;
Matrix matrix(ssm::Index rows, ssm::Index cols) { return Matrix({rows, cols}); }
#endif

int main() {
  const ssm::Index batch = 2;
  const ssm::Index length = 100;
  const ssm::Index channels = 16;
  using Layer = ssm::S4D<ssm::S4DConfig{.channels = 16, .state = 8}>;
  const Layer layer;
  ssm::Context<ssm::Cpu> ctx;
  auto parameters = layer.initialize(ctx, ssm::Seed{1});
  auto tape = layer.make_tape(parameters);
  const Matrix samples = matrix(length, channels);
  Matrix y = matrix(length, channels);
  std::vector<float> memory(static_cast<std::size_t>(batch * length * channels), 0.5F);
  const float* pointer = memory.data();
  ssm::DynamicTensor<float, 3> x({batch, length, channels});
  ssm::DynamicTensor<float, 3> z({batch, length, channels});
  ssm::fill_normal(x, ssm::Seed{2});

  // [operands]
  layer.forward(ctx, parameters, samples, y);  // Eigen matrices [L, D], row-major or column-major
  layer.forward(ctx, parameters, ssm::view_of(pointer, {batch, length, channels}), z);
  layer.forward(ctx, parameters, x.slice(1, 10, 60), z.slice(1, 10, 60), tape);  // windows
  layer.forward(ctx, parameters, x.reverse(1), z.reverse(1), tape);  // from the last position on
  // [/operands]

  layer.forward(ctx, parameters, x, z);
  const auto expected = ssm::clone(z);
  std::vector<float> weights(static_cast<std::size_t>(ssm::parameter_count(parameters)));
  std::size_t at = 0;
  ssm::for_each_parameter(
      [&](const ssm::ParameterSpec&, const auto& tensor) {
        for (ssm::Index i = 0; i < tensor.size(); ++i) weights[at++] = tensor.data()[i];
      },
      parameters);

  float* next = weights.data();  // whoever owns it
  // [borrow]
  ssm::for_each_parameter(
      [&](const ssm::ParameterSpec&, auto& tensor) {
        using Tensor = std::remove_reference_t<decltype(tensor)>;
        tensor = Tensor::borrow(next, tensor.extents());
        next += tensor.size();
      },
      parameters);
  // [/borrow]
  // [scratch]
  std::vector<std::byte> scratch(ctx.workspace().peak() + 63);  // 63: to start at an aligned byte
  ctx.workspace().borrow(scratch);
  // [/scratch]
  ssm::fill(z, 0);
  layer.forward(ctx, parameters, x, z);
  const double difference = ssm::largest_difference(z, expected).value;
  std::printf("in borrowed memory: largest difference %g\n", difference);

  const ssm::DlpackView<DLTensor, 3> x_of_others(x.view()), z_of_others(z.view());
  const DLTensor* given = x_of_others.get();
  const DLTensor* wanted = z_of_others.get();
  // [dlpack]
  const auto in = ssm::from_dlpack<const float, 3>(*given);  // const DLTensor* given, *wanted
  const auto out = ssm::from_dlpack<float, 3>(*wanted);
  layer.forward(ctx, parameters, in, out);
  auto* result = ssm::to_dlpack<DLManagedTensor>(std::move(z));  // with its memory
  // [/dlpack]
  const auto back = ssm::from_dlpack<const float, 3>(result);  // calls the deleter in the end
  const bool is_same = ssm::largest_difference(back.view(), expected).value == 0;
  return difference == 0 && is_same ? 0 : 1;
}
