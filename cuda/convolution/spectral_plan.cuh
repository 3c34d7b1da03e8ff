// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "convolution/convolution_plan.cuh"
#include "convolution/spectral_gradient.cuh"
#include "ssm/backend/cuda/hopper.hpp"

namespace ssm::cuda::device {

/// The sums over the batch of products of spectra, in a workspace for some channels.
class SpectrumSums {
 public:
  SpectrumSums(int channels, std::size_t points, WorkspaceLayout& layout) : points_(points) {
    sums_ = layout.template take<float>(2 * points * channels);
    spectra = layout.template take<char>(4 * points * channels);
    largest_ = layout.template take<unsigned>(channels);
    scales = layout.template take<SequenceScale>(channels);
  }
  static std::size_t channel_bytes(std::size_t points) { return 12 * points; }

  void run(int channels, int batch, const char* inputs, const char* others,
           const SequenceScale* input_scales, const SequenceScale* other_scales, Stream stream,
           const char* operation) const {
    check(cudaMemsetAsync(largest_, 0, channels * sizeof(unsigned),
                          static_cast<cudaStream_t>(stream)),
          operation);
    launch(sum_spectra, dim3(points_ / 2048, channels), 256, 0, stream, operation,
           SpectrumSumLaunch{batch, points_, inputs, others, input_scales, other_scales, sums_,
                             largest_});
    launch(scale_spectra, dim3(points_ / 1024, channels), 256, 0, stream, operation,
           SpectrumScaleLaunch{points_, sums_, largest_, spectra, scales});
  }

  char* spectra;
  SequenceScale* scales;

 private:
  std::size_t points_;
  float* sums_;
  unsigned* largest_;
};

/// The kernel's gradient of sequences of one transform, a few channels at a time.
template <class P>
class SpectralGradient {
 public:
  SpectralGradient(int batch, int channels, void* base)
      : batch_(batch),
        channels_(channels),
        layout_(base),
        slice_(channels_at_a_time(
            std::size_t{P::spectrum_bytes} * batch * 2 + SpectrumSums::channel_bytes(P::length),
            channels)),
        sums_(slice_, P::length, layout_) {
    for (int i = 0; i < 2; ++i) {
      spectra_[i] = layout_.template take<char>(std::size_t{P::spectrum_bytes} * batch * slice_);
      scales_[i] = layout_.template take<SequenceScale>(std::size_t(batch) * slice_);
    }
    tables_ = layout_.template take<char>(P::table_bytes);
  }
  std::size_t used() const { return layout_.used(); }

  void run(const CausalConvolutionBackward<BFloat16>& call, Stream stream,
           const char* operation) const {
    launch(make_right_angle_tables<P>, dim3(64), 256, 0, stream, operation, tables_, 1, 1.f);
    for (int first = 0; first < channels_; first += slice_) {
      const int count = std::min(slice_, channels_ - first);
      const auto transform = [&](auto kernel, int i, const Sequences<const BFloat16>& x,
                                 const Sequences<const BFloat16>& gate) {
        launch(
            kernel,
            dim3(std::min(count * batch_, hopper_multiprocessors * P::blocks_per_multiprocessor)),
            P::threads, P::bytes, stream, operation,
            SequenceTransformLaunch{batch_, count, call.length, from_channel(x, first),
                                    from_channel(gate, first), tables_, spectra_[i], scales_[i]});
      };
      transform(transform_sequences<P, false>, 0, call.x, call.gate_in);
      transform(transform_sequences<P, true>, 1, call.dy, call.gate_out);
      sums_.run(count, batch_, spectra_[0], spectra_[1], scales_[0], scales_[1], stream, operation);
      launch(
          invert_gradients<P>, dim3(count), P::threads, P::bytes, stream, operation,
          GradientInverseLaunch{std::min(call.taps, call.length), call.taps, tables_, sums_.spectra,
                                sums_.scales, 1.f / (P::length * P::gain * P::gain * P::gain),
                                call.dkernel + std::int64_t{first} * call.taps,
                                call.dskip == nullptr ? nullptr : call.dskip + first});
    }
  }

