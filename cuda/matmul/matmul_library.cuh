// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <map>

#include "device/launch.cuh"
#include "ssm/backend/cuda/device.hpp"

namespace ssm::cuda {
namespace device {

/// One product as cuBLASLt sees it: column-major d[rows, columns] = op(a)·op(b) + beta·c, where
/// rows are the columns of the library's row-major c. Addresses count by their alignment alone.
struct ProductShape {
  cudaDataType_t factors, result;  // the scalars of a and b, and of c and d
  cublasLtEpilogue_t epilogue;
  bool a_transposed, b_transposed;
  std::uint64_t rows, columns, inner;
  std::int64_t a_step, b_step, c_step, d_step, aux_step;
  std::uint32_t a_alignment, b_alignment, c_alignment, d_alignment;

  friend auto operator<=>(const ProductShape&, const ProductShape&) = default;
};

/// The functions of cuBLASLt in use. The library is opened when the first product needs it, so that
/// programs start without it. Throws Failure.
struct CublasLt {
  CublasLt();
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtDestroy) destroy;
  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmulDescCreate) create_operation;
  decltype(&cublasLtMatmulDescDestroy) destroy_operation;
  decltype(&cublasLtMatmulDescSetAttribute) set_operation;
  decltype(&cublasLtMatrixLayoutCreate) create_layout;
  decltype(&cublasLtMatrixLayoutDestroy) destroy_layout;
  decltype(&cublasLtMatmulPreferenceCreate) create_preference;
  decltype(&cublasLtMatmulPreferenceDestroy) destroy_preference;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference;
};

/// What cuBLASLt chose for a shape.
struct Product {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr, d = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
  bool is_supported = false;
};

/// A bias in the scalar that a product adds it in.
struct RoundedBias {
  const void* bias;
  std::int64_t count;
  cudaDataType_t scalar;

  friend auto operator<=>(const RoundedBias&, const RoundedBias&) = default;
};

void check(cublasStatus_t code, const char* call);

}  // namespace device

class MatmulLibrary {
 public:
  explicit MatmulLibrary(MatmulPrecision precision);
  MatmulLibrary(const MatmulLibrary&) = delete;
  MatmulLibrary& operator=(const MatmulLibrary&) = delete;
  ~MatmulLibrary();

  /// The algorithm for a shape, chosen at the first call.
  const device::Product& product(const device::ProductShape& shape);
  /// d = op(a)·op(b) + beta·c, through the epilogue of the shape; c may be d, and bias and aux, of
  /// d's scalar, are what the epilogue reads or writes, or null.
  /// S   the scalar of arithmetic: double for doubles, else float
  template <class S>
  void run(const device::Product& product, const void* a, const void* b, S beta, const void* c,
           void* d, const void* bias, const void* aux, Stream stream);

  void keep_biases() { keeps_biases_ = true; }
  bool keeps_biases() const { return keeps_biases_; }
  /// Where such a bias is kept; null where it is not.
  void* kept(const device::RoundedBias& bias) const;
  /// `bytes` of memory for it, to be written by the caller.
  void* keep(const device::RoundedBias& bias, std::size_t bytes);

 private:
  static constexpr std::size_t scratch_bytes = std::size_t{32} << 20;
  device::CublasLt lt_;
  MatmulPrecision precision_;
  cublasLtHandle_t handle_ = nullptr;
  void* scratch_ = nullptr;
  std::map<device::ProductShape, device::Product> products_;
  bool keeps_biases_ = false;
  std::map<device::RoundedBias, void*> biases_;
};

}  // namespace ssm::cuda
