// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "attention/attention_parts.cuh"
#include "attention/attention_sequences.cuh"
#include "kernel/unroll.cuh"

namespace ssm::cuda::device {

/// A part of the keys of one query, by a block: `Group` lanes have a key and its value, four
/// numbers each. A group takes `together` keys at a time, all of which are on their way at once.
template <int Group>
struct GroupedKeys {
  static constexpr int threads = 512, together = 8;
  static constexpr int width = 4 * Group, groups = threads / Group;
  /// As many as are on their way at a time, twice.
  static constexpr int keys_of_part = 2 * groups * together;

  /// Whether heads are so wide, and rows whole 16-byte words.
  static bool suits(const ssm::Attention<float, CudaSpace>& a) {
    const auto is_whole = [](const auto& rows) {
      if (rows.stride(3) != 1 || reinterpret_cast<std::uintptr_t>(rows.data()) % 16 != 0)
        return false;
      for (int axis = 0; axis < 3; ++axis)
        if (rows.stride(axis) % 4 != 0) return false;
      return true;
    };
    return a.q.extent(3) == width && is_whole(a.q) && is_whole(a.k) && is_whole(a.v);
  }

  Operand<const float, 4> q, k, v;
  Operand<float, 4> y;
  Operand<float, 3> log_sum;
  AttentionSequences sequences;
  AttentionParts<float> parts;
  int heads, length;
  float scale;

#ifdef __CUDACC__
  struct Shared {
    alignas(16) float values[groups][width + 4];
    float largest[groups], sum[groups], share[groups];
    float largest_of_all, sum_of_all;
  };

  __device__ void operator()(int query, int part, Shared& shared) const {
    const int group = static_cast<int>(threadIdx.x) / Group;
    const int c = static_cast<int>(threadIdx.x) % Group * 4;
    const int h = query % heads, t = query / heads % length, b = query / heads / length;
    const Sequence sequence = sequences.packing.sequence_with(b, t);
    const AttentionKeys keys = sequences.keys(sequence);
    const int count = static_cast<int>(keys.cached + t - sequence.begin + 1);
    const int first = part * keys_of_part;
    const int end = count - first < keys_of_part ? count : first + keys_of_part;
    const float4 factor = four(&q(b, t, h, c));
    const float* const key = &k(keys.batch, keys.begin, h, c);
    const float* const value = &v(keys.batch, keys.begin, h, c);
    float largest = -INFINITY, sum = 0;
    float4 total{0, 0, 0, 0};
    for (int begin = first; begin < end; begin += groups * together) {
      float4 some_keys[together], some_values[together];
      SSM_UNROLL
      for (int u = 0; u < together; ++u) {
        if (begin + u * groups >= end) continue;
        const int i = min(begin + u * groups + group, end - 1);  // or, in its place, the last
        some_keys[u] = four(key + i * k.strides[1]);
        some_values[u] = four(value + i * v.strides[1]);
      }
      float score[together];
      float next = largest;
      SSM_UNROLL
      for (int u = 0; u < together; ++u) {
        score[u] = some_keys[u].x * factor.x + some_keys[u].y * factor.y +
                   some_keys[u].z * factor.z + some_keys[u].w * factor.w;
        SSM_UNROLL
        for (int step = Group / 2; step > 0; step /= 2)
          score[u] += __shfl_xor_sync(0xffffffffu, score[u], step);
        score[u] = begin + u * groups + group < end ? scale * score[u] : -INFINITY;
        next = fmaxf(next, score[u]);
      }
      if (next == -INFINITY) continue;  // a group without keys
      const float rescale = std::exp(largest - next);
      largest = next;
      sum *= rescale;
      scale_by(total, rescale);
      SSM_UNROLL
      for (int u = 0; u < together; ++u) {
        if (begin + u * groups + group >= end) continue;
        const float weight = std::exp(score[u] - next);
        sum += weight;
        add(total, weight, some_values[u]);
      }
    }
    if (c == 0) {
      shared.largest[group] = largest;
      shared.sum[group] = sum;
    }
    *reinterpret_cast<float4*>(&shared.values[group][c]) = total;
    __syncthreads();
    join(shared);
    write(query, part, b, t, h, shared);
  }

 private:
  __device__ static float4 four(const float* from) {
    return *reinterpret_cast<const float4*>(from);
  }
  __device__ static void scale_by(float4& x, float factor) {
    x.x *= factor;
    x.y *= factor;
    x.z *= factor;
    x.w *= factor;
  }
  __device__ static void add(float4& sum, float factor, const float4& x) {
    sum.x += factor * x.x;
    sum.y += factor * x.y;
    sum.z += factor * x.z;
    sum.w += factor * x.w;
  }
  /// The share of each group in the sum over all.
  __device__ static void join(Shared& shared) {
    const Lanes lanes;
    if (threadIdx.x < 32) {
      const float largest = lanes.max(groups, [&](Index g) { return shared.largest[g]; });
      const float sum = lanes.sum(groups, [&](Index g) {
        const float own = shared.largest[g];
        shared.share[g] = own > -INFINITY ? std::exp(own - largest) : 0.0F;
        return shared.share[g] * shared.sum[g];
      });
      if (lanes.first()) {
        shared.largest_of_all = largest;
        shared.sum_of_all = sum;
      }
    }
    __syncthreads();
  }
  __device__ void write(int query, int part, int b, int t, int h, const Shared& shared) const {
    const int c = static_cast<int>(threadIdx.x);
    const bool is_whole = parts.count == 1;
    if (c < width) {
      float total = 0;
      SSM_UNROLL
      for (int g = 0; g < groups; ++g) total += shared.share[g] * shared.values[g][c];
      if (is_whole)
        y(b, t, h, c) = total / shared.sum_of_all;
      else
        parts.at(query, part)[2 + c] = total;
    }
    if (c != 0) return;
    if (!is_whole) {
      parts.at(query, part)[0] = shared.largest_of_all;
      parts.at(query, part)[1] = shared.sum_of_all;
    } else if (log_sum) {
      log_sum(b, t, h) = shared.largest_of_all + std::log(shared.sum_of_all);
    }
  }
#endif
};

#ifdef __CUDACC__
template <int Group>
__global__ void __launch_bounds__(GroupedKeys<Group>::threads)
    grouped_keys_kernel(const __grid_constant__ GroupedKeys<Group> keys) {
  __shared__ typename GroupedKeys<Group>::Shared shared;
  let_successor_begin();
  wait_for_predecessors();
  keys(static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y), shared);
}
#endif

}  // namespace ssm::cuda::device
