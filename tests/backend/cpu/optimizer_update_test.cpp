// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/optimizer_update.hpp"

#include "compare.hpp"
#include "support/optimizer_update_run.hpp"

using namespace ssm;
using namespace ssm::test;

TEST_CASE_TEMPLATE("three AdamW updates equal the reference's", T, float, double) {
  for (const Index n : {0, 1, 2, 63, 64, 65, 1000, 20000})
    for (const Layout layout : {Layout::rows, Layout::gaps}) {
      CAPTURE(n);
      Context<Reference> reference;
      AdamWRun<T> expected(n, Layout::rows);
      expected.compute(reference);
      on_each_thread_count([&](auto& ctx) {
        AdamWRun<T> actual(n, layout);
        actual.compute(ctx);
        expect_equal(actual, expected);
      });
    }
}

TEST_CASE_TEMPLATE("a sum of squares is added, and is the same on any number of threads", T, float,
                   double) {
  for (const Index n : {0, 1, 63, 65, 1024, 1025, 100000}) {
    CAPTURE(n);
    const auto x = random_tensor<T>("x", n);
    Context<Reference> reference;
    const auto expected = half_and_squares(reference, x, Layout::rows);
    double before = 0;
    on_each_thread_count([&](auto& ctx) {
      const auto sum = half_and_squares(ctx, x, Layout::rows);
      CHECK(difference(sum, expected) < tolerance<T>.value);
      if (ctx.resources().threads() == 1) before = sum(0);
      CHECK(sum(0) == before);
      CHECK(half_and_squares(ctx, x, Layout::gaps)(0) == before);
    });
  }
}
