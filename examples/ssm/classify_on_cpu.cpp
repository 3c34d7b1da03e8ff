// SPDX-License-Identifier: Apache-2.0
#include "classify.hpp"
#include "ssm/backend/cpu.hpp"
#include "ssm_compiled_primitives.hpp"

namespace ssm::cli {
namespace {

Context<Cpu> context_of(const ClassifyRequest& request) {
  return Context<Cpu>(request.threads > 0 ? cpu::Resources(request.threads) : cpu::Resources());
}

}  // namespace

bool classify_on_cpu(const ClassifyRequest& request, const ClassificationData& data,
                     const ClassifyListener& listener) {
  auto ctx = context_of(request);
  return classify_on<float>(ctx, request, data, listener);
}
ClassifyTiming time_on_cpu(const ClassifyRequest& request, Index length, Index updates) {
  auto ctx = context_of(request);
  return time_on<float>(ctx, request, length, updates);
}

}  // namespace ssm::cli
