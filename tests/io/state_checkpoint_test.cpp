// SPDX-License-Identifier: Apache-2.0
#include "ssm/io/state_checkpoint.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "support/session.hpp"
#include "support/temporary_folder.hpp"

namespace ssm::test {
namespace {

template <class S>
void save(const std::filesystem::path& path, const S& session, std::string_view prefix = "") {
  SafetensorsWriter writer(path);
  save_state<typename S::Layer>(writer, session.state(), prefix);
  writer.finish();
}
template <class S>
void load(const std::filesystem::path& path, S& session, std::string_view prefix = "") {
  load_state<typename S::Layer>(SafetensorsFile(path), session.state(), prefix);
}

TEST_CASE("a model goes on from a loaded state as if it had never stopped, bit for bit") {
  for_each_session_layer([](const auto& layer, const char* name) {
    CAPTURE(name);
    const TemporaryFolder folder;
    Session stopped(layer, 2), resumed(layer, 2);
    stopped.read(7, 1);
    save(folder / "state", stopped, "state.");
    load(folder / "state", resumed, "state.");
    CHECK(stopped.read(5, 2) == resumed.read(5, 2));
    for (const Token token : {3, 0, 6}) CHECK(stopped.step(token) == resumed.step(token));
    Session fresh(layer, 2);
    CHECK(fresh.step(6) != stopped.step(6));
  });
}

TEST_CASE("the state of a model that has read nothing is loaded") {
  for_each_session_layer([](const auto& layer, const char* name) {
    CAPTURE(name);
    const TemporaryFolder folder;
    Session stopped(layer, 3), resumed(layer, 3);
    save(folder / "state", stopped);
    load(folder / "state", resumed);
    CHECK(stopped.read(5, 2) == resumed.read(5, 2));
  });
}

TEST_CASE("a state of another batch, or with a tensor missing, is refused") {
  for_each_session_layer([](const auto& layer, const char* name) {
    CAPTURE(name);
    const TemporaryFolder folder;
    Session saved(layer, 2), other(layer, 3), same(layer, 2);
    saved.read(4, 1);
    save(folder / "state", saved);
    CHECK_THROWS_AS(load(folder / "state", other), CheckpointError);
    CHECK_THROWS_AS(load(folder / "state", same, "absent."), CheckpointError);
  });
}

/// The tensors of a state of the hybrid after five tokens, one of them changed, written as a file.
class DamagedState {
 public:
  using Tensors = std::vector<std::pair<std::string, std::vector<Index>>>;

  template <class L>
  explicit DamagedState(const L& layer) : folder_(), path_((folder_ / "state").string()) {
    Session session(layer, 2);
    session.read(5, 1);
    save(path_, session);
  }
  const std::string& path() const { return path_; }

  /// Every tensor of the file, but this one of another shape and filled with `value`.
  template <class T>
  void replace(const std::string& name, const std::vector<Index>& shape, T value) {
    const SafetensorsFile file(path_);
    const std::string changed = path_ + ".changed";
    SafetensorsWriter writer(changed);
    for (const std::string& other : file.names()) {
      const bool is_changed = other == name;
      const auto& extents = is_changed ? shape : file.shape(other);
      if (file.dtype(other) == "I64")
        add<std::int64_t>(writer, file, other, extents, is_changed,
                          static_cast<std::int64_t>(value));
      else
        add<float>(writer, file, other, extents, is_changed, static_cast<float>(value));
    }
    writer.finish();
    std::filesystem::rename(changed, path_);
  }

 private:
  template <class T>
  static void add(SafetensorsWriter& writer, const SafetensorsFile& file, const std::string& name,
                  const std::vector<Index>& extents, bool is_changed, T value) {
    const auto of_rank = [&]<std::size_t... axis>(std::index_sequence<axis...>) {
      DynamicTensor<T, int{sizeof...(axis)}> tensor({extents[axis]...});
      if (is_changed)
        std::fill_n(tensor.data(), tensor.size(), value);
      else
        file.read(name, tensor);
      writer.add(name, std::move(tensor));
    };
    if (extents.size() == 1) of_rank(std::make_index_sequence<1>());
    if (extents.size() == 3) of_rank(std::make_index_sequence<3>());
    if (extents.size() == 4) of_rank(std::make_index_sequence<4>());
  }

  TemporaryFolder folder_;
  std::string path_;
};

TEST_CASE("a damaged state file is refused and leaves the state as it was") {
  for_each_session_layer([](const auto& layer, const std::string& name) {
    const bool is_hybrid = name == "hybrid", is_retnet = name == "retnet";
    if (!is_hybrid && !is_retnet) return;
    CAPTURE(name);
    Session session(layer, 2), untouched(layer, 2);
    const auto is_refused = [&](const char* tensor, std::vector<Index> shape, double value) {
      DamagedState damaged(layer);
      damaged.replace(tensor, shape, value);
      CHECK_THROWS_AS(load(damaged.path(), session), CheckpointError);
    };
    if (is_hybrid) {
      is_refused("layers.0.v", {4, 2, 2, 4}, 1);  // shorter than k
      for (const std::vector<Index>& shape :
           {std::vector<Index>{5, 3, 2, 4}, {5, 2, 1, 4}, {5, 2, 2, 5}, {5, 2, 8}, {5}})
        is_refused("layers.2.k", shape, 1);
    }
    if (is_hybrid) {
      is_refused("position", {2}, 6);  // the caches hold 5
      is_refused("layers.2.position", {2}, 6);
      is_refused("layers.2.position", {2}, -1);
    }
    if (is_retnet) {
      is_refused("layers.1.position", {2}, -1);
      is_refused("layers.1.position", {2}, 9e18);
      is_refused("layers.1.position", {1}, 5);
    }
    CHECK(session.read(5, 2) == untouched.read(5, 2));
  });
}

TEST_CASE("a cache that has rows already takes as many and no others") {
  for_each_session_layer([](const auto& layer, const std::string& name) {
    if (name != "hybrid") return;
    const TemporaryFolder folder;
    Session saved(layer, 2), used(layer, 2);
    saved.read(4, 1);
    save(folder / "state", saved);
    used.read(4, 3);
    load(folder / "state", used);
    CHECK(used.step(1) == saved.step(1));
    CHECK_THROWS_AS(load(folder / "state", used), CheckpointError);
  });
}

}  // namespace
}  // namespace ssm::test
