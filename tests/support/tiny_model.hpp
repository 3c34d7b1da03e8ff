// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>
#include <vector>

#include "ssm/backend/reference.hpp"
#include "ssm/model/h3_language_model.hpp"
#include "ssm/model/model.hpp"

namespace ssm::test {

/// A model small enough to train in a test.
template <class T = double>
Model<H3LanguageModel::Parameters<T>> tiny_model(H3LanguageModelConfig config = {
                                                     .d_model = 8,
                                                     .n_layer = 2,
                                                     .d_inner = 16,
                                                     .vocab_size = 7,
                                                     .pad_vocab_size_multiple = 4,
                                                     .d_state = 4}) {
  Context<Reference> ctx;
  auto layer = make_language_model(config);
  auto parameters = layer.initialize<T>(ctx, Seed{5});
  return {std::move(layer), std::move(parameters)};
}

template <class P>
P copy_of(const P& parameters, const typename P::Layer& layer) {
  Context<Reference> ctx;
  P copy = layer.template zero_parameters<typename P::Scalar>(ctx);
  for_each_parameter([](const ParameterSpec&, const auto& from, auto& to) { to = from.clone(); },
                     parameters, copy);
  return copy;
}

/// The largest difference of two parameter structs; infinite where one has a NaN.
template <class P>
double distance(const P& a, const P& b) {
  double largest = 0;
  for_each_parameter(
      [&](const ParameterSpec&, const auto& x, const auto& y) {
        for (Index i = 0; i < x.size(); ++i) {
          const double difference =
              std::abs(static_cast<double>(x.data()[i]) - static_cast<double>(y.data()[i]));
          largest = difference <= largest    ? largest
                    : std::isnan(difference) ? INFINITY
                                             : difference;
        }
      },
      a, b);
  return largest;
}

/// "0120120…": what such a model can learn.
inline std::vector<Token> periodic_text(std::size_t size, Token period = 3) {
  std::vector<Token> text;
  for (std::size_t i = 0; i < size; ++i) text.push_back(static_cast<Token>(i) % period);
  return text;
}

}  // namespace ssm::test
