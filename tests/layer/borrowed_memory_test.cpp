// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "ssm/core/fill_random.hpp"
#include "ssm/laws/allocation_count.hpp"
#include "ssm/layer/h3.hpp"
#include "support/backends.hpp"

namespace {

using ssm::DynamicTensor;
using ssm::Index;

/// Memory of which one piece after another is given away, at addresses that are aligned to no more
/// than an element.
template <class T>
class Pieces {
 public:
  explicit Pieces(std::size_t count) : memory_(count, T{-7}) {}

  T* take(Index count) {
    T* piece = memory_.data() + next_;
    next_ += static_cast<std::size_t>(count) + 1;
    REQUIRE(next_ <= memory_.size());
    return piece;
  }
  /// Moves a tensor into the memory, with its elements.
  template <class Tensor>
  void house(Tensor& tensor) {
    if (!tensor) return;
    T* piece = take(tensor.size());
    std::copy_n(tensor.data(), tensor.size(), piece);
    tensor = std::remove_reference_t<decltype(tensor)>::borrow(piece, tensor.extents());
  }
  bool holds(const T* data) const {
    return data >= memory_.data() && data < memory_.data() + memory_.size();
  }

 private:
  std::vector<T> memory_;
  std::size_t next_ = 1;
};

using H3 = ssm::H3<ssm::H3Config{.channels = 6, .state = 4, .head_dim = 2}>;

/// Everything that one call of forward, backward and prefill leaves behind.
template <class B, class T>
struct Run {
  const H3 layer{};
  ssm::Context<B> ctx{};
  H3::Parameters<T> p = layer.template initialize<T>(ctx, ssm::Seed{1});
  H3::Parameters<T> gradients = layer.template zero_parameters<T>(ctx);
  H3::Tape<T> tape = layer.make_tape(p);
  H3::State<T> state = layer.template initial_state<T>(ctx, 2);
  DynamicTensor<T, 3> x{{2, 37, 6}}, y{{2, 37, 6}}, dy{{2, 37, 6}}, dx{{2, 37, 6}}, z{{2, 37, 6}};

  Run() {
    ssm::fill_normal(x, ssm::Seed{2});
    ssm::fill_normal(dy, ssm::Seed{3});
  }
  void call() {
    layer.forward(ctx, p, x, y, tape);
    layer.backward(ctx, p, tape, dy, dx, gradients);
    layer.prefill(ctx, p, x, z, state);
  }
  template <class Visit>
  void for_each_tensor(Visit&& visit) {
    H3::for_each_parameter([&](const ssm::ParameterSpec&, auto& tensor) { visit(tensor); }, p);
    H3::for_each_parameter([&](const ssm::ParameterSpec&, auto& tensor) { visit(tensor); },
                           gradients);
    H3::for_each_state([&](const std::string&, auto& tensor) { visit(tensor); }, state);
    for (auto* tensor : {&tape.q, &tape.k, &tape.v, &tape.mixed, &x, &y, &dy, &dx, &z})
      visit(*tensor);
    visit(tape.dt);
    visit(tape.A);
  }
  std::vector<T> elements() {
    std::vector<T> all;
    for_each_tensor([&](const auto& tensor) {
      all.insert(all.end(), tensor.data(), tensor.data() + tensor.size());
    });
    return all;
  }
};

TEST_CASE("a layer runs wholly in memory that a std::vector owns, bit for bit as in its own") {
  ssm::laws::for_each_backend_and_scalar([]<class B, class T>(const char* name) {
    CAPTURE(std::string(name));
    Run<B, T> owned;
    owned.call();

    Pieces<T> pieces(20'000);
    std::vector<std::byte> scratch(owned.ctx.workspace().peak() + 63);
    Run<B, T> borrowed;
    borrowed.ctx.workspace().borrow(scratch);
    for (auto* kept : {&borrowed.tape.q, &borrowed.tape.k, &borrowed.tape.v, &borrowed.tape.mixed})
      kept->resize(borrowed.x.extents());
    borrowed.tape.dt.resize(owned.tape.dt.extents());
    borrowed.tape.A.resize(owned.tape.A.extents());
    borrowed.for_each_tensor([&](auto& tensor) { pieces.house(tensor); });
    const std::size_t before = ssm::laws::allocation_count();
    borrowed.call();
    if (std::is_same_v<B, ssm::Reference>) CHECK(ssm::laws::allocation_count() == before);
    borrowed.for_each_tensor([&](const auto& tensor) {
      CHECK(tensor.is_borrowed());
      CHECK(pieces.holds(tensor.data()));
    });
    CHECK(borrowed.elements() == owned.elements());
  });
}

TEST_CASE("a tape in borrowed memory that is too small says so and nothing is written behind it") {
  ssm::Context<ssm::Reference> ctx;
  const H3 layer;
  const auto p = layer.initialize<double>(ctx, ssm::Seed{1});
  auto tape = layer.make_tape(p);
  std::vector<double> memory(10 * 6 + 1, 5);
  tape.q = DynamicTensor<double, 3>::borrow(memory.data(), {1, 10, 6});
  DynamicTensor<double, 3> x({1, 11, 6});
  DynamicTensor<double, 3> y({1, 11, 6});
  CHECK_THROWS_WITH_AS(layer.forward(ctx, p, x, y, tape),
                       "tensor: borrowed memory of 60 elements cannot grow to [1, 11, 6]",
                       ssm::ArgumentError);
  CHECK(memory.back() == 5);
}

}  // namespace
