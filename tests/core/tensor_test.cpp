// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <ssm/core/tensor.hpp>
#include <type_traits>
#include <utility>
#include <vector>

using ssm::dyn;
using ssm::DynamicTensor;
using ssm::Extents;
using ssm::Index;
using ssm::Tensor;

using Matrix = DynamicTensor<float, 2>;
static_assert(!std::is_copy_constructible_v<Matrix> && !std::is_copy_assignable_v<Matrix>);
static_assert(std::is_nothrow_move_constructible_v<Matrix>);
static_assert(std::is_convertible_v<Matrix&, ssm::View<float, 2>>);
static_assert(std::is_convertible_v<const Matrix&, ssm::View<const float, 2>>);
static_assert(!std::is_convertible_v<const Matrix&, ssm::View<float, 2>>);
static_assert(!std::is_convertible_v<Tensor<float, Extents<dyn, 3>>&,
                                     ssm::TensorView<float, Extents<dyn, 4>>>);

namespace {

/// Counts what is allocated and freed, and refuses beyond a limit.
struct CountingSpace : ssm::HostSpace {
  static inline int live = 0;
  static inline int allocations = 0;
  static inline std::size_t limit = std::numeric_limits<std::size_t>::max();

  static void* allocate(std::size_t bytes) {
    if (bytes > limit) throw ssm::OutOfMemory(bytes, name());
    ++live;
    ++allocations;
    return HostSpace::allocate(bytes);
  }
  static void deallocate(void* pointer) noexcept {
    --live;
    HostSpace::deallocate(pointer);
  }
};
using Counted = Tensor<float, Extents<dyn, dyn>, CountingSpace>;

}  // namespace

TEST_CASE("a tensor starts out zero and aligned to a cache line") {
  const Matrix tensor({3, 5});
  CHECK(tensor.size() == 15);
  for (Index i = 0; i < 3; ++i)
    for (Index j = 0; j < 5; ++j) CHECK(tensor(i, j) == 0);
  CHECK(reinterpret_cast<std::uintptr_t>(tensor.data()) % ssm::HostSpace::alignment == 0);
}

TEST_CASE("a default-constructed tensor is null and becomes a null view") {
  Tensor<float, Extents<3>> tensor;
  CHECK_FALSE(static_cast<bool>(tensor));
  CHECK(tensor.size() == 0);
  CHECK_FALSE(static_cast<bool>(tensor.view()));
  CHECK_FALSE(static_cast<bool>(tensor.clone()));
}

TEST_CASE("a tensor of no elements is not null") {
  const Matrix tensor({0, 5});
  CHECK(static_cast<bool>(tensor));
  CHECK(static_cast<bool>(tensor.view()));
  CHECK(tensor.size() == 0);
}

TEST_CASE("a tensor with one run-time axis takes its length in braces or in parentheses") {
  CHECK(DynamicTensor<float, 1>({4}).size() == 4);
  CHECK(DynamicTensor<float, 1>(4).size() == 4);
  CHECK(Tensor<float, Extents<4>>({4}).size() == 4);
  CHECK(Tensor<float, Extents<dyn, 3>>({2}).size() == 6);
  CHECK_THROWS_AS((Tensor<float, Extents<4>>({5})), ssm::ShapeError);
}

TEST_CASE("moving leaves the source null and the memory where it was") {
  Matrix from({2, 2});
  from(1, 1) = 7;
  const float* data = from.data();
  const Matrix to = std::move(from);
  CHECK(to.data() == data);
  CHECK(to(1, 1) == 7);
  CHECK_FALSE(static_cast<bool>(from));
}

TEST_CASE("a clone is equal and independent") {
  Matrix original({2, 3});
  original(1, 2) = 4;
  Matrix copy = original.clone();
  CHECK(copy.extents() == original.extents());
  CHECK(copy(1, 2) == 4);
  copy(1, 2) = 5;
  CHECK(original(1, 2) == 4);
}

TEST_CASE("resizing to fewer elements allocates nothing, to more once, and nothing is leaked") {
  {
    Counted tensor({4, 4});
    const int before = CountingSpace::allocations;
    tensor.resize({2, 8});
    tensor.resize({1, 1});
    CHECK(CountingSpace::allocations == before);
    tensor.resize({5, 5});
    CHECK(CountingSpace::allocations == before + 1);
    tensor = Counted({1, 2});
    CHECK(CountingSpace::live == 1);
  }
  CHECK(CountingSpace::live == 0);
}

TEST_CASE("a reset tensor is zero in its new extents") {
  Matrix tensor({2, 2});
  tensor(0, 0) = 1;
  tensor.reset({1, 3});
  CHECK(tensor.extent(1) == 3);
  for (Index i = 0; i < 3; ++i) CHECK(tensor(0, i) == 0);
}

TEST_CASE("a failed allocation leaves the tensor as it was") {
  Counted tensor({2, 2});
  tensor.view().data()[3] = 9;
  CountingSpace::limit = 1000;
  CHECK_THROWS_AS(tensor.resize({100, 100}), ssm::OutOfMemory);
  CountingSpace::limit = std::numeric_limits<std::size_t>::max();
  CHECK(tensor.extent(0) == 2);
  CHECK(tensor.data()[3] == 9);
}

TEST_CASE("extents whose number of bytes is no number are out of memory, not a small allocation") {
  constexpr Index huge = std::numeric_limits<Index>::max() / 2 + 1;
  CHECK_THROWS_AS(Matrix({huge, 4}), ssm::OutOfMemory);
  CHECK_THROWS_AS(Matrix({huge, 1}), ssm::OutOfMemory);
  CHECK_NOTHROW(Matrix({huge, 0}));
}

