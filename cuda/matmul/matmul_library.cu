// SPDX-License-Identifier: Apache-2.0
#include <dlfcn.h>

#include "matmul/matmul_library.cuh"

namespace ssm::cuda {
namespace device {
namespace {

template <class Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function == nullptr) throw Failure(std::string("cuBLASLt has no function ") + name);
}

constexpr cublasComputeType_t compute_type(cudaDataType_t scalar, MatmulPrecision precision) {
  if (scalar == CUDA_R_64F) return CUBLAS_COMPUTE_64F;
  return scalar == CUDA_R_32F && precision == MatmulPrecision::tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                                    : CUBLAS_COMPUTE_32F;
}
constexpr bool is_half(cudaDataType_t scalar) {
  return scalar == CUDA_R_16BF || scalar == CUDA_R_16F;
}

/// Which of the library's choices is taken: the first one, but where another was measured to be
/// faster (on an H200).
int choose(const ProductShape& shape, const cublasLtMatmulHeuristicResult_t* results, int count) {
  const auto best = [&](auto is_better) {
    int chosen = 0;
    for (int i = 1; i < count; ++i)
      if (is_better(results[i], results[chosen])) chosen = i;
    return chosen;
  };
  // Of a slope the first choice is a kernel of one round in large clusters, which leave
  // multiprocessors idle; another one behind it fills them.
  if (shape.epilogue == CUBLASLT_EPILOGUE_DGELU)
    return best([](const auto& a, const auto& b) {
      return a.wavesCount <= 1 && a.wavesCount > b.wavesCount;
    });
  // Gradients of weights: a kernel of one round, not parts of sums in the workspace.
  constexpr std::size_t parts = std::size_t{1} << 20;
  if (shape.result == CUDA_R_32F && count > 0 && results[0].workspaceSize >= parts)
    return best([](const auto& a, const auto& b) {
      return b.workspaceSize >= parts && a.workspaceSize < parts && a.wavesCount > 0.85f &&
             a.wavesCount <= 1;
    });
  // Wide results of short sums: many small tiles, whose epilogues hide behind other tiles.
  constexpr std::uint64_t short_sum = 1024;
  const bool is_plain = shape.epilogue == CUBLASLT_EPILOGUE_DEFAULT;
  if (is_half(shape.result) && (is_plain || shape.epilogue == CUBLASLT_EPILOGUE_BIAS) &&
      shape.inner <= short_sum && shape.rows >= 2 * shape.inner && shape.rows <= 8 * shape.inner &&
      count > 0 && results[0].wavesCount > (is_plain ? 4 : 3))
    return best([](const auto& a, const auto& b) { return a.wavesCount > b.wavesCount; });
  return 0;
}

}  // namespace

void check(cublasStatus_t code, const char* call) {
  if (code != CUBLAS_STATUS_SUCCESS)
    throw Failure(std::string("cuBLASLt: ") + call + " failed with code " +
                  std::to_string(static_cast<int>(code)));
}

CublasLt::CublasLt() {
  void* const library = dlopen("libcublasLt.so.13", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr)
    throw Failure(std::string("matmul: cuBLASLt of CUDA 13 cannot be loaded: ") + dlerror());
  find(library, "cublasLtCreate", create);
  find(library, "cublasLtDestroy", destroy);
  find(library, "cublasLtMatmul", matmul);
  find(library, "cublasLtMatmulAlgoGetHeuristic", heuristic);
  find(library, "cublasLtMatmulDescCreate", create_operation);
  find(library, "cublasLtMatmulDescDestroy", destroy_operation);
  find(library, "cublasLtMatmulDescSetAttribute", set_operation);
  find(library, "cublasLtMatrixLayoutCreate", create_layout);
  find(library, "cublasLtMatrixLayoutDestroy", destroy_layout);
  find(library, "cublasLtMatmulPreferenceCreate", create_preference);
  find(library, "cublasLtMatmulPreferenceDestroy", destroy_preference);
  find(library, "cublasLtMatmulPreferenceSetAttribute", set_preference);
}

}  // namespace device

MatmulLibrary::MatmulLibrary(MatmulPrecision precision) : precision_(precision) {
  device::check(lt_.create(&handle_), "cublasLtCreate");
  scratch_ = allocate(scratch_bytes);
}

MatmulLibrary::~MatmulLibrary() {
  for (auto& [shape, product] : products_) {
    lt_.destroy_layout(product.a);
    lt_.destroy_layout(product.b);
    lt_.destroy_layout(product.c);
    lt_.destroy_layout(product.d);
    lt_.destroy_operation(product.operation);
  }
  for (const auto& [bias, memory] : biases_) deallocate(memory);
  deallocate(scratch_);
  lt_.destroy(handle_);
}

