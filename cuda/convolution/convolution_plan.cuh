// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <type_traits>  // std::type_identity
#include <utility>

#include "convolution/causal_convolution.cuh"
#include "convolution/negacyclic_convolution.cuh"
#include "convolution/negacyclic_gradient.cuh"
#include "convolution/right_angle_gradient.cuh"
#include "device/launch.cuh"
#include "ssm/backend/cuda/hopper.hpp"

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

inline SequenceProduct from_channel(SequenceProduct call, int first) {
  call.x = from_channel(call.x, first), call.y = from_channel(call.y, first);
  call.gate_in = from_channel(call.gate_in, first);
  call.gate_out = from_channel(call.gate_out, first);
  call.second_gate = from_channel(call.second_gate, first);
  call.second = from_channel(call.second, first);
  return call;
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
  /// Channels whose tables are made at a time: all, a backward call may take them over.
  static int slice(int channels) { return channels; }
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
  void run(SequenceProduct call, Stream stream, const char* operation) const {
    call.channels = channels_;
    constexpr int sequences = P::rows / Blocks;
    const int items = (call.batch + sequences - 1) / sequences * call.channels;
    launch(call.gated() ? convolve_negacyclic<P, true, Blocks, Adjoint>
                        : convolve_negacyclic<P, false, Blocks, Adjoint>,
           dim3(std::min(items, hopper_multiprocessors * P::blocks_per_multiprocessor)), P::threads,
           P::bytes, stream, operation, NegacyclicLaunch{call, tables_, unscale_});
  }
  void correlate(const KernelGradientLaunch& call, Stream stream, const char* operation) const {
    const bool gated = call.gate_in.data != nullptr || call.gate_out.data != nullptr;
    launch(gated ? correlate_negacyclic<P, true, Blocks> : correlate_negacyclic<P, false, Blocks>,
           dim3(call.channels), 2 * P::threads, GradientShared<P>::bytes, stream, operation, call);
  }
  std::size_t used() const { return layout_.used(); }

 private:
  WorkspaceLayout layout_;
  int channels_;
  char* tables_;
  float* unscale_;
};

/// The same of whole transforms.
template <class P>
class RightAngleTables {
 public:
  using Plan = P;
  /// As many as keep spectra near 256 MiB where no backward call takes them over.
  static int slice(int channels) {
    if constexpr (P::length <= kBlockConvolutionLength) return channels;
    return channels_at_a_time(P::spectrum_bytes, channels);
  }
  RightAngleTables(int channels, void* base) : layout_(base), channels_(channels) {
    spectra_ = layout_.template take<char>(std::size_t{P::spectrum_bytes} * channels);
    unscale_ = layout_.template take<float>(channels);
    tables_ = layout_.template take<char>(P::table_bytes);
  }
  void build(const ConvolutionKernels& kernels, int first, int length, Stream stream,
             const char* operation) const {
    const auto [kernel, skip, taps] = kernels;
    launch(make_right_angle_tables<P>, dim3(64), 256, 0, stream, operation, tables_, 1, 1.f);
    using Single = RightAnglePlan<P::N2, P::N3, 1>;
    launch(transform_kernels<Single>,
           dim3(std::min(channels_, hopper_multiprocessors * Single::blocks_per_multiprocessor)),
           Single::threads, Single::bytes, stream, operation,
           KernelTransformLaunch{kernel + std::int64_t{first} * taps,
                                 skip == nullptr ? nullptr : skip + first, taps,
                                 std::min(taps, length), channels_, tables_, spectra_, unscale_});
  }
  template <bool Adjoint>
  void run(SequenceProduct call, Stream stream, const char* operation) const {
    call.channels = channels_;
    const int items = (call.batch + P::Groups - 1) / P::Groups * channels_;
    launch(call.gated() ? convolve_right_angle<P, true, Adjoint>
                        : convolve_right_angle<P, false, Adjoint>,
           dim3(std::min(items, hopper_multiprocessors * P::blocks_per_multiprocessor)), P::threads,
           P::bytes, stream, operation, RightAngleLaunch{call, tables_, spectra_, unscale_});
  }
  void correlate(const KernelGradientLaunch& call, Stream stream, const char* operation) const {
    using Pairs = RightAnglePlan<P::N2, P::N3, 32768 / P::length>;
    const bool gated = call.gate_in.data != nullptr || call.gate_out.data != nullptr;
    launch(gated ? correlate_right_angle<Pairs, true> : correlate_right_angle<Pairs, false>,
           dim3(call.channels), Pairs::threads, Pairs::bytes, stream, operation,
           RightAngleGradientLaunch{call, tables_});
  }
  std::size_t used() const { return layout_.used(); }

 private:
  WorkspaceLayout layout_;
  int channels_;
  char* spectra_;
  float* unscale_;
  char* tables_;
};

/// Calls `body` with the type of the tables for a call of bf16 data. Gates are read where a
/// negacyclic tile has registers to spare: up to 8192 positions it is the faster of the two.
template <class Call, class Body>
auto with_bf16_tables(const Call& call, const Body& body) {
  const int length = call.length;
  const bool gated = call.gate_in.data != nullptr || call.gate_out.data != nullptr;
  if (length <= 1024) return body(std::type_identity<NegacyclicTables<NegacyclicPlan<32>, 1>>{});
  if (length <= 2048) return body(std::type_identity<NegacyclicTables<NegacyclicPlan<64>, 1>>{});
  if (length <= 4096) return body(std::type_identity<NegacyclicTables<NegacyclicPlan<64>, 2>>{});
  if (length <= 8192 && gated)
    return body(std::type_identity<NegacyclicTables<NegacyclicPlan<64>, 4>>{});
  if (length <= 8192)
    return body(std::type_identity<RightAngleTables<RightAnglePlan<16, 16, 2>>>{});
  if (length <= 16384)
    return body(std::type_identity<RightAngleTables<RightAnglePlan<16, 32, 1>>>{});
  return body(std::type_identity<RightAngleTables<RightAnglePlan<32, 32, 1>>>{});
}

}  // namespace ssm::cuda::device
