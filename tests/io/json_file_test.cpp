// SPDX-License-Identifier: Apache-2.0
#include "ssm/io/json_file.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

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

TEST_CASE("a whole number may be written as a fraction, another fraction is refused by name") {
  const JsonObject json = parse_json(
      R"({"width": 24.0, "large": 1e3, "half": 24.5, "huge": 1e300, "text": "24", "wide": 18446744073709551615})",
      "config.json");
  CHECK(json.integer("width", 1) == 24);
  CHECK(json.integer("large", 1) == 1000);
  CHECK_THROWS_WITH_AS(json.integer("half", 1, 100),
                       "config.json: 'half' must be an integer from 1 to 100", CheckpointError);
  for (const char* field : {"huge", "text", "wide"})
    CHECK_THROWS_AS(json.integer(field, -10, std::numeric_limits<std::int64_t>::max()),
                    CheckpointError);
}

TEST_CASE("a list of integers is read as a whole or refused by name") {
  const JsonObject json =
      parse_json(R"({"a": [1, 2.0], "b": [1, 9], "c": [1, 0.5], "d": 1, "e": [[1]]})", "file.json");
  CHECK(json.integers("a", 0, 5) == std::vector<std::int64_t>{1, 2});
  CHECK(json.integers("absent", 0).empty());
  for (const char* field : {"b", "c", "d", "e"})
    CHECK_THROWS_WITH_AS(
        json.integers(field, 0, 5),
        ("file.json: '" + std::string(field) + "' must be a list of integers from 0 to 5").c_str(),
        CheckpointError);
}

TEST_CASE("NaN and Infinity, which Python writes, are numbers") {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const JsonObject json = parse_json(
      R"({"time_step_limit": [0.0, Infinity], "low": -Infinity,"n":NaN,"zero":0e0, "minus": -0e000000, "long": 0e000000, "text": "NaN \" Infinity"})",
      "config.json");
  CHECK(json.json().at("time_step_limit")[0] == 0.0);
  CHECK(json.json().at("time_step_limit")[1] == infinity);
  CHECK(json.number("low", 0, -infinity, 0) == -infinity);
  CHECK(std::isnan(json.json().at("n").get<double>()));
  CHECK(json.number("zero", 1, 0, 0) == 0);
  CHECK(json.number("minus", 1, 0, 0) == 0);
  CHECK(json.number("long", 1, 0, 0) == 0);
  CHECK(json.text("text", "") == "NaN \" Infinity");
  CHECK_THROWS_WITH_AS(json.number("n", 0, 0, infinity),
                       "config.json: 'n' must be a number from 0.0 to infinity", CheckpointError);
  CHECK_THROWS_WITH_AS(json.number("low", 0, 0, 1),
                       "config.json: 'low' must be a number from 0.0 to 1.0", CheckpointError);
  CHECK_THROWS_AS(json.integer("low", -5), CheckpointError);
  CHECK_THROWS_AS(json.integer("n", -5), CheckpointError);
}

TEST_CASE("other words for numbers that are not finite are not JSON") {
  for (const char* wrong :
       {"-NaN", "nan", "inf", "+Infinity", "Infinity5", "NaN5", "1NaN", "1.NaN", "1e-Infinity",
        "--Infinity", "-Infinity-", "Inf", "\"", "Infinity Infinity"})
    CHECK(
        complaint(std::string("{\"a\": ") + wrong + "}").starts_with("file.json: is not JSON at"));
  CHECK(complaint("{NaN: 1}") == "file.json: is not JSON at byte 4");
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
