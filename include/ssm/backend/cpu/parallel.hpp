// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "ssm/backend/cpu/thread_pool.hpp"
#include "ssm/core/error.hpp"  // Index

namespace ssm::cpu {

/// The part begin ≤ i < end of a loop.
struct Range {
  Index begin;
  Index end;
};

/// The threads that a loop may use: how many, which is what they convert to, and whose.
class Threads {
 public:
  Threads(int count, ThreadPool& pool) : count_(count), pool_(&pool) {}
  operator int() const { return count_; }
  Threads at_most(Index count) const {
    return {static_cast<int>(std::min<Index>(count_, count)), *pool_};
  }
  ThreadPool& pool() const { return *pool_; }

 private:
  int count_;
  ThreadPool* pool_;
};

/// Into how many parts `parallel` splits a loop: some for each thread, so that one whose core is
/// busy can do fewer.
inline Index part_count(int threads, Index count, Index grain) {
  constexpr Index parts_a_thread = 4;
  const Index limit =
      threads > 1 ? std::min<Index>(threads * parts_a_thread, ThreadPool::max_parts) : 1;
  return std::clamp<Index>(count / std::max<Index>(grain, 1), 1, limit);
}

/// A loop's body as one address: the loop itself is compiled once for all of them.
struct ParallelBody {
  void (*call)(void* body, Range range, int worker);
  void* body;
};

/// The loop below, with its body as an address.
[[gnu::noinline]] inline void parallel(const Threads& threads, Index count, Index grain,
                                       ParallelBody body) {
  struct Loop {
    ParallelBody body;
    Index count, parts;
  } loop{body, count, part_count(threads, count, grain)};
  if (loop.parts == 1) {
    if (count > 0) body.call(body.body, {0, count}, 0);
    return;
  }
  const auto run_part = [](void* of, int part, int worker) {
    const Loop& l = *static_cast<const Loop*>(of);
    l.body.call(l.body.body, {l.count * part / l.parts, l.count * (part + 1) / l.parts}, worker);
  };
  threads.pool().run(threads, static_cast<int>(loop.parts), {run_part, &loop});
}

/// Calls body(Range, worker) for contiguous parts of 0 … count−1 that are all of it, in parallel. A
/// part has at least `grain` iterations; where that leaves one part, the caller does it. `worker`,
/// below `threads`, does one part at a time: it chooses scratch memory. Which worker does a part is
/// up to chance, so sums are kept by part or by index and never by worker; the parts depend on the
/// arguments alone. Throws what `body` throws.
template <class F>
void parallel(const Threads& threads, Index count, Index grain, F&& body) {
  using Body = std::remove_reference_t<F>;
  const auto call = [](void* address, Range range, int worker) {
    (*static_cast<Body*>(address))(range, worker);
  };
  void* const address = const_cast<void*>(static_cast<const void*>(&body));
  parallel(threads, count, grain, ParallelBody{call, address});
}

/// Parallel over registers of a matrix: body(row, column, count) for every piece of at most `lanes`
/// columns.
template <class F>
void parallel_pieces(const Threads& threads, Index rows, Index columns, Index lanes, F&& body) {
  constexpr Index grain = 512;  // pieces below which a thread is not worth waking
  const Index pieces = (columns + lanes - 1) / lanes;
  parallel(threads, rows * pieces, grain, [&](Range range, int) {
    Index row = range.begin / pieces;
    Index column = range.begin % pieces * lanes;
    for (Index i = range.begin; i < range.end; ++i) {
      body(row, column, std::min(lanes, columns - column));
      column += lanes;
      if (column >= columns) {
        column = 0;
        ++row;
      }
    }
  });
}

}  // namespace ssm::cpu
