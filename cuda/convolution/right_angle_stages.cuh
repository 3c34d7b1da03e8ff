// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "convolution/right_angle_transform.cuh"

namespace ssm::cuda::device {

/// What the stages share: data, [sequence], and matrices in shared memory, twiddles in device
/// memory.
template <class P>
struct RightAngleStages {
  unsigned data, matrices;
  const uint4* twiddles;

  /// This warp's sequence in the first stage and its inverse, and the warp's place in it.
  __device__ static int group() { return threadIdx.x / P::group_threads; }
  __device__ static int warp() { return threadIdx.x / 32 % P::warps; }
  __device__ unsigned data_of(int group) const { return data + group * P::group_bytes; }
  __device__ unsigned own_data() const { return data_of(group()); }

  /// Calls body(address of row lane of part 0, the same of part 1) for this warp's columns, eight
  /// at a time.
  template <class Body>
  __device__ void for_columns(const Body& body) const {
    constexpr int own = 64 / P::N3;  // n2 of a warp
#pragma unroll 1
    for (int i = 0; i < own; ++i) {
      const unsigned line =
          own_data() + line_at<P>(threadIdx.x % 32, slot_of<P::N2>(own * warp() + i));
#pragma unroll
      for (int run = 0; run < P::N3 / 8; ++run)
        body(line ^ run_bits<P>(0, run), line ^ run_bits<P>(1, run));
    }
  }

  /// The first stage of real inputs, which are part 0 of this warp's columns.
  __device__ void first_of_real() const {
    const Matrix16 even = load_left<false>(matrices), odd = load_left<false>(matrices + 1024);
    for_columns([&](unsigned re, unsigned im) {
      unsigned x[4], a[2], b[2];
      load_columns_of_tiles(x, re);
      __syncwarp();
      const auto multiply = [&](const unsigned(&m)[4], const unsigned(&n)[4]) {
        float e[4] = {}, o[4] = {};
        multiply_tile_half(e, m, x[0], x[1]);
        multiply_tile_half(o, n, x[2], x[3]);
        pack_rows(a, e);
        pack_rows(b, o);
      };
      multiply(even.c, odd.c);
      store_tiles<false>(re, add_halves(a[0], b[0]), add_halves(a[1], b[1]),
                         subtract_halves(a[0], b[0]), subtract_halves(a[1], b[1]));
      multiply(even.s, odd.s);  // of which the imaginary part is the negative
      store_tiles<false>(im, negative_halves(add_halves(a[0], b[0])),
                         negative_halves(add_halves(a[1], b[1])), subtract_halves(b[0], a[0]),
                         subtract_halves(b[1], a[1]));
    });
  }
  /// Its inverse: real parts, `pack` makes two neighboring outputs a word.
  template <class Pack>
  __device__ void last_of_real(const Pack& pack) const {
    const Matrix16 even = load_left<true>(matrices), odd = load_left<true>(matrices + 1024);
    for_columns([&](unsigned re, unsigned im) {
      unsigned x[4], y[4];
      load_columns_of_tiles(x, re);
      load_columns_of_tiles(y, im);
      __syncwarp();
      float sum[2][4] = {};
      multiply_tile_half(sum[0], even.c, add_halves(x[0], x[2]), add_halves(x[1], x[3]));
      multiply_tile_half(sum[1], odd.c, subtract_halves(x[0], x[2]), subtract_halves(x[1], x[3]));
      multiply_tile_half(sum[0], even.s, negative_halves(add_halves(y[0], y[2])),
                         negative_halves(add_halves(y[1], y[3])));
      multiply_tile_half(sum[1], odd.s, subtract_halves(y[2], y[0]), subtract_halves(y[3], y[1]));
      store_tiles<false>(re, pack(sum[0][0], sum[0][1]), pack(sum[0][2], sum[0][3]),
                         pack(sum[1][0], sum[1][1]), pack(sum[1][2], sum[1][3]));
    });
  }

  /// The first stage of complex inputs, or its inverse.
  template <bool Inverse>
  __device__ void first() const {
    const Matrix16 even = load_left<Inverse>(matrices), odd = load_left<Inverse>(matrices + 1024);
    for_columns([&](unsigned re, unsigned im) { stage_of_32<Inverse>(even, odd, re, im); });
  }

  /// The second stage of the first `Count` sequences at k1, or its inverse.
  template <bool Inverse, int Count>
  __device__ void second(int k1) const {
    const int lane = threadIdx.x % 32;
    const unsigned at = matrices + P::second_at + k1 * P::second_matrices * 512;
    if constexpr (P::N2 == 32) {
      const Matrix16 even = load_left<Inverse>(at), odd = load_left<Inverse>(at + 1024);
      const unsigned line = data + line_at<P>(k1, lane);
#pragma unroll
      for (int run = 0; run < P::N3 / 8; ++run)
#pragma unroll
        for (int i = 0; i < Count; ++i)
          stage_of_32<Inverse>(even, odd, (line ^ run_bits<P>(0, run)) + i * P::group_bytes,
                               (line ^ run_bits<P>(1, run)) + i * P::group_bytes);
    } else {
      const Matrix16 matrix = load_left<Inverse>(at);
      const unsigned line = data + line_at<P>(k1, lane % 16) ^ run_bits<P>(lane / 16, 0);
#pragma unroll
      for (int run = 0; run < P::N3 / 8; ++run)
#pragma unroll
        for (int i = 0; i < Count; ++i)
          stage_of_16<Inverse>(matrix, (line ^ run_bits<P>(0, run)) + i * P::group_bytes);
    }
    __syncwarp();
  }

