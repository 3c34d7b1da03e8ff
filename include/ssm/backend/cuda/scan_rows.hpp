// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/op/diagonal_scan.hpp"

namespace ssm::cuda {

/// The complex coefficients of a scan, or their gradients, as the tensor-core kernels take them:
/// one row a channel.
struct ScanRows {
  float* dt = nullptr;          // [D]
  float* skip = nullptr;        // [D]
  Complex<float>* A = nullptr;  // [D, P]
  Complex<float>* B = nullptr;  // [D, P]
  Complex<float>* C = nullptr;  // [D, P]

  static constexpr Index float_count(Index channels, Index modes) {
    return channels * (2 + 6 * modes);
  }
  ScanRows(float* memory, Index channels, Index modes)
      : dt(memory),
        skip(dt + channels),
        A(reinterpret_cast<Complex<float>*>(skip + channels)),
        B(A + channels * modes),
        C(B + channels * modes) {}
  /// Gradients where they are, which lie_as_rows.
  explicit ScanRows(const ssm::DiagonalScanBackward<float, CudaSpace>& g)
      : dt(g.ddt.data()),
        skip(g.dskip.data()),
        A(reinterpret_cast<Complex<float>*>(g.dA.data())),
        B(reinterpret_cast<Complex<float>*>(g.dB.data())),
        C(reinterpret_cast<Complex<float>*>(g.dC.data())) {}

  /// Makes these what a call of the tensor-core kernels adds gradients to.
  template <class Call>
  void take_gradients_of(Call& call, bool has_skip) const {
    call.ddt = dt;
    call.da = A;
    call.db = B;
    call.dc = C;
    call.dskip = has_skip ? skip : nullptr;
  }
};

/// The coefficients and sizes of a call in any scalar, or of a gradient, as a call in float whose
/// sequences are not to be read: what is not a sequence is of Wide<T> anyhow.
template <template <class, class> class Call, class T, class Space>
Call<Wide<T>, CudaSpace> without_sequences(const Call<T, Space>& call) {
  return std::bit_cast<Call<Wide<T>, CudaSpace>>(call);
}

/// Whether coefficients or gradients of `channels` channels lie in memory as ScanRows do.
template <class View1, class View3>
bool lie_as_rows(Index channels, const View1& dt, const View3& A, const View3& B, const View3& C,
                 const View1& skip) {
  const auto lies = [&](const auto& rows, std::size_t alignment) {
    return rows && rows.extent(0) == channels && rows.is_contiguous() &&
           reinterpret_cast<std::uintptr_t>(rows.data()) % alignment == 0;
  };
  constexpr std::size_t complex = sizeof(Complex<float>);
  return lies(dt, sizeof(float)) && lies(A, complex) && lies(B, complex) && lies(C, complex) &&
         (!skip || lies(skip, sizeof(float)));
}

/// Gives every channel its own copy of its row of coefficients; rows.skip is written where a.skip
/// is given.
SSM_CUDA_API void expand_scan_rows(const ssm::DiagonalScan<float, CudaSpace>& a,
                                   const ScanRows& rows, Stream stream);
/// Adds the channels' gradients to those of their rows, in order and in double.
SSM_CUDA_API void add_scan_rows(const ssm::DiagonalScanBackward<float, CudaSpace>& g,
                                const ScanRows& rows, Stream stream);

/// [S, D, P, 2] with any strides from or to contiguous memory.
SSM_CUDA_API void pack_scan_states(const View<const float, 4, CudaSpace>& from, Complex<float>* to,
                                   Stream stream);
SSM_CUDA_API void unpack_scan_states(const Complex<float>* from,
                                     const View<float, 4, CudaSpace>& to, Stream stream);

/// Offsets as the tensor-core kernels take them.
/// to   [count + 1]
SSM_CUDA_API void narrow_offsets(DeviceSegments segments, int* to, Stream stream);

}  // namespace ssm::cuda
