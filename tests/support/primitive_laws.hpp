// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/core/elementwise.hpp"  // copy
#include "ssm/core/weight.hpp"       // WeightForm
#include "support/backends.hpp"
#include "support/describe.hpp"
#include "support/gradient_check.hpp"
#include "support/operand_run.hpp"

/// What holds for every primitive, made from its description. A Run is an OperandRun with
///   Test                                     a case: its sizes, switches, segments and layout
///   Run(test, layout)                        the operands of a case, in a layout
///   evaluate(ctx), differentiate(ctx)        its two calls; the second where there is a gradient
///   exists<B>                                whether backend B has the primitive
namespace ssm::test {

#ifdef SSM_TEST_ON_CUDA
/// The kernels of the Cuda backend that take everything.
using Device = BasicCuda<HostSpace, cuda::GeneralKernels>;
#endif

/// A context whose scratch memory starts as NaN.
template <class B>
struct NanContext : Context<B> {
  template <class... Arguments>
  explicit NanContext(Arguments&&... arguments)
      : Context<B>(std::forward<Arguments>(arguments)...) {
    this->workspace().fill_with_nan(true);
  }
};

/// Runs body(ctx) on this backend.
template <class B>
inline constexpr auto only = [](auto&& body) {
  NanContext<B> ctx;
  body(ctx);
};

#ifdef SSM_TEST_ON_HOST
/// Runs body(ctx) on the CPU with one thread and with two.
inline constexpr auto on_each_thread_count = [](auto&& body) {
  for (const int threads : {1, 2}) {
    CAPTURE(threads);
    NanContext<Cpu> ctx(cpu::Resources{threads});
    body(ctx);
  }
};
#endif

/// Runs body(ctx) on every backend under test that has the primitive, beside the reference.
template <class Run>
inline constexpr auto on_other_backends = []([[maybe_unused]] auto&& body) {
#ifdef SSM_TEST_ON_HOST
  if constexpr (Run::template exists<Cpu>) on_each_thread_count(body);
#endif
#ifdef SSM_TEST_ON_CUDA
  if constexpr (Run::template exists<Device>) {
    INFO("with kernels of the device");
    only<Device>(body);
  }
#endif
};
/// On the reference too, and on the CPU with one thread alone.
template <class Run>
inline constexpr auto on_each_backend = [](auto&& body) {
  only<Reference>(body);
#ifdef SSM_TEST_ON_HOST
  if constexpr (Run::template exists<Cpu>) {
    INFO("on the CPU");
    NanContext<Cpu> ctx(cpu::Resources{1});
    body(ctx);
  }
#endif
#ifdef SSM_TEST_ON_CUDA
  if constexpr (Run::template exists<Device>) {
    INFO("with kernels of the device");
    only<Device>(body);
  }
#endif
};
/// On the reference too, and on the CPU with each number of threads.
template <class Run>
inline constexpr auto on_every_backend = [](auto&& body) {
  only<Reference>(body);
  on_other_backends<Run>(body);
};

/// Both calls, or the one that there is.
template <class Ctx, class Run>
void compute(Ctx& ctx, Run& run) {
  run.evaluate(ctx);
  if constexpr (requires { run.differentiate(ctx); }) run.differentiate(ctx);
}

/// A case's operands, in its layout, give on every backend what they give by the reference.
template <class Run, class OnEach = decltype(on_other_backends<Run>)>
void equals_reference(const typename Run::Test& test, OnEach on_each = on_other_backends<Run>) {
  CAPTURE(describe(test));
  Context<Reference> reference;
  Run expected(test, Layout::rows);
  compute(reference, expected);
  on_each([&](auto& ctx) {
    Run actual(test, test.layout);
    compute(ctx, actual);
    expect_equal(actual, expected);
  });
}

/// The same to the last bit: of primitives that copy, or whose sums have one order everywhere.
template <class Run>
void equals_reference_exactly(const typename Run::Test& test) {
  CAPTURE(describe(test));
  Context<Reference> reference;
  Run expected(test, Layout::rows);
  compute(reference, expected);
  on_other_backends<Run>([&](auto& ctx) {
    Run actual(test, test.layout);
    compute(ctx, actual);
    expect_same(actual, expected);
  });
}

/// The same call with the same number of threads gives the same bits.
template <class Run>
void repeats_its_bits(const typename Run::Test& test) {
  on_other_backends<Run>([&](auto& ctx) {
    Run once(test, Layout::rows);
    Run again(test, Layout::rows);
    compute(ctx, once);
    compute(ctx, again);
    expect_same(again, once);
  });
}

/// Every gradient equals central differences of the outputs and final states, each times its
/// gradient; gradients of parameters are added to. `change` is made to the operands before.
template <class Run, class Change>
void has_its_gradients(const typename Run::Test& test, Change&& change) {
  CAPTURE(describe(test));
  on_each_backend<Run>([&](auto& ctx) {
    Run start(test, Layout::rows);
    Run run(test, Layout::rows);
    change(run);
    compute(ctx, run);
    const auto loss = [&] {
      run.evaluate(ctx);
      double sum = 0;
      Run::Operands::for_each_operand(
          [&]<class V, class P>(const Operand& what, V Run::Operands::*member, P partner) {
            if constexpr (!std::is_null_pointer_v<P> && std::is_floating_point_v<typename V::Value>)
              if (!is_read(what) && what.role != Role::again && run.gradient.*partner)
                sum += inner_product(run.gradient.*partner, run.forward.*member);
          });
      return sum;
    };
    Run::Operands::for_each_operand(
        [&]<class V, class P>(const Operand& what, V Run::Operands::*member, P partner) {
          if constexpr (!std::is_null_pointer_v<P> && std::is_floating_point_v<typename V::Value>)
            if (is_read(what) && run.gradient.*partner) {
              CAPTURE(what.name);
              const auto& from = start.gradient.*partner;
              const auto& gradient = run.gradient.*partner;
              const bool is_added = what.role == Role::parameter;
              CHECK(gradient_error(loss, run.writable(run.forward.*member), [&](auto... i) {
                      return gradient(i...) - (is_added ? from(i...) : 0);
                    }) < tolerance<double>.gradient);
            }
        });
  });
}
template <class Run>
void has_its_gradients(const typename Run::Test& test) {
  has_its_gradients<Run>(test, [](Run&) {});
}

/// What an operand has at positions begin … end−1 of one sequence, or of all where `row` is −1.
template <class V>
auto part_of(const Operand& what, const V& view, Index row, Index begin, Index end) {
  if constexpr (V::rank() > 1)
    if (std::string_view(what.letters).starts_with("BL")) return view.slice(1, begin, end);
  return what.letters[0] == 'S' && row >= 0 ? view.slice(0, row, row + 1)
                                            : view.slice(0, 0, view.extent(0));
}
/// Copies that part of everything that a call reads.
template <class Run>
void take_part(Run& to, const Run& from, Index row, Index begin, Index end) {
  Run::Operands::for_each_operand([&](const Operand& what, auto member, auto) {
    if (is_read(what) && from.forward.*member)
      copy(part_of(what, from.forward.*member, row, begin, end), to.writable(to.forward.*member));
  });
}
/// That part of everything that a call wrote.
template <class Run>
void expect_part(const Run& actual, const Run& whole, Index row, Index begin, Index end,
                 double allowed) {
  Run::Operands::for_each_operand([&](const Operand& what, auto member, auto) {
    if (what.role != Role::output && !(what.role == Role::final_state && row >= 0)) return;
    if (!(whole.forward.*member)) return;
    CAPTURE(what.name);
    CHECK(difference(actual.forward.*member,
                     part_of(what, whole.forward.*member, row, begin, end)) <= allowed);
  });
}
/// Calls visit(initial, final) with the members of every state.
template <class Run, class Visit>
void for_each_state(Visit&& visit) {
  Run::Operands::for_each_operand([&](const Operand& first, auto initial, auto) {
    Run::Operands::for_each_operand([&](const Operand& last, auto final, auto) {
      if (first.role != Role::initial_state || last.role != Role::final_state) return;
      const auto stem = [](const char* name) {
        return std::string_view(name).substr(std::string_view(name).find('_'));
      };
      if constexpr (requires(Run & run) {
                      run.forward.*final = run.writable(run.forward.*initial);
                    })
        if (stem(first.name) == stem(last.name)) visit(initial, final);
    });
  });
}
/// Of the reference nothing at all.
template <class Ctx>
double allowed_beside(const Ctx&) {
  return std::is_base_of_v<Context<Reference>, Ctx> ? 0 : tolerance<double>.value;
}

/// The packed sequences of a case give what each gives alone; an empty one keeps its state.
template <class Run>
void packs_sequences(const typename Run::Test& test) {
  CAPTURE(describe(test));
  on_each_backend<Run>([&](auto& ctx) {
    Run packed(test, Layout::rows);
    packed.evaluate(ctx);
    for_each_sequence(1, test.length, test.segments, [&](const Sequence& s) {
      CAPTURE(s.row);
      auto one = test;
      one.segments = {};
      one.length = s.end - s.begin;
      Run alone(one, Layout::rows);
      take_part(alone, packed, s.row, s.begin, s.end);
      alone.evaluate(ctx);
      expect_part(alone, packed, s.row, s.begin, s.end, allowed_beside(ctx));
      if (s.begin == s.end)
        for_each_state<Run>([&](auto initial, auto final) {
          CHECK(difference(alone.forward.*final, alone.forward.*initial) == 0);
        });
    });
  });
}

/// A sequence in two parts with the states between them gives what the whole gives.
template <class Run>
void carries_its_state(const typename Run::Test& test, std::initializer_list<Index> cuts) {
  CAPTURE(describe(test));
  on_each_backend<Run>([&](auto& ctx) {
    Run whole(test, Layout::rows);
    whole.evaluate(ctx);
    for (const Index cut : cuts) {
      CAPTURE(cut);
      auto part = test;
      part.length = cut;
      Run first(part, Layout::rows);
      part.length = test.length - cut;
      Run second(part, Layout::rows);
      take_part(first, whole, -1, 0, cut);
      take_part(second, whole, -1, cut, test.length);
      first.evaluate(ctx);
      for_each_state<Run>([&](auto initial, auto final) {
        copy(first.forward.*final, second.writable(second.forward.*initial));
      });
      second.evaluate(ctx);
      expect_part(first, whole, -1, 0, cut, tolerance<double>.value);
      expect_part(second, whole, -1, cut, test.length, tolerance<double>.value);
      for_each_state<Run>([&](auto, auto final) {
        CHECK(difference(second.forward.*final, whole.forward.*final) < tolerance<double>.value);
      });
    }
  });
}

/// Final states may overwrite initial ones.
template <class Run, class OnEach = decltype(on_each_backend<Run>)>
void updates_its_state_in_place(const typename Run::Test& test,
                                OnEach on_each = on_each_backend<Run>) {
  CAPTURE(describe(test));
  on_each([&](auto& ctx) {
    Run apart(test, Layout::rows);
    Run in_place(test, Layout::rows);
    for_each_state<Run>([&](auto initial, auto final) {
      in_place.forward.*final = in_place.writable(in_place.forward.*initial);
    });
    apart.evaluate(ctx);
    in_place.evaluate(ctx);
    int states = 0;
    for_each_state<Run>([&](auto, auto final) {
      ++states;
      CHECK(difference(in_place.forward.*final, apart.forward.*final) == 0);
    });
    CHECK(states > 0);
    CHECK(difference(in_place.forward.y, apart.forward.y) == 0);
  });
}

/// Whatever the description says may be left out may be.
template <class Run>
void does_without_optional_operands(const typename Run::Test& test) {
  on_each_backend<Run>([&](auto& ctx) {
    Run run(test, Layout::rows);
    Run::Operands::for_each_operand([&]<class P>(const Operand& what, auto member, P partner) {
      if (what.is_optional) run.forward.*member = {};
      if constexpr (!std::is_null_pointer_v<P>) {
        const bool is_optional = is_read(what) && what.has_optional_gradient;
        if (is_optional || what.is_optional) run.gradient.*partner = {};
      }
    });
    CHECK_NOTHROW(compute(ctx, run));
    for_each_index(run.forward.y, [&](auto... i) { CHECK(std::isfinite(run.forward.y(i...))); });
  });
}

/// What the reference writes in single precision is near what it writes in double precision.
template <template <class> class Run>
void rounds_to_single_precision(const typename Run<double>::Test& test) {
  CAPTURE(describe(test));
  const auto written_in = [&]<class T>(T) {
    NanContext<Reference> ctx;
    Run<T> run(test, Layout::rows);
    run.evaluate(ctx);
    std::vector<DynamicTensor<double, 1>> all;
    Run<T>::Operands::for_each_operand([&](const Operand& what, auto member, auto) {
      if (is_read(what) || what.role == Role::again || !(run.forward.*member)) return;
      all.push_back(zero_tensor((run.forward.*member).size()));
      Index at = 0;
      for_each_index(run.forward.*member, [&](auto... i) {
        all.back()(at++) = static_cast<double>((run.forward.*member)(i...));
      });
    });
    return all;
  };
  const auto rounded = written_in(float{});
  const auto exact = written_in(double{});
  for (std::size_t i = 0; i < exact.size(); ++i)
    CHECK(difference(rounded[i], exact[i]) < tolerance<float>.value);
}

}  // namespace ssm::test
