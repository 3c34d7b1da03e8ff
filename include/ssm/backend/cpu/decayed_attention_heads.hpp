// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/decayed_attention_chunks.hpp"
#include "ssm/backend/cpu/decayed_attention_parts.hpp"
#include "ssm/core/workspace.hpp"

namespace ssm::cpu {

/// DecayedAttention and its gradient over all heads of all sequences; heads and, where these are
/// too few, columns of their results are shared out over the threads. Each gradient is decayed
/// attention again, in time or against it:
///   dq_n = S_n·dy_n:              queries dy, keys v, values k, state Sᵀ
///   with R_n = γ·R_{n+1} + q_n ⊗ dy_n from the last row to the first,
///   dk_n = R_n·v_n:               queries v, keys dy, values q, state Rᵀ
///   dv_n = k_n·R_n:               queries k, keys q, values dy, state R
/// dk and dv share one R unless columns are divided.
template <class T, class Arch>
class DecayedHeads {
 public:
  template <class Ctx>
  static void forward(Ctx& ctx, const ssm::DecayedAttention<T, HostSpace>& a) {
    run(ctx, a, 1, [&](Index, Sequence s, Index h) {
      return DecayedHead<T>{.length = s.end - s.begin,
                            .key_width = a.q.extent(3),
                            .values = {0, a.v.extent(3)},
                            .log_decay = double{a.log_decay(h)},
                            .q = rows(a.q, s, h),
                            .k = rows(a.k, s, h),
                            .v = rows(a.v, s, h),
                            .initial = state(a.initial_state, s, h),
                            .final = state(a.final_state, s, h),
                            .y = rows(a.y, s, h)};
    });
  }

  template <class Ctx>
  static void backward(Ctx& ctx, const ssm::DecayedAttentionBackward<T, HostSpace>& g) {
    const auto& a = g.forward;
    const Index keys = a.q.extent(3), values = a.v.extent(3), heads = a.q.extent(2);
    const Index units = sequence_count(a.q.extent(0), a.segments) * heads;
    const Threads threads = ctx.resources().threads();
    if (even_parts(threads, units, threads) > 1)
      return run(ctx, a, 3, [&](Index kind, Sequence s, Index h) {
        return gradient_head(g, static_cast<Gradient>(kind), s, h);
      });
    const Index chunk = chunk_of(a);
    const Index follower = Chunks::scratch_size(chunk, values, keys, Chunks::State::borrowed);
    const Index leader = Chunks::scratch_size(chunk, keys, values);
    auto frame = ctx.workspace().frame();
    const auto scratch = frame.template tensor<T>(
        threads, std::max(leader + follower, Chunks::scratch_size(chunk, values, keys)));
    parallel(threads, units, 1, [&](Range range, int worker) {
      T* at = &scratch(worker, 0);
      for (Index i = range.begin; i < range.end; ++i) {
        const Sequence s = sequence_at(i / heads, a.q.extent(1), a.segments);
        const Index h = i % heads;
        Chunks(at, chunk, values, keys).run(gradient_head(g, Gradient::q, s, h));
        Chunks::run(Chunks(at, chunk, keys, values), gradient_head(g, Gradient::v, s, h),
                    Chunks(at + leader, chunk, values, keys, Chunks::State::borrowed),
                    gradient_head(g, Gradient::k, s, h));
      }
    });
  }

 private:
  using Chunks = DecayedChunks<T, Arch>;
  enum class Gradient { q, k, v };

