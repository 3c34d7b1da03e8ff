// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include "ssm/backend/cpu/decayed_attention_parts.hpp"
#include "ssm/backend/cpu/panel_product.hpp"
#include "ssm/backend/cpu/transpose.hpp"

namespace ssm::cpu {

/// DecayedHead by chunks of C rows, as three products of packed panels: with i, j in a chunk that S
/// enters,
///   P_ij = γ^{i−j}·q_i·k_j for j ≤ i
///   y_i  = Σ_j P_ij·v_j + γ^{i+1}·q_i·S
///   S    ← γ^C·S + Σ_j γ^{C−1−j}·k_j ⊗ v_j
/// The state is kept as panels of columns all the way: it is read as the right operand of the
/// readout and written as the result of the update. Per row: 4·K·V operations for the state,
/// (K + V)·C or less within the chunk.
template <class T, class Arch>
class DecayedChunks {
 public:
  using Register = Batch<T, Arch>;
  static constexpr Index lanes = lane_count<T, Arch>;
  static constexpr int wide = 2;  // registers
  static constexpr Index width = wide * lanes;
  static constexpr int height =
      sizeof(Register) == 64 ? 12 : 6;  // 32 registers with AVX-512, else 16
  static constexpr Index default_chunk = 96;

  static constexpr Index round_up(Index n, Index step) { return (n + step - 1) / step * step; }

  /// Whose state a head reads: its own, or the transpose of another head's, a panel at a time.
  enum class State { own, borrowed };

  /// Elements of scratch for heads up to these sizes.
  static Index scratch_size(Index chunk, Index key_width, Index value_width,
                            State state = State::own) {
    return DecayedChunks(nullptr, chunk, key_width, value_width, state).end_;
  }

  /// `scratch` is aligned as a register is.
  DecayedChunks(T* scratch, Index chunk, Index key_width, Index value_width,
                State state = State::own)
      : chunk_(chunk),
        rows_(round_up(chunk, height)),
        columns_(round_up(chunk, width)),
        key_width_(key_width),
        key_rows_(round_up(key_width, height)),
        key_stride_(round_up(key_width, lanes) + lanes),  // rows apart in the cache too
        borrows_(state == State::borrowed) {
    const auto take = [&](Index count) {
      T* const part = scratch == nullptr ? nullptr : scratch + end_;
      end_ += round_up(count, width);
      return part;
    };
    q_ = take(rows_ * key_stride_);
    keys_across_ = take(columns_ * key_width);
    keys_ = take(borrows_ ? 0 : key_rows_ * chunk);
    v_ = take(round_up(value_width, width) * chunk);
    scores_ = take(rows_ * columns_);
    state_ = take((borrows_ ? width : round_up(value_width, width)) * key_rows_);
    powers_ = take(rows_ + 1);
    fading_ = take(rows_ + columns_);
  }

  void run(const DecayedHead<T>& head) {
    begin(head);
    for (Index first = 0; first < head.length; first += chunk_) {
      const Chunk chunk(head, first, chunk_);
      attend(head, chunk);
      if (chunk.is_read_on) update(chunk);
    }
    finish(head);
  }

  /// Two heads that keep the same state, one of them transposed:
  ///   S_n = γ·S_{n−1} + k_n ⊗ v_n
  /// with y_n = q_n·S_n, and the follower's y_n = S_n·q_n, whose keys are the leader's values and
  /// the other way round.
  static void run(DecayedChunks leader, const DecayedHead<T>& head, DecayedChunks follower,
                  const DecayedHead<T>& other) {
    leader.begin(head);
    follower.begin(other);
    for (Index first = 0; first < head.length; first += leader.chunk_) {
      const Chunk chunk(head, first, leader.chunk_);
      leader.attend(head, chunk);
      follower.attend(other, chunk, &leader);
      if (chunk.is_read_on) leader.update(chunk);
    }
    leader.finish(head);
  }

 private:
  static constexpr std::integral_constant<Index, 1> one{};
  static constexpr std::integral_constant<Index, width> panel_step{};
  static constexpr std::integral_constant<Index, height> tile_step{};

  /// The rows first … first+count−1 of a head.
  struct Chunk {
    Chunk(const DecayedHead<T>& head, Index begin, Index size)
        : first(begin),
          count(std::min(size, head.length - begin)),
          age(begin == 0 && !head.fades_first ? 0 : 1),
          is_read_on(begin + count < head.length || head.final.data != nullptr) {}
    Index first, count;
    Index age;        // of the state at the first row
    bool is_read_on;  // the state behind it
  };

  void begin(const DecayedHead<T>& head) {
    panels_ = (head.values.end - head.values.begin + width - 1) / width;
    make_powers(head.log_decay);
    is_zero_ = !head.initial.data;
    if (!is_zero_ && !borrows_) load_state(head);
  }
  void finish(const DecayedHead<T>& head) {
    if (head.final.data != nullptr) save_state(head);
  }

