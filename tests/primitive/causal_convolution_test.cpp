// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/causal_convolution.hpp"

#include <vector>

#include "cuda/tensor_cores_on_host.hpp"
#include "support/primitive_laws.hpp"
#ifdef SSM_TEST_ON_HOST
#include "ssm/backend/cpu/fft_eigen.hpp"
#if defined(SSM_WITH_FFTW)
#include "ssm/backend/cpu/fft_fftw.hpp"
#endif
#endif

namespace ssm::test {
namespace {

struct Case {
  Index batch = 1, length = 65, channels = 5, terms = 65;
  bool skip = true, gates = false;
  Segments segments{};
  Layout layout = Layout::rows;
};

template <class T>
struct Run : OperandRun<CausalConvolution<T, HostSpace>, CausalConvolutionBackward<T, HostSpace>> {
  using Test = Case;
  Run(const Case& test, Layout layout)
      : Run::OperandRun(
            {{'B', test.batch}, {'L', test.length}, {'D', test.channels}, {'K', test.terms}},
            layout, test.segments,
            left_out({{"skip", test.skip}, {"gate_in", test.gates}, {"gate_out", test.gates}})) {}
  void evaluate(auto& ctx) { causal_convolution(ctx, this->forward); }
  void differentiate(auto& ctx) { causal_convolution_backward(ctx, this->backward()); }
  template <class B>
  static constexpr bool exists = HasCausalConvolution<B, T>;
};

TEST_CASE("a kernel of three taps gives the hand-worked numbers") {
  for (const bool gated : {false, true}) {
    Run<double> call({.length = 4, .channels = 1, .terms = 3, .skip = gated, .gates = gated},
                     Layout::rows);
    auto& a = call.forward;
    call.set(a.kernel, {1, 10, 100});
    call.set(a.x, {1, 2, 3, 4});
    if (gated) {
      call.set(a.skip, {1000});
      call.set(a.gate_in, {1, 1, 2, 1});
      call.set(a.gate_out, {1, 1, 2, 1});
    }
    on_each_backend<Run<double>>([&](auto& ctx) {
      call.evaluate(ctx);
      const auto expected =
          gated ? tensor_of({1001, 2012, 2 * 6126, 4264}) : tensor_of({1, 12, 123, 234});
      CHECK(difference(a.y, expected.reshape(1, 4, 1)) < tolerance<double>.value);
    });
  }
}

TEST_CASE("packed segments equal separate sequences") {
  const std::vector<Index> offsets{0, 5, 5, 6, 20};
  packs_sequences<Run<double>>(
      {.length = 20, .channels = 3, .terms = 8, .gates = true, .segments = offsets});
}

TEST_CASE("later inputs do not change earlier outputs") {
  for (const Index length : {2, 63, 64, 65, 1000}) {
    NanContext<Reference> ctx;
    Run<double> call({.batch = 3, .length = length, .channels = 3, .terms = length}, Layout::rows);
    call.evaluate(ctx);
    const auto earlier = call.forward.y.slice(1, 0, length - 1);
    const auto before = clone(earlier);
    const auto x = call.writable(call.forward.x);
    for (Index d = 0; d < 3; ++d) x(0, length - 1, d) += 1;
    call.evaluate(ctx);
    CHECK(difference(earlier, before) == 0);
  }
}

TEST_CASE("single precision agrees with double precision") {
  for (const Index length : {1, 2, 63, 64, 65, 1000})
    rounds_to_single_precision<Run>(
        {.batch = 3, .length = length, .channels = 3, .terms = length, .gates = true});
}

TEST_CASE("gradients equal central differences, with more taps than positions and fewer") {
  for (const Index length : {0, 1, 2, 7})
    for (const Index terms : {0, 1, 4, 9})
      has_its_gradients<Run<double>>(
          {.batch = 2, .length = length, .channels = 3, .terms = terms, .gates = true});
  const std::vector<Index> offsets{0, 4, 4, 9, 10};
  has_its_gradients<Run<double>>(
      {.length = 10, .channels = 3, .terms = 6, .gates = true, .segments = offsets});
}

TEST_CASE("everything optional may be left out") {
  does_without_optional_operands<Run<double>>({.length = 7, .gates = true});
}

TEST_CASE("a kernel for other channels is named") {
  Context<Reference> ctx;
  Run<double> call({.length = 5, .channels = 3, .terms = 4}, Layout::rows);
  const auto kernel = zero_tensor(2, 4);
  call.forward.kernel = kernel;
  CHECK_THROWS_WITH_AS(call.evaluate(ctx), "causal_convolution: kernel must be [3, *], got [2, 4]",
                       ShapeError);
}

#ifdef SSM_TEST_ON_HOST
/// One way of computing the convolution, whatever would be the quickest.
template <class Method>
struct CpuWith : Cpu {
  template <class Ctx, class T>
  static void causal_convolution(Ctx& ctx, const ssm::CausalConvolution<T, HostSpace>& a) {
    Method::template For<T>::run(ctx, a);
  }
  template <class Ctx, class T>
  static void causal_convolution_backward(Ctx& ctx,
                                          const ssm::CausalConvolutionBackward<T, HostSpace>& g) {
    Method::template For<T>::run_backward(ctx, g);
  }
};
struct Direct {
  template <class T>
  using For = cpu::CausalConvolutionDirect<T, xsimd::default_arch>;
};
template <class Fft>
struct Transformed {
  template <class T>
  using For = cpu::CausalConvolutionFft<T, xsimd::default_arch, Fft>;
};

template <class Backend>
void on_each_thread_count_of(auto& body) {
  for (const int threads : {1, 2}) {
    CAPTURE(threads);
    NanContext<Backend> ctx(cpu::Resources{threads});
    body(ctx);
  }
}
#endif

/// On the CPU by each way of computing it.
template <class T>
void every_way_equals_reference(const Case& test) {
  equals_reference<Run<T>>(test, [&](auto&& body) {
    on_other_backends<Run<T>>(body);
#ifdef SSM_TEST_ON_HOST
    if (test.terms == 0) return;
    on_each_thread_count_of<CpuWith<Direct>>(body);
    on_each_thread_count_of<CpuWith<Transformed<cpu::LaneFft>>>(body);
    on_each_thread_count_of<CpuWith<Transformed<cpu::EigenFft>>>(body);
#if defined(SSM_WITH_FFTW)
    on_each_thread_count_of<CpuWith<Transformed<cpu::FftwFft>>>(body);
#endif
#endif
  });
}

TEST_CASE_TEMPLATE("the convolution and its gradient equal the reference at every length", T, float,
                   double) {
  for (const Index length : {1, 2, 63, 64, 65, 255, 256, 257, 1000})
    for (const Index batch : {1, 3})
      every_way_equals_reference<T>({.batch = batch, .length = length, .terms = length});
}

TEST_CASE_TEMPLATE("kernels of other lengths than the sequence, short and long", T, float, double) {
  for (const Index terms : {1, 3, 64, 300, 700})
    for (const Index length : {1, 70, 400})
      every_way_equals_reference<T>({.length = length, .terms = terms});
}

TEST_CASE_TEMPLATE("sequences much longer than the kernel are cut into blocks", T, float, double) {
  every_way_equals_reference<T>(
      {.batch = 2, .length = 2500, .channels = 3, .terms = 300, .gates = true});
}

TEST_CASE_TEMPLATE("long sequences and kernels are both cut", T, float, double) {
  every_way_equals_reference<T>({.length = 4321, .channels = 2, .terms = 4321, .gates = true});
}

TEST_CASE_TEMPLATE("any number of channels, with and without gates and skip, in any layout", T,
                   float, double) {
  for (const Index channels : {1, 15, 17, 33})
    for (const Index terms : {30, 300})
      for (const bool gates : {false, true})
        for (const Layout layout : all_layouts)
          every_way_equals_reference<T>({.batch = 2,
                                         .length = 310,
                                         .channels = channels,
                                         .terms = terms,
                                         .skip = gates,
                                         .gates = gates,
                                         .layout = layout});
}

TEST_CASE_TEMPLATE("packed segments, empty ones among them", T, float, double) {
  const Index offsets[] = {0, 0, 1, 40, 40, 420, 420};
  for (const Index terms : {30, 420})
    every_way_equals_reference<T>(
        {.length = 420, .terms = terms, .gates = true, .segments = offsets});
}

TEST_CASE_TEMPLATE("empty batches and sequences are legal", T, float, double) {
  every_way_equals_reference<T>({.batch = 2, .length = 0, .terms = 300});
  every_way_equals_reference<T>({.batch = 0, .length = 400, .terms = 400});
}

#ifdef SSM_TEST_ON_HOST
TEST_CASE("transform lengths are multiples of four and have small factors only") {
  CHECK(cpu::fft_length(0) == 4);
  CHECK(cpu::fft_length(4) == 4);
  CHECK(cpu::fft_length(5) == 8);
  CHECK(cpu::fft_length(13) == 16);
  CHECK(cpu::fft_length(1999) == 2000);
  CHECK(cpu::fft_length(2047) == 2048);
}

TEST_CASE("any thread count gives the same gradient bits") {
  const Case test{.batch = 3, .length = 300, .channels = 40, .terms = 300};
  repeats_its_bits<Run<float>>(test);
  Context<Cpu> four{cpu::Resources(4)};
  Run<float> on_four(test, Layout::rows);
  compute(four, on_four);
  on_each_thread_count([&](auto& ctx) {
    Run<float> run(test, Layout::rows);
    compute(ctx, run);
    expect_same(on_four, run);
  });
}
#endif

#ifdef SSM_TEST_ON_CUDA
using TensorCores = BasicCuda<HostSpace, cuda::TensorCoreKernels>;

TEST_CASE_TEMPLATE("half types are convolved as floats where general kernels are", T, BFloat16,
                   Float16) {
  const Index offsets[] = {0, 0, 1, 40, 40, 170, 170};
  for (const Index length : {0, 1, 70})
    for (const Layout layout : all_layouts)
      equals_reference<Run<T>>(
          {.batch = 2, .length = length, .terms = 30, .gates = true, .layout = layout},
          only<Device>);
  equals_reference<Run<T>>({.length = 170, .terms = 30, .gates = true, .segments = offsets},
                           only<Device>);
}

TEST_CASE_TEMPLATE("the tensor cores are given their layout, and what they give back arrives", T,
                   float, BFloat16, Float16) {
  cuda::pretend_tensor_core_kernels(true);
  for (const Layout layout : all_layouts)
    for (const bool gates : {false, true})
      for (const Index terms : {30, 70, 100})
        equals_reference<Run<T>>({.batch = 2,
                                  .length = 70,
                                  .terms = terms,
                                  .skip = gates,
                                  .gates = gates,
                                  .layout = layout},
                                 only<TensorCores>);
  cuda::pretend_tensor_core_kernels(false);
}

TEST_CASE("gradients that nobody wants are not written") {
  for (const bool tensor_cores : {false, true}) {
    cuda::pretend_tensor_core_kernels(tensor_cores);
    const Case test{.length = 70, .gates = true};
    Context<Reference> reference;
    Run<float> expected(test, Layout::rows);
    compute(reference, expected);
    Context<TensorCores> ctx;
    Run<float> run(test, Layout::rows);
    CausalConvolutionBackward<float, HostSpace> backward{
        .forward = {.kernel = run.forward.kernel,
                    .x = run.forward.x,
                    .gate_in = run.forward.gate_in},
        .dy = run.gradient.dy};
    causal_convolution_backward(ctx, backward);
    backward.forward = run.forward;
    backward.dskip = run.gradient.dskip;
    causal_convolution_backward(ctx, backward);
    CHECK(difference(run.gradient.dskip, expected.gradient.dskip) < tolerance<float>.gradient);
  }
  cuda::pretend_tensor_core_kernels(false);
}
#endif

}  // namespace
}  // namespace ssm::test
