// expect: tokens must be .L. or .B, L.
// SPDX-License-Identifier: Apache-2.0
#include <ssm/backend/reference.hpp>
#include <ssm/model/blocks.hpp>

using Model = ssm::LanguageModel<ssm::Vocabulary{8}, ssm::Width{4}, ssm::H3Block>;

void forward(ssm::Context<ssm::Reference>& ctx, const Model& model,
             const Model::Parameters<float>& parameters, ssm::View<const ssm::Token, 3> tokens,
             ssm::View<float, 3> y) {
  model.forward(ctx, parameters, tokens, y);
}
