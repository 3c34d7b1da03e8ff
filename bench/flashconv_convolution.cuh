// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <ssm/backend/cuda/causal_convolution.hpp>
#include <ssm/backend/cuda/shift_convolution.hpp>

#include "flashconv_device.cuh"
#include "flashconv_reference.hpp"

namespace bench {

using ssm::cuda::Sequences;

/// One problem of causal_convolution, or with `shift` of shift_convolution, which has an output gate alone.
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
  /// Plain cases take what the forward call made of the kernels and left in the workspace, gated ones make it anew.
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
  std::vector<std::map<std::string, RelativeError>> errors(channels.size());
  parallel_for(int(channels.size()), [&](int i) {
    const int d = channels[i];
    auto& error = errors[i];
    const auto compare = [&](const char* name, const std::vector<double>& out,
                             const std::vector<double>& want) {
      for (std::size_t t = 0; t < out.size(); ++t) error[name].add(out[t], want[t]);
    };
    reference::ConvolutionGradient gradient;
    const std::vector<double> kernel = values(p.kernel, std::size_t(d) * c.taps, c.taps);
    const double skip = values(p.skip, d, 1)[0];
    for (int b = 0; b < c.batch; ++b) {
      const std::size_t first = (std::size_t(b) * c.channels + d) * c.length;
      const reference::Sequence in{values(p.x, first, c.length), values(p.gate_in, first, c.length),
                                   values(p.gate_out, first, c.length),
                                   values(p.dy, first, c.length)};
      const auto want = reference::convolution(kernel, skip, in, true, gradient);
      compare("y", values(p.y, first, c.length), want.y);
      compare("dx", values(p.dx, first, c.length), want.dx);
      compare("dgate_in", values(p.dgate_in, first, c.length), want.dgate_in);
      compare("dgate_out", values(p.dgate_out, first, c.length), want.dgate_out);
    }
    compare("dkernel", values(p.dkernel, std::size_t(d) * c.taps, c.taps), gradient.kernel);
    compare("dskip", values(p.dskip, d, 1), {gradient.skip});
  });
  std::map<std::string, RelativeError> total;
  for (const auto& one : errors)
    for (const auto& [name, e] : one)
      total[name].difference += e.difference, total[name].norm += e.norm;
  std::map<std::string, double> out;
  for (const auto& [name, e] : total) out[name] = e.value();
  return out;
}

}  // namespace bench
