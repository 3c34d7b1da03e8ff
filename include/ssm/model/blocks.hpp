// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/layer/attention.hpp"
#include "ssm/layer/feed_forward.hpp"
#include "ssm/layer/h3.hpp"
#include "ssm/layer/norm.hpp"
#include "ssm/model/chain.hpp"
#include "ssm/model/language_model.hpp"
#include "ssm/model/one_of.hpp"
#include "ssm/model/residual.hpp"
#include "ssm/model/sequential.hpp"
#include "ssm/model/stack.hpp"

namespace ssm {

/// The block of a pre-norm language model.
///   x ← x + mixer(norm1(x))      x ← x + mlp(norm2(x))
/// Source  HazyResearch/H3, SSMModel; named as there
template <class NormLayer, class Mixer, class Mlp>
using PreNormBlock =
    Chain<Residual<NormLayer, Mixer, "norm1", "mixer">, Residual<NormLayer, Mlp, "norm2", "mlp">>;

/// Words for writing a model as a list of blocks; `Layer<Width>` is the block at a width.
struct H3Block {
  template <Index Width>
  using Layer =
      PreNormBlock<LayerNorm<Width>, H3<H3Config{.channels = Width}>,
                   FeedForward<FeedForwardConfig{.channels = Width, .hidden = 4 * Width}>>;
};
struct AttentionBlock {
  static constexpr Index heads(Index width) { return width % 64 == 0 ? width / 64 : 1; }
  template <Index Width>
  using Layer =
      PreNormBlock<LayerNorm<Width>,
                   CausalAttention<CausalAttentionConfig{.channels = Width, .heads = heads(Width)}>,
                   FeedForward<FeedForwardConfig{.channels = Width, .hidden = 4 * Width}>>;
};

/// How many tokens there are; how wide the residual stream is.
struct Vocabulary {
  Index size;
};
struct Width {
  Index channels;
};

/// A language model as a list of blocks, all sizes in the type.
///   using Tiny = LanguageModel<Vocabulary{256}, Width{192}, H3Block, AttentionBlock, H3Block>;
template <Vocabulary vocabulary, Width width, class... Blocks>
class LanguageModel
    : public BasicLanguageModel<Sequential<typename Blocks::template Layer<width.channels>...>,
                                LayerNorm<width.channels>> {
 public:
  LanguageModel()
      : LanguageModel::BasicLanguageModel(LanguageModelConfig{.vocabulary = vocabulary.size}) {}
};

}  // namespace ssm