  /// Frequencies of tile `tile` of k1, halves: [set of outputs or step][part].
  static constexpr int steps = P::N3 / 16;
  struct Points {
    unsigned v[steps][2][4];
  };
  __device__ Points twiddles_of(int k1, int tile) const {
    Points w;
    load_quads<true>(w, twiddles, k1, tile);
    return w;
  }
  /// Constant: no one writes them meanwhile.
  template <bool Constant>
  __device__ static void load_quads(Points& w, const uint4* from, int k1, int tile) {
    from += (k1 * P::tiles + tile) * P::quads * 32 + threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < P::quads; ++i) {
      const uint4 quad = Constant ? __ldg(from + i * 32) : from[i * 32];
      unsigned(&to)[4] = w.v[i / 2][i % 2];
      to[0] = quad.x, to[1] = quad.y, to[2] = quad.z, to[3] = quad.w;
    }
  }
  /// This lane's row of the tiles of step 0, real part; others are by run_bits(part, 2·step).
  __device__ static unsigned tile_row(unsigned data, int k1, int tile) {
    const int lane = threadIdx.x % 32;
    return data + line_at<P>(k1, 16 * tile + lane % 16) ^ run_bits<P>(0, lane / 16);
  }

  /// The third stage's matrix of the first set of outputs, which is its own transpose.
  __device__ Right16 third_matrix() const { return load_right<false>(matrices + P::third_at); }

  /// The third stage: float sums of each set of outputs, four at a time, by `take(set, half, re,
  /// im)`: eight k3 of one set, as a product leaves them.
  template <class Take>
  __device__ void third(unsigned data, int k1, int tile, const Points& w, const Right16& matrix,
                        const Take& take) const {
    unsigned x[2][steps][4];
    const unsigned row = tile_row(data, k1, tile);
#pragma unroll
    for (int step = 0; step < steps; ++step) {
      unsigned re[4], im[4];
      load_rows_of_tiles(re, row ^ run_bits<P>(0, 2 * step));
      load_rows_of_tiles(im, row ^ run_bits<P>(1, 2 * step));
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const unsigned c = w.v[step][0][k], s = w.v[step][1][k];
        x[0][step][k] = subtract_product_halves(im[k], s, multiply_halves(re[k], c));
        x[1][step][k] = multiply_add_halves(im[k], c, multiply_halves(re[k], s));
      }
    }
#pragma unroll
    for (int set = 0; set < steps; ++set) {
      unsigned re[4], im[4], negative[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if constexpr (steps == 1) {
          re[k] = x[0][0][k], im[k] = x[1][0][k];
        } else {
          re[k] = set == 0 ? add_halves(x[0][0][k], x[0][1][k])
                           : subtract_halves(x[0][0][k], x[0][1][k]);
          im[k] = set == 0 ? add_halves(x[1][0][k], x[1][1][k])
                           : subtract_halves(x[1][0][k], x[1][1][k]);
        }
        negative[k] = negative_halves(re[k]);
      }
      const Right16 m = set == 0 ? matrix : load_right<false>(matrices + P::third_at + 1024);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float sum_re[4] = {}, sum_im[4] = {};
        multiply_tile_half(sum_re, re, m.c[2 * half], m.c[2 * half + 1]);
        multiply_tile_half(sum_im, im, m.c[2 * half], m.c[2 * half + 1]);
        multiply_tile_half(sum_re, im, m.s[2 * half], m.s[2 * half + 1]);
        multiply_tile_half(sum_im, negative, m.s[2 * half], m.s[2 * half + 1]);
        take(set, half, sum_re, sum_im);
      }
    }
  }

  /// Its inverse, to shared memory.
  __device__ void third_back(unsigned data, int k1, int tile, const Points& w,
                             const Right16& matrix, const Points& x) const {
    unsigned out[steps][2][4];  // [set][part]
#pragma unroll
    for (int set = 0; set < steps; ++set) {
      const Right16 m = set == 0 ? matrix : load_right<true>(matrices + P::third_at + 1024);
      unsigned negative[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) negative[k] = negative_halves(x.v[set][1][k]);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float re[4] = {}, im[4] = {};
        multiply_tile_half(re, x.v[set][0], m.c[2 * half], m.c[2 * half + 1]);
        multiply_tile_half(im, x.v[set][1], m.c[2 * half], m.c[2 * half + 1]);
        multiply_tile_half(re, negative, m.s[2 * half], m.s[2 * half + 1]);
        multiply_tile_half(im, x.v[set][0], m.s[2 * half], m.s[2 * half + 1]);
        out[set][0][2 * half] = pack_half(re[0], re[1]);
        out[set][0][2 * half + 1] = pack_half(re[2], re[3]);
        out[set][1][2 * half] = pack_half(im[0], im[1]);
        out[set][1][2 * half + 1] = pack_half(im[2], im[3]);
      }
    }
    const unsigned row = tile_row(data, k1, tile);
