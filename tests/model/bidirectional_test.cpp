// SPDX-License-Identifier: Apache-2.0
#include "ssm/model/bidirectional.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <type_traits>
#include <vector>

#include "ssm/core/compare.hpp"
#include "ssm/core/elementwise.hpp"
#include "ssm/laws/layer_laws.hpp"
#include "ssm/layer/linear.hpp"
#include "ssm/layer/norm.hpp"
#include "ssm/layer/s4d.hpp"
#include "ssm/model/chain.hpp"
#include "ssm/model/residual.hpp"
#include "ssm/model/sequence_classifier.hpp"
#include "support/check_layer.hpp"
#include "support/test_tensor.hpp"

namespace ssm {
namespace {

using Filter = S4D<S4DConfig{.channels = 3, .state = 4}>;
using Both = Bidirectional<Filter>;
using Widening = Bidirectional<Chain<Filter, Linear<LinearConfig{.inputs = 3, .outputs = 5}>>>;

/// Those of the laws that a layer without a state and without causality can keep.
template <class L>
void check_laws_of_whole_sequences(const L& layer) {
  laws::for_each_backend_and_scalar([&]<class B, class T>(const char* name) {
    laws::LayerOn<L, B, T> subject(layer, name);
    laws::LayerOn<L, Reference, double> reference(layer, "reference");
    std::vector<laws::Report> reports{laws::checkpoints_keep_everything(subject),
                                      laws::segments_equal_sequences(subject, false)};
    laws::Report agree{.law = "every backend equals Reference"};
    laws::Report gradients{.law = "gradients equal central differences"};
    for (const laws::Size size : laws::default_and_empty_sizes) {
      const laws::Call call = laws::random_call(subject, size);
      laws::require_close(agree, subject.differentiate(call), reference.differentiate(call),
                          subject.tolerance(), size.text());
    }
    if (std::is_same_v<T, double>)
      laws::require_gradients(gradients, subject, laws::random_call(subject, {2, 6}), "2 × 6");
    reports.push_back(agree);
    reports.push_back(gradients);
    for (const laws::Report& report : reports)
      CHECK_MESSAGE(report.holds, laws::describe(report, subject.name()));
  });
}

TEST_CASE("both directions keep the laws of whole sequences, whatever the widths") {
  check_laws_of_whole_sequences(Both());
  check_laws_of_whole_sequences(Widening());
}

TEST_CASE("so do classifiers that read in both directions") {
  SequenceClassifierConfig config{
      .vocabulary = 5, .inputs = 2, .classes = 3, .d_model = 4, .n_layer = 2, .d_state = 4};
  check_laws_of_whole_sequences(make_token_classifier(config));
  config.norm = NormPlace::after;
  config.mixer = ClassifierMixer::h3;
  check_laws_of_whole_sequences(make_sequence_classifier(config));
}

TEST_CASE("the second direction is the layer on the reversed sequence") {
  const Both layer;
  const Filter filter;
  Context<Reference> ctx;
  const auto p = layer.initialize<double>(ctx, Seed{1});
  const auto x = test::random_tensor("x", 2, 7, 3);
  auto reversed = test::zero_tensor(2, 7, 3);
  for (Index t = 0; t < 7; ++t) copy(x.select(1, 6 - t), reversed.select(1, t));
  auto y = test::nan_tensor(2, 7, 3), a = y.clone(), b = y.clone();
  layer.forward(ctx, p, x, y);
  filter.forward(ctx, p.forward, x, a);
  filter.forward(ctx, p.backward, reversed, b);
  for (Index t = 0; t < 7; ++t)
    for (Index d = 0; d < 3; ++d)
      CHECK(std::abs(y(1, t, d) - a(1, t, d) - b(1, 6 - t, d)) <= tolerance<double>.value);
}

TEST_CASE("a stream is refused, in a model too") {
  const Residual<LayerNorm<3>, Both> model;
  Context<Reference> ctx;
  const auto p = model.initialize<double>(ctx, Seed{1});
  auto state = model.initial_state<double>(ctx, 2);
  auto x = test::random_tensor("x", 2, 7, 3), y = test::nan_tensor(2, 7, 3);
  const char* sentence =
      "Bidirectional: a layer that reads the future has no state: use forward without states, not "
      "prefill or step";
  CHECK_THROWS_WITH_AS(model.prefill(ctx, p, x, y, state), sentence, ArgumentError);
  CHECK_THROWS_WITH_AS(model.step(ctx, p, x.select(1, 0), y.select(1, 0), state), sentence,
                       ArgumentError);
  CHECK_THROWS_WITH_AS(model.forward(ctx, p, x, y, {.final_state = &state}), sentence,
                       ArgumentError);
}

}  // namespace
}  // namespace ssm
