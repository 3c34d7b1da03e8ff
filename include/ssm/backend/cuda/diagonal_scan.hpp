// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ssm/backend/cuda/launch.hpp>

namespace ssm::cuda {

/// One diagonal state-space model per channel; conjugate-halved, N/2 = modes stored numbers.
/// dt     [D]         positive
/// a b c  [D, modes]
/// skip   [D]         or null
struct DiagonalScanParameters {
  const float* dt = nullptr;
  const Complex<float>* a = nullptr;
  const Complex<float>* b = nullptr;
  const Complex<float>* c = nullptr;
  const float* skip = nullptr;
  Discretization discretization = Discretization::bilinear;
};

/// Sizes. With `segments` the batch is one packed row of `length` positions, cut at
/// segments[0] = 0 ≤ … ≤ segments[segment_count] = length (device memory); empty segments are
/// legal.
struct DiagonalScanShape {
  int batch = 0;
  int channels = 0;
  int modes = 0;                  // 1 … 32
  int length = 0;                 // 1 … 2^30
  const int* segments = nullptr;  // [segment_count + 1]
  int segment_count = 0;

  constexpr int sequences() const { return segments != nullptr ? segment_count : batch; }
};

/// Arguments of diagonal_scan. `S` is shape.sequences().
/// x gate_in gate_out  [B, D, L]      gates may be null
/// initial_state       [S, D, modes]  may be null: zero
/// y                   [B, D, L]      overwritten; must not alias an input
/// final_state         [S, D, modes]  may be null; overwritten
/// checkpoints         checkpoint_count(shape) numbers, may be null; what the backward pass can
///                     start from
template <class T>
struct DiagonalScan {
  DiagonalScanShape shape;
  DiagonalScanParameters parameters;
  Sequences<const T> x, gate_in, gate_out;
  const Complex<float>* initial_state = nullptr;
  Sequences<T> y;
  Complex<float>* final_state = nullptr;
  Complex<float>* checkpoints = nullptr;
};

/// Runs a diagonal state-space model over every channel by state passing; nothing of length L is
/// stored.
///   u_t = gate_in_t · x_t
///   s_t = a·s_{t−1} + b·u_t
///   y_t = gate_out_t · (2·Re Σ_n c_n·s_t,n + skip·u_t)
/// Chunks of 64 positions are three 64 × 64 products on tensor cores (bf16 operands; two bf16 terms
/// for half data, three for float data), joined by a scan of the states in float. 16-bit data of at
/// most 64 channels or 1024 positions (of all sequences together) are copied to floats first, so
/// that gradients of few numbers keep the data's accuracy.
/// Cost    192 multiply-adds an element, each input read once, each output written once
/// Throws  Failure  if a size is out of range or the launch fails
/// Source  Fu et al. 2023 (H3) algorithm 2; Gu et al. 2022 (S4D) eq. 3
template <class T>
SSM_CUDA_API void diagonal_scan(const DiagonalScan<T>& call, void* workspace, Stream stream);

/// Bytes of workspace of diagonal_scan, 256-byte aligned; contents need not survive the call.
template <class T>
SSM_CUDA_API std::size_t diagonal_scan_workspace(const DiagonalScanShape& shape);

/// Number of complex numbers in `checkpoints`: one state for each 2048 (bf16) or 1024 (half, float,
/// 16-bit data copied to floats) positions.
template <class T>
SSM_CUDA_API std::size_t diagonal_scan_checkpoint_count(const DiagonalScanShape& shape);

/// Arguments of diagonal_scan_backward: the forward call's, and
/// dy                        [B, D, L]
/// checkpoints               as the forward pass left them, or null: recomputed
/// dfinal_state              [S, D, modes]  or null: zero
/// dx dgate_in dgate_out     [B, D, L]      overwritten; the gates' are null where the gates are;
///                                          dgate_out may be null
/// dinitial_state            [S, D, modes]  or null; overwritten
/// ddt da db dc dskip      as the parameters; added to; dskip may be null
/// ungated                   [B, D, L]      y of a forward call without gate_out, or null:
///                                          recomputed
/// x_is_gated                x holds gate_in · x, or x where |gate_in| < 2^−100, as h3_mixer's tape
///                           does. Only for bf16 data that is not copied to floats, with gate_in,
///                           checkpoints, and ungated where dgate_out is wanted
/// Gradients of complex numbers are ∂/∂re + i·∂/∂im.
template <class T>
struct DiagonalScanBackward {
  DiagonalScanShape shape;
  DiagonalScanParameters parameters;
  Sequences<const T> x, gate_in, gate_out;
  const Complex<float>* initial_state = nullptr;
  const Complex<float>* checkpoints = nullptr;
  Sequences<const T> dy;
  const Complex<float>* dfinal_state = nullptr;
  Sequences<T> dx, dgate_in, dgate_out;
  Complex<float>* dinitial_state = nullptr;
  float* ddt = nullptr;
  Complex<float>* da = nullptr;
  Complex<float>* db = nullptr;
  Complex<float>* dc = nullptr;
  float* dskip = nullptr;
  Sequences<const T> ungated;
  bool x_is_gated = false;
};

/// The adjoint of diagonal_scan. States are recomputed from checkpoints tile by tile, the adjoint
/// states walk backwards, and the parameters' gradients are products over chunks whose sums stay in
/// registers; partial sums are added in a fixed order, so the same call gives the same bits. The
/// gradient of gate_out is the forward pass with dy for a gate, unless `ungated` is there.
/// Cost    about 450 multiply-adds an element, each input read once (x twice without checkpoints)
/// Throws  Failure  if a size is out of range or a launch fails
template <class T>
SSM_CUDA_API void diagonal_scan_backward(const DiagonalScanBackward<T>& call, void* workspace,
                                         Stream stream);

/// Bytes of workspace of diagonal_scan_backward, 256-byte aligned.
template <class T>
SSM_CUDA_API std::size_t diagonal_scan_backward_workspace(const DiagonalScanBackward<T>& call);

}  // namespace ssm::cuda
