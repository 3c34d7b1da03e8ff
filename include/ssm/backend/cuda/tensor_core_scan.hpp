// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include "ssm/backend/cuda/channel_major.hpp"
#include "ssm/backend/cuda/diagonal_scan.hpp"
#include "ssm/backend/cuda/rearrange.hpp"  // fill
#include "ssm/backend/cuda/scan_rows.hpp"

namespace ssm::cuda {

/// ssm::DiagonalScan by the tensor-core kernels: operands in their layout, one row of coefficients
/// a channel, contiguous states.
/// T   the scalar of the sequences: float or a half type
template <class Ctx, class T>
class TensorCoreScan {
 public:
  using Space = typename Ctx::Space;

  /// Whether they can: complex modes, 32 at most, in sizes that an int counts.
  static bool can(const ssm::DiagonalScan<T, Space>& a) {
    constexpr Index max_positions = Index{1} << 30;
    constexpr Index max_sequences = 65535 * 4;
    const Index sequences = sequence_count(a.x.extent(0), a.segments);
    return a.A.extent(2) == 2 && a.A.extent(1) >= 1 && a.A.extent(1) <= 32 && a.x.size() > 0 &&
           a.x.extent(1) <= max_positions && sequences <= max_sequences &&
           a.x.extent(2) <= std::numeric_limits<int>::max();
  }

  TensorCoreScan(Ctx& ctx, const ssm::DiagonalScan<T, Space>& a, Stream stream)
      : a_(a), sequences_(ctx, stream), stream_(stream), segments_(narrowed(ctx)) {
    const ScanRows rows = scan_rows();
    expand_scan_rows(without_sequences(a), rows, stream);
    parameters_.dt = rows.dt;
    parameters_.a = rows.A;
    parameters_.b = rows.B;
    parameters_.c = rows.C;
    parameters_.skip = a.skip ? rows.skip : nullptr;
    parameters_.discretization = a.discretization;
  }

  void run() {
    DiagonalScan<T> call;
    call.shape = shape();
    call.parameters = parameters_;
    call.x = sequences_.input(a_.x);
    call.gate_in = sequences_.input(a_.gate_in);
    call.gate_out = sequences_.input(a_.gate_out);
    call.initial_state = state(a_.initial_state);
    call.y = sequences_.output(a_.y);
    if (a_.final_state) call.final_state = states();
    void* const workspace = sequences_.bytes(diagonal_scan_workspace<T>(call.shape));
    cuda::diagonal_scan(call, workspace, stream_);
    sequences_.finish();
    if (a_.final_state)
      unpack_scan_states(call.final_state, device_states(a_.final_state), stream_);
  }

  void run_backward(const ssm::DiagonalScanBackward<T, Space>& g) {
    const ScanRows gradient = scan_rows();
    cuda::fill(ssm::Fill<float, CudaSpace>{.y = {gradient.dt,
                                                 {ScanRows::float_count(channels(), modes())}}},
               stream_);
    DiagonalScanBackward<T> call;
    call.shape = shape();
    call.parameters = parameters_;
    call.x = sequences_.input(a_.x);
    call.gate_in = sequences_.input(a_.gate_in);
    call.gate_out = sequences_.input(a_.gate_out);
    call.initial_state = state(a_.initial_state);
    call.dy = sequences_.input(g.dy);
    call.dfinal_state = state(g.dfinal_state);
    call.dx = sequences_.gradient(g.dx, a_.x);
    call.dgate_in = sequences_.gradient(g.dgate_in, a_.gate_in);
    call.dgate_out = sequences_.gradient(g.dgate_out, a_.gate_out);
    if (g.dinitial_state) call.dinitial_state = states();
    call.ddt = gradient.dt;
    call.da = gradient.A;
    call.db = gradient.B;
    call.dc = gradient.C;
    call.dskip = a_.skip ? gradient.skip : nullptr;
    void* const workspace = sequences_.bytes(diagonal_scan_backward_workspace(call));
    cuda::diagonal_scan_backward(call, workspace, stream_);
    sequences_.finish();
    if (g.dinitial_state)
      unpack_scan_states(call.dinitial_state, device_states(g.dinitial_state), stream_);
    add_scan_rows(without_sequences(g), gradient, stream_);
  }

 private:
  Index channels() const { return a_.x.extent(2); }
  Index modes() const { return a_.A.extent(1); }
  DiagonalScanShape shape() const {
    DiagonalScanShape shape;
    shape.batch = static_cast<int>(a_.x.extent(0));
    shape.channels = static_cast<int>(channels());
    shape.modes = static_cast<int>(modes());
    shape.length = static_cast<int>(a_.x.extent(1));
    shape.segments = segments_;
    shape.segment_count = segments_ != nullptr ? static_cast<int>(a_.segments.size()) - 1 : 0;
    return shape;
  }
  const int* narrowed(Ctx& ctx) {
    if (a_.segments.empty()) return nullptr;
    const auto offsets = segments_on_device(ctx, sequences_.frame(), a_.segments);
    const auto narrow = sequences_.frame().template tensor<int>(offsets.count + 1);
    narrow_offsets(offsets, narrow.data(), stream_);
    return narrow.data();
  }
  ScanRows scan_rows() {
    const Index count = ScanRows::float_count(channels(), modes());
    return {sequences_.frame().template tensor<float>(count).data(), channels(), modes()};
  }
  /// [S, D, P], contiguous.
  Complex<float>* states() {
    const Index count = sequence_count(a_.x.extent(0), a_.segments) * channels() * modes();
    return sequences_.frame().template tensor<Complex<float>>(count).data();
  }
  const Complex<float>* state(const View<const float, 4, Space>& given) {
    if (!given) return nullptr;
    Complex<float>* const packed = states();
    pack_scan_states(device_states(given), packed, stream_);
    return packed;
  }
  template <class S>
  static View<S, 4, CudaSpace> device_states(const View<S, 4, Space>& states) {
    return std::bit_cast<View<S, 4, CudaSpace>>(states);
  }
  const ssm::DiagonalScan<T, Space>& a_;
  ChannelMajor<Ctx, T> sequences_;
  Stream stream_;
  const int* segments_;
  DiagonalScanParameters parameters_;
};

}  // namespace ssm::cuda
