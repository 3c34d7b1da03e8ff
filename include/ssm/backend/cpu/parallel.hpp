// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "ssm/core/error.hpp"  // Index

namespace ssm::cpu {

/// The part begin ≤ i < end of a loop.
struct Range {
  Index begin;
  Index end;
};

/// Threads a context starts with: OpenMP's own answer, or one without OpenMP.
inline int default_thread_count() {
#if defined(_OPENMP)
  return omp_get_max_threads();
#else
  return 1;
#endif
}

/// Into how many parts `parallel` splits a loop.
inline Index part_count(int threads, Index count, Index grain) {
  return std::clamp<Index>(count / std::max<Index>(grain, 1), 1, std::max(threads, 1));
}

/// A loop's body as one address: the loop itself is compiled once for all of them.
struct ParallelBody {
  void (*call)(void* body, Range range, int worker);
  void* body;
};

[[gnu::noinline]] inline void parallel(int threads, Index count, Index grain, ParallelBody body) {
  const Index parts = part_count(threads, count, grain);
  const auto run = [&](Index part, int worker) {
    const Range range{count * part / parts, count * (part + 1) / parts};
    if (range.begin < range.end) body.call(body.body, range, worker);
  };
#if defined(_OPENMP)
  if (parts > 1) {
#pragma omp parallel for num_threads(static_cast <int>(parts)) schedule(static, 1)
    for (Index part = 0; part < parts; ++part) run(part, static_cast<int>(part));
    return;
  }
#endif
  for (Index part = 0; part < parts; ++part) run(part, static_cast<int>(part));
}

/// Calls body(Range, worker) once for each of at most `threads` contiguous parts of 0 … count−1, in parallel.
/// The parts depend on the arguments alone, so the same thread count gives the same bits. A part has at least `grain`
/// iterations; with one part there is no parallel region. `body` must not throw.
template <class F>
void parallel(int threads, Index count, Index grain, F&& body) {
  using Body = std::remove_reference_t<F>;
  const auto call = [](void* address, Range range, int worker) {
    (*static_cast<Body*>(address))(range, worker);
  };
  void* const address = const_cast<void*>(static_cast<const void*>(&body));
  parallel(threads, count, grain, ParallelBody{call, address});
}

/// Parallel over registers of a matrix: body(row, column, count) for every piece of at most `lanes` columns.
template <class F>
void parallel_pieces(int threads, Index rows, Index columns, Index lanes, F&& body) {
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