#pragma unroll
    for (int step = 0; step < steps; ++step) {
      unsigned turned[2][4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        unsigned re = out[0][0][k], im = out[0][1][k];
        if constexpr (steps == 2) {
          const unsigned r = out[steps - 1][0][k], i = out[steps - 1][1][k];
          re = step == 0 ? add_halves(re, r) : subtract_halves(re, r);
          im = step == 0 ? add_halves(im, i) : subtract_halves(im, i);
        }
        const unsigned c = w.v[step][0][k], s = w.v[step][1][k];
        turned[0][k] = multiply_add_halves(im, s, multiply_halves(re, c));
        turned[1][k] = subtract_product_halves(re, s, multiply_halves(im, c));
      }
#pragma unroll
      for (int part = 0; part < 2; ++part)
        store_tiles<false>(row ^ run_bits<P>(part, 2 * step), turned[part][0], turned[part][1],
                           turned[part][2], turned[part][3]);
    }
  }

  /// Spectrum ⊙ filter.
  __device__ static void apply(Points& x, const Points& filter) {
#pragma unroll
    for (int set = 0; set < steps; ++set)
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const unsigned re = x.v[set][0][k], im = x.v[set][1][k];
        const unsigned c = filter.v[set][0][k], s = filter.v[set][1][k];
        x.v[set][0][k] = subtract_product_halves(im, s, multiply_halves(re, c));
        x.v[set][1][k] = multiply_add_halves(im, c, multiply_halves(re, s));
      }
  }

  /// From the second stage to its inverse, over this warp's k1 of the first `Count` sequences:
  /// spectrum times filter, if there is one. Forward: the spectrum is made, else it is read.
  template <bool Forward, int Count>
  __device__ void filter_slabs(const uint4* spectrum, const uint4* filter) const {
    static_assert(Forward || Count == 1);
    Right16 matrix;
    if constexpr (steps == 1) matrix = third_matrix();
#pragma unroll 1
    for (int j = 0; j < P::slabs; ++j) {
      const int k1 = threadIdx.x / 32 + P::all_warps * j;
      Points w = twiddles_of(k1, 0);  // ahead of their use: they come from the L2 cache
      if constexpr (Forward) second<false, Count>(k1);
#pragma unroll
      for (int tile = 0; tile < P::tiles; ++tile) {
        if constexpr (steps == 2) matrix = third_matrix();
        Points k, later;
        if (Forward || filter != nullptr) load_quads<true>(k, filter, k1, tile);
#pragma unroll
        for (int i = 0; i < Count; ++i) {
          Points x;
          if constexpr (Forward) {
            third(data_of(i), k1, tile, w, matrix,
                  [&](int set, int half, const float(&re)[4], const float(&im)[4]) {
                    x.v[set][0][2 * half] = pack_half(re[0], re[1]);
                    x.v[set][0][2 * half + 1] = pack_half(re[2], re[3]);
                    x.v[set][1][2 * half] = pack_half(im[0], im[1]);
                    x.v[set][1][2 * half + 1] = pack_half(im[2], im[3]);
                  });
          } else {
            load_quads<false>(x, spectrum, k1, tile);
          }
          if (Forward || filter != nullptr) apply(x, k);
          if (i == Count - 1 && tile + 1 < P::tiles) later = twiddles_of(k1, tile + 1);
          third_back(data_of(i), k1, tile, w, matrix, x);
        }
        if (tile + 1 < P::tiles) w = later;
      }
      __syncwarp();
      second<true, Count>(k1);
    }
  }

  /// The second and third stage over this warp's k1: factor times the spectrum, to device memory.
  __device__ void store_slabs(uint4* out, float factor) const {
    static_assert(P::Groups == 1);
#pragma unroll 1
    for (int j = 0; j < P::slabs; ++j) {
      const int k1 = threadIdx.x / 32 + P::all_warps * j;
      second<false, 1>(k1);
#pragma unroll 1
      for (int tile = 0; tile < P::tiles; ++tile) {
        Points x;
        third(data, k1, tile, twiddles_of(k1, tile), third_matrix(),
              [&](int set, int half, const float(&re)[4], const float(&im)[4]) {
                x.v[set][0][2 * half] = pack_half(factor * re[0], factor * re[1]);
                x.v[set][0][2 * half + 1] = pack_half(factor * re[2], factor * re[3]);
                x.v[set][1][2 * half] = pack_half(factor * im[0], factor * im[1]);
                x.v[set][1][2 * half + 1] = pack_half(factor * im[2], factor * im[3]);
              });
        uint4* const to = out + (k1 * P::tiles + tile) * P::quads * 32 + threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < P::quads; ++i) {
          const unsigned(&quad)[4] = x.v[i / 2][i % 2];
          to[i * 32] = {quad[0], quad[1], quad[2], quad[3]};
        }
      }
    }
  }
};

}  // namespace ssm::cuda::device
