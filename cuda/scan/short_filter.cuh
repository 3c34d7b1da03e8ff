// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstdlib>

#include "kernel/chunks.cuh"
#include "kernel/half_numbers.cuh"
#include "kernel/quick_functions.cuh"
#include "kernel/unroll.cuh"
#include "ssm/backend/cuda/short_convolution.hpp"

namespace ssm::cuda::device {

/// What all passes read. A channel of a sequence is one row: W numbers of the initial state, then
/// the inputs.
template <class T>
struct ShortFilter {
  using W = Wide<T>;

  ShortFilter(const ssm::ShortConvolution<T, CudaSpace>& a, DeviceSegments segments)
      : weight(operand(a.weight)),
        bias(operand(a.bias)),
        x(operand(a.x)),
        initial_state(operand(a.initial_state)),
        packing(segments, a.x.extent(0), a.x.extent(1)),
        channels(a.x.extent(2)),
        taps(a.weight.extent(1)),
        activation(a.activation) {}

  /// Element i of a row.
  SSM_DEVICE W row(const Sequence& s, Index d, Index i) const {
    if (i < taps) return value_or(W{0}, initial_state, s.row, d, i);
    return widened(x(s.batch, s.begin + i - taps, d));
  }
  /// The sum at position s.begin + t, in front of the nonlinearity.
  SSM_DEVICE W filtered(const Sequence& s, Index d, Index t) const {
    W sum = value_or(W{0}, bias, d);
    for (Index w = 0; w < taps; ++w) sum += weight(d, w) * row(s, d, t + 1 + w);
    return sum;
  }

  Operand<const W, 2> weight;
  Operand<const W, 1> bias;
  Operand<const T, 3> x;
  Operand<const W, 3> initial_state;
  Packing packing;
  Index channels;
  Index taps;
  ActivationKind activation;
};

/// `Width` neighboring channels of a position.
template <class T, int Width>
struct ChannelRun {
  alignas(sizeof(T) * Width) T values[Width];
};

/// Whether channels lie one after the other, and positions less than 2^24 apart; with `width` > 1,
/// whether runs of so many are aligned.
template <class V>
bool has_channel_runs(const V& x, Index width) {
  using T = std::remove_cv_t<std::remove_pointer_t<decltype(x.data())>>;
  if (!x) return true;
  if (x.extent(2) > 1 && x.stride(2) != 1) return false;
  if (x.extent(1) > 1 && std::abs(x.stride(1)) >= Index{1} << 24) return false;
  return width == 1 ||
         (x.extent(2) % width == 0 && x.stride(0) % width == 0 && x.stride(1) % width == 0 &&
          reinterpret_cast<std::uintptr_t>(x.data()) %
                  (sizeof(T) * static_cast<std::size_t>(width)) ==
              0);
}

/// A chunk of `Width` neighboring channels, position after position, with the taps and the last
/// rows in registers. Eight taps stand for any number up to that: those in front are not used.
template <class T, int Width, int Taps>
struct ShortFilterWalk {
  using W = Wide<T>;
  using Run = ChannelRun<T, Width>;

  ShortFilterWalk(const ShortFilter<T>& filter, const Chunking& chunks)
      : a(filter),
        chunking(chunks),
        runs(a.channels / Width),
        whole_taps(Taps == 4 && a.weight.strides[1] == 1 && a.weight.strides[0] == Taps &&
                   reinterpret_cast<std::uintptr_t>(a.weight.data) % sizeof(ChannelRun<W, Taps>) ==
                       0) {}

  /// The taps and the bias of the channels.
  struct Filter {
    W weight[Taps][Width];
    W bias[Width];
  };
  /// Numbers of the last positions, the newest last.
  struct Window {
    SSM_DEVICE void push(const W (&newest)[Width]) {
      SSM_UNROLL
      for (int v = 0; v < Width; ++v) {
        SSM_UNROLL
        for (int w = 0; w + 1 < Taps; ++w) values[w][v] = values[w + 1][v];
        values[Taps - 1][v] = newest[v];
      }
    }
    W values[Taps][Width];
  };

