// expect: x is of another scalar than the parameters
// SPDX-License-Identifier: Apache-2.0
#include <ssm/backend/reference.hpp>
#include <ssm/layer/linear.hpp>

using Layer = ssm::Linear<ssm::LinearConfig{.inputs = 3, .outputs = 5}>;

/// A matrix of doubles with the accessors of Eigen's.
struct Matrix {
  const double* data() const;
  long rows() const;
  long cols() const;
  long rowStride() const;
  long colStride() const;
};

void forward(ssm::Context<ssm::Reference>& ctx, const Layer::Parameters<float>& parameters,
             const Matrix& x, ssm::View<float, 2> y) {
  Layer().forward(ctx, parameters, x, y);
}
