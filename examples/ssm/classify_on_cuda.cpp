// SPDX-License-Identifier: Apache-2.0
#include "classify.hpp"
#include "ssm/backend/cuda.hpp"

namespace ssm::cli {
namespace {

Context<Cuda> context_of(const ClassifyRequest& request) {
  using enum cuda::MatmulPrecision;
  return Context<Cuda>(cuda::Resources(Device{0}, request.backend == "cuda-tf32" ? tf32 : exact));
}

}  // namespace

bool classify_on_cuda(const ClassifyRequest& request, const ClassificationData& data,
                      const ClassifyListener& listener) {
  auto ctx = context_of(request);
  return request.in_bf16 ? classify_on<BFloat16>(ctx, request, data, listener)
                         : classify_on<float>(ctx, request, data, listener);
}
ClassifyTiming time_on_cuda(const ClassifyRequest& request, Index length, Index updates) {
  auto ctx = context_of(request);
  return request.in_bf16 ? time_on<BFloat16>(ctx, request, length, updates)
                         : time_on<float>(ctx, request, length, updates);
}

}  // namespace ssm::cli