  /// How many taps in front are not used.
  SSM_DEVICE Index unused() const { return Taps == 8 ? Taps - a.taps : 0; }
  SSM_DEVICE Filter filter(Index d) const {
    Filter f;
    SSM_UNROLL
    for (int v = 0; v < Width; ++v) {
      f.bias[v] = value_or(W{0}, a.bias, d + v);
      if (whole_taps) {
        const auto taps =
            *reinterpret_cast<const ChannelRun<W, Taps>*>(a.weight.data + (d + v) * Taps);
        SSM_UNROLL
        for (int w = 0; w < Taps; ++w) f.weight[w][v] = taps.values[w];
      } else {
        SSM_UNROLL
        for (int w = 0; w < Taps; ++w)
          f.weight[w][v] = w >= unused() ? a.weight(d + v, w - unused()) : W{0};
      }
    }
    return f;
  }
  SSM_DEVICE static Run load(const T* from) { return *reinterpret_cast<const Run*>(from); }
  SSM_DEVICE static void store(T* to, const Run& run) { *reinterpret_cast<Run*>(to) = run; }
  template <class V>
  SSM_DEVICE static int row_of(const Operand<V, 3>& x) {
    return static_cast<int>(x.strides[1]);
  }
  /// The runs from `from` on, as many of them as there are.
  template <int Count>
  SSM_DEVICE static void load_rows(const T* from, int row, int there, Run (&rows)[Count]) {
    SSM_UNROLL
    for (int k = 0; k < Count; ++k) {
      rows[k] = {};
      if (k < there) rows[k] = load(from + k * row);
    }
  }
  /// The rows in front of position t.
  SSM_DEVICE Window rows_before(const Sequence& s, Index t, Index d) const {
    Window window{};
    if (t - s.begin >= Taps) {
      Run before[Taps];
      load_rows(&a.x(s.batch, t - Taps, d), row_of(a.x), Taps, before);
      SSM_UNROLL
      for (int w = 0; w < Taps; ++w) push(window, before[w]);
      return window;
    }
    SSM_ROLLED
    for (Index i = t - s.begin - unused(); i < t - s.begin - unused() + Taps; ++i) {
      W values[Width];
      SSM_UNROLL
      for (int v = 0; v < Width; ++v) values[v] = i >= 0 ? a.row(s, d + v, i) : W{0};
      window.push(values);
    }
    return window;
  }
  SSM_DEVICE static void push(Window& window, const Run& run) {
    W newest[Width];
    SSM_UNROLL
    for (int v = 0; v < Width; ++v) newest[v] = widened(run.values[v]);
    window.push(newest);
  }
  /// In front of the nonlinearity.
  SSM_DEVICE W sum(const Filter& f, const Window& rows, int v) const {
    W total = f.bias[v];
    SSM_UNROLL
    for (int w = 0; w < Taps; ++w)
      if (w >= unused()) total += f.weight[w][v] * rows.values[w][v];
    return total;
  }
  SSM_DEVICE bool is_silu() const { return a.activation == ActivationKind::silu; }

  ShortFilter<T> a;
  Chunking chunking;
  Index runs;       // of channels
  bool whole_taps;  // the taps of a channel can be read at once
};

template <class T, int Width, int Taps>
struct ShortFilterForward {
  using Walk = ShortFilterWalk<T, Width, Taps>;
  using W = Wide<T>;
  static constexpr int tile = 4;  // positions whose loads are under way together
  static constexpr int resident_blocks = 3;

