// SPDX-License-Identifier: Apache-2.0
#include "ssm/core/operands.hpp"

#include <doctest/doctest.h>

#include <set>
#include <string>
#include <type_traits>

#include "support/every_primitive.hpp"
#include "support/test_tensor.hpp"

using namespace ssm;

namespace {

using S = HostSpace;
template <class... Ops>
struct List {};
/// Every primitive's operands.
using EveryOp =
    List<Activation<float, S>, AdamWUpdate<float, S>, Add<float, S>, AdvancePosition<S>,
         Attention<float, S>, CascadedScan<float, S>, CausalConvolution<float, S>,
         CrossEntropy<float, S>, DecayedAttention<float, S>, DecayedScoreNorm<float, S>,
         DiagonalKernel<float, S>, DiagonalParameters<float, S>, DiagonalScan<float, S>,
         Dropout<float, S>, Embedding<float, S>, Fill<float, S>, H3Mixer<float, S>,
         Matmul<float, S>, Normalization<float, S>, PairRotation<float, S>, Rearrange<float, S>,
         RetentionScale<float, S>, Rotary<float, S>, RunningMean<float, S>, Sample<float, S>,
         SelectiveScan<float, S>, ShiftConvolution<float, S>, ShortConvolution<float, S>,
         SsdScan<float, S>, SumOfSquares<float, S>>;

template <class Op>
void check_description() {
  CAPTURE(Op::name);
  std::set<std::string> names;
  Op::for_each_operand([&]<class V, class P>(const Operand& what, V Op::*, P) {
    CAPTURE(what.name);
    CHECK(std::string(what.letters).size() == std::size_t{V::rank()});
    constexpr bool is_const = std::is_const_v<typename V::Element>;
    if (what.role != Role::again) {
      CHECK(names.insert(what.name).second);
      CHECK(is_const == is_read(what));
    }
    if constexpr (!std::is_null_pointer_v<P>) {
      using Partner = std::remove_cvref_t<decltype(std::declval<P>())>;
      const auto element = []<class G, class View>(View G::*) {
        return std::is_const_v<typename View::Element>;
      };
      const Partner none{};
      CHECK(element(none) == !is_read(what));
    }
  });
  CHECK(!names.empty());
}

}  // namespace

TEST_CASE("every operand is described: a letter an axis, and const where it is read") {
  []<class... Ops>(List<Ops...>) { (check_description<Ops>(), ...); }(EveryOp{});
}

TEST_CASE("an error says which operand of which call, what was expected, and what came") {
  const auto u = test::random_tensor<float>("u", 2, 5, 4);
  const auto A = test::random_tensor<float>("A", 4, 3);
  const auto B = test::random_tensor<float>("B", 2, 5, 3);
  const auto wrong = test::random_tensor<float>("C", 2, 5, 7);
  auto y = test::nan_tensor<float>(2, 5, 4);
  SelectiveScan<float, S> a{.u = u, .dt = u, .A = A, .B = B, .C = B, .y = y};
  CHECK(require_operands(a)['N'] == 3);
  a.C = wrong;
  CHECK_THROWS_WITH_AS(require_operands(a), "selective_scan: C must be [2, 5, 3], got [2, 5, 7]",
                       ShapeError);
  a.C = {};
  CHECK_THROWS_WITH_AS(require_operands(a), "selective_scan: C is missing", ShapeError);
  a.C = B;
  SelectiveScanBackward<float, S> g{.forward = a, .dy = wrong};
  CHECK_THROWS_WITH_AS((require_gradients<SelectiveScan<float, S>>(g)),
                       "selective_scan_backward: dy must be [2, 5, 4], got [2, 5, 7]", ShapeError);
  g.dy = u;
  g.dgate = y;
  CHECK_THROWS_WITH_AS((require_gradients<SelectiveScan<float, S>>(g)),
                       "selective_scan_backward: dgate is given, but the gate is not", ShapeError);
}

TEST_CASE("the bytes of a call are those of the operands that are given") {
  const auto x = test::random_tensor<float>("x", 2, 5, 4);
  const auto kernel = test::random_tensor<float>("kernel", 4, 9);
  auto y = test::nan_tensor<float>(2, 5, 4);
  const CausalConvolution<float, S> a{.kernel = kernel, .x = x, .y = y};
  CHECK(operand_bytes(a) == 4 * (40 + 36 + 40));
}
