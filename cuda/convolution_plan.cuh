// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "causal_convolution.cuh"
#include "launch.cuh"

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

}  // namespace ssm::cuda::device