  SSM_DEVICE void operator()(Index i) const {
    const Chunk chunk = walk.chunking.at(i / walk.runs);
    const Index b = chunk.s.batch;
    const Index d = i % walk.runs * Width;
    if (chunk.begin >= chunk.end) return;
    const T* from = &walk.a.x(b, chunk.begin, d);
    T* to = &y(b, chunk.begin, d);
    const int from_row = Walk::row_of(walk.a.x), to_row = Walk::row_of(y);
    int left = static_cast<int>(chunk.end - chunk.begin);
    typename Walk::Run x[tile];
    Walk::load_rows(from, from_row, left, x);
    const auto filter = walk.filter(d);
    auto rows = walk.rows_before(chunk.s, chunk.begin, d);
    for (; left >= tile; left -= tile) {
      typename Walk::Run next[tile];
      from += tile * from_row;
      Walk::load_rows(from, from_row, left - tile, next);
      SSM_UNROLL
      for (int k = 0; k < tile; ++k) {
        write(filter, rows, x[k], to + k * to_row);
        x[k] = next[k];
      }
      to += tile * to_row;
    }
    SSM_UNROLL
    for (int k = 0; k + 1 < tile; ++k)
      if (k < left) write(filter, rows, x[k], to + k * to_row);
  }

  SSM_DEVICE void write(const typename Walk::Filter& filter, typename Walk::Window& rows,
                        const typename Walk::Run& x, T* to) const {
    Walk::push(rows, x);
    typename Walk::Run out;
    SSM_UNROLL
    for (int v = 0; v < Width; ++v) {
      // Without a branch, so that the channels' chains of operations overlap.
      const W sum = walk.sum(filter, rows, v), silu = sum * quick_sigmoid(sum);
      out.values[v] = narrowed<T>(walk.is_silu() ? silu : sum);
    }
    Walk::store(to, out);
  }

  Walk walk;
  Operand<T, 3> y;
};

/// Gradients of x, and what the chunk adds to those of the taps and the bias. The positions behind
/// the chunk that its inputs reach are computed here too.
template <class T, int Width, int Taps>
struct ShortFilterBackward {
  using Walk = ShortFilterWalk<T, Width, Taps>;
  using W = Wide<T>;
  static constexpr int tile = 4;  // positions whose loads are under way together

  /// What a thread has while it walks.
  struct State {
    typename Walk::Filter filter;
    typename Walk::Window rows;
    typename Walk::Window dsums;  // gradients in front of the nonlinearity
    W dweight[Taps][Width];
    W dbias[Width];
  };

  SSM_DEVICE void operator()(Index i) const {
    const ShortFilter<T>& a = walk.a;
    const Chunk chunk = walk.chunking.at(i / walk.runs);
    const Sequence& s = chunk.s;
    const Index d = i % walk.runs * Width;
    State at{};
    if (chunk.begin < chunk.end) {
      at.filter = walk.filter(d);
      at.rows = walk.rows_before(s, chunk.begin, d);
      const T* x = &a.x(s.batch, chunk.begin, d);
      const T* g = &dy(s.batch, chunk.begin, d);
      const Index x_row = a.x.strides[1];
      const Index g_row = dy.strides[1];
      Index t = chunk.begin;
      typename Walk::Run xs[tile] = {};
      typename Walk::Run gs[tile] = {};
      const auto load = [&](Index count) {
        SSM_UNROLL
        for (int k = 0; k < tile; ++k) {
          if (k >= count) continue;
          xs[k] = Walk::load(x + k * x_row);
          gs[k] = Walk::load(g + k * g_row);
        }
        x += tile * x_row;
        g += tile * g_row;
      };
      // Position t makes the gradient of input t − Taps + 1. The last of the chunk and those behind
      // it come after the loop: some inputs there are kept in the final state.
      for (; t + tile < chunk.end; t += tile) {
        load(tile);
        SSM_UNROLL
        for (int k = 0; k < tile; ++k) {
          filter_back(at, xs[k], gs[k]);
          add_parameters(at);
          const auto out = inputs_gradient(at);
          const Index input = t + k - (Taps - 1);
          if (dx && input >= chunk.begin) Walk::store(&dx(s.batch, input, d), out);
        }
      }
      const Index last = chunk.end + Taps - 1;
      for (; t < last; t += tile) {
        load(s.end - t);
        SSM_UNROLL
        for (int k = 0; k < tile; ++k) {
          if (t + k >= last) continue;
          if (t + k < s.end)
            filter_back(at, xs[k], gs[k]);
          else
            at.dsums.push({});
          if (t + k < chunk.end) add_parameters(at);
          const Index input = t + k - (Taps - 1);
          if (dx && input >= chunk.begin)
            Walk::store(&dx(s.batch, input, d), inputs_gradient(at, s, input, d));
        }
      }
    }
    const Index row = i / walk.runs * (a.taps + 1);
    SSM_UNROLL
    for (int v = 0; v < Width; ++v) {
      SSM_UNROLL
      for (int w = 0; w < Taps; ++w)
        if (w >= walk.unused())
          partial[(row + w - walk.unused()) * a.channels + d + v] = at.dweight[w][v];
      partial[(row + a.taps) * a.channels + d + v] = at.dbias[v];
    }
  }