TEST_CASE("slices, selections and reshapes of a tensor are views of it") {
  Matrix tensor({2, 3});
  tensor.slice(1, 1, 3)(0, 0) = 1;
  tensor.select(0, 1)(2) = 2;
  tensor.transpose(0, 1)(0, 1) = 3;
  CHECK(tensor.flatten()(1) == 1);
  CHECK(tensor.reshape(3, 2)(2, 1) == 2);
  CHECK(std::as_const(tensor).flatten()(3) == 3);
}

TEST_CASE("a borrowed tensor reads and writes the caller's memory and never frees it") {
  std::vector<float> memory(6);
  {
    Counted borrowed = Counted::borrow(memory.data(), {2, 3});
    CHECK(borrowed.is_borrowed());
    CHECK(borrowed.data() == memory.data());
    borrowed.data()[5] = 7;
    borrowed.view().data()[0] = 1;
    CHECK(CountingSpace::live == 0);
  }
  CHECK(memory == std::vector<float>{1, 0, 0, 0, 0, 7});
  CHECK_FALSE(Matrix({2, 3}).is_borrowed());
}

TEST_CASE("a borrowed tensor takes other extents up to its capacity and refuses more") {
  std::vector<float> memory(8, 5);
  Counted borrowed = Counted::borrow(memory.data(), {2, 3}, 8);
  borrowed.resize({2, 4});
  CHECK(borrowed.data() == memory.data());
  borrowed.reset({1, 2});
  CHECK(memory[0] == 0);
  CHECK(memory[2] == 5);
  borrowed.extend({4, 2}, 100);  // a wish for room is no more than a wish
  CHECK(borrowed.extent(0) == 4);
  CHECK(borrowed.data() == memory.data());
  CHECK_THROWS_WITH_AS(borrowed.resize({3, 3}),
                       "tensor: borrowed memory of 8 elements cannot grow to [3, 3]",
                       ssm::ArgumentError);
  CHECK_THROWS_AS(borrowed.reset({9, 1}), ssm::ArgumentError);
  CHECK_THROWS_AS(borrowed.extend({5, 2}), ssm::ArgumentError);
  CHECK(borrowed.extent(0) == 4);  // as it was
  CHECK(CountingSpace::live == 0);
}

TEST_CASE("moving hands borrowed memory on, a clone owns its copy, and assigning lets go") {
  std::vector<float> memory{1, 2};
  Matrix first = Matrix::borrow(memory.data(), {1, 2});
  Matrix second = std::move(first);
  CHECK(second.is_borrowed());
  CHECK_FALSE(static_cast<bool>(first));
  CHECK_FALSE(first.is_borrowed());
  Matrix copy = second.clone();
  CHECK_FALSE(copy.is_borrowed());
  CHECK(copy.data() != memory.data());
  copy.resize({10, 10});
  Matrix owned({3, 3});
  second.swap(owned);
  CHECK(owned.is_borrowed());
  CHECK_FALSE(second.is_borrowed());
  owned = Matrix({1, 1});
  CHECK_FALSE(owned.is_borrowed());
  CHECK(memory == std::vector<float>{1, 2});
}

TEST_CASE("memory may be missing only where there are no elements") {
  CHECK_THROWS_WITH_AS(Matrix::borrow(nullptr, {1, 2}), "borrow: no memory for a tensor of [1, 2]",
                       ssm::ArgumentError);
  CHECK(static_cast<bool>(Matrix::borrow(nullptr, {0, 2})));
  float one = 0;
  Matrix empty = Matrix::borrow(&one, {0, 2});
  empty.resize({0, 5});
  CHECK_THROWS_AS(empty.resize({1, 1}), ssm::ArgumentError);
}

TEST_CASE(
    "a large tensor begins with zeros, aligned, and is reset, resized, cloned and moved as a small "
    "one") {
  const Index count = static_cast<Index>(ssm::HostSpace::least_zeroed / sizeof(float)) + 3;
  DynamicTensor<float, 1> x({count});
  CHECK(reinterpret_cast<std::uintptr_t>(x.data()) % ssm::HostSpace::alignment == 0);
  CHECK(std::all_of(x.data(), x.data() + count, [](float v) { return v == 0; }));
  std::fill_n(x.data(), count, 2.F);
  const float* const before = x.data();
  x.reset({count - 1});
  CHECK(x.data() == before);
  CHECK(std::all_of(x.data(), x.data() + count - 1, [](float v) { return v == 0; }));

  x(5) = 7;
  DynamicTensor<float, 1> moved = std::move(x);
  DynamicTensor<float, 1> copy = moved.clone();
  CHECK(copy(5) == 7);
  moved.reset({2 * count});  // grows from one block of zeros into another
  CHECK(moved(5) == 0);
  moved.extend({2 * count + 1});
  CHECK(moved(2 * count - 1) == 0);
  copy.resize({4});  // a block of its own, then zeros
  copy.reset({count});
  copy.swap(moved);
  CHECK(moved.size() == count);

  std::vector<float> memory(static_cast<std::size_t>(count), 3.F);
  auto borrowed = DynamicTensor<float, 1>::borrow(memory.data(), {count});
  borrowed.reset({count});
  CHECK(memory[7] == 0);
  CHECK_THROWS_AS(borrowed.reset({2 * count}), ssm::ArgumentError);
}
