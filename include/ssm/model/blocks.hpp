// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/layer/attention.hpp"
#include "ssm/layer/feed_forward.hpp"
#include "ssm/layer/gated_state_space.hpp"
#include "ssm/layer/h3.hpp"
#include "ssm/layer/mamba.hpp"
#include "ssm/layer/norm.hpp"
#include "ssm/layer/retention.hpp"
#include "ssm/layer/s4d.hpp"
#include "ssm/model/language_model.hpp"
#include "ssm/model/pre_norm_block.hpp"
#include "ssm/model/sequential.hpp"

namespace ssm {

// Words for writing a model as a list of blocks. A word W of one's own needs the first of these
// alone:
//   W::Layer<Width>          the block at a width, a layer of that many channels
//   W::make<Width>()         one of them, where it is made of more than its type; left out:
//                            Layer<Width>()
//   W::final_norm<Width>()   the norm that follows the last block, where W is the first; left out:
//                            LayerNorm<Width>()

/// H3 and a feed-forward layer of four times the width, each behind a LayerNorm and with a
/// residual.
struct H3Block {
  template <Index Width>
  using Layer =
      PreNormBlock<LayerNorm<Width>, H3<H3Config{.channels = Width}>,
                   FeedForward<FeedForwardConfig{.channels = Width, .hidden = 4 * Width}>>;
};

/// Causal attention, with heads of 64 channels where they divide the width and one head otherwise,
/// and a feed-forward layer of four times the width, each behind a LayerNorm and with a residual.
struct AttentionBlock {
  static constexpr Index heads(Index width) { return width % 64 == 0 ? width / 64 : 1; }
  template <Index Width>
  using Layer =
      PreNormBlock<LayerNorm<Width>,
                   CausalAttention<CausalAttentionConfig{.channels = Width, .heads = heads(Width)}>,
                   FeedForward<FeedForwardConfig{.channels = Width, .hidden = 4 * Width}>>;
};

/// S4D, with a feed-forward layer behind it as H3 has one.
struct S4DBlock {
  template <Index Width>
  using Layer =
      PreNormBlock<LayerNorm<Width>, S4D<S4DConfig{.channels = Width}>,
                   FeedForward<FeedForwardConfig{.channels = Width, .hidden = 4 * Width}>>;
};

/// The gated state-space layer with the sizes of its paper, as far as the width can be divided.
/// Source  Mehta et al. 2022 (GSS) §3
struct GatedStateSpaceBlock {
  static constexpr Index state_channels(Index width) { return width % 4 == 0 ? width / 4 : width; }
  template <Index Width>
  using Layer = Residual<
      LayerNorm<Width>,
      GatedStateSpace<GatedStateSpaceConfig{
          .channels = Width, .gate_channels = 4 * Width, .state_channels = state_channels(Width)}>>;
};

/// Source  Gu and Dao 2023 (Mamba) §3.4; its tensors are named as MambaNames expects
struct MambaBlock {
  template <Index Width>
  using Layer = Residual<RmsNorm<Width>, Mamba<MambaConfig{.channels = Width}>>;
  template <Index Width>
  static RmsNorm<Width> final_norm() {
    return {};
  }
};

/// Retention with values and gated feed-forward layers twice as wide as the block, and heads of 256
/// channels.
/// Source  Sun et al. 2023 (RetNet) §3.1; its tensors are named as RetNetNames expects
struct RetNetBlock {
  static constexpr Index heads(Index width) { return width % 256 == 0 ? width / 256 : 1; }
  template <Index Width>
  using Mixer =
      Retention<RetentionConfig{.channels = Width, .value_dim = 2 * Width, .heads = heads(Width)}>;
  template <Index Width>
  using Mlp = FeedForward<FeedForwardConfig{
      .channels = Width, .hidden = 2 * Width, .gated = true, .bias = false}>;
  template <Index Width>
  using Layer = Chain<Residual<RmsNorm<Width>, Mixer<Width>, "retention_layer_norm", "retention">,
                      Residual<RmsNorm<Width>, Mlp<Width>, "final_layer_norm", "ffn">>;
  template <Index Width>
  static RmsNorm<Width> final_norm() {
    return RmsNorm<Width>({.eps = 1e-6});
  }
  template <Index Width>
  static Layer<Width> make() {
    const auto norm = final_norm<Width>();
    return {{norm, Mixer<Width>()}, {norm, Mlp<Width>({.activation = ActivationKind::silu})}};
  }
};

/// How many tokens there are; how wide the residual stream is.
struct Vocabulary {
  Index size;
};
struct Width {
  Index channels;
};

namespace detail {
template <class Block, Index Channels>
typename Block::template Layer<Channels> make_block() {
  if constexpr (requires { Block::template make<Channels>(); })
    return Block::template make<Channels>();
  else
    return {};
}
template <Index Channels, class First, class... Blocks>
auto make_final_norm() {
  if constexpr (requires { First::template final_norm<Channels>(); })
    return First::template final_norm<Channels>();
  else
    return LayerNorm<Channels>();
}
template <Index Channels, class Names, class... Blocks>
using LanguageModelOf = BasicLanguageModel<Sequential<typename Blocks::template Layer<Channels>...>,
                                           decltype(make_final_norm<Channels, Blocks...>()), Names>;
}  // namespace detail

/// A language model as a list of blocks, all sizes in the type. Names say what its tensors are
/// called and how it begins; with those of a family and its blocks alone, checkpoints of that
/// family fit.
///   using Small = NamedLanguageModel<MambaNames, Vocabulary{256}, Width{192}, MambaBlock,
///                                    MambaBlock>;
template <class Names, Vocabulary vocabulary, Width width, class... Blocks>
class NamedLanguageModel : public detail::LanguageModelOf<width.channels, Names, Blocks...> {
 public:
  NamedLanguageModel()
      : NamedLanguageModel::BasicLanguageModel(
            LanguageModelConfig{.vocabulary = vocabulary.size},
            Sequential<typename Blocks::template Layer<width.channels>...>(
                detail::make_block<Blocks, width.channels>()...),
            detail::make_final_norm<width.channels, Blocks...>()) {}
};

/// The same under H3's names.
///   using Tiny = LanguageModel<Vocabulary{256}, Width{192}, H3Block, AttentionBlock, MambaBlock>;
template <Vocabulary vocabulary, Width width, class... Blocks>
class LanguageModel : public NamedLanguageModel<H3Names, vocabulary, width, Blocks...> {};

}  // namespace ssm
