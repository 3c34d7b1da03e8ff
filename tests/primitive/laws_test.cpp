// SPDX-License-Identifier: Apache-2.0
// The laws of primitives notice what they are for: one fault each.
#include <type_traits>

#include "ssm/op/short_convolution.hpp"
#include "support/primitive_laws.hpp"

namespace ssm::test {
namespace {

enum class Fault {
  none,
  on_one_backend,     // an output is wrong
  in_single,          // likewise, in single precision
  in_segments,        // likewise, where sequences are packed
  in_place,           // likewise, where the state is updated in place
  in_state,           // the final state is wrong
  in_input_gradient,  // a gradient is wrong
  in_parameter_gradient,
  of_overwriting,  // the gradient of a parameter is not added to
  of_requiring,    // what is optional must be there
  of_changing      // another result each time
};

struct Case {
  Fault fault = Fault::none;
  Index batch = 1, length = 9;
  Segments segments{};
  Layout layout = Layout::rows;
};

template <class T>
struct Run : OperandRun<ShortConvolution<T, HostSpace>, ShortConvolutionBackward<T, HostSpace>> {
  using Test = Case;
  Run(const Case& test, Layout layout)
      : Run::OperandRun({{'B', test.batch}, {'L', test.length}, {'D', 2}, {'W', 3}}, layout,
                        test.segments),
        fault(test.fault) {}
  template <class Ctx>
  void evaluate(Ctx& ctx) {
    auto& a = this->forward;
    if (fault == Fault::of_requiring && !a.bias) throw ShapeError("short_convolution", "bias", "");
    short_convolution(ctx, a);
    static int calls = 0;
    ++calls;
    const bool is_reference = std::is_base_of_v<Context<Reference>, Ctx>;
    const bool is_wrong =
        (fault == Fault::on_one_backend && !is_reference) ||
        (fault == Fault::in_single && std::is_same_v<T, float>) ||
        (fault == Fault::in_segments && !a.segments.empty()) ||
        (fault == Fault::in_place && a.final_state.data() == a.initial_state.data()) ||
        (fault == Fault::of_changing && calls % 2 == 0);
    if (is_wrong && a.y.size() > 0) a.y(0, 0, 0) += T(1e-2);
    if (fault == Fault::in_state) a.final_state(0, 0, 2) += T(1e-6);
  }
  void differentiate(auto& ctx) {
    auto& g = this->gradient;
    if (fault == Fault::of_overwriting) fill(g.dbias, 0);
    short_convolution_backward(ctx, this->backward());
    if (fault == Fault::in_input_gradient) g.dx(0, 0, 1) += T(1e-6);
    if (fault == Fault::in_parameter_gradient) g.dweight(1, 2) += T(1e-6);
  }
  template <class B>
  static constexpr bool exists = HasShortConvolution<B, T>;

  Fault fault;
};

constexpr Index offsets[] = {0, 0, 5, 9};

void obeys_laws(Fault fault) {
  equals_reference<Run<double>>({.fault = fault});
  repeats_its_bits<Run<float>>({.fault = fault});
  has_its_gradients<Run<double>>({.fault = fault});
  packs_sequences<Run<double>>({.fault = fault, .segments = offsets});
  carries_its_state<Run<double>>({.fault = fault}, {0, 4});
  updates_its_state_in_place<Run<double>>({.fault = fault});
  does_without_optional_operands<Run<double>>({.fault = fault});
  rounds_to_single_precision<Run>({.fault = fault});
}

TEST_CASE("a primitive without a fault obeys every law") { obeys_laws(Fault::none); }

#define SSM_FAULTY(name, law) \
  TEST_CASE(name* doctest::should_fail()) { law; }
SSM_FAULTY("an output that is wrong on one backend",
           equals_reference<Run<double>>({.fault = Fault::on_one_backend}))
SSM_FAULTY("an output that is wrong in single precision",
           rounds_to_single_precision<Run>({.fault = Fault::in_single}))
SSM_FAULTY("packed sequences that are wrong",
           packs_sequences<Run<double>>({.fault = Fault::in_segments, .segments = offsets}))
SSM_FAULTY("a state that is wrong", carries_its_state<Run<double>>({.fault = Fault::in_state}, {4}))
SSM_FAULTY("a state that cannot be updated in place",
           updates_its_state_in_place<Run<double>>({.fault = Fault::in_place}))
SSM_FAULTY("the gradient of an input",
           has_its_gradients<Run<double>>({.fault = Fault::in_input_gradient}))
SSM_FAULTY("the gradient of a parameter",
           has_its_gradients<Run<double>>({.fault = Fault::in_parameter_gradient}))
SSM_FAULTY("the gradient of a parameter that is overwritten",
           has_its_gradients<Run<double>>({.fault = Fault::of_overwriting}))
SSM_FAULTY("an optional operand that must be there",
           does_without_optional_operands<Run<double>>({.fault = Fault::of_requiring}))
SSM_FAULTY("another result each time", repeats_its_bits<Run<float>>({.fault = Fault::of_changing}))

}  // namespace
}  // namespace ssm::test
