// SPDX-License-Identifier: Apache-2.0
#include "ssm/io/number.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <string>

namespace ssm::test {
namespace {

using Seed64 = std::uint64_t;

template <class T>
std::string complaint(std::string_view text, T least = std::numeric_limits<T>::min(),
                      T most = std::numeric_limits<T>::max()) {
  return parse_whole_number<T>(text, least, most).complaint;
}

TEST_CASE("whole numbers are read to the ends of their type") {
  CHECK(parse_whole_number<Seed64>("18446744073709551615").value == ~Seed64{0});
  CHECK(parse_whole_number<std::int64_t>("-9223372036854775808").value ==
        std::numeric_limits<std::int64_t>::min());
  CHECK(parse_whole_number<std::int64_t>("9223372036854775807").value ==
        std::numeric_limits<std::int64_t>::max());
  CHECK(parse_whole_number<int>("+12").value == 12);
  CHECK(parse_whole_number<int>("-12").value == -12);
  CHECK(parse_whole_number<int>("0010").value == 10);  // not octal
  CHECK(parse_whole_number<Seed64>("-0").value == 0);
  for (int i = -200; i <= 300; ++i) {
    const bool fits = i >= -128 && i <= 127;
    const auto parsed = parse_whole_number<std::int8_t>(std::to_string(i));
    CHECK(bool{parsed} == fits);
    CHECK(parsed.value == (fits ? i : 0));
  }
}

TEST_CASE("seeds outside their range are not other seeds") {
  CHECK(complaint<Seed64>("-1") == "'-1' is less than 0");
  CHECK(complaint<Seed64>("18446744073709551616") ==
        "'18446744073709551616' is more than 18446744073709551615");
  CHECK(complaint<Seed64>("100000000000000000000000") ==
        "'100000000000000000000000' is more than 18446744073709551615");
  CHECK(complaint<Seed64>("-100000000000000000000000") ==
        "'-100000000000000000000000' is less than 0");
  CHECK(complaint<std::int64_t>("9223372036854775808", 0) ==
        "'9223372036854775808' is more than 9223372036854775807");
  CHECK(complaint<std::int64_t>("-9223372036854775809") ==
        "'-9223372036854775809' is less than -9223372036854775808");
}

TEST_CASE("what is no whole number is said to be none, not out of range") {
  CHECK(complaint<int>("") == "is empty");
  for (const char* wrong : {"1e3", "1.0", "0x10", " 1", "1 ", "--1", "+-1", "+", "-", "one",
                            "1_000", "1,000", "\xd9\xa1"})
    CHECK(complaint<int>(wrong) == "'" + std::string(wrong) + "' is no whole number");
  CHECK(complaint<int>(std::string("1\0", 2)) == "'1?' is no whole number");
}

TEST_CASE("a range that is given is kept, and named") {
  CHECK(complaint<int>("11", 1, 10) == "'11' is more than 10");
  CHECK(complaint<int>("0", 1, 10) == "'0' is less than 1");
  CHECK(complaint<int>("1", 1, 10).empty());
  CHECK(complaint<int>("10", 1, 10).empty());
}

TEST_CASE("numbers are decimal and finite") {
  const auto value = [](std::string_view text) { return parse_number(text).value; };
  CHECK(value("0.25") == 0.25);
  CHECK(value("-2.5e-1") == -0.25);
  CHECK(value("+1E3") == 1000);
  CHECK(value(".5") == 0.5);
  CHECK(value("5.") == 5);
  CHECK(value("1e-999") == 0);
  CHECK(parse_number("").complaint == "is empty");
  for (const char* wrong : {"nan", "inf", "-inf", "infinity", "0x1p3", "1e", "1e+", ".", "-", "1,5",
                            "1 ", "1.2.3", "e3"})
    CHECK(parse_number(wrong).complaint == "'" + std::string(wrong) + "' is no number");
  CHECK(parse_number("1e999").complaint == "'1e999' is too large");
  CHECK(parse_number("-1e999").complaint == "'-1e999' is too large");
  CHECK(parse_number("1.5", 0, 1).complaint == "'1.5' is more than 1");
  CHECK(parse_number("-0.5", 0, 1).complaint == "'-0.5' is less than 0");
}

}  // namespace
}  // namespace ssm::test
