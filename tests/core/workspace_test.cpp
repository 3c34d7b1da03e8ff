// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <ssm/core/workspace.hpp>
#include <string>
#include <vector>

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

TEST_CASE("between calls a workspace holds little more than the largest of them used") {
  Workspace workspace;
  const auto call = [&](Index tensors) {
    auto frame = workspace.frame();
    for (Index i = 0; i < tensors; ++i) frame.tensor<float>(large);
  };
  for (const Index tensors : {Index{3}, Index{7}, Index{5}, Index{90}}) {
    call(tensors);
    CHECK(workspace.capacity() >= workspace.peak());
    CHECK(workspace.capacity() <= workspace.peak() + (std::size_t{4} << 20));
  }
  CHECK(workspace.peak() == static_cast<std::size_t>(90 * large) * sizeof(float));
}

TEST_CASE("a large arena takes no more ahead than a few megabytes") {
  Workspace workspace;
  auto frame = workspace.frame();
  std::size_t used = 0;
  for (int i = 0; i < 20; ++i) {
    frame.tensor<float>(50 * large);
    used += static_cast<std::size_t>(50 * large) * sizeof(float);
  }
  CHECK(workspace.capacity() < used + (std::size_t{4} << 20));
}

TEST_CASE("demand that grows little by little allocates seldom") {
  Workspace workspace;
  const int before = CountingSpace::allocations;
  for (Index i = 1; i <= 2000; ++i) {
    auto frame = workspace.frame();
    frame.tensor<float>(i * 1000);
  }
  CHECK(CountingSpace::allocations - before < 24);
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

TEST_CASE("a workspace that borrows allocates nothing and starts at the first aligned byte") {
  std::vector<std::byte> memory(10'000);
  Workspace workspace;
  workspace.borrow(std::span(memory).subspan(1));
  CHECK(workspace.is_borrowed());
  const int before = CountingSpace::allocations;
  for (int round = 0; round < 3; ++round) {
    auto frame = workspace.frame();
    const auto a = frame.tensor<float>(1000);
    const auto b = frame.tensor<double>(500);
    CHECK(reinterpret_cast<std::byte*>(a.data()) >= memory.data());
    CHECK(reinterpret_cast<std::byte*>(b.data() + 500) <= memory.data() + memory.size());
    CHECK(reinterpret_cast<std::uintptr_t>(a.data()) % ssm::HostSpace::alignment == 0);
  }
  CHECK(CountingSpace::allocations == before);
}

TEST_CASE("a borrowed workspace that is too small says how much was wanted, and goes on") {
  std::vector<std::byte> memory(1024 + 64);
  Workspace workspace;
  workspace.borrow(memory);
  const std::size_t capacity = workspace.capacity();
  CHECK(capacity >= 1024);
  {
    auto frame = workspace.frame();
    frame.tensor<float>(128);
    CHECK_THROWS_WITH_AS(
        frame.tensor<float>(256),
        ("out of memory: 1536 bytes in a workspace that borrows " + std::to_string(capacity))
            .c_str(),
        ssm::OutOfMemory);
  }
  auto frame = workspace.frame();
  CHECK_NOTHROW(frame.tensor<float>(256));
}

TEST_CASE("a workspace changes its memory between frames only, and takes its own again") {
  std::vector<std::byte> memory(4096);
  Workspace workspace;
  {
    auto frame = workspace.frame();
    frame.tensor<float>(10);
    CHECK_THROWS_AS(workspace.borrow(memory), ssm::ArgumentError);
  }
  const int live = CountingSpace::live;
  workspace.borrow(memory);
  CHECK(CountingSpace::live == live - 1);
  workspace.borrow({});
  CHECK_FALSE(workspace.is_borrowed());
  auto frame = workspace.frame();
  CHECK_NOTHROW(frame.tensor<float>(100'000));
}

TEST_CASE("the peak is what a borrowed memory must hold") {
  Workspace own;
  const auto call = [](Workspace& workspace) {
    auto frame = workspace.frame();
    frame.tensor<float>(large);
    {
      auto inner = workspace.frame();
      inner.tensor<double>(large, 2);
    }
    auto inner = workspace.frame();
    inner.tensor<float>(large);
  };
  call(own);
  CHECK(own.peak() == static_cast<std::size_t>(large) * (4 + 16));
  std::vector<std::byte> memory(own.peak() + 63);
  Workspace borrowing;
  borrowing.borrow(memory);
  CHECK_NOTHROW(call(borrowing));
  std::vector<std::byte> less(own.peak() - 1);
  borrowing.borrow(less);
  CHECK_THROWS_AS(call(borrowing), ssm::OutOfMemory);
}
