// SPDX-License-Identifier: Apache-2.0
#include "ssm/io/detokenizer.hpp"

#include <doctest/doctest.h>

#include <string>
#include <string_view>
#include <vector>

#include "ssm/io/byte_tokenizer.hpp"

namespace ssm::test {
namespace {

const ByteTokenizer bytes;

/// What each byte brings out, and what the end does.
std::vector<std::string> pushed(std::string_view text) {
  Detokenizer detokenizer(bytes);
  std::vector<std::string> pieces;
  for (const char c : text) pieces.push_back(detokenizer.push(static_cast<unsigned char>(c)));
  pieces.push_back(detokenizer.finish());
  return pieces;
}
std::string whole(std::string_view text) {
  std::string all;
  for (const std::string& piece : pushed(text)) all += piece;
  return all;
}
using Pieces = std::vector<std::string>;

TEST_CASE("ASCII comes out at once") { CHECK(pushed("To\n") == Pieces{"T", "o", "\n", ""}); }

TEST_CASE("a character is held back until it is whole") {
  CHECK(pushed("\xc3\xa9") == Pieces{"", "é", ""});
  CHECK(pushed("\xe2\x82\xac!") == Pieces{"", "", "€", "!", ""});
  CHECK(pushed("\xf0\x9f\x98\x80") == Pieces{"", "", "", "😀", ""});
}

TEST_CASE("a character that stays incomplete is replaced once, at the end or where it breaks off") {
  CHECK(pushed("a\xe2\x82") == Pieces{"a", "", "", "\uFFFD"});
  CHECK(pushed("\xe2\x82x") == Pieces{"", "", "\uFFFDx", ""});
  CHECK(pushed("\xc3\xc3\xa9") == Pieces{"", "\uFFFD", "é", ""});
}

TEST_CASE("bytes that begin no character are replaced one by one") {
  CHECK(whole("\x80\xbf") == "\uFFFD\uFFFD");
  CHECK(whole("\xff!\xfe") == "\uFFFD!\uFFFD");
  CHECK(whole("\xc0\x80") == "\uFFFD\uFFFD");
}

TEST_CASE("overlong forms, surrogates and numbers beyond Unicode are no characters") {
  CHECK(whole("\xe0\x80\x80") == "\uFFFD\uFFFD\uFFFD");
  CHECK(whole("\xed\xa0\x80") == "\uFFFD\uFFFD\uFFFD");
  CHECK(whole("\xf4\x90\x80\x80") == "\uFFFD\uFFFD\uFFFD\uFFFD");
  CHECK(whole("\xf0\x80\x80\x80") == "\uFFFD\uFFFD\uFFFD\uFFFD");
  CHECK(whole("\xee\x80\x80") == "\xee\x80\x80");
  CHECK(whole("\xf4\x8f\xbf\xbf") == "\xf4\x8f\xbf\xbf");
}

TEST_CASE("the example of the Unicode Standard comes out as printed there") {
  // Table 3-11 of version 15: U+FFFD substitution of maximal subparts
  CHECK(whole("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41") == "\uFFFD\uFFFD\uFFFD\uFFFD\x41");
}

/// Tokens of two bytes: the end of one character and the beginning of another.
struct Pairs {
  std::string bytes(Token token) const { return token == 0 ? "a\xc3" : "\xa9\xc3"; }
};

TEST_CASE("a token of several bytes may end one character and begin another") {
  Detokenizer detokenizer(Pairs{});
  CHECK(detokenizer.push(0) == "a");
  CHECK(detokenizer.push(1) == "é");
  CHECK(detokenizer.push(1) == "é");
  CHECK(detokenizer.finish() == "\uFFFD");
}

}  // namespace
}  // namespace ssm::test
