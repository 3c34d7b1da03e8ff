// SPDX-License-Identifier: Apache-2.0
#include <limits>

#include "kernel/half_numbers.cuh"
#include "kernel/matrix_elements.cuh"
#include "kernel/parallel.cuh"
#include "ssm/backend/cuda/embedding.hpp"

namespace ssm::cuda {

template <class T>
void embedding(const ssm::Embedding<T, CudaSpace>& a, Stream stream) {
  const auto table = device::operand(a.table);
  const auto table_bf16 = device::operand(a.table_bf16);
  const auto tokens = device::operand(a.tokens);
  const auto y = device::operand(a.y);
  const Index vocabulary = a.table_bf16 ? a.table_bf16.extent(0) : a.table.extent(0);
  const auto elements = device::matrix_elements(a.y.extent(0), a.y.extent(1));
  const T nothing = static_cast<T>(std::numeric_limits<Wide<T>>::quiet_NaN());
  device::for_each_index(elements.count, stream, "embedding", [=] SSM_DEVICE(Index i) {
    const auto [m, d] = elements.at(i);
    const Token token = tokens(m);
    if (token < 0 || token >= vocabulary)
      y(m, d) = nothing;
    else if (table_bf16)
      y(m, d) = device::converted<T>(table_bf16(token, d));
    else
      y(m, d) = table(token, d);
  });
}

namespace {

/// The positions of each token, in order: `position[start[v]] … position[start[v] + total[v] − 1]`.
struct TokenPositions {
  device::Operand<const Token, 1> tokens;
  Index count;
  Index vocabulary;
  EmbeddingSlices slices;
  Index chunks;
  Index* position;     // [M]
  Index* rank;         // [M]          how often the token was seen before in the slice
  Index* before;       // [slices, V]  how often in a slice, then in all slices before
  Index* total;        // [V]
  Index* start;        // [V]
  Index* chunk_total;  // [chunks]

