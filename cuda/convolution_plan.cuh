// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "causal_convolution.cuh"
#include "launch.cuh"
#include "twisted_convolution.cuh"
#include "twisted_gradient.cuh"

namespace ssm::cuda::device {

inline void require_sizes(int batch, int channels, int length, int taps, int longest,
                          const char* operation) {
  require(batch >= 1 && channels >= 1 && length >= 1 && taps >= 1, operation,
          "sizes must be positive");
  if (length > longest)
    throw Failure(std::string(operation) + ": sequences are at most " + std::to_string(longest) +
                  " positions long");
}

/// Calls `body` with the smallest transform that holds `length` positions without wrapping around.
template <class T, class Body>
auto with_transform(int length, const Body& body) {
  constexpr int terms = half_terms<T>;
  if (length <= 1024) return body(Transform<16, 8, terms>{});
  if (length <= 2048) return body(Transform<16, 16, terms>{});
  if (length <= 4096) return body(Transform<16, 32, terms>{});
  return body(Transform<32, 32, terms>{});
}

/// The kernels' spectra in a workspace.
template <class P>
class KernelSpectra {
 public:
  KernelSpectra(int channels, void* base) : carver_(base), channels_(channels) {
    spectrum = carver_.template take<char>(Spectrum<P>::bytes * channels);
    unscale = carver_.template take<float>(channels);
  }
  void build(const float* kernel, const float* skip, int taps, int length, Stream stream,
             const char* operation) const {
    launch(transform_kernel<P>, dim3(channels_), P::threads, P::bytes, stream, operation,
           KernelLaunch{kernel, skip, taps, std::min(taps, length), spectrum, unscale});
  }
  std::size_t used() const { return carver_.used(); }

  char* spectrum;
  float* unscale;

 private:
  Carver carver_;
  int channels_;
};

/// Whether sequences of up to kBlockConvolutionLength positions go by a transform that stops half-way (TwistedTables)
/// rather than by whole transforms, which keep two half terms of every number.
template <class T>
inline constexpr bool is_twisted = std::is_same_v<T, Bfloat16>;

/// Calls `body` with the plan for `length` positions and the number of its blocks, a power of two.
template <class Body>
auto with_twisted(int length, const Body& body) {
  if (length <= 1024) return body(Twisted<32>{}, std::integral_constant<int, 1>{});
  if (length <= 2048) return body(Twisted<64>{}, std::integral_constant<int, 1>{});
  if (length <= 4096) return body(Twisted<64>{}, std::integral_constant<int, 2>{});
  return body(Twisted<64>{}, std::integral_constant<int, 4>{});
}

/// The inner products' tables of all channels in a workspace, and the launches that make and use them.
template <class P, int Blocks>
class TwistedTables {
 public:
  TwistedTables(int channels, void* base) : carver_(base), channels_(channels) {
    tables_ = carver_.template take<char>(twisted_table_bytes<P>(Blocks) * channels);
    unscale_ = carver_.template take<float>(channels);
  }
  void build(const float* kernel, const float* skip, int taps, int length, Stream stream,
             const char* operation) const {
    constexpr int channels = P::rows / Blocks;
    launch(build_twisted_tables<P, Blocks>, dim3((channels_ + channels - 1) / channels), P::threads,
           P::bytes, stream, operation,
           TwistedKernelLaunch{kernel, skip, taps, std::min(taps, length), channels_, tables_,
                               unscale_});
  }
  template <bool Adjoint>
  void run(TwistedLaunch call, Stream stream, const char* operation) const {
    call.tables = tables_, call.unscale = unscale_;
    constexpr int sequences = P::rows / Blocks;
    const int items = (call.batch + sequences - 1) / sequences * call.channels;
    const bool gated = call.gate_in.data != nullptr || call.gate_out.data != nullptr ||
                       call.second.data != nullptr;
    launch(gated ? convolve_twisted<P, true, Blocks, Adjoint>
                 : convolve_twisted<P, false, Blocks, Adjoint>,
           dim3(std::min(items, 132 * P::blocks_per_multiprocessor)), P::threads, P::bytes, stream,
           operation, call);
  }
  static void correlate(const TwistedGradientLaunch& call, Stream stream, const char* operation) {
    const bool gated = call.gate_in.data != nullptr || call.gate_out.data != nullptr;
    launch(gated ? correlate_twisted<P, true, Blocks> : correlate_twisted<P, false, Blocks>,
           dim3(call.channels), 2 * P::threads, GradientShared<P>::bytes, stream, operation, call);
  }
  std::size_t used() const { return carver_.used(); }

 private:
  Carver carver_;
  int channels_;
  char* tables_;
  float* unscale_;
};

}  // namespace ssm::cuda::device
