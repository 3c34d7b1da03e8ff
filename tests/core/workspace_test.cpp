// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <ssm/core/workspace.hpp>

using ssm::Index;

namespace {
struct CountingSpace : ssm::HostSpace {
  static inline int live = 0;
  static inline int allocations = 0;
  static void* allocate(std::size_t bytes) {
    ++live;
    ++allocations;
    return HostSpace::allocate(bytes);
  }
  static void deallocate(void* pointer) noexcept {
    --live;
    HostSpace::deallocate(pointer);
  }
};
using Workspace = ssm::Workspace<CountingSpace>;
constexpr Index large = 40'000;  // floats; more than half of the first block
}  // namespace

TEST_CASE("tensors of one frame do not overlap and are aligned") {
  Workspace workspace;
  auto frame = workspace.frame();
  const auto a = frame.tensor<float>(3, 5);
  const auto b = frame.tensor<double>(7);
  CHECK(a.extents().size() == 15);
  CHECK(reinterpret_cast<std::uintptr_t>(b.data()) >=
        reinterpret_cast<std::uintptr_t>(a.data() + 15));
  CHECK(reinterpret_cast<std::uintptr_t>(b.data()) % ssm::HostSpace::alignment == 0);
}

TEST_CASE("memory of an inner frame is used again after it") {
  Workspace workspace;
  auto outer = workspace.frame();
  const auto kept = outer.tensor<float>(10);
  kept(0) = 5;
  const float* first = nullptr;
  {
    auto inner = workspace.frame();
    first = inner.tensor<float>(100).data();
  }
  auto inner = workspace.frame();
  CHECK(inner.tensor<float>(100).data() == first);
  CHECK(kept(0) == 5);
}

TEST_CASE("growing does not move what an open frame holds") {
  Workspace workspace;
  auto frame = workspace.frame();
  const auto early = frame.tensor<float>(4);
  early(0) = 1;
  const auto late = frame.tensor<float>(large * 10);
  late(large * 10 - 1) = 2;
  CHECK(early(0) == 1);
}

TEST_CASE("after the first call the same demand allocates nothing") {
  Workspace workspace;
  const auto call = [&] {
    auto frame = workspace.frame();
    for (int i = 0; i < 5; ++i) frame.tensor<float>(large);
    auto inner = workspace.frame();
    inner.tensor<double>(large, 2);
  };
  call();
  const int after_first = CountingSpace::allocations;
  const std::size_t capacity = workspace.capacity();
  for (int i = 0; i < 10; ++i) call();
  CHECK(CountingSpace::allocations == after_first);
  CHECK(workspace.capacity() == capacity);
}

TEST_CASE("an inner frame that grew the arena gives all of it back to the outer frame") {
  Workspace workspace;
  auto outer = workspace.frame();
  outer.tensor<float>(large);
  {
    auto inner = workspace.frame();
    inner.tensor<float>(large * 4);
  }
  const int before = CountingSpace::allocations;
  outer.tensor<float>(large * 4);
  CHECK(CountingSpace::allocations == before);
}

TEST_CASE("a workspace frees everything") {
  {
    Workspace workspace;
    auto frame = workspace.frame();
    frame.tensor<float>(large * 3);
    frame.tensor<float>(large * 30);
  }
  CHECK(CountingSpace::live == 0);
}

TEST_CASE("scratch is NaN when asked for, also where it is used again") {
  Workspace workspace;
  workspace.fill_with_nan(true);
  for (int round = 0; round < 2; ++round) {
    auto frame = workspace.frame();
    const auto scratch = frame.tensor<double>(65);
    for (Index i = 0; i < 65; ++i) {
      CHECK(std::isnan(scratch(i)));
      scratch(i) = 0;
    }
  }
}

TEST_CASE("an empty scratch tensor is not null") {
  Workspace workspace;
  auto frame = workspace.frame();
  CHECK(static_cast<bool>(frame.tensor<float>(0, 3)));
}

TEST_CASE("scratch whose number of bytes is no number is out of memory") {
  Workspace workspace;
  auto frame = workspace.frame();
  CHECK_THROWS_AS(frame.tensor<double>(std::numeric_limits<Index>::max() / 4), ssm::OutOfMemory);
}
