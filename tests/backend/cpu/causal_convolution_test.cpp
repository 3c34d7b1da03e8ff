// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/causal_convolution.hpp"

#include "compare.hpp"
#include "ssm/backend/cpu/fft_eigen.hpp"
#include "support/causal_convolution_run.hpp"
#if defined(SSM_WITH_FFTW)
#include "ssm/backend/cpu/fft_fftw.hpp"
#endif

using namespace ssm;
using namespace ssm::test;

namespace {

using Case = CausalConvolutionCase;
template <class T>
using Run = CausalConvolutionRun<T>;

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

template <class Backend, class T>
void equals(const Case& test, const Run<T>& expected) {
  for (const int threads : {1, 2}) {
    CAPTURE(threads);
    Context<Backend> ctx{cpu::Resources(threads)};
    ctx.workspace().fill_with_nan(true);
    Run<T> actual(test, test.layout);
    actual.compute(ctx, test);
    expect_equal(test, actual, expected);
  }
}

template <class T>
void cpu_equals_reference(const Case& test) {
  CAPTURE(test.length);
  CAPTURE(test.channels);
  CAPTURE(test.terms);
  CAPTURE(test.gates);
  Context<Reference> reference;
  Run<T> expected(test, Layout::rows);
  expected.compute(reference, test);
  equals<Cpu>(test, expected);
  if (test.terms == 0) return;
  equals<CpuWith<Direct>>(test, expected);
  equals<CpuWith<Transformed<cpu::LaneFft>>>(test, expected);
  equals<CpuWith<Transformed<cpu::EigenFft>>>(test, expected);
#if defined(SSM_WITH_FFTW)
  equals<CpuWith<Transformed<cpu::FftwFft>>>(test, expected);
#endif
}

}  // namespace

TEST_CASE_TEMPLATE("the convolution and its gradient equal the reference at every length", T, float,
                   double) {
  for (const Index length : {1, 2, 63, 64, 65, 255, 256, 257, 1000})
    for (const Index batch : {1, 3})
      cpu_equals_reference<T>({.batch = batch, .length = length, .terms = length});
}

TEST_CASE_TEMPLATE("kernels of other lengths than the sequence, short and long", T, float, double) {
  for (const Index terms : {1, 3, 64, 300, 700})
    for (const Index length : {1, 70, 400})
      cpu_equals_reference<T>({.length = length, .terms = terms});
}

TEST_CASE_TEMPLATE("sequences much longer than the kernel are cut into blocks", T, float, double) {
  cpu_equals_reference<T>({.batch = 2, .length = 2500, .channels = 3, .terms = 300, .gates = true});
}

TEST_CASE_TEMPLATE("long sequences and kernels are both cut", T, float, double) {
  cpu_equals_reference<T>({.length = 4321, .channels = 2, .terms = 4321, .gates = true});
}

TEST_CASE_TEMPLATE("any number of channels, with and without gates and skip, in any layout", T,
                   float, double) {
  for (const Index channels : {1, 15, 17, 33})
    for (const Index terms : {30, 300})
      for (const bool gates : {false, true})
        for (const Layout layout : all_layouts)
          cpu_equals_reference<T>({.batch = 2,
                                   .length = 310,
                                   .channels = channels,
                                   .terms = terms,
                                   .skip = gates,
                                   .gates = gates,
                                   .layout = layout});
}

TEST_CASE_TEMPLATE("packed segments, empty ones among them", T, float, double) {
  const Index offsets[] = {0, 0, 1, 40, 40, 420};
  for (const Index terms : {30, 420})
    cpu_equals_reference<T>({.length = 420, .terms = terms, .gates = true, .segments = offsets});
}

TEST_CASE_TEMPLATE("empty batches and sequences are legal", T, float, double) {
  cpu_equals_reference<T>({.batch = 2, .length = 0, .terms = 300});
  cpu_equals_reference<T>({.batch = 0, .length = 400, .terms = 400});
}

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
  Context<Cpu> four{cpu::Resources(4)};
  Run<float> on_four(test, Layout::rows);
  on_four.compute(four, test);
  on_each_thread_count([&](auto& ctx) {
    Run<float> once(test, Layout::rows);
    Run<float> again(test, Layout::rows);
    once.compute(ctx, test);
    again.compute(ctx, test);
    expect_same(again, once);
    expect_same(on_four, once);
  });
}
