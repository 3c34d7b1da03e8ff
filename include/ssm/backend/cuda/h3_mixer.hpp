// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ssm/backend/cuda/diagonal_scan.hpp>
#include <ssm/backend/cuda/shift_convolution.hpp>

namespace ssm::cuda {

/// Arguments of h3_mixer with one channel a head; states start at zero.
/// q k v       [B, D, L]
/// taps shift_skip       [D, tap_count], [D] or null   the shift SSM's kernel
/// diagonal              the diagonal SSM, `modes` stored modes
/// y           [B, D, L]  overwritten; must not alias an input
/// tape        h3_mixer_tape bytes, 256-byte aligned, or null: what the backward pass need not
///             compute again
template <class T>
struct H3Mixer {
  int batch = 0;
  int channels = 0;
  int length = 0;
  int tap_count = 0;
  int modes = 0;
  Sequences<const T> q, k, v;
  const float* taps = nullptr;
  const float* shift_skip = nullptr;
  DiagonalScanParameters diagonal;
  Sequences<T> y;
  void* tape = nullptr;
};

/// The H3 layer between its projections:
///   y = q ⊙ diagonal(v ⊙ shift(k))
/// Cuda::h3_mixer, which ssm::H3 calls, is this for sequences in half types; of floats it is
/// composed of shift_convolution and diagonal_scan. One pass: v ⊙ shift(k) is formed on the way
/// into the state-space model and never stored. 16-bit data of at most 64 channels or 1024
/// positions are copied to floats first, as by diagonal_scan.
/// Cost    320 multiply-adds an element, 8 bytes an element of 16-bit data; 4 more with a tape
/// Throws  Failure  if a size is out of range or a launch fails
/// Source  Fu et al. 2023 (H3) algorithm 1
template <class T>
SSM_CUDA_API void h3_mixer(const H3Mixer<T>& call, void* workspace, Stream stream);

/// Bytes of workspace of h3_mixer, 256-byte aligned.
template <class T>
SSM_CUDA_API std::size_t h3_mixer_workspace(const H3Mixer<T>& call);

/// Bytes of a tape of h3_mixer: shift(k), for bf16 data v ⊙ shift(k); the diagonal model's output
/// before q; each [B, D, L]; and its checkpoints.
template <class T>
SSM_CUDA_API std::size_t h3_mixer_tape(const H3Mixer<T>& call);

/// Arguments of h3_mixer_backward: the forward call's (its tape as that call left it, or null:
/// recomputed), and
/// dy, dq dk dv          [B, D, L]  the latter overwritten
/// the others            as the parameters; added to; the skips' may be null
template <class T>
struct H3MixerBackward {
  H3Mixer<T> forward;  // its y is not used
  Sequences<const T> dy;
  Sequences<T> dq, dk, dv;
  float* dtaps = nullptr;
  float* dshift_skip = nullptr;
  float* ddt = nullptr;
  Complex<float>* da = nullptr;
  Complex<float>* db = nullptr;
  Complex<float>* dc = nullptr;
  float* dskip = nullptr;
};

/// The adjoint of h3_mixer. Throws as h3_mixer.
template <class T>
SSM_CUDA_API void h3_mixer_backward(const H3MixerBackward<T>& call, void* workspace, Stream stream);

/// Bytes of workspace of h3_mixer_backward, 256-byte aligned.
template <class T>
SSM_CUDA_API std::size_t h3_mixer_backward_workspace(const H3MixerBackward<T>& call);

}  // namespace ssm::cuda
