// SPDX-License-Identifier: Apache-2.0
#include "device/memory_pool.hpp"

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <new>
#include <utility>
#include <vector>

namespace {

using ssm::cuda::device::MemoryPool;

constexpr std::size_t MiB = std::size_t{1} << 20;

/// A driver that counts, and gives addresses without memory behind them.
std::map<std::uintptr_t, std::size_t> held;
std::vector<int> waits;
std::size_t most = ~std::size_t{0};  // bytes that it gives at once

std::size_t held_bytes() {
  std::size_t total = 0;
  for (const auto& [address, bytes] : held) total += bytes;
  return total;
}
MemoryPool make_pool() {
  held.clear();
  waits.clear();
  return MemoryPool({[](std::size_t bytes) {
                       if (bytes > most) throw std::bad_alloc();
                       const std::uintptr_t address =
                           held.empty() ? 4 * MiB : held.rbegin()->first + 64 * MiB;
                       held[address] = bytes;
                       return reinterpret_cast<void*>(address);
                     },
                     [](void* memory) { held.erase(reinterpret_cast<std::uintptr_t>(memory)); },
                     [](int device) { waits.push_back(device); }});
}

}  // namespace

TEST_CASE("blocks of a few MiB come from the pool, whole pages and others from the driver") {
  CHECK(MemoryPool::suits(9 * MiB));
  CHECK(MemoryPool::suits(9 * MiB / 4));
  CHECK_FALSE(MemoryPool::suits(12 * MiB));
  CHECK_FALSE(MemoryPool::suits(MiB));
  CHECK_FALSE(MemoryPool::suits(33 * MiB));
}

TEST_CASE("blocks do not overlap, are aligned, and waste little") {
  MemoryPool pool = make_pool();
  std::map<std::uintptr_t, std::size_t> blocks;
  std::size_t wanted = 0;
  for (int i = 0; i < 60; ++i)
    for (const std::size_t bytes : {9 * MiB, 9 * MiB / 4 + 8, 3 * MiB / 2}) {
      const auto address = reinterpret_cast<std::uintptr_t>(pool.take(bytes, 0));
      CHECK(address % 512 == 0);
      blocks[address] = bytes;
      wanted += bytes;
    }
  std::uintptr_t end = 0;
  for (const auto& [address, bytes] : blocks) {
    CHECK(address >= end);
    end = address + bytes;
    const auto chunk = std::prev(held.upper_bound(address));
    CHECK(end <= chunk->first + chunk->second);
  }
  CHECK(held_bytes() < wanted + wanted / 16);
}

TEST_CASE("a single block takes no more than its pages") {
  MemoryPool pool = make_pool();
  pool.take(9 * MiB / 4, 0);
  CHECK(held_bytes() == 4 * MiB);
}

TEST_CASE("memory that was given back is given out again, neighbors as one, behind a wait") {
  MemoryPool pool = make_pool();
  void* const first = pool.take(9 * MiB, 0);
  std::vector<void*> blocks;
  for (int i = 0; i < 4; ++i) blocks.push_back(pool.take(9 * MiB / 4, 0));
  const std::size_t before = held_bytes();
  CHECK(waits.empty());
  for (const std::size_t i : {std::size_t{0}, std::size_t{2}, std::size_t{1}})
    CHECK(pool.give_back(blocks[i]));
  CHECK(waits == std::vector<int>{0, 0, 0});
  CHECK(pool.take(27 * MiB / 4, 0) == blocks[0]);
  CHECK(held_bytes() == before);
  CHECK(pool.give_back(first));
}

TEST_CASE("a chunk goes back to the driver with its last block") {
  MemoryPool pool = make_pool();
  void* const a = pool.take(3 * MiB, 0);
  void* const b = pool.take(3 * MiB, 0);
  CHECK(pool.give_back(a));
  CHECK(pool.give_back(b));
  CHECK(held.empty());
}

TEST_CASE("devices share no chunk, and what is not the pool's stays out of it") {
  MemoryPool pool = make_pool();
  pool.take(3 * MiB / 2, 0);
  void* const other = pool.take(3 * MiB / 2 - MiB, 1);
  CHECK(held.size() == 2);
  int mine = 0;
  CHECK_FALSE(pool.give_back(&mine));
  CHECK(pool.give_back(other));
  CHECK(waits == std::vector<int>{1});
}

TEST_CASE("where the driver has little memory, a block takes no more than its pages") {
  MemoryPool pool = make_pool();
  std::vector<void*> blocks;
  for (int i = 0; i < 4; ++i) blocks.push_back(pool.take(9 * MiB, 0));
  const std::size_t before = held_bytes();
  most = 10 * MiB;
  blocks.push_back(pool.take(9 * MiB, 0));
  CHECK(held_bytes() == before + most);
  most = 0;
  CHECK_THROWS_AS(pool.take(9 * MiB, 0), std::bad_alloc);
  most = ~std::size_t{0};
  for (void* const block : blocks) CHECK(pool.give_back(block));
  CHECK(held.empty());
}
