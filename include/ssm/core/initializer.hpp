// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>
#include <string_view>

#include "ssm/core/error.hpp"  // Index
#include "ssm/core/random.hpp"

namespace ssm {

/// Where a layer's first values come from: a seed, and threads that share the drawing of large
/// tensors. It converts from a seed and to one, so whoever needs no threads says `Seed`. The values
/// depend on the seed alone.
///   initializer.fork("in_proj").fill_uniform(p.weight.data(), p.weight.size(), -bound, bound);
class Initializer {
 public:
  /// A function of a range, body(begin, end), that is borrowed.
  class Body {
   public:
    template <class F>
      requires(!std::same_as<F, Body>)
    Body(const F& of)
        : of_(&of), call_([](const void* f, Index begin, Index end) {
            (*static_cast<const F*>(f))(begin, end);
          }) {}
    void operator()(Index begin, Index end) const { call_(of_, begin, end); }

   private:
    const void* of_;
    void (*call_)(const void* of, Index begin, Index end);
  };

  Initializer(Seed seed) : seed_(seed) {}
  /// With threads, which are borrowed: threads.for_ranges(count, body) calls body(begin, end) for
  /// ranges that together are 0 … count−1.
  template <class Threads>
    requires requires(const Threads& threads, const Body& body) {
      threads.for_ranges(Index{}, body);
    }
  Initializer(Seed seed, const Threads& threads)
      : seed_(seed), threads_(&threads), loop_([](const void* of, Index count, const Body& body) {
          static_cast<const Threads*>(of)->for_ranges(count, body);
        }) {}
  operator Seed() const { return seed_; }

  /// An independent stream for a part, by number or by name, drawn by the same threads.
  Initializer fork(std::uint64_t part) const { return with(seed_.fork(part)); }
  Initializer fork(std::string_view name) const { return with(seed_.fork(name)); }

  /// The same for layers whose weights somebody draws anew afterwards: linear layers leave theirs
  /// as they are, which spares a large model a part of its drawing.
  Initializer without_weights() const {
    Initializer other(*this);
    other.draws_weights_ = false;
    return other;
  }
  bool draws_weights() const { return draws_weights_; }

  /// to[i] = low + (high − low) · Random(seed).uniform(i)
  template <class T>
  void fill_uniform(T* to, Index count, double low, double high) const {
    const Random random(seed_);
    for_ranges(count, [&](Index begin, Index end) {
      random.fill_uniform(to + begin, static_cast<std::uint64_t>(begin), end - begin, low, high);
    });
  }
  /// to[i] = deviation · Random(seed).normal(i)
  template <class T>
  void fill_normal(T* to, Index count, double deviation) const {
    const Random random(seed_);
    for_ranges(count, [&](Index begin, Index end) {
      random.fill_normal(to + begin, static_cast<std::uint64_t>(begin), end - begin, deviation);
    });
  }

 private:
  Initializer with(Seed seed) const {
    Initializer other(*this);
    other.seed_ = seed;
    return other;
  }
  void for_ranges(Index count, const Body& body) const {
    constexpr Index least = 1 << 14;  // numbers for which another thread is worth waking
    if (loop_ != nullptr && count >= 2 * least)
      loop_(threads_, count, body);
    else
      body(0, count);
  }

  Seed seed_;
  bool draws_weights_ = true;
  const void* threads_ = nullptr;
  void (*loop_)(const void* threads, Index count, const Body& body) = nullptr;
};

}  // namespace ssm
