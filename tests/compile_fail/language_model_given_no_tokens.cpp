// expect: tokens must be of type ssm::Token
// SPDX-License-Identifier: Apache-2.0
#include <ssm/backend/reference.hpp>
#include <ssm/model/blocks.hpp>

using Model = ssm::LanguageModel<ssm::Vocabulary{8}, ssm::Width{4}, ssm::H3Block>;

void forward(ssm::Context<ssm::Reference>& ctx, const Model& model,
             const Model::Parameters<float>& parameters, ssm::View<const float, 2> x,
             ssm::View<float, 3> y) {
  model.forward(ctx, parameters, x, y);
}