 private:
  int batch_, channels_;
  WorkspaceLayout layout_;
  int slice_;
  SpectrumSums sums_;
  char* spectra_[2];
  SequenceScale* scales_[2];
  char* tables_;
};

/// Convolutions of sequences of `Rows` rows, a few channels at a time.
template <class P, int Rows>
class RowConvolution {
 public:
  RowConvolution(int batch, int channels, bool backward, void* base)
      : batch_(batch),
        channels_(channels),
        layout_(base),
        slice_(channels_at_a_time(image_bytes * (batch * (backward ? 2 : 1) + 1) +
                                      (backward ? SpectrumSums::channel_bytes(points) : 0),
                                  channels)),
        sums_(backward ? slice_ : 0, points, layout_) {
    for (int i = 0; i < (backward ? 2 : 1); ++i) {
      images_[i] = layout_.template take<char>(image_bytes * batch * slice_);
      scales_[i] = layout_.template take<SequenceScale>(std::size_t(batch) * channels);
    }
    kernels_ = layout_.template take<char>(image_bytes * slice_);
    kernel_scales_ = layout_.template take<SequenceScale>(channels);
    tables_ = layout_.template take<char>(std::size_t{P::table_bytes} * Rows);
  }
  std::size_t used() const { return layout_.used(); }

  void run(const CausalConvolution<BFloat16>& call, Stream stream, const char* operation) const {
    prepare(call, stream, operation);
    measure(call.x, call.gate_in, call.length, 0, stream, operation);
    for (int first = 0; first < channels_; first += slice_) {
      const Slice slice{first, std::min(slice_, channels_ - first), stream, operation};
      transform_kernels(call, slice);
      outer<false>(slice, call.x, call.gate_in, call.length, 0);
      rows<true, true>(slice, batch_, images_[0], kernels_, nullptr);
      finish<false>(slice, call.length, 0, {call.gate_out, {}, call.y, {}});
    }
  }
  void run(const CausalConvolutionBackward<BFloat16>& call, Stream stream,
           const char* operation) const {
    prepare(call, stream, operation);
    measure(call.x, call.gate_in, call.length, 0, stream, operation);
    measure(call.dy, call.gate_out, call.length, 1, stream, operation);
    for (int first = 0; first < channels_; first += slice_) {
      const Slice slice{first, std::min(slice_, channels_ - first), stream, operation};
      transform_kernels(call, slice);
      outer<false>(slice, call.x, call.gate_in, call.length, 0);
      outer<true>(slice, call.dy, call.gate_out, call.length, 1);
      for (char* const images : images_) rows<true, false>(slice, batch_, images, nullptr, nullptr);
      add_kernel_gradient(call, slice);
      rows<false, true>(slice, batch_, images_[1], kernels_, nullptr);
      finish<true>(slice, call.length, 1, {call.gate_in, call.x, call.dx, call.dgate_in});
      if (call.dgate_out.data == nullptr) continue;
      rows<false, true>(slice, batch_, images_[0], kernels_, nullptr);
      finish<false>(slice, call.length, 0, {call.dy, {}, call.dgate_out, {}});
    }
  }

 private:
  static constexpr std::size_t points = std::size_t{Rows} * P::length;
  static constexpr std::size_t image_bytes = std::size_t{Rows} * P::spectrum_bytes;
  // Of a transform of inputs below 16 to spectra below half's range, and of its inverse.
  static constexpr float first_gain = 1.f / 4, outer_gain = 131072.f / points;
  static constexpr float gain = outer_gain * first_gain * P::gain;
  static constexpr float back_gain = 1.f / (points * gain * first_gain * P::gain);

  struct Slice {
    int first, count;  // channels
    Stream stream;
    const char* operation;
  };
  struct Results {
    Sequences<const BFloat16> gate, second_gate;
    Sequences<BFloat16> y, second;
  };

  /// Tables, and the scales of kernels.
  template <class Call>
  void prepare(const Call& call, Stream stream, const char* operation) const {
    launch(make_right_angle_tables<P>, dim3(16, Rows), 256, 0, stream, operation, tables_, Rows,
           first_gain);
    launch(measure_sequences<float>, dim3(channels_), 1024, 0, stream, operation,
           ScaleLaunch<float>{{call.kernel, 0, call.taps},
                              {},
                              call.skip,
                              std::min(call.taps, call.length),
                              kernel_scales_});
  }
  void measure(const Sequences<const BFloat16>& x, const Sequences<const BFloat16>& gate,
               int length, int i, Stream stream, const char* operation) const {
    launch(measure_sequences<BFloat16>, dim3(channels_, batch_), 1024, 0, stream, operation,
           ScaleLaunch<BFloat16>{x, gate, nullptr, length, scales_[i]});
  }
  const SequenceScale* scales_of(const Slice& slice, int i) const {
    return scales_[i] + std::int64_t{slice.first} * batch_;
  }

