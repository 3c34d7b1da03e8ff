// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "ssm/backend/cuda/matmul.hpp"
#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/op/embedding.hpp"

namespace ssm::cuda {

/// The compiled half; formula and shapes as ssm::Embedding and ssm::EmbeddingBackward. T: float,
/// double, half types. A token outside the table, where the host could not look, gives a row of NaN
/// and no gradient.
/// scratch   embedding_scratch_count(M, V)     the positions of every token, in order
/// partial   [embedding_pieces(M), 2, D]      sums of tokens whose positions are in several pieces
template <class T>
SSM_CUDA_API void embedding(const ssm::Embedding<T, CudaSpace>& a, Stream stream);
template <class T>
SSM_CUDA_API void embedding_backward(const ssm::EmbeddingBackward<T, CudaSpace>& g, Index* scratch,
                                     Wide<T>* partial, Stream stream);

/// y[m, v] = 1 where token m is v, else 0. T: half types.
/// tokens [M]   y [M, V]
template <class T>
SSM_CUDA_API void one_hot(const View<const Token, 1, CudaSpace>& tokens,
                          const View<T, 2, CudaSpace>& y, Stream stream);
/// Whether the gradient of a table is a product by one_hot: of small vocabularies, where it takes
/// less time than to find the positions of every token.
constexpr bool suits_one_hot(Index positions, Index vocabulary) {
  return vocabulary <= 512 && positions >= 1024 && positions * vocabulary <= Index{1} << 26;
}

/// How the positions of equal tokens are found without sorting: `count` slices of positions, of
/// `length` each. A position is compared with the others of its slice; a slice counts its tokens in
/// a table of V.
struct EmbeddingSlices {
  Index length;
  Index count;
};
constexpr EmbeddingSlices embedding_slices(Index positions) {
  const Index length = std::max<Index>(256, (positions + 63) / 64);
  return {length, (positions + length - 1) / length};
}
/// Tokens are numbered in chunks of this many.
inline constexpr Index embedding_chunk = 64;
constexpr Index embedding_scratch_count(Index positions, Index vocabulary) {
  const Index chunks = (vocabulary + embedding_chunk - 1) / embedding_chunk;
  return 2 * positions + (embedding_slices(positions).count + 2) * vocabulary + chunks;
}

/// The positions in the order of their tokens are added in pieces of this many, by warps that take
/// this many columns, or packs of columns.
inline constexpr Index embedding_piece = 8;
inline constexpr Index embedding_block = 32;
constexpr Index embedding_pieces(Index positions) {
  return (positions + embedding_piece - 1) / embedding_piece;
}

namespace primitive {
struct Embedding {
  template <class Ctx, DeviceNumber T>
  static void embedding(Ctx& ctx, const ssm::Embedding<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) { cuda::embedding(on_device(a), stream); });
  }
  template <class Ctx, DeviceNumber T>
  static void embedding_backward(Ctx& ctx,
                                 const ssm::EmbeddingBackward<T, typename Ctx::Space>& g) {
    auto frame = ctx.workspace().frame();
    if constexpr (HalfStorage<T>)
      if (suits_one_hot(g.tokens.extent(0), g.dtable.extent(0)) && g.dtable.stride(1) == 1) {
        const auto tokens = frame.template tensor<T>(g.tokens.extent(0), g.dtable.extent(0));
        const View<T, 2, CudaSpace> y(tokens.data(), tokens.extents());
        queue(ctx, [&](Stream stream) { one_hot(on_device(g).tokens, y, stream); });
        return Matmul::weight_gradient(ctx, WeightGradient<T, typename Ctx::Space>{
                                                .dy = tokens, .x = g.dy, .dweight = g.dtable});
      }
    const Index count = embedding_scratch_count(g.tokens.extent(0), g.dtable.extent(0));
    Index* const scratch = frame.template tensor<Index>(count).data();
    const Index pieces = embedding_pieces(g.tokens.extent(0));
    const auto partial = frame.template tensor<Wide<T>>(pieces, 2, g.dtable.extent(1));
    queue(ctx, [&](Stream stream) {
      cuda::embedding_backward(on_device(g), scratch, partial.data(), stream);
    });
  }
};
}  // namespace primitive

}  // namespace ssm::cuda