  void attend(const DecayedHead<T>& head, const Chunk& chunk,
              const DecayedChunks* owner = nullptr) {
    pack(head, chunk.first, chunk.count);
    score(chunk.count);
    if (borrows_) is_zero_ = owner->is_zero_;
    for (Index p = 0; p < panels_; ++p) {
      if (borrows_ && !is_zero_) borrow_panel(*owner, p);
      const T* state = borrows_ ? state_ : state_ + p * key_rows_ * width;
      for (Index i = 0; i < chunk.count; i += height) read_out(head, chunk, i, p, state);
    }
  }
  void update(const Chunk& chunk) {
    for (Index p = 0; p < panels_; ++p) update_panel(chunk, p);
    is_zero_ = false;
  }

  /// state[v][j] = owner's state at row p · width + j, column v
  void borrow_panel(const DecayedChunks& owner, Index p) {
    for (Index j = 0; j < width; j += lanes)
      for (Index v = 0; v < key_width_; v += lanes) {
        Register tile[lanes];
        const T* from =
            owner.state_ + (v / width * owner.key_rows_ + p * width + j) * width + v % width;
        const Index there = owner.key_width_ - p * width - j;
        for (Index i = 0; i < lanes; ++i)
          tile[i] = i < there ? Register::load_aligned(from + i * width) : Register(T{0});
        Transposition<T, Arch>::run(tile);
        for (Index i = 0; i < std::min(lanes, key_width_ - v); ++i)
          tile[i].store_aligned(state_ + (v + i) * width + j);
      }
  }

  /// powers[n] = γⁿ;  fading[rows−1−i + j] = γ^{i−j} where j ≤ i, else 0.
  void make_powers(double log_decay) {
    for (Index n = 0; n <= rows_; ++n)
      powers_[n] = static_cast<T>(std::exp(static_cast<double>(n) * log_decay));
    for (Index n = 0; n < rows_ + columns_; ++n)
      fading_[n] = n < rows_ ? powers_[rows_ - 1 - n] : T{0};
  }

  void load_state(const DecayedHead<T>& head) {
    for_each_state_row(head, [&](Index i, Index column, Index count, T* panel_row) {
      const T* from = head.initial.at(i) + column * head.initial.column;
      for (Index j = 0; j < width; j += lanes)
        gather<T, Arch>(from + j * head.initial.column, head.initial.column,
                        std::clamp<Index>(count - j, 0, lanes))
            .store_aligned(panel_row + j);
    });
    for (Index p = 0; p < panels_; ++p)
      std::fill_n(state_ + (p * key_rows_ + key_width_) * width, (key_rows_ - key_width_) * width,
                  T{0});
  }

  void save_state(const DecayedHead<T>& head) {
    const Register factor(static_cast<T>(head.length == 0 ? 1 : head.final_factor));
    for_each_state_row(head, [&](Index i, Index column, Index count, T* panel_row) {
      T* to = head.final.at(i) + column * head.final.column;
      for (Index j = 0; j < count; j += lanes)
        scatter<T, Arch>(
            to + j * head.final.column, head.final.column, std::min(lanes, count - j),
            is_zero_ ? Register(T{0}) : factor * Register::load_aligned(panel_row + j));
    });
  }

  template <class F>
  void for_each_state_row(const DecayedHead<T>& head, F&& visit) {
    for (Index p = 0; p < panels_; ++p) {
      const Index column = head.values.begin + p * width;
      const Index count = std::min(width, head.values.end - column);
      for (Index i = 0; i < key_width_; ++i)
        visit(i, column, count, state_ + (p * key_rows_ + i) * width);
    }
  }

  void pack(const DecayedHead<T>& head, Index first, Index count) {
    for (Index i = 0; i < round_up(count, height); ++i)
      copy_row(head.q, first + i, i < count, 0, key_width_, key_width_, T{1}, q_ + i * key_stride_);
    for (Index j = 0; j < round_up(count, width); j += lanes) {
      const T* from = head.k.at(first + j);
      const Index panel = j / width * width * key_width_ + j % width;
      pack_across(from, head.k, std::clamp<Index>(count - j, 0, lanes), keys_across_ + panel);
    }
    for (Index c = 0; c < key_width_ && !borrows_; c += height)
      for (Index j = 0; j < count; ++j)
        copy_row(head.k, first + j, true, c, std::min<Index>(height, key_width_ - c), height,
                 powers_[count - 1 - j], keys_ + c * chunk_ + j * height);
    for (Index p = 0; p < panels_; ++p) {
      const Index column = head.values.begin + p * width;
      for (Index j = 0; j < count; ++j)
        copy_row(head.v, first + j, true, column, std::min(width, head.values.end - column), width,
                 T{1}, v_ + (p * chunk_ + j) * width);
    }
  }