  template <class Call>
  void transform_kernels(const Call& call, const Slice& slice) const {
    const Sequences<const float> kernel{call.kernel, 0, call.taps};
    launch_outer<float, false>(
        slice, 1,
        OuterLaunch<float, Rows>{from_channel(kernel, slice.first),
                                 {},
                                 call.skip == nullptr ? nullptr : call.skip + slice.first,
                                 std::min(call.taps, call.length),
                                 1,
                                 kernel_scales_ + slice.first,
                                 kernels_,
                                 outer_matrix<Rows>(outer_gain)});
    rows<true, false>(slice, 1, kernels_, nullptr, kernel_scales_ + slice.first);
  }
  template <bool Reversed>
  void outer(const Slice& slice, const Sequences<const BFloat16>& x,
             const Sequences<const BFloat16>& gate, int length, int i) const {
    launch_outer<BFloat16, Reversed>(
        slice, batch_,
        OuterLaunch<BFloat16, Rows>{from_channel(x, slice.first), from_channel(gate, slice.first),
                                    nullptr, length, batch_, scales_of(slice, i), images_[i],
                                    outer_matrix<Rows>(outer_gain)});
  }
  template <class T, bool Reversed>
  void launch_outer(const Slice& slice, int batch, const OuterLaunch<T, Rows>& call) const {
    launch(outer_stage<P, T, Rows, Reversed>, dim3(P::length / 256, slice.count * batch), 128, 0,
           slice.stream, slice.operation, call);
  }
  template <bool FromImage, bool ToImage>
  void rows(const Slice& slice, int batch, char* data, const char* filters,
            const SequenceScale* scales) const {
    const int items = slice.count * batch,
              blocks = std::max(hopper_multiprocessors * P::blocks_per_multiprocessor / Rows, 1);
    launch(transform_rows<P, FromImage, ToImage>, dim3(std::min(blocks, items), Rows), P::threads,
           P::bytes, slice.stream, slice.operation,
           RowLaunch{items, batch, Rows, data, filters, tables_, scales, gain});
  }
  template <bool Reversed>
  void finish(const Slice& slice, int length, int i, const Results& results) const {
    launch(outer_inverse_stage<P, BFloat16, Rows, Reversed>,
           dim3(P::length / 256, slice.count * batch_), 128, 0, slice.stream, slice.operation,
           OuterInverseLaunch<BFloat16, Rows>{
               from_channel(results.gate, slice.first),
               from_channel(results.second_gate, slice.first), from_channel(results.y, slice.first),
               from_channel(results.second, slice.first), length, batch_, scales_of(slice, i),
               kernel_scales_ + slice.first, images_[i], back_gain, outer_matrix<Rows>(1.)});
  }
  void add_kernel_gradient(const CausalConvolutionBackward<BFloat16>& call,
                           const Slice& slice) const {
    sums_.run(slice.count, batch_, images_[0], images_[1], scales_of(slice, 0), scales_of(slice, 1),
              slice.stream, slice.operation);
    rows<false, true>(slice, 1, sums_.spectra, nullptr, nullptr);
    const Sequences<float> dkernel{call.dkernel, 0, call.taps};
    launch(outer_inverse_stage<P, float, Rows, true>, dim3(P::length / 256, slice.count), 128, 0,
           slice.stream, slice.operation,
           OuterInverseLaunch<float, Rows>{
               {},
               {},
               from_channel(dkernel, slice.first),
               {},
               std::min(call.taps, call.length),
               1,
               sums_.scales,
               nullptr,
               sums_.spectra,
               back_gain / gain,
               outer_matrix<Rows>(1.),
               call.dskip == nullptr ? nullptr : call.dskip + slice.first});
  }

  int batch_, channels_;
  WorkspaceLayout layout_;
  int slice_;
  SpectrumSums sums_;
  char *images_[2], *kernels_, *tables_;
  SequenceScale *scales_[2], *kernel_scales_;
};

/// Calls `body` with the type of the convolution of `length` positions.
template <class Body>
auto with_row_convolution(int length, const Body& body) {
  using Half = RightAnglePlan<16, 32, 1>;
  using Whole = RightAnglePlan<32, 32, 1>;
  if (length <= 65536) return body(std::type_identity<RowConvolution<Half, 4>>{});
  if (length <= 131072) return body(std::type_identity<RowConvolution<Half, 8>>{});
  if (length <= 262144) return body(std::type_identity<RowConvolution<Half, 16>>{});
  if (length <= 524288) return body(std::type_identity<RowConvolution<Whole, 16>>{});
  return body(std::type_identity<RowConvolution<Whole, 32>>{});
}

}  // namespace ssm::cuda::device
