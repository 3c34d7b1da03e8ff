// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include "ssm/core/scalar.hpp"  // tolerance, Token
#include "ssm/op/cross_entropy.hpp"
#include "support/layout.hpp"

namespace ssm::test {

struct CrossEntropyCase {
  Index rows = 5, vocabulary = 65;
  Reduction reduction = Reduction::mean;
  double spread = 5;        // of the logits
  Index ignored_every = 3;  // 1: all rows
  Layout layout = Layout::rows;
};

template <class T>
struct CrossEntropyRun {
  CrossEntropyRun(const CrossEntropyCase& test, Layout layout)
      : logits(spread_logits(test, layout)),
        in_place(spread_logits(test, layout)),
        dlogits(place<T>(layout, test.rows, test.vocabulary)),
        targets({test.rows}),
        loss_alone(nan_tensor<Wide<T>>(1)),
        loss(nan_tensor<Wide<T>>(1)),
        loss_in_place(nan_tensor<Wide<T>>(1)) {
    const Index every = test.ignored_every;
    for (Index m = 0; m < test.rows; ++m)
      targets(m) =
          m % every == 1 % every ? Token{-100} : static_cast<Token>(m * 7 % test.vocabulary);
  }

  /// The loss without its gradient, with it, and with it over the logits themselves.
  template <class Ctx>
  void compute(Ctx& ctx, const CrossEntropyCase& test) {
    const auto run = [&](View<const T, 2> from, View<Wide<T>, 1> to, View<T, 2> gradient) {
      cross_entropy(ctx, CrossEntropy<T, HostSpace>{.logits = from,
                                                    .targets = targets,
                                                    .reduction = test.reduction,
                                                    .scale = 3,
                                                    .loss = to,
                                                    .dlogits = gradient});
    };
    run(logits, loss_alone, {});
    run(logits, loss, dlogits);
    run(in_place, loss_in_place, in_place);
  }
  static Placed<T, 2> spread_logits(const CrossEntropyCase& test, Layout layout) {
    auto logits = random_tensor<T>("logits", test.rows, test.vocabulary);
    for_each_index(logits, [&](Index m, Index v) {
      logits(m, v) = scalar_cast<T>(test.spread * scalar_cast<double>(logits(m, v)));
    });
    return place_copy(layout, logits);
  }

  Placed<T, 2> logits, in_place, dlogits;
  DynamicTensor<Token, 1> targets;
  DynamicTensor<Wide<T>, 1> loss_alone, loss, loss_in_place;
};

template <class T>
void expect_equal(const CrossEntropyCase&, const CrossEntropyRun<T>& actual,
                  const CrossEntropyRun<T>& expected) {
  CHECK(difference(actual.loss_alone, expected.loss) < tolerance<T>.value);
  CHECK(difference(actual.loss, expected.loss) < tolerance<T>.value);
  CHECK(difference(actual.loss_in_place, expected.loss) < tolerance<T>.value);
  CHECK(difference(actual.dlogits.view, expected.dlogits.view) < tolerance<T>.gradient);
  CHECK(difference(actual.in_place.view, expected.dlogits.view) < tolerance<T>.gradient);
}

}  // namespace ssm::test
