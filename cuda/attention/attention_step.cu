// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "attention/attention_parts.cuh"
#include "attention/attention_sequences.cuh"
#include "attention/grouped_keys.cuh"
#include "kernel/parallel.cuh"
#include "kernel/unroll.cuh"
#include "ssm/backend/cuda/attention.hpp"

namespace ssm::cuda {
namespace device {
namespace {

constexpr int keys_together = 32;  // whose loads and sums overlap
constexpr int most_parts = 64;     // of one query's keys

/// One part of the keys of one query of one head.
template <class T>
struct AttentionPart {
  SSM_DEVICE void operator()(Index row, Lanes lanes) const {
    const Index query = row / parts.count, part = row % parts.count;
    const Index h = query % heads;
    const Index t = query / heads % sequences.packing.length;
    const Index b = query / heads / sequences.packing.length;
    const Sequence sequence = sequences.packing.sequence_with(b, t);
    const AttentionKeys keys = sequences.keys(sequence);
    const Index count = keys.cached + t - sequence.begin + 1;
    const Index first = part * keys_of_part;
    const Index end = count - first < keys_of_part ? count : first + keys_of_part;
    T* const result = parts.at(query, part);
    T* const values = result + 2;
    T largest = -static_cast<T>(INFINITY), sum{0};
    for (Index begin = first; begin < end; begin += keys_together) {
      const auto key = [&](int i) {  // in place of one that is not there, the last
        return keys.begin + (begin + i < end ? begin + i : end - 1);
      };
      T* const weight = lanes.template shared<T, keys_together>();
      T score[keys_together] = {};
      for (Index c = lanes.index(); c < width; c += Lanes::count) {
        const T factor = q(b, t, h, c);
        SSM_UNROLL
        for (int i = 0; i < keys_together; ++i) score[i] += factor * k(keys.batch, key(i), h, c);
      }
      lanes.totals(score, [&](int i, T total) {
        weight[i] = begin + i < end ? scale * total : -static_cast<T>(INFINITY);
      });
      lanes.wait();
      const T now = lanes.max(keys_together, [&](Index i) { return weight[i]; });
      const T next = now > largest ? now : largest;
      const T rescale = std::exp(largest - next);
      largest = next;
      lanes.each(keys_together, [&](Index i) { weight[i] = std::exp(weight[i] - next); });
      lanes.wait();
      sum = sum * rescale + lanes.sum(keys_together, [&](Index i) { return weight[i]; });
      lanes.each(width, [&](Index c) {
        T value = begin == first ? T{0} : values[c] * rescale;
        SSM_UNROLL
        for (int i = 0; i < keys_together; ++i) value += weight[i] * v(keys.batch, key(i), h, c);
        values[c] = value;
      });
      lanes.wait();
    }
    if (!lanes.first()) return;
    result[0] = largest;
    result[1] = sum;
  }

  Operand<const T, 4> q, k, v;
  AttentionSequences sequences;
  AttentionParts<T> parts;
  Index keys_of_part, heads, width;
  T scale;
};

/// A query's parts together.
template <class T>
struct AttentionOfParts {
  SSM_DEVICE void operator()(Index query, Lanes lanes) const {
    const Index h = query % heads;
    const Index t = query / heads % length;
    const Index b = query / heads / length;
    // A part without keys has −∞ for its largest score, and its values are not written.
    const T largest = lanes.max(parts.count, [&](Index p) { return parts.at(query, p)[0]; });
    T* const share = lanes.template shared<T, most_parts>();
    lanes.each(parts.count, [&](Index p) { share[p] = std::exp(parts.at(query, p)[0] - largest); });
    lanes.wait();
    const T sum = lanes.sum(parts.count, [&](Index p) { return share[p] * parts.at(query, p)[1]; });
    lanes.each(parts.width, [&](Index c) {
      constexpr int together = 8;
      T value{0};
      for (Index first = 0; first < parts.count; first += together) {
        T some[together];
        SSM_UNROLL
        for (int u = 0; u < together; ++u) {
          const Index p = first + u < parts.count ? first + u : parts.count - 1;
          some[u] = share[p] > T{0} ? parts.at(query, p)[2 + c] : T{0};
        }
        SSM_UNROLL
        for (int u = 0; u < together; ++u)
          if (first + u < parts.count) value += share[first + u] * some[u];
      }
      y(b, t, h, c) = value / sum;
    });
    if (log_sum && lanes.first()) log_sum(b, t, h) = largest + std::log(sum);
  }

