// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/copy_state_row.hpp"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "support/session.hpp"

namespace ssm::test {
namespace {

std::vector<float> row_of(const std::vector<float>& logits, Index row) {
  constexpr Index vocabulary = 7;
  return {logits.begin() + row * vocabulary, logits.begin() + (row + 1) * vocabulary};
}

TEST_CASE("a sequence that joins a batch goes on as alone, and the others as before") {
  for_each_session_layer([](const auto& layer, const char* name) {
    CAPTURE(name);
    Session alone(layer, 1), batch(layer, 3), before(layer, 3);
    alone.read(6, 4);
    batch.read(6, 1);
    before.read(6, 1);
    copy_state_row(batch.context(), layer, alone.state(), 0, batch.state(), 2);
    for (const Token token : {2, 5}) {
      const auto joined = batch.step(token), others = before.step(token);
      CHECK(row_of(joined, 2) == row_of(alone.step((token + 2) % 7), 0));
      for (const Index row : {0, 1}) CHECK(row_of(joined, row) == row_of(others, row));
    }
  });
}

TEST_CASE("a sequence that is shorter or longer than the batch joins it") {
  for_each_session_layer([](const auto& layer, const char* name) {
    CAPTURE(name);
    for (const Index length : {1, 3, 9}) {
      Session alone(layer, 1), batch(layer, 3), before(layer, 3);
      if (length > 1) alone.read(length, 4);
      batch.read(6, 1);
      before.read(6, 1);
      copy_state_row(batch.context(), layer, alone.state(), 0, batch.state(), 1);
      for (const Token token : {2, 5}) {
        const auto joined = batch.step(token), others = before.step(token);
        CHECK(row_of(joined, 1) == row_of(alone.step((token + 1) % 7), 0));
        for (const Index row : {0, 2}) CHECK(row_of(joined, row) == row_of(others, row));
      }
      Session left(layer, 1);
      copy_state_row(left.context(), layer, batch.state(), 1, left.state(), 0);
      CHECK(left.step(3) == alone.step(3));
    }
  });
}

TEST_CASE("a sequence leaves a batch for a state of its own") {
  for_each_session_layer([](const auto& layer, const char* name) {
    CAPTURE(name);
    Session batch(layer, 3), alone(layer, 1);
    batch.read(6, 1);
    copy_state_row(alone.context(), layer, batch.state(), 1, alone.state(), 0);
    CHECK(row_of(batch.step(3), 1) == row_of(alone.step(4), 0));
  });
}

TEST_CASE("a row of a state is copied to another row of it") {
  for_each_session_layer([](const auto& layer, const char* name) {
    CAPTURE(name);
    Session batch(layer, 2), same(layer, 2);
    batch.read(6, 1);
    same.read(6, 1);
    copy_state_row(batch.context(), layer, batch.state(), 1, batch.state(), 1);
    CHECK(batch.step(0) == same.step(0));
    copy_state_row(batch.context(), layer, batch.state(), 0, batch.state(), 1);
    const auto logits = batch.step(0);  // tokens 0 and 1
    copy_state_row(same.context(), layer, same.state(), 0, same.state(), 1);
    CHECK(logits == same.step(0));
    CHECK(row_of(logits, 0) != row_of(logits, 1));
  });
}

TEST_CASE("rows that are not there are refused and nothing changes") {
  for_each_session_layer([](const auto& layer, const char* name) {
    CAPTURE(name);
    Session from(layer, 2), to(layer, 3), untouched(layer, 3);
    for (auto* session : {&to, &untouched}) session->read(6, 1);
    from.read(6, 2);
    const auto copy = [&](Index row, Index to_row) {
      copy_state_row(to.context(), layer, from.state(), row, to.state(), to_row);
    };
    CHECK_THROWS_AS(copy(2, 0), ShapeError);
    CHECK_THROWS_AS(copy(-1, 0), ShapeError);
    CHECK_THROWS_AS(copy(0, 3), ShapeError);
    CHECK_THROWS_AS(copy(0, -1), ShapeError);
    CHECK(to.step(1) == untouched.step(1));
  });
}

TEST_CASE("a state of another layer is refused") {
  H3LanguageModelConfig config{
      .d_model = 8, .n_layer = 2, .d_inner = 8, .vocab_size = 7, .d_state = 4};
  Session narrow(make_language_model(config), 1);
  config.d_state = 6;
  Session wide(make_language_model(config), 1);
  CHECK_THROWS_AS(copy_state_row(wide.context(), wide.layer(), narrow.state(), 0, wide.state(), 0),
                  ShapeError);
}

}  // namespace
}  // namespace ssm::test
