// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <utility>

#include "convolution/causal_convolution.cuh"
#include "convolution/negacyclic_convolution.cuh"
#include "convolution/negacyclic_gradient.cuh"
#include "device/launch.cuh"

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
  KernelSpectra(int channels, void* base) : layout_(base), channels_(channels) {
    spectrum = layout_.template take<char>(Spectrum<P>::bytes * channels);
    unscale = layout_.template take<float>(channels);
  }
  void build(const float* kernel, const float* skip, int taps, int length, Stream stream,
             const char* operation) const {
    launch(transform_kernel<P>, dim3(channels_), P::threads, P::bytes, stream, operation,
           KernelLaunch{kernel, skip, taps, std::min(taps, length), spectrum, unscale});
  }
  std::size_t used() const { return layout_.used(); }

  char* spectrum;
  float* unscale;

 private:
  WorkspaceLayout layout_;
  int channels_;
};

/// Whether sequences go by partial negacyclic transforms (NegacyclicTables) rather than by whole
/// transforms, which keep two half terms of every number.
template <class T>
inline constexpr bool uses_negacyclic = std::is_same_v<T, BFloat16>;

template <class T>
inline constexpr int longest_block =
    uses_negacyclic<T> ? kLongestBf16Block : kBlockConvolutionLength;

/// Channels at a time that keep a workspace of `channel` bytes a channel near 256 MiB, in slices of
/// about one size.
inline int channels_at_a_time(std::size_t channel, int channels) {
  const auto limit =
      static_cast<int>(std::clamp<std::size_t>((std::size_t{256} << 20) / channel, 1, channels));
  const int slices = (channels + limit - 1) / limit;
  return (channels + slices - 1) / slices;
}

/// `tensor` from channel `first` on; null stays null.
template <class T>
Sequences<T> from_channel(Sequences<T> tensor, int first) {
  if (tensor.data != nullptr) tensor.data += first * tensor.channel_stride;
  return tensor;
}

/// Calls `body` with the plan for `length` positions and the number of its blocks, a power of two.
template <class Body>
auto with_negacyclic_plan(int length, const Body& body) {
  if (length <= 1024) return body(NegacyclicPlan<32>{}, std::integral_constant<int, 1>{});
  if (length <= 2048) return body(NegacyclicPlan<64>{}, std::integral_constant<int, 1>{});
  if (length <= 4096) return body(NegacyclicPlan<64>{}, std::integral_constant<int, 2>{});
  if (length <= 8192) return body(NegacyclicPlan<64>{}, std::integral_constant<int, 4>{});
  if (length <= 16384) return body(NegacyclicPlan<64>{}, std::integral_constant<int, 8>{});
  return body(NegacyclicPlan<64, 2>{}, std::integral_constant<int, 16>{});
}

/// Parameters of a convolution: kernel [D, taps], skip [D] or null.
struct ConvolutionKernels {
  const float* kernel;
  const float* skip;
  int taps;
};

/// The inner products' tables of some channels in a workspace, and the launches that make and use
/// them.
template <class P, int Blocks>
class NegacyclicTables {
 public:
  /// Channels whose tables are made at a time: all where a backward call may take them over, else
  /// as many as keep them near 256 MiB.
  static int slice(int channels) {
    if constexpr (Blocks * P::length <= kBlockConvolutionLength) return channels;
    return channels_at_a_time(negacyclic_table_bytes<P>(Blocks), channels);
  }
  NegacyclicTables(int channels, void* base) : layout_(base), channels_(channels) {
    tables_ = layout_.template take<char>(negacyclic_table_bytes<P>(Blocks) * channels);
    unscale_ = layout_.template take<float>(channels);
  }
  /// From the kernels of channel `first` on.
  void build(const ConvolutionKernels& kernels, int first, int length, Stream stream,
             const char* operation) const {
    constexpr int channels = P::rows / Blocks;
    const auto [kernel, skip, taps] = kernels;
    launch(build_negacyclic_tables<P, Blocks>, dim3((channels_ + channels - 1) / channels),
           P::threads, P::bytes, stream, operation,
           NegacyclicKernelLaunch{kernel + std::int64_t{first} * taps,
                                  skip == nullptr ? nullptr : skip + first, taps,
                                  std::min(taps, length), channels_, tables_, unscale_});
  }
  template <bool Adjoint>
  void run(NegacyclicLaunch call, Stream stream, const char* operation) const {
    call.channels = channels_, call.tables = tables_, call.unscale = unscale_;
    constexpr int sequences = P::rows / Blocks;
    const int items = (call.batch + sequences - 1) / sequences * call.channels;
    const bool gated = call.gate_in.data != nullptr || call.gate_out.data != nullptr ||
                       call.second.data != nullptr;
    launch(gated ? convolve_negacyclic<P, true, Blocks, Adjoint>
                 : convolve_negacyclic<P, false, Blocks, Adjoint>,
           dim3(std::min(items, 132 * P::blocks_per_multiprocessor)), P::threads, P::bytes, stream,
           operation, call);
  }
  static void correlate(NegacyclicGradientLaunch call, Stream stream, const char* operation) {
    if constexpr (P::Groups == 1) {
      const bool gated = call.gate_in.data != nullptr || call.gate_out.data != nullptr;
      for (; call.share < gradient_shares<P, Blocks>; ++call.share)
        launch(
            gated ? correlate_negacyclic<P, true, Blocks> : correlate_negacyclic<P, false, Blocks>,
            dim3(call.channels), 2 * P::threads, GradientShared<P>::bytes, stream, operation, call);
    } else {
      using Pieces = NegacyclicTables<NegacyclicPlan<P::Outer>, 8>;
      constexpr int piece = 8 * P::length;
      const int pieces = (call.length + piece - 1) / piece;
      for (int distance = 0; distance < pieces; ++distance) {
        call.pieces = pieces - distance, call.tap = distance * piece;
        NegacyclicGradientLaunch later = call, sooner = call;
        later.dy_first = sooner.x_first = call.tap;
        if (later.tap < call.taps) Pieces::correlate(later, stream, operation);
        std::swap(sooner.x, sooner.dy), std::swap(sooner.gate_in, sooner.gate_out);
        sooner.direction = -1;
        if (distance > 0 && sooner.tap - piece + 1 < call.taps)
          Pieces::correlate(sooner, stream, operation);
      }
    }
  }
  std::size_t used() const { return layout_.used(); }

 private:
  WorkspaceLayout layout_;
  int channels_;
  char* tables_;
  float* unscale_;
};

}  // namespace ssm::cuda::device
