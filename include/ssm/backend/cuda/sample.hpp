// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/op/sample.hpp"

namespace ssm::cuda {

/// Where the search for the last token that top-k or top-p keeps stands. Tokens are ordered by
/// weight, then from the last to the first; the bits of both are found from the highest on.
struct SampleCut {
  std::uint64_t weight;  // bits of a double
  std::uint64_t order;   // V − 1 − token
  double above;          // the share of what lies above the bits found so far
  double wanted;
};

/// Device memory that a call works in; a row of V tokens is V / sample_slice slices, rounded up,
/// and likewise groups.
struct SampleScratch {
  double* best_logit = nullptr;  // [B, parts], of sample_part tokens each
  Index* best_token = nullptr;   // [B, parts]
  Index* best = nullptr;         // [B]            −1 where a logit is not finite
  double* weight =
      nullptr;  // [B, V]         exp((logit − best logit) / temperature); 0 for what is left out
  double* group_sum = nullptr;  // [B, groups]
  double* run_sum = nullptr;    // [B, sample_runs]
  double* digit_sum = nullptr;  // [B, slices, sample_digits]
  SampleCut* cut = nullptr;     // [B]
};
inline constexpr Index sample_part = 256;    // tokens among which a warp looks for the likeliest
inline constexpr Index sample_slice = 1024;  // tokens that one warp looks through
inline constexpr Index sample_group = 32;    // tokens that one warp adds
inline constexpr Index sample_runs = 32;     // parts of a row's groups
inline constexpr Index sample_digits = 16;   // of four bits
constexpr Index sample_parts(Index vocabulary) {
  return (vocabulary + sample_part - 1) / sample_part;
}
constexpr Index sample_slices(Index vocabulary) {
  return (vocabulary + sample_slice - 1) / sample_slice;
}
constexpr Index sample_groups(Index vocabulary) {
  return (vocabulary + sample_group - 1) / sample_group;
}

/// The device memory of a call, from a frame of the workspace.
template <class Frame>
SampleScratch sample_scratch(Frame& frame, Index batch, Index vocabulary,
                             const Sampling& sampling) {
  const Index parts = sample_parts(vocabulary);
  SampleScratch scratch;
  scratch.best_logit = frame.template tensor<double>(batch, parts).data();
  scratch.best_token = frame.template tensor<Index>(batch, parts).data();
  if (!(sampling.temperature > 0)) return scratch;
  scratch.best = frame.template tensor<Index>(batch).data();
  scratch.weight = frame.template tensor<double>(batch, vocabulary).data();
  scratch.group_sum = frame.template tensor<double>(batch, sample_groups(vocabulary)).data();
  scratch.run_sum = frame.template tensor<double>(batch, sample_runs).data();
  if (sampling.top_k == 0 && sampling.top_p >= 1) return scratch;
  scratch.digit_sum =
      frame.template tensor<double>(batch, sample_slices(vocabulary), sample_digits).data();
  scratch.cut = frame.template tensor<SampleCut>(batch).data();
  return scratch;
}

/// The compiled half; formula and shapes as ssm::Sample: the same token for the same seed as on
/// every backend, but where rounding decides. T: float, double; weights and their sums are in
/// double precision. A row with a logit that is not finite, where the host could not look, draws
/// token −1.
/// Cost    2 launches for the likeliest token, 3 or 4 to draw; top-k and top-p 40 to 50 more each,
///         and as many passes over the weights
template <class T>
SSM_CUDA_API void sample(const ssm::Sample<T, CudaSpace>& a, const SampleScratch& scratch,
                         Stream stream);

namespace primitive {
struct Sample {
  template <class Ctx, DeviceScalar T>
  static void sample(Ctx& ctx, const ssm::Sample<T, typename Ctx::Space>& a) {
    const Index batch = a.logits.extent(0);
    const Index vocabulary = a.vocabulary == dyn ? a.logits.extent(1) : a.vocabulary;
    if (batch > 0 && vocabulary == 0) throw ArgumentError("sample: the vocabulary is empty");
    if constexpr (Ctx::Space::host_readable) require_finite(a, vocabulary);
    auto frame = ctx.workspace().frame();
    const auto scratch = sample_scratch(frame, batch, vocabulary, a.sampling);
    queue(ctx, [&](Stream stream) { cuda::sample(on_device(a), scratch, stream); });
  }

 private:
  template <class T, class Space>
  static void require_finite(const ssm::Sample<T, Space>& a, Index vocabulary) {
    for (Index b = 0; b < a.logits.extent(0); ++b)
      for (Index v = 0; v < vocabulary; ++v)
        if (!std::isfinite(a.logits(b, v)))
          throw ArgumentError("sample: the logit of token " + std::to_string(v) + " in row " +
                              std::to_string(b) + " is not finite");
  }
};
}  // namespace primitive

}  // namespace ssm::cuda
