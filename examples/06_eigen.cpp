// SPDX-License-Identifier: Apache-2.0
// Eigen's matrices in and out of a layer, without copies.
// [eigen]
#include <Eigen/Core>
#include <iostream>
#include <ssm/backend/cpu.hpp>
#include <ssm/ssm.hpp>

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

int main() {
  ssm::Context<ssm::Cpu> ctx;
  const ssm::DiagonalSsm<ssm::DiagonalSsmConfig{.channels = 8, .state = 16}> layer;
  const auto parameters = layer.initialize(ctx, ssm::Seed{1});
  const Rows x = Rows::Random(100, 8);  // 100 positions of one sequence, 8 channels
  Rows y(100, 8);
  layer.forward(ctx, parameters, x, y);

  // Parameters are tensors; a map shows one to Eigen.
  const Eigen::Map<const Eigen::VectorXf> skip(parameters.D.data(), parameters.D.size());
  std::cout << "largest output " << y.cwiseAbs().maxCoeff() << ", norm of D " << skip.norm()
            << "\n";

  // The same sequence with time along the columns: a transposed view, and still no copy.
  const Eigen::MatrixXf columns = x.transpose();  // [8, 100] in Eigen's own layout
  Rows z(100, 8);
  layer.forward(ctx, parameters, ssm::view_of(columns).transpose(0, 1), z);
  return (y - z).norm() < 1e-5F ? 0 : 1;
}
// [/eigen]
