// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>
#include <vector>

#include "ssm/layer/diagonal_ssm.hpp"
#include "ssm/layer/glu_readout.hpp"
#include "ssm/layer/h3.hpp"
#include "ssm/layer/linear.hpp"
#include "ssm/layer/mean_pool.hpp"
#include "ssm/layer/norm.hpp"
#include "ssm/model/bidirectional.hpp"
#include "ssm/model/chain.hpp"
#include "ssm/model/embedded.hpp"
#include "ssm/model/one_of.hpp"
#include "ssm/model/post_norm.hpp"
#include "ssm/model/residual.hpp"
#include "ssm/model/sequential.hpp"
#include "ssm/model/stack.hpp"

namespace ssm {

enum class ClassifierMixer { s4d, h3 };
enum class NormPlace { before, after };
enum class Pooling { mean, last };

/// A classifier of whole sequences.
struct SequenceClassifierConfig {
  Index vocabulary = 0;  // tokens that may occur, or
  Index inputs = 0;      // numbers at a position
  Index classes = 2;
  Index d_model = 128;
  Index n_layer = 4;
  Index d_state = 64;
  Index n_ssm = dyn;  // of S4D: how many A and B there are in a layer; left out: one a channel
  ClassifierMixer mixer = ClassifierMixer::s4d;
  bool bidirectional = true;
  NormPlace norm = NormPlace::before;  // of a block: before its mixer, or behind the sum
  Pooling pooling = Pooling::mean;
  double dropout = 0;     // training only: inside a block and of what it adds
  double dt_min = 0.001;  // seconds; initialization
  double dt_max = 0.1;
};

namespace detail {
using ClassifierSsm =
    DiagonalSsm<DiagonalSsmConfig{.state = dyn, .form = DiagonalForm::automatic, .shared = true}>;
/// S4D with a gated output; a second state-space model reads the sequence from its end.
template <class Ssm>
using GatedS4D = Chain<Ssm, GluReadout<GluReadoutConfig{}>>;
using ClassifierH3 = H3<H3Config{.state = dyn}>;
using ClassifierMixers = OneOf<GatedS4D<Bidirectional<ClassifierSsm>>, GatedS4D<ClassifierSsm>,
                               Bidirectional<ClassifierH3>, ClassifierH3>;
using ClassifierBlock =
    OneOf<Residual<LayerNorm<>, ClassifierMixers>, PostNorm<LayerNorm<>, ClassifierMixers>>;
using ClassifierHead = Linear<LinearConfig{}>;
using ClassifierDecoder = OneOf<Chain<MeanPool<MeanPoolConfig{}>, ClassifierHead>, ClassifierHead>;
}  // namespace detail

/// What classifies sequences of D numbers a position.
///   y_t = decoder(pool(norm(blocks(x)))_t)
/// The answer for a sequence is its last position (`last_position(y)`), where the mean is that of
/// the whole sequence; of a padded one, the position before the padding.
/// x   [B, L, D]
/// y   [B, L, classes]
using ClassifierBody =
    Chain<Stack<detail::ClassifierBlock>,
          Sequential<Named<"norm", LayerNorm<>>, Named<"decoder", detail::ClassifierDecoder>>>;
/// The same of tokens [B, L].
using TokenClassifier = Embedded<ClassifierBody>;
/// The same of numbers [B, L, inputs].
using SequenceClassifier = Chain<Named<"encoder", Linear<LinearConfig{}>>, ClassifierBody>;

namespace detail {
inline ClassifierMixers make_classifier_mixer(const SequenceClassifierConfig& config) {
  if (config.mixer == ClassifierMixer::h3) {
    const ClassifierH3 layer({.channels = config.d_model,
                              .state = config.d_state,
                              .dt_min = config.dt_min,
                              .dt_max = config.dt_max});
    if (config.bidirectional) return Bidirectional<ClassifierH3>(layer);
    return layer;
  }
  const ClassifierSsm layer({.channels = config.d_model,
                             .state = config.d_state,
                             .discretization = Discretization::zero_order_hold,
                             .dt_min = config.dt_min,
                             .dt_max = config.dt_max,
                             .n_ssm = config.n_ssm == dyn ? config.d_model : config.n_ssm});
  const GluReadout<GluReadoutConfig{}> readout(
      {.channels = config.d_model, .dropout = config.dropout});
  if (config.bidirectional)
    return GatedS4D<Bidirectional<ClassifierSsm>>(Bidirectional<ClassifierSsm>(layer), readout);
  return GatedS4D<ClassifierSsm>(layer, readout);
}

inline ClassifierBody make_classifier_body(const SequenceClassifierConfig& config) {
  const LayerNorm<> norm({.channels = config.d_model});
  const ClassifierMixers mixer = make_classifier_mixer(config);
  const ClassifierBlock block =
      config.norm == NormPlace::before
          ? ClassifierBlock(Residual<LayerNorm<>, ClassifierMixers>(norm, mixer, config.dropout))
          : ClassifierBlock(PostNorm<LayerNorm<>, ClassifierMixers>(norm, mixer, config.dropout));
  const ClassifierHead head({.inputs = config.d_model, .outputs = config.classes});
  const ClassifierDecoder decoder =
      config.pooling == Pooling::last
          ? ClassifierDecoder(head)
          : ClassifierDecoder(Chain<MeanPool<MeanPoolConfig{}>, ClassifierHead>(
                MeanPool<MeanPoolConfig{}>({.channels = config.d_model}), head));
  return {
      Stack<ClassifierBlock>(
          std::vector<ClassifierBlock>(static_cast<std::size_t>(config.n_layer), block)),
      Sequential<Named<"norm", LayerNorm<>>, Named<"decoder", ClassifierDecoder>>(norm, decoder)};
}
}  // namespace detail

/// Throws  ArgumentError  for a configuration without layers, classes or tokens
inline TokenClassifier make_token_classifier(const SequenceClassifierConfig& config) {
  return {config.vocabulary, detail::make_classifier_body(config)};
}
/// Throws  ArgumentError  for a configuration without layers, classes or inputs
inline SequenceClassifier make_sequence_classifier(const SequenceClassifierConfig& config) {
  return {Linear<LinearConfig{}>({.inputs = config.inputs, .outputs = config.d_model}),
          detail::make_classifier_body(config)};
}

}  // namespace ssm
