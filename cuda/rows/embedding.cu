// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <limits>

#include "kernel/kept_weights.cuh"
#include "kernel/packs.cuh"
#include "ssm/backend/cuda/embedding.hpp"

namespace ssm::cuda {

namespace {

/// An element of a table that is not kept in T.
template <class T>
struct KeptTable {
  device::KeptNumber<Wide<T>, BFloat16> bf16;
  device::KeptNumber<Wide<T>, Float16> f16;
  device::KeptNumber<Wide<T>, std::int8_t> int8;

  explicit KeptTable(const ssm::Embedding<T, CudaSpace>& a)
      : bf16{device::operand(a.table_bf16.transpose(0, 1)), {}},
        f16{device::operand(a.table_f16.transpose(0, 1)), {}},
        int8{device::operand(a.table_int8.transpose(0, 1)), device::operand(a.table_scale)} {}
  SSM_HOST_DEVICE explicit operator bool() const {
    return bf16.numbers || f16.numbers || int8.numbers;
  }
  SSM_DEVICE Wide<T> operator()(Token token, Index d) const {
    if (bf16.numbers) return bf16(d, token);
    return f16.numbers ? f16(d, token) : int8(d, token);
  }
};

}  // namespace

template <class T>
void embedding(const ssm::Embedding<T, CudaSpace>& a, Stream stream) {
  constexpr int size = device::pack_size<T>;
  const auto table = device::operand(a.table);
  const KeptTable<T> kept(a);
  const auto tokens = device::operand(a.tokens);
  const auto y = device::operand(a.y);
  const Index vocabulary = a.table        ? a.table.extent(0)
                           : a.table_bf16 ? a.table_bf16.extent(0)
                           : a.table_f16  ? a.table_f16.extent(0)
                                          : a.table_int8.extent(0);
  const auto runs = device::row_runs<size>(a.y.extent(1), a.table, a.y);
  const auto elements = device::matrix_elements(a.y.extent(0), runs.count());
  device::for_each_index(elements.count, stream, "embedding", [=] SSM_DEVICE(Index i) {
    const auto [m, run] = elements.at(i);
    const Index d = runs.first(run), count = runs.size(run);
    const Token token = tokens(m);
    Wide<T> values[size];
    if (token < 0 || token >= vocabulary) {
      for (auto& value : values) value = std::numeric_limits<Wide<T>>::quiet_NaN();
    } else if (kept) {
      for (int k = 0; k < size; ++k)
        if (k < count) values[k] = kept(token, d + k);
    } else {
      device::read_neighbors(&table(token, d), table.strides[1], count, values);
    }
    device::write_neighbors(&y(m, d), y.strides[1], count, values);
  });
}

template <class T>
void one_hot(const View<const Token, 1, CudaSpace>& tokens, const View<T, 2, CudaSpace>& y,
             Stream stream) {
  constexpr int size = device::pack_size<T>;
  const auto from = device::operand(tokens);
  const auto to = device::operand(y);
  const auto runs = device::row_runs<size>(y.extent(1), y);
  const auto elements = device::matrix_elements(y.extent(0), runs.count());
  device::for_each_index(elements.count, stream, "embedding_backward", [=] SSM_DEVICE(Index i) {
    const auto [m, run] = elements.at(i);
    const Index first = runs.first(run), token = Index{from(m)} - first;
    Wide<T> values[size];
    for (int k = 0; k < size; ++k) values[k] = token == k ? Wide<T>{1} : Wide<T>{0};
    device::write_neighbors(&to(m, first), to.strides[1], runs.size(run), values);
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

namespace {

/// Sums of dy over equal tokens. The positions, in the order of their tokens, are cut into pieces;
/// the sum of a token within one piece goes to the table at once, others wait in `partial`.
template <class T>
struct TokenSums {
  static constexpr int size = device::pack_size<T>;
  using S = Wide<T>;

  /// The sums of a piece, 32 runs of columns wide.
  SSM_DEVICE void piece(Index row, device::Lanes lanes) const {
    const Index known = known_positions();
    const Index piece = row / blocks, begin = piece * embedding_piece;
    if (begin >= known) return;
    const Index end = begin + embedding_piece < known ? begin + embedding_piece : known;
    for_each_run(row, lanes, [&](Index d, Index count) {
      S sum[size] = {};
      Index first = begin;  // of the token that is being added
      Token token = token_at(begin);
      Index start = positions.start[token], total = positions.total[token];
      const auto finish = [&](Index next) {
        if (start == first && start + total == next)
          add_to_table(token, d, count, sum);
        else
          device::write_neighbors(waiting(piece, first == begin ? 0 : 1) + d, Index{1}, count, sum);
      };
      constexpr int together = 8;  // rows on their way at a time; the additions stay in order
      for (Index i = begin; i < end; i += together) {
        S values[together][size];
        Token tokens[together] = {};
        Index starts[together] = {}, totals[together] = {};
        SSM_UNROLL
        for (int k = 0; k < together; ++k)
          if (i + k < end) {
            const Index m = positions.position[i + k];
            tokens[k] = positions.tokens(m);
            device::read_neighbors(&dy(m, d), dy.strides[1], count, values[k]);
          }
        SSM_UNROLL
        for (int k = 0; k < together; ++k)
          if (i + k < end) {
            starts[k] = positions.start[tokens[k]];
            totals[k] = positions.total[tokens[k]];
          }
        SSM_UNROLL
        for (int k = 0; k < together; ++k) {
          if (i + k >= end) continue;
          const Token next = tokens[k];
          if (next != token) {
            finish(i + k);
            token = next;
            start = starts[k];
            total = totals[k];
            first = i + k;
          }
          SSM_UNROLL
          for (int c = 0; c < size; ++c) sum[c] = (first == i + k ? S{0} : sum[c]) + values[k][c];
        }
      }
      finish(end);
    });
  }
  /// The token that begins in a piece and goes on in the next ones, if there is one.
  SSM_DEVICE void join(Index row, device::Lanes lanes) const {
    const Index known = known_positions();
    const Index first = row / blocks, begin = first * embedding_piece;
    if (begin + embedding_piece >= known) return;
    const Token token = token_at(begin + embedding_piece - 1);
    const Index start = positions.start[token];
    const Index last = (start + positions.total[token] - 1) / embedding_piece;
    if (start < begin || first == last) return;
    for_each_run(row, lanes, [&](Index d, Index count) {
      S sum[size] = {};
      constexpr int together = 8;  // pieces on their way at a time; the additions stay in order
      for (Index piece = first; piece <= last; piece += together) {
        S values[together][size] = {};
        SSM_UNROLL
        for (int k = 0; k < together; ++k) {
          const int slot = piece + k == first && start % embedding_piece != 0 ? 1 : 0;
          if (piece + k <= last)
            device::read_neighbors(waiting(piece + k, slot) + d, Index{1}, count, values[k]);
        }
        SSM_UNROLL
        for (int k = 0; k < together; ++k) SSM_UNROLL
        for (int c = 0; c < size; ++c) sum[c] += values[k][c];
      }
      add_to_table(token, d, count, sum);
    });
  }

  template <class F>
  SSM_DEVICE void for_each_run(Index row, device::Lanes lanes, F f) const {
    const Index first = row % blocks * embedding_block;
    const Index left = runs.count() - first;
    lanes.each(left < embedding_block ? left : embedding_block,
               [&](Index run) { f(runs.first(first + run), runs.size(first + run)); });
  }
  SSM_DEVICE Index known_positions() const {
    const Index last = positions.vocabulary - 1;
    return positions.start[last] + positions.total[last];
  }
  SSM_DEVICE Token token_at(Index i) const { return positions.tokens(positions.position[i]); }
  SSM_DEVICE S* waiting(Index piece, int slot) const {
    return partial + (2 * piece + slot) * runs.width;
  }
  SSM_DEVICE void add_to_table(Index token, Index d, Index count, const S (&sum)[size]) const {
    S values[size];
    device::read_neighbors(&dtable(token, d), dtable.strides[1], count, values);
    SSM_UNROLL
    for (int c = 0; c < size; ++c) values[c] += sum[c];
    device::write_neighbors(&dtable(token, d), dtable.strides[1], count, values);
  }

  TokenPositions positions;
  device::Operand<const T, 2> dy;
  device::Operand<Wide<T>, 2> dtable;
  device::RowRuns<size> runs;
  Index blocks;  // of columns
  S* partial;    // [pieces, 2, D]: what the token of the piece before, and of the next, has here
};

}  // namespace

template <class T>
void embedding_backward(const ssm::EmbeddingBackward<T, CudaSpace>& g, Index* scratch,
                        Wide<T>* partial, Stream stream) {
  const auto positions = token_positions(g.tokens, g.dtable.extent(0), scratch);
  if (positions.count == 0 || positions.vocabulary == 0) return;
  count_in_slices(positions, stream);
  number_tokens(positions, stream);
  place_positions(positions, stream);

  constexpr int size = device::pack_size<T>;
  const Index width = g.dtable.extent(1);
  const bool aligned = width % size == 0 && reinterpret_cast<std::uintptr_t>(partial) % 16 == 0;
  const device::RowRuns<size> runs =
      aligned ? device::row_runs<size>(width, g.dy, g.dtable) : device::RowRuns<size>{1, width};
  const Index blocks = (runs.count() + embedding_block - 1) / embedding_block;
  const TokenSums<T> sums{positions, device::operand(g.dy), device::operand(g.dtable), runs, blocks,
                          partial};
  device::for_each_row(embedding_pieces(positions.count) * blocks, stream, "embedding_backward",
                       [=] SSM_DEVICE(Index row, device::Lanes lanes) { sums.piece(row, lanes); });
  device::for_each_row(embedding_pieces(positions.count) * blocks, stream, "embedding_backward",
                       [=] SSM_DEVICE(Index row, device::Lanes lanes) { sums.join(row, lanes); });
}

#define SSM_INSTANTIATE(T)                                                                      \
  template SSM_CUDA_API void embedding<T>(const ssm::Embedding<T, CudaSpace>&, Stream);         \
  template SSM_CUDA_API void embedding_backward<T>(const ssm::EmbeddingBackward<T, CudaSpace>&, \
                                                   Index*, Wide<T>*, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE
#define SSM_INSTANTIATE(T)                                                      \
  template SSM_CUDA_API void one_hot<T>(const View<const Token, 1, CudaSpace>&, \
                                        const View<T, 2, CudaSpace>&, Stream);
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
