// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <ssm/backend/cuda/causal_convolution.hpp>
#include <ssm/backend/cuda/shift_convolution.hpp>

#include "flashconv_device.cuh"
#include "flashconv_reference.hpp"

namespace bench {

using ssm::cuda::Sequences;

/// One problem of causal_convolution, or with `shift` of shift_convolution, which has an output
/// gate alone.
struct ConvolutionCase {
  int batch = 1, channels = 1, length = 1, taps = 1;
  bool gates = false, shift = false;
};

/// All tensors of a problem on the device, random; results are poisoned.
template <class T>
struct ConvolutionProblem {
  explicit ConvolutionProblem(const ConvolutionCase& c, unsigned seed) : c(c) {
    const std::size_t size = std::size_t(c.batch) * c.channels * c.length;
    x = normal<T>(size, seed + 1), dy = normal<T>(size, seed + 2);
    y = Buffer<T>(size), dx = Buffer<T>(size);
    if (c.gates) gate_out = normal<T>(size, seed + 4), dgate_out = Buffer<T>(size);
    if (c.gates && !c.shift) gate_in = normal<T>(size, seed + 3), dgate_in = Buffer<T>(size);
    kernel =
        normal<float>(std::size_t(c.channels) * c.taps, seed + 5, 1.f / std::sqrt(float(c.taps)));
    skip = normal<float>(c.channels, seed + 6);
    dkernel = Buffer<float>(kernel.size()), dskip = Buffer<float>(c.channels);
    dkernel.write(std::vector<float>(kernel.size())), dskip.write(std::vector<float>(c.channels));
    workspace = Buffer<char>(
        c.shift ? std::max(ssm::cuda::shift_convolution_workspace<T>(shift()),
                           ssm::cuda::shift_convolution_backward_workspace<T>(shift_backward()))
                : std::max(ssm::cuda::causal_convolution_workspace<T>(forward()),
                           ssm::cuda::causal_convolution_backward_workspace<T>(backward())));
  }
  template <class U>
  Sequences<U> view(const Buffer<T>& buffer) const {
    return {buffer.data(), std::int64_t(c.channels) * c.length, c.length};
  }
  ssm::cuda::CausalConvolution<T> forward() const {
    return {c.batch,
            c.channels,
            c.length,
            c.taps,
            view<const T>(x),
            view<const T>(gate_in),
            view<const T>(gate_out),
            kernel.data(),
            skip.data(),
            view<T>(y)};
  }
  /// Plain cases take what the forward call made of the kernels and left in the workspace, gated
  /// ones make it anew.
  ssm::cuda::CausalConvolutionBackward<T> backward() const {
    const void* const spectra = c.gates ? nullptr : workspace.data();
    return {c.batch,
            c.channels,
            c.length,
            c.taps,
            view<const T>(x),
            view<const T>(gate_in),
            view<const T>(gate_out),
            kernel.data(),
            skip.data(),
            spectra,
            view<const T>(dy),
            view<T>(dx),
            view<T>(dgate_in),
            view<T>(dgate_out),
            dkernel.data(),
            dskip.data()};
  }
  ssm::cuda::ShiftConvolution<T> shift() const {
    return {c.batch,       c.channels,       c.length,
            c.taps,        view<const T>(x), view<const T>(gate_out),
            kernel.data(), skip.data(),      view<T>(y)};
  }
  ssm::cuda::ShiftConvolutionBackward<T> shift_backward() const {
    return {c.batch,       c.channels,         c.length,
            c.taps,        view<const T>(x),   view<const T>(gate_out),
            kernel.data(), skip.data(),        view<const T>(dy),
            view<T>(dx),   view<T>(dgate_out), dkernel.data(),
            dskip.data()};
  }
  void run_forward(cudaStream_t stream) {
    if (c.shift) return ssm::cuda::shift_convolution(shift(), workspace.data(), stream);
    ssm::cuda::causal_convolution(forward(), workspace.data(), stream);
  }
  void run_backward(cudaStream_t stream) {
    if (c.shift)
      return ssm::cuda::shift_convolution_backward(shift_backward(), workspace.data(), stream);
    ssm::cuda::causal_convolution_backward(backward(), workspace.data(), stream);
  }

  ConvolutionCase c;
  Buffer<T> x, dy, y, dx, gate_in, gate_out, dgate_in, dgate_out;
  Buffer<float> kernel, skip, dkernel, dskip;
  Buffer<char> workspace;
};

/// Relative errors of every output and gradient against double, over the channels listed.
template <class T>
std::map<std::string, double> convolution_errors(const ConvolutionProblem<T>& p,
                                                 const std::vector<int>& channels) {
  const ConvolutionCase& c = p.c;
  const Contents x(p.x), gate_in(p.gate_in), gate_out(p.gate_out), dy(p.dy);
  const Contents y(p.y), dx(p.dx), dgate_in(p.dgate_in), dgate_out(p.dgate_out);
  const Contents kernels(p.kernel), skips(p.skip), dkernels(p.dkernel), dskips(p.dskip);
  std::vector<std::map<std::string, RelativeError>> errors(channels.size());
  parallel_for(int(channels.size()), [&](int i) {
    const int d = channels[i];
    auto& error = errors[i];
    const auto compare = [&](const char* name, const std::vector<double>& out,
                             const std::vector<double>& want) { error[name].add(out, want); };
    reference::ConvolutionGradient gradient;
    const std::vector<double> kernel = kernels(std::size_t(d) * c.taps, c.taps);
    const double skip = skips(d, 1)[0];
    for (int b = 0; b < c.batch; ++b) {
      const std::size_t first = (std::size_t(b) * c.channels + d) * c.length;
      const reference::Sequence in{x(first, c.length), gate_in(first, c.length),
                                   gate_out(first, c.length), dy(first, c.length)};
      const auto want = reference::convolution(kernel, skip, in, true, gradient);
      compare("y", y(first, c.length), want.y);
      compare("dx", dx(first, c.length), want.dx);
      compare("dgate_in", dgate_in(first, c.length), want.dgate_in);
      compare("dgate_out", dgate_out(first, c.length), want.dgate_out);
    }
    compare("dkernel", dkernels(std::size_t(d) * c.taps, c.taps), gradient.kernel);
    compare("dskip", dskips(d, 1), {gradient.skip});
  });
  return combined(errors);
}

}  // namespace bench