  SSM_HOST_DEVICE bool is_known(Token token) const { return token >= 0 && token < vocabulary; }
};

TokenPositions token_positions(const View<const Token, 1, CudaSpace>& tokens, Index vocabulary,
                               Index* scratch) {
  TokenPositions p{};
  p.tokens = device::operand(tokens);
  p.count = tokens.extent(0);
  p.vocabulary = vocabulary;
  p.slices = embedding_slices(p.count);
  p.chunks = (vocabulary + embedding_chunk - 1) / embedding_chunk;
  const auto take = [&](Index size) {
    Index* const piece = scratch;
    scratch += size;
    return piece;
  };
  p.position = take(p.count);
  p.rank = take(p.count);
  p.before = take(p.slices.count * vocabulary);
  p.total = take(vocabulary);
  p.start = take(vocabulary);
  p.chunk_total = take(p.chunks);
  return p;
}

/// Numbers each token's occurrences within a slice; the last one of a slice writes how many there
/// are.
void count_in_slices(const TokenPositions& p, Stream stream) {
  device::for_each_index(p.slices.count * p.vocabulary, stream, "embedding_backward",
                         [=] SSM_DEVICE(Index i) { p.before[i] = 0; });
  device::for_each_index(p.count, stream, "embedding_backward", [=] SSM_DEVICE(Index m) {
    const Token token = p.tokens(m);
    if (!p.is_known(token)) return;
    const Index slice = m / p.slices.length;
    const Index begin = slice * p.slices.length;
    const Index end = begin + p.slices.length < p.count ? begin + p.slices.length : p.count;
    Index earlier = 0;
    Index later = 0;
    for (Index other = begin; other < m; ++other) earlier += p.tokens(other) == token;
    for (Index other = m + 1; other < end; ++other) later += p.tokens(other) == token;
    p.rank[m] = earlier;
    if (later == 0) p.before[slice * p.vocabulary + token] = earlier + 1;
  });
}

/// From the counts of the slices to where each token's positions begin.
void number_tokens(const TokenPositions& p, Stream stream) {
  device::for_each_index(p.vocabulary, stream, "embedding_backward", [=] SSM_DEVICE(Index v) {
    Index total = 0;
    for (Index slice = 0; slice < p.slices.count; ++slice) {
      Index& entry = p.before[slice * p.vocabulary + v];
      const Index count = entry;
      entry = total;
      total += count;
    }
    p.total[v] = total;
  });
  device::for_each_row(
      p.chunks, stream, "embedding_backward", [=] SSM_DEVICE(Index chunk, device::Lanes lanes) {
        const Index begin = chunk * embedding_chunk;
        const Index left = p.vocabulary - begin;
        const Index sum = lanes.sum(left < embedding_chunk ? left : embedding_chunk,
                                    [&](Index i) { return p.total[begin + i]; });
        if (lanes.first()) p.chunk_total[chunk] = sum;
      });
  device::for_each_row(
      p.chunks, stream, "embedding_backward", [=] SSM_DEVICE(Index chunk, device::Lanes lanes) {
        const Index begin = chunk * embedding_chunk;
        const Index left = p.vocabulary - begin;
        const Index first = lanes.sum(chunk, [&](Index i) { return p.chunk_total[i]; });
        lanes.each(left < embedding_chunk ? left : embedding_chunk, [&](Index i) {
          Index start = first;
          for (Index v = begin; v < begin + i; ++v) start += p.total[v];
          p.start[begin + i] = start;
        });
      });
}

void place_positions(const TokenPositions& p, Stream stream) {
  device::for_each_index(p.count, stream, "embedding_backward", [=] SSM_DEVICE(Index m) {
    const Token token = p.tokens(m);
    if (!p.is_known(token)) return;
    const Index slice = m / p.slices.length;
    p.position[p.start[token] + p.before[slice * p.vocabulary + token] + p.rank[m]] = m;
  });
}

}  // namespace

template <class T>
void embedding_backward(const ssm::EmbeddingBackward<T, CudaSpace>& g, Index* scratch,
                        Stream stream) {
  using S = Wide<T>;
  const auto positions = token_positions(g.tokens, g.dtable.extent(0), scratch);
  if (positions.count == 0) return;
  count_in_slices(positions, stream);
  number_tokens(positions, stream);
  place_positions(positions, stream);

  const auto dy = device::operand(g.dy);
  const auto dtable = device::operand(g.dtable);
  const Index width = g.dtable.extent(1);
  constexpr Index block = 32;    // columns of a warp
  constexpr Index together = 8;  // rows on their way at a time; the additions stay in order
  const Index blocks = (width + block - 1) / block;
  device::for_each_row(positions.vocabulary * blocks, stream, "embedding_backward",
                       [=] SSM_DEVICE(Index row, device::Lanes lanes) {
                         const Index token = row / blocks;
                         const Index count = positions.total[token];
                         if (count == 0) return;
                         const Index first = row % blocks * block;
                         const Index* const position = positions.position + positions.start[token];
                         lanes.each(width - first < block ? width - first : block,
                                    [&](Index column) {
                                      const Index d = first + column;
                                      S sum = dtable(token, d);
                                      Index i = 0;
                                      for (; i + together <= count; i += together) {
                                        S values[together];
                                        for (Index k = 0; k < together; ++k)
                                          values[k] = device::widened(dy(position[i + k], d));
                                        for (Index k = 0; k < together; ++k) sum += values[k];
                                      }
                                      for (; i < count; ++i)
                                        sum += device::widened(dy(position[i], d));
                                      dtable(token, d) = sum;
                                    });
                       });
}

#define SSM_INSTANTIATE(T)                                                                      \
  template SSM_CUDA_API void embedding<T>(const ssm::Embedding<T, CudaSpace>&, Stream);         \
  template SSM_CUDA_API void embedding_backward<T>(const ssm::EmbeddingBackward<T, CudaSpace>&, \
                                                   Index*, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
