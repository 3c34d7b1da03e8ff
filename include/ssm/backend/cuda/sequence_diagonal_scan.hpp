// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/choice.hpp"
#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/backend/cuda/tensor_core_scan.hpp"
#include "ssm/op/diagonal_scan.hpp"

namespace ssm::cuda {

/// The compiled half for every call that ssm::DiagonalScan allows: a warp runs one channel of one
/// sequence, a lane a mode. States are kept in T. T: float, double.
template <class T>
SSM_CUDA_API void general_diagonal_scan(const ssm::DiagonalScan<T, CudaSpace>& a,
                                        DeviceSegments segments, Stream stream);
/// States are computed again from one kept every kKeptScanState positions.
/// workspace   general_diagonal_scan_backward_workspace(g) scalars
template <class T>
SSM_CUDA_API void general_diagonal_scan_backward(const ssm::DiagonalScanBackward<T, CudaSpace>& g,
                                                 DeviceSegments segments, T* workspace,
                                                 Stream stream);

/// How far apart the states are that general_diagonal_scan_backward keeps.
inline constexpr Index kKeptScanState = 64;  // positions from one to the next

/// Rows of kept states: those of sequence s begin at row begin(s)/kKeptScanState + s, where packed.
template <class T, class Space>
Index kept_scan_states(const ssm::DiagonalScan<T, Space>& a) {
  const Index sequences = sequence_count(a.x.extent(0), a.segments);
  if (!a.segments.empty()) return a.x.extent(1) / kKeptScanState + sequences;
  return sequences * ((a.x.extent(1) + kKeptScanState - 1) / kKeptScanState);
}

/// O(B·L/64·D·P + S·D·P).
template <class T, class Space>
Index general_diagonal_scan_backward_workspace(const ssm::DiagonalScanBackward<T, Space>& g) {
  const auto& a = g.forward;
  const Index channels = a.x.extent(2);
  const Index numbers = a.A.extent(1) * a.A.extent(2);
  const Index states = kept_scan_states(a) * channels * numbers;
  const Index gradients = sequence_count(a.x.extent(0), a.segments) * channels * (3 * numbers + 1);
  return states + gradients;
}

namespace primitive {

template <class Choice = Automatic>
struct BasicDiagonalScan {
  template <class Ctx, DeviceNumber T>
  static void diagonal_scan(Ctx& ctx, const ssm::DiagonalScan<T, typename Ctx::Space>& a) {
    if constexpr (!std::same_as<T, double>)
      if (TensorCoreScan<Ctx, T>::can(a) && chosen(a, false)) {
        queue(ctx, [&](Stream stream) { TensorCoreScan<Ctx, T>(ctx, a, stream).run(); });
        return;
      }
    if constexpr (HalfStorage<T>) {
      ssm::detail::run_wide(ctx, a, [&](const auto& wide) { diagonal_scan(ctx, wide); });
    } else {
      queue(ctx, [&](Stream stream) {
        auto frame = ctx.workspace().frame();
        general_diagonal_scan(on_device(a), segments_on_device(ctx, frame, a.segments), stream);
      });
    }
  }
  template <class Ctx, DeviceNumber T>
  static void diagonal_scan_backward(Ctx& ctx,
                                     const ssm::DiagonalScanBackward<T, typename Ctx::Space>& g) {
    if constexpr (!std::same_as<T, double>)
      if (TensorCoreScan<Ctx, T>::can(g.forward) && chosen(g.forward, true)) {
        queue(ctx, [&](Stream stream) {
          TensorCoreScan<Ctx, T>(ctx, g.forward, stream).run_backward(g);
        });
        return;
      }
    if constexpr (HalfStorage<T>) {
      ssm::detail::run_wide_gradient<ssm::DiagonalScan>(
          ctx, g, [&](const auto& wide) { diagonal_scan_backward(ctx, wide); });
    } else {
      queue(ctx, [&](Stream stream) {
        auto frame = ctx.workspace().frame();
        const auto segments = segments_on_device(ctx, frame, g.forward.segments);
        const Index count = general_diagonal_scan_backward_workspace(g);
        const auto workspace = frame.template tensor<T>(count);
        general_diagonal_scan_backward(on_device(g), segments, workspace.data(), stream);
      });
    }
  }

 private:
  template <class Operands>
  static bool chosen(const Operands& a, bool is_backward) {
    const SequenceWork work{a.x.extent(0), a.x.extent(1), a.x.extent(2), a.A.extent(1),
                            is_backward};
    return Choice::diagonal_scan(work) && has_tensor_core_kernels();
  }
};
/// The Cuda backend's part for DiagonalScan, its form chosen by the size of the work.
using DiagonalScan = BasicDiagonalScan<>;

}  // namespace primitive

}  // namespace ssm::cuda