  SSM_DEVICE void filter_back(State& at, const typename Walk::Run& x,
                              const typename Walk::Run& g) const {
    Walk::push(at.rows, x);
    W dsum[Width];
    SSM_UNROLL
    for (int v = 0; v < Width; ++v)
      dsum[v] = widened(g.values[v]) *
                quick_silu_or_none_slope<W>(walk.a.activation, walk.sum(at.filter, at.rows, v));
    at.dsums.push(dsum);
  }
  SSM_DEVICE void add_parameters(State& at) const {
    SSM_UNROLL
    for (int v = 0; v < Width; ++v) {
      const W dsum = at.dsums.values[Taps - 1][v];
      at.dbias[v] += dsum;
      SSM_UNROLL
      for (int w = 0; w < Taps; ++w)
        if (w >= walk.unused()) at.dweight[w][v] += dsum * at.rows.values[w][v];
    }
  }
  SSM_DEVICE W input_gradient(const State& at, int v) const {
    W total{0};
    SSM_UNROLL
    for (int w = 0; w < Taps; ++w)
      if (Taps - 1 - w >= walk.unused())
        total += at.filter.weight[Taps - 1 - w][v] * at.dsums.values[w][v];
    return total;
  }
  SSM_DEVICE typename Walk::Run inputs_gradient(const State& at) const {
    typename Walk::Run out;
    SSM_UNROLL
    for (int v = 0; v < Width; ++v) out.values[v] = narrowed<T>(input_gradient(at, v));
    return out;
  }
  /// The same where position t may be one of those that the final state keeps.
  SSM_DEVICE typename Walk::Run inputs_gradient(const State& at, const Sequence& s, Index t,
                                                Index d) const {
    const Index kept = t - (s.end - walk.a.taps);
    typename Walk::Run out;
    SSM_UNROLL
    for (int v = 0; v < Width; ++v) {
      const W final = kept >= 0 ? value_or(W{0}, dfinal_state, s.row, d + v, kept) : W{0};
      out.values[v] = narrowed<T>(final + input_gradient(at, v));
    }
    return out;
  }

  Walk walk;
  Operand<const T, 3> dy;
  Operand<const W, 3> dfinal_state;
  Operand<T, 3> dx;
  W* partial;  // [places, taps + 1, D]
};

/// run(the constants Width and Taps of a walk) if the operands' channels lie one after the other
/// and there are few taps; else false. Width is `Most` where so many channels are aligned and there
/// are four taps.
template <class T, int Most, class F, class... V>
bool walk_short_filter(Index taps, F run, const V&... sequences) {
  if constexpr (std::is_same_v<T, double>) {
    return false;
  } else {
    if (taps > 8 || !(has_channel_runs(sequences, 1) && ...)) return false;
    constexpr auto one = std::integral_constant<int, 1>();
    constexpr auto most = std::integral_constant<int, Most>();
    constexpr auto four = std::integral_constant<int, 4>();
    constexpr auto eight = std::integral_constant<int, 8>();
    const bool in_runs = (has_channel_runs(sequences, Most) && ...);
    if (taps == 4)
      in_runs ? run(most, four) : run(one, four);
    else
      run(one, eight);
    return true;
  }
}

}  // namespace ssm::cuda::device