  AttentionParts<T> parts;
  Operand<T, 4> y;
  Operand<T, 3> log_sum;
  Index length, heads;
};

/// Parts of whole batches of keys; with more keys they are longer, not more.
Index keys_of_part(Index keys) {
  const Index batches = (keys + keys_together - 1) / keys_together;
  return (batches + most_parts - 1) / most_parts * keys_together;
}
Index part_count(Index keys) {
  const Index each = std::max<Index>(keys_of_part(keys), 1);
  return (keys + each - 1) / each;
}

/// By blocks, where a query's keys are few enough parts.
template <int Group>
bool group_keys([[maybe_unused]] const ssm::Attention<float, CudaSpace>& a,
                [[maybe_unused]] DeviceSegments segments,
                [[maybe_unused]] const std::int64_t* cached, [[maybe_unused]] float* scratch,
                [[maybe_unused]] Stream stream) {
#ifdef __CUDACC__
  using Keys = GroupedKeys<Group>;
  const Index length = a.q.extent(1), heads = a.q.extent(2);
  const Index queries = a.q.extent(0) * length * heads;
  const Index count = (a.k.extent(1) + Keys::keys_of_part - 1) / Keys::keys_of_part;
  if (count > most_parts || queries == 0 || !Keys::suits(a)) return false;
  const AttentionParts<float> parts{count, Keys::width, scratch};
  const Keys keys{operand(a.q),
                  operand(a.k),
                  operand(a.v),
                  operand(a.y),
                  operand(a.log_sum),
                  AttentionSequences(a, segments, cached),
                  parts,
                  static_cast<int>(heads),
                  static_cast<int>(length),
                  static_cast<float>(a.scale)};
  launch_early<Keys>(grouped_keys_kernel<Group>,
                     dim3(static_cast<unsigned>(queries), static_cast<unsigned>(count)),
                     Keys::threads, stream, "attention", keys);
  if (count > 1)
    for_each_row(queries, stream, "attention",
                 AttentionOfParts<float>{parts, operand(a.y), operand(a.log_sum), length, heads});
  return true;
#else
  return false;
#endif
}

}  // namespace
}  // namespace device

template <class T>
Index attention_step_scratch(const ssm::Attention<T, CudaSpace>& a) {
  return a.q.extent(0) * a.q.extent(1) * a.q.extent(2) * device::part_count(a.k.extent(1)) *
         (2 + a.q.extent(3));
}

template <class T>
void attention_step(const ssm::Attention<T, CudaSpace>& a, DeviceSegments segments,
                    const std::int64_t* cached, T* scratch, Stream stream) {
  using namespace device;
  if constexpr (std::is_same_v<T, float>)
    if (group_keys<8>(a, segments, cached, scratch, stream) ||
        group_keys<16>(a, segments, cached, scratch, stream) ||
        group_keys<32>(a, segments, cached, scratch, stream))
      return;
  const Index length = a.q.extent(1), heads = a.q.extent(2), width = a.q.extent(3);
  const Index queries = a.q.extent(0) * length * heads, keys = a.k.extent(1);
  const AttentionParts<T> parts{part_count(keys), width, scratch};
  for_each_row(queries * parts.count, stream, "attention",
               AttentionPart<T>{operand(a.q), operand(a.k), operand(a.v),
                                AttentionSequences(a, segments, cached), parts, keys_of_part(keys),
                                heads, width, static_cast<T>(a.scale)});
  for_each_row(queries, stream, "attention",
               AttentionOfParts<T>{parts, operand(a.y), operand(a.log_sum), length, heads});
}

#define SSM_INSTANTIATE(T)                                                                    \
  template SSM_CUDA_API Index attention_step_scratch<T>(const ssm::Attention<T, CudaSpace>&); \
  template SSM_CUDA_API void attention_step<T>(const ssm::Attention<T, CudaSpace>&,           \
                                               DeviceSegments, const std::int64_t*, T*, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