void* MatmulLibrary::kept(const device::RoundedBias& bias) const {
  const auto found = biases_.find(bias);
  return found != biases_.end() ? found->second : nullptr;
}
void* MatmulLibrary::keep(const device::RoundedBias& bias, std::size_t bytes) {
  return biases_[bias] = allocate(bytes);
}

const device::Product& MatmulLibrary::product(const device::ProductShape& shape) {
  const auto found = products_.find(shape);
  if (found != products_.end()) return found->second;
  device::Product product;
  device::check(
      lt_.create_operation(&product.operation, device::compute_type(shape.factors, precision_),
                           device::is_half(shape.factors) ? CUDA_R_32F : shape.factors),
      "cublasLtMatmulDescCreate");
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
    device::check(lt_.set_operation(product.operation, attribute, &value, sizeof(value)),
                  "cublasLtMatmulDescSetAttribute");
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, shape.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_TRANSB, shape.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, shape.epilogue);
  // Some addresses: what is chosen may depend on there being one.
  if ((shape.epilogue & CUBLASLT_EPILOGUE_BIAS) != 0)
    set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, scratch_);
  if (shape.aux_step > 0) {
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, scratch_);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, shape.aux_step);
  }
  const auto layout = [&](cublasLtMatrixLayout_t& made, cudaDataType_t scalar, bool transposed,
                          std::uint64_t rows, std::uint64_t columns, std::int64_t step) {
    device::check(lt_.create_layout(&made, scalar, transposed ? columns : rows,
                                    transposed ? rows : columns, step),
                  "cublasLtMatrixLayoutCreate");
  };
  layout(product.a, shape.factors, shape.a_transposed, shape.rows, shape.inner, shape.a_step);
  layout(product.b, shape.factors, shape.b_transposed, shape.inner, shape.columns, shape.b_step);
  layout(product.c, shape.result, false, shape.rows, shape.columns, shape.c_step);
  layout(product.d, shape.result, false, shape.rows, shape.columns, shape.d_step);

  cublasLtMatmulPreference_t preference = nullptr;
  device::check(lt_.create_preference(&preference), "cublasLtMatmulPreferenceCreate");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    lt_.set_preference(preference, attribute, &value, sizeof(value));
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{scratch_bytes});
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, shape.a_alignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, shape.b_alignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, shape.c_alignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, shape.d_alignment);
  if (device::is_half(shape.factors))  // parts of a long sum are added in float too
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
           std::uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  constexpr int most = 8;
  cublasLtMatmulHeuristicResult_t results[most]{};
  int count = 0;
  const cublasStatus_t code =
      lt_.heuristic(handle_, product.operation, product.a, product.b, product.c, product.d,
                    preference, device::is_half(shape.factors) ? most : 1, results, &count);
  lt_.destroy_preference(preference);
  product.is_supported = code == CUBLAS_STATUS_SUCCESS && count > 0;
  product.algorithm = results[device::choose(shape, results, count)].algo;
  return products_.emplace(shape, product).first->second;
}

template <class S>
void MatmulLibrary::run(const device::Product& product, const void* a, const void* b, S beta,
                        const void* c, void* d, const void* bias, const void* aux, Stream stream) {
  const S alpha = 1;
  const auto give = [&](cublasLtMatmulDescAttributes_t attribute, const void* pointer) {
    if (pointer != nullptr)
      device::check(lt_.set_operation(product.operation, attribute, &pointer, sizeof(pointer)),
                    "cublasLtMatmulDescSetAttribute");
  };
  give(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  give(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, aux);
  device::check(lt_.matmul(handle_, product.operation, &alpha, a, product.a, b, product.b, &beta, c,
                           product.c, d, product.d, &product.algorithm, scratch_, scratch_bytes,
                           static_cast<cudaStream_t>(stream)),
                "cublasLtMatmul");
}
template void MatmulLibrary::run<float>(const device::Product&, const void*, const void*, float,
                                        const void*, void*, const void*, const void*, Stream);
template void MatmulLibrary::run<double>(const device::Product&, const void*, const void*, double,
                                         const void*, void*, const void*, const void*, Stream);

MatmulLibrary* create_matmul_library(MatmulPrecision precision) {
  return new MatmulLibrary(precision);
}
void destroy_matmul_library(MatmulLibrary* library) noexcept { delete library; }
void keep_biases(MatmulLibrary& library) { library.keep_biases(); }

}  // namespace ssm::cuda
