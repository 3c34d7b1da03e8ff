// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include "ssm/backend/cuda/channel_major.hpp"
#include "ssm/backend/cuda/h3_mixer.hpp"
#include "ssm/backend/cuda/rearrange.hpp"  // fill
#include "ssm/backend/cuda/scan_rows.hpp"
#include "ssm/backend/cuda/shift_taps_and_states.hpp"
#include "ssm/op/h3_mixer.hpp"

namespace ssm::cuda {

/// ssm::H3Mixer by the fused tensor-core kernels: operands in their layout, the shift as a filter.
/// T   the scalar of the sequences: float or a half type
template <class Ctx, class T>
class TensorCoreMixer {
 public:
  using Space = typename Ctx::Space;

  /// Whether they can: heads of one channel, 64 taps and 32 complex modes at most, sequences that
  /// are not packed and begin at zero, in sizes that an int counts.
  static bool can(const ssm::H3Mixer<T, Space>& a) {
    constexpr Index max_positions = Index{1} << 30;
    constexpr Index max_sequences = 65535 * 4;
    return a.dt.extent(0) == a.q.extent(2) && a.shift_B.extent(1) >= 1 &&
           a.shift_B.extent(1) <= 64 && a.A.extent(2) == 2 && a.A.extent(1) >= 1 &&
           a.A.extent(1) <= 32 && a.segments.empty() && !a.initial_shift && !a.final_shift &&
           !a.initial_diagonal && !a.final_diagonal && a.q.size() > 0 &&
           a.q.extent(0) <= max_sequences && a.q.extent(1) <= max_positions &&
           a.q.extent(2) <= std::numeric_limits<int>::max() && a.shift_skip.is_contiguous();
  }
  static bool can(const ssm::H3MixerBackward<T, Space>& g) {
    auto forward = g.forward;
    forward.final_shift = {};  // which are not computed
    forward.final_diagonal = {};
    return can(forward) && !g.dfinal_shift && !g.dfinal_diagonal && !g.dinitial_shift &&
           !g.dinitial_diagonal;
  }

  TensorCoreMixer(Ctx& ctx, const ssm::H3Mixer<T, Space>& a, Stream stream)
      : a_(a), sequences_(ctx, stream), stream_(stream), taps_(taps()), rows_(scan_rows()) {
    shift_taps<float>(shift(), taps_, stream);
    expand_scan_rows(scan(), rows_, stream);
  }

  void run() {
    H3Mixer<T> call = operands();
    call.y = sequences_.output(a_.y);
    void* const workspace = sequences_.bytes(h3_mixer_workspace(call));
    cuda::h3_mixer(call, workspace, stream_);
    sequences_.finish();
  }

  void run_backward(const ssm::H3MixerBackward<T, Space>& g) {
    const auto dtaps = taps();
    const ScanRows gradient = scan_rows();
    fill_zero(dtaps.flatten());
    fill_zero({gradient.dt, {ScanRows::float_count(channels(), modes())}});
    H3MixerBackward<T> call;
    call.forward = operands();
    call.dy = sequences_.input(g.dy);
    call.dq = sequences_.output(g.dq);
    call.dk = sequences_.output(g.dk);
    call.dv = sequences_.output(g.dv);
    call.dtaps = dtaps.data();
    call.ddt = gradient.dt;
    call.da = gradient.A;
    call.db = gradient.B;
    call.dc = gradient.C;
    call.dskip = a_.skip ? gradient.skip : nullptr;
    void* const workspace = sequences_.bytes(h3_mixer_backward_workspace(call));
    cuda::h3_mixer_backward(call, workspace, stream_);
    sequences_.finish();
    ssm::ShiftConvolutionBackward<float, CudaSpace> dshift{.forward = shift()};
    dshift.dB = on_device_view(g.dshift_B);
    dshift.dC = on_device_view(g.dshift_C);
    dshift.dskip = on_device_view(g.dshift_skip);
    add_shift_gradients<float>(dshift, dtaps, {}, stream_);
    ssm::DiagonalScanBackward<float, CudaSpace> dscan{.forward = scan()};
    dscan.ddt = on_device_view(g.ddt);
    dscan.dA = on_device_view(g.dA);
    dscan.dB = on_device_view(g.dB);
    dscan.dC = on_device_view(g.dC);
    dscan.dskip = on_device_view(g.dskip);
    add_scan_rows(dscan, gradient, stream_);
  }

 private:
  Index channels() const { return a_.q.extent(2); }
  Index modes() const { return a_.A.extent(1); }
  template <class V>
  static View<typename V::Element, V::rank(), CudaSpace> on_device_view(const V& view) {
    return std::bit_cast<View<typename V::Element, V::rank(), CudaSpace>>(view);
  }
  void fill_zero(const View<float, 1, CudaSpace>& y) {
    cuda::fill(ssm::Fill<float, CudaSpace>{.y = y}, stream_);
  }

  H3Mixer<T> operands() {
    H3Mixer<T> call;
    call.batch = static_cast<int>(a_.q.extent(0));
    call.channels = static_cast<int>(channels());
    call.length = static_cast<int>(a_.q.extent(1));
    call.tap_count = static_cast<int>(a_.shift_B.extent(1));
    call.modes = static_cast<int>(modes());
    call.q = sequences_.input(a_.q);
    call.k = sequences_.input(a_.k);
    call.v = sequences_.input(a_.v);
    call.taps = taps_.data();
    call.shift_skip = a_.shift_skip.data();
    call.diagonal.dt = rows_.dt;
    call.diagonal.a = rows_.A;
    call.diagonal.b = rows_.B;
    call.diagonal.c = rows_.C;
    call.diagonal.skip = a_.skip ? rows_.skip : nullptr;
    call.diagonal.discretization = a_.discretization;
    return call;
  }
  /// The parameters of the shift and of the scan, for what is done with them alone: sequences of no
  /// positions.
  View<const float, 3, CudaSpace> nothing() const {
    return {nullptr, DynamicExtents<3>(Index{0}, Index{0}, channels())};
  }
  ssm::ShiftConvolution<float, CudaSpace> shift() const {
    return {.B = on_device_view(a_.shift_B),
            .C = on_device_view(a_.shift_C),
            .skip = on_device_view(a_.shift_skip),
            .x = nothing()};
  }
  ssm::DiagonalScan<float, CudaSpace> scan() const {
    ssm::DiagonalScan<float, CudaSpace> scan;
    scan.dt = on_device_view(a_.dt);
    scan.A = on_device_view(a_.A);
    scan.B = on_device_view(a_.B);
    scan.C = on_device_view(a_.C);
    scan.skip = on_device_view(a_.skip);
    scan.x = nothing();
    return scan;
  }
  View<float, 2, CudaSpace> taps() {
    const auto taps = sequences_.frame().template tensor<float>(a_.shift_B.extents());
    return {taps.data(), a_.shift_B.extents()};
  }
  ScanRows scan_rows() {
    const Index count = ScanRows::float_count(channels(), modes());
    return {sequences_.frame().template tensor<float>(count).data(), channels(), modes()};
  }

  const ssm::H3Mixer<T, Space>& a_;
  ChannelMajor<Ctx, T> sequences_;
  Stream stream_;
  View<float, 2, CudaSpace> taps_;
  ScanRows rows_;
};

}  // namespace ssm::cuda