  /// `count` elements of a row times a factor, then zeros up to `padded`.
  static void copy_row(const Strided<const T>& from, Index row, bool is_there, Index column,
                       Index count, Index padded, T factor, T* to) {
    if (!is_there) count = 0;
    if (count > 0) {
      const T* source = from.at(row) + column * from.column;
      if (from.column == 1)
        for (Index c = 0; c < count; ++c) to[c] = factor * source[c];
      else
        for (Index c = 0; c < count; ++c) to[c] = factor * source[c * from.column];
    }
    for (Index c = count; c < padded; ++c) to[c] = T{0};
  }

  /// `count` ≤ lanes keys into lanes: to[c · width + lane], zero in the lanes beyond.
  void pack_across(const T* from, const Strided<const T>& k, Index count, T* to) const {
    for (Index c = 0; c < key_width_; c += lanes) {
      const Index here = std::min(lanes, key_width_ - c);
      Register tile[lanes];
      for (Index j = 0; j < lanes; ++j)
        tile[j] = j < count ? gather<T, Arch>(from + j * k.row + c * k.column, k.column, here)
                            : Register(T{0});
      Transposition<T, Arch>::run(tile);
      for (Index i = 0; i < here; ++i) tile[i].store_aligned(to + (c + i) * width);
    }
  }

  void score(Index count) {
    for (Index i = 0; i < count; i += height)
      for (Index j = 0; j < std::min(count, i + height); j += width) {
        Register sums[height * wide];
        unrolled<height * wide>([&](auto r) { sums[r] = Register(T{0}); });
        add_panel_product<height, wide, T, Arch>(q_ + i * key_stride_, key_stride_, one,
                                                 keys_across_ + j * key_width_, panel_step,
                                                 key_width_, sums);
        const T* fading = fading_ + rows_ - 1 - i + j;
        T* to = scores_ + i * columns_ + j;
        unrolled<height * wide>([&](auto r) {
          constexpr Index row = r() / wide, lane = r() % wide * lanes;
          (sums[r] * load<T, Arch>(fading - row + lane)).store_aligned(to + row * columns_ + lane);
        });
      }
  }

  void read_out(const DecayedHead<T>& head, const Chunk& chunk, Index i, Index p, const T* state) {
    Register sums[height * wide];
    unrolled<height * wide>([&](auto r) { sums[r] = Register(T{0}); });
    if (!is_zero_) {
      add_panel_product<height, wide, T, Arch>(q_ + i * key_stride_, key_stride_, one, state,
                                               panel_step, key_width_, sums);
      const T* powers = powers_ + i + chunk.age;
      unrolled<height * wide>([&](auto r) { sums[r] *= Register(powers[r() / wide]); });
    }
    add_panel_product<height, wide, T, Arch>(scores_ + i * columns_, columns_, one,
                                             v_ + p * chunk_ * width, panel_step,
                                             std::min<Index>(chunk.count, i + height), sums);
    const Index column = head.values.begin + p * width;
    const Index rows = chunk.count - i, columns = head.values.end - column;
    T* to = head.y.at(chunk.first + i) + column * head.y.column;
    if (rows >= height && columns >= width && head.y.column == 1) {
      unrolled<height * wide>([&](auto r) {
        store<T, Arch>(to + r() / wide * head.y.row + r() % wide * lanes, sums[r]);
      });
      return;
    }
    unrolled<height * wide>([&](auto r) {
      const Index lane = r() % wide * lanes;
      const Index there = std::min(lanes, columns - lane);
      if (r() / wide < rows && there > 0)
        scatter<T, Arch>(to + r() / wide * head.y.row + lane * head.y.column, head.y.column, there,
                         sums[r]);
    });
  }

  void update_panel(const Chunk& chunk, Index p) {
    const Register fading(powers_[chunk.count - 1 + chunk.age]);
    for (Index c = 0; c < key_rows_; c += height) {
      Register sums[height * wide];
      T* at = state_ + (p * key_rows_ + c) * width;
      if (is_zero_)
        unrolled<height * wide>([&](auto r) { sums[r] = Register(T{0}); });
      else
        unrolled<height * wide>(
            [&](auto r) { sums[r] = fading * Register::load_aligned(at + r() * lanes); });
      add_panel_product<height, wide, T, Arch>(keys_ + c * chunk_, one, tile_step,
                                               v_ + p * chunk_ * width, panel_step, chunk.count,
                                               sums);
      unrolled<height * wide>([&](auto r) { sums[r].store_aligned(at + r() * lanes); });
    }
  }

  Index chunk_, rows_, columns_, key_width_, key_rows_, key_stride_;
  bool borrows_;
  Index panels_ = 0;
  Index end_ = 0;
  bool is_zero_ = true;
  T* q_;            // [rows][key_stride]
  T* keys_across_;  // [columns/width][K][width]
  T* keys_;         // [key_rows/height][chunk][height], faded to the end of the chunk
  T* v_;            // [V/width][chunk][width]
  T* scores_;       // [rows][columns]
  T* state_;        // [V/width][key_rows][width]
  T *powers_, *fading_;
};

}  // namespace ssm::cpu
