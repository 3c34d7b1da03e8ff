// SPDX-License-Identifier: Apache-2.0
#include "ssm/io/json_file.hpp"

#include <doctest/doctest.h>

#include <string>

namespace ssm::test {
namespace {

std::string complaint(const std::string& text) {
  try {
    parse_json(text, "file.json");
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("an object is read field by field") {
  const JsonObject json = parse_json(
      R"({"n": 3, "x": 0.5, "b": true, "t": "text", "o": {"n": 4}, "nothing": null})", "file.json");
  CHECK(json.integer("n", 1) == 3);
  CHECK(json.integer_or("absent", 7, 1) == 7);
  CHECK(json.number("x", 1, 0, 1) == 0.5);
  CHECK(json.boolean("b", false));
  CHECK(json.text("t", "") == "text");
  CHECK(json.object("o").integer("n", 1) == 4);
  CHECK(!json.has("nothing"));
  CHECK(json.number("nothing", 2, 0, 1) == 2);
}

TEST_CASE("a field that occurs twice is refused wherever it is") {
  CHECK(complaint(R"({"a": 1, "a": 1})") == "file.json: 'a' occurs twice");
  CHECK(complaint(R"({"b": [{"a": 1}, {"c": 1, "a": 2, "c": 3}]})") ==
        "file.json: 'c' occurs twice");
  CHECK(complaint(R"({"\u0061": 1, "a": 1})") == "file.json: 'a' occurs twice");
}

TEST_CASE("the same name in different objects is not twice") {
  CHECK(complaint(R"({"a": {"a": {"a": 1}}, "b": [{"a": 1}, {"a": 1}]})").empty());
}

TEST_CASE("text that is not one object is refused, with the place") {
  CHECK(complaint("") == "file.json: is not JSON at byte 1");
  CHECK(complaint("[]") == "file.json: must be a JSON object");
  CHECK(complaint("{}{}") == "file.json: is not JSON at byte 3");
  CHECK(complaint("{\"a\": 1e999}") == "file.json: is not JSON that can be represented");
  CHECK(complaint(std::string("{}\0{", 4)) == "file.json: has a zero byte");
}

TEST_CASE("nesting is bounded") {
  const auto nested = [](int depth) {
    std::string text = "{\"a\":";
    for (int i = 0; i < depth; ++i) text += "[";
    for (int i = 0; i < depth; ++i) text += "]";
    return text + "}";
  };
  CHECK(complaint(nested(30)).empty());
  CHECK(complaint(nested(40)) == "file.json: is nested too deeply");
  CHECK(complaint("{\"a\":" + std::string(1'000'000, '[')) == "file.json: is nested too deeply");
}

}  // namespace
}  // namespace ssm::test