  static DecayedHead<T> gradient_head(const ssm::DecayedAttentionBackward<T, HostSpace>& g,
                                      Gradient gradient, Sequence s, Index h) {
    const auto& a = g.forward;
    const Index length = s.end - s.begin;
    DecayedHead<T> head{.length = length, .log_decay = double{a.log_decay(h)}};
    head.key_width = a.v.extent(3);
    head.values = {0, a.q.extent(3)};
    if (gradient == Gradient::q) {
      head.q = rows(g.dy, s, h);
      head.k = rows(a.v, s, h);
      head.v = rows(a.k, s, h);
      head.y = rows(g.dq, s, h);
      head.initial = transposed(state(a.initial_state, s, h));
      return head;
    }
    head.fades_first = false;
    head.initial = state(g.dfinal_state, s, h);
    if (gradient == Gradient::k) {
      head.q = backwards(rows(a.v, s, h), length);
      head.k = backwards(rows(g.dy, s, h), length);
      head.v = backwards(rows(a.q, s, h), length);
      head.y = backwards(rows(g.dk, s, h), length);
      head.initial = transposed(head.initial);
      return head;
    }
    std::swap(head.key_width, head.values.end);
    head.q = backwards(rows(a.k, s, h), length);
    head.k = backwards(rows(a.q, s, h), length);
    head.v = backwards(rows(g.dy, s, h), length);
    head.y = backwards(rows(g.dv, s, h), length);
    head.final = state(g.dinitial_state, s, h);
    head.final_factor = std::exp(head.log_decay);
    return head;
  }

  static Strided<const T> rows(const View<const T, 4, HostSpace>& x, Sequence s, Index h) {
    return {x.data() + s.batch * x.stride(0) + s.begin * x.stride(1) + h * x.stride(2), x.stride(1),
            x.stride(3)};
  }
  static Strided<T> rows(const View<T, 4, HostSpace>& x, Sequence s, Index h) {
    return {x.data() + s.batch * x.stride(0) + s.begin * x.stride(1) + h * x.stride(2), x.stride(1),
            x.stride(3)};
  }
  template <class U>
  static Strided<U> state(const View<U, 4, HostSpace>& x, Sequence s, Index h) {
    if (!x) return {};
    return {x.data() + s.row * x.stride(0) + h * x.stride(1), x.stride(2), x.stride(3)};
  }
  template <class U>
  static Strided<U> transposed(const Strided<U>& x) {
    return {x.data, x.column, x.row};
  }
  template <class U>
  static Strided<U> backwards(const Strided<U>& x, Index length) {
    return {length == 0 ? x.data : x.at(length - 1), -x.row, x.column};
  }

  static Index chunk_of(const ssm::DecayedAttention<T, HostSpace>& a) {
    const Index wanted = a.chunk > 0 ? a.chunk : Chunks::default_chunk;
    return std::clamp<Index>(wanted, 1, std::max<Index>(1, a.q.extent(1)));
  }

  /// Runs head_of(kind, sequence, head), kind < kinds, for every head of every sequence, in parts
  /// of its columns.
  template <class Ctx, class HeadOf>
  static void run(Ctx& ctx, const ssm::DecayedAttention<T, HostSpace>& a, Index kinds,
                  HeadOf&& head_of) {
    const Threads threads = ctx.resources().threads();
    const Index length = a.q.extent(1), heads = a.q.extent(2);
    const Index keys = a.q.extent(3), values = a.v.extent(3);
    const Index chunk = chunk_of(a);
    const Index units = sequence_count(a.q.extent(0), a.segments) * heads * kinds;
    const Index columns = kinds == 1 ? values : std::min(keys, values);
    const Index parts = even_parts(threads, units, (columns + Chunks::width - 1) / Chunks::width);
    const Index size = std::max(Chunks::scratch_size(chunk, keys, values),
                                kinds == 1 ? 0 : Chunks::scratch_size(chunk, values, keys));
    auto frame = ctx.workspace().frame();
    const auto scratch = frame.template tensor<T>(threads, size);
    parallel(threads, units * parts, 1, [&](Range range, int worker) {
      for (Index i = range.begin; i < range.end; ++i) {
        const Index part = i % parts, unit = i / parts / kinds;
        DecayedHead<T> head =
            head_of(i / parts % kinds, sequence_at(unit / heads, length, a.segments), unit % heads);
        const Index panels = (head.values.end + Chunks::width - 1) / Chunks::width;
        head.values = {panels * part / parts * Chunks::width,
                       std::min(head.values.end, panels * (part + 1) / parts * Chunks::width)};
        Chunks(&scratch(worker, 0), chunk, head.key_width, head.values.end - head.values.begin)
            .run(head);
      }
    });
  }
};

}  // namespace ssm::cpu
