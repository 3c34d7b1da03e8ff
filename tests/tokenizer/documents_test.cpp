// SPDX-License-Identifier: Apache-2.0
#include "ssm/io/documents.hpp"

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ssm/core/random.hpp"
#include "ssm/io/end_of_text.hpp"
#include "ssm/tokenizer/open.hpp"

namespace ssm::test {
namespace {

const std::filesystem::path data = std::filesystem::path(SSM_TEST_DATA) / "tokenizers";

/// A text in memory, as a file.
FileReader file_of(const std::string& text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {"text", std::vector<std::byte>(bytes.begin(), bytes.end())};
}

struct Encoded {
  std::vector<std::vector<Token>> documents;
  std::size_t pieces = 0;
};
Encoded encoded(const Tokenizer& tokenizer, const DocumentForm& form, const std::string& text,
                std::size_t piece = 1 << 20, std::size_t largest = 1 << 20) {
  DocumentTokens reader(tokenizer, form, piece, largest);
  Encoded result;
  std::vector<Token> document;
  reader.on_tokens = [&](std::span<const Token> tokens) {
    document.insert(document.end(), tokens.begin(), tokens.end());
    ++result.pieces;
  };
  reader.on_end = [&] { result.documents.push_back(std::exchange(document, {})); };
  CHECK(reader.read(file_of(text)));
  CHECK(document.empty());
  return result;
}
std::vector<std::vector<Token>> each(const Tokenizer& tokenizer,
                                     const std::vector<std::string>& texts) {
  std::vector<std::vector<Token>> tokens;
  for (const std::string& text : texts) tokens.push_back(tokenizer.encode(text));
  return tokens;
}

/// Lines, spaces and characters of every kind, some of them where a cut would change the tokens.
std::string difficult_text() {
  const std::vector<std::string> parts{
      "The king\n", "of men", "\n\n\n",        "  shall\n",      "\n speak",
      "!\n",        "/usr\n", "na\u00efve\n",  "\u4f60\u597d\n", "\u3000\n",
      "\u4e16\n",   "1984\n", "<|end|>\n",     "\r\n",           "a\n",
      "\xff\n",     "'s\n",   "<|endoftext|>", "\t\n",           "be still. "};
  std::string text;
  for (std::uint64_t i = 0; i < 4000; ++i) text += parts[Random(Seed{5}).below(i, parts.size())];
  return text;
}

TEST_CASE("a text that is cut into pieces has the tokens of the whole, with every tokenizer") {
  const std::string text = difficult_text();
  std::vector<Tokenizer> tokenizers{Tokenizer()};
  for (const char* name : {"byte_level", "split", "fallback", "metaspace", "gpt2"})
    tokenizers.push_back(open_tokenizer(data / name));
  for (std::size_t i = 0; i < tokenizers.size(); ++i)
    for (const std::size_t piece : {1UL, 100UL, 4096UL}) {
      CAPTURE(i);
      CAPTURE(piece);
      const Encoded result = encoded(tokenizers[i], {}, text, piece);
      REQUIRE(result.documents.size() == 1);
      CHECK(result.documents[0] == tokenizers[i].encode(text));
      if (tokenizers[i].leading_spaces() == 0) CHECK(result.pieces > 3);
    }
}

TEST_CASE("lines are documents, and empty ones are none") {
  const Tokenizer tokenizer = open_tokenizer(data / "gpt2");
  const std::string text = "To be\n\r\nor not\r\n\n  to be\n\nthat";
  for (const std::size_t piece : {1UL, 3UL, 1000UL})
    CHECK(encoded(tokenizer, {.lines = true}, text, piece).documents ==
          each(tokenizer, {"To be", "or not", "  to be", "that"}));
  CHECK(encoded(tokenizer, {.lines = true}, "\n\n").documents.empty());
}

TEST_CASE("what is between two separators is a document, wherever the file is read in parts") {
  const Tokenizer tokenizer;
  const std::string text = "==a=\nb====\nc\nd\n==\n==e=";
  for (std::size_t piece = 1; piece < 30; ++piece)
    CHECK(encoded(tokenizer, {.separator = "=="}, text, piece).documents ==
          each(tokenizer, {"a=\nb", "\nc\nd\n", "\n", "e="}));
}

TEST_CASE("a field of JSON lines is a document, and what is no such line is named") {
  const Tokenizer tokenizer;
  const std::string text = R"({"text": "a\nb", "id": 3})"
                           "\n\n"
                           R"({"id": 4, "text": "\u00ef"})"
                           "\n"
                           R"({"text": ""})";
  for (const std::size_t piece : {1UL, 7UL, 1000UL})
    CHECK(encoded(tokenizer, {.field = "text"}, text, piece).documents ==
          each(tokenizer, {"a\nb", "\xc3\xaf"}));
  for (const char* line : {"{\"text\": 3}", "{\"other\": \"a\"}", "[\"text\"]", "\"text\"", "{"}) {
    DocumentTokens reader(tokenizer, {.field = "text"});
    std::string message;
    try {
      reader.read(file_of(text + "\n" + line));
    } catch (const CheckpointError& error) {
      message = error.what();
    }
    CHECK(message.starts_with("text, line 5: "));
  }
}

TEST_CASE("a document that cannot be cut is encoded as a whole, up to a size") {
  const Tokenizer tokenizer = open_tokenizer(data / "metaspace");  // a space in front of each text
  REQUIRE(tokenizer.leading_spaces() > 0);
  std::string text;
  for (int i = 0; i < 400; ++i) text += "to be\n";
  const Encoded result = encoded(tokenizer, {}, text, 10, text.size());
  CHECK(result.pieces == 1);
  CHECK(result.documents == each(tokenizer, {text}));
  for (const DocumentForm& form : {DocumentForm{}, DocumentForm{.lines = true}}) {
    DocumentTokens reader(tokenizer, form, 10, 1000);
    CHECK_THROWS_AS(reader.read(file_of(std::string(2000, 'a'))), CheckpointError);
  }
}

TEST_CASE("reading stops where it is told to") {
  DocumentTokens reader(Tokenizer(), {}, 10);
  std::vector<std::uint64_t> places;
  reader.on_progress = [&](std::uint64_t read) {
    places.push_back(read);
    return read < 20;
  };
  CHECK(!reader.read(file_of(std::string(45, 'a'))));
  CHECK(places == std::vector<std::uint64_t>{10, 20});
}

TEST_CASE("documents are of one form") {
  CHECK_THROWS_AS(DocumentTokens(Tokenizer(), {.lines = true, .separator = "x"}), ArgumentError);
  CHECK_THROWS_AS(DocumentTokens(Tokenizer(), {.field = "text", .separator = "x"}), ArgumentError);
}

TEST_CASE("the token for the end of a text is a special one that is written so") {
  const Tokenizer gpt2 = open_tokenizer(data / "gpt2");
  const auto end = end_of_text(gpt2);
  REQUIRE(end.has_value());
  CHECK(gpt2.bytes(*end) == "<|endoftext|>");
  CHECK(special_token(gpt2, "<|endoftext|>") == end);
  CHECK(!special_token(gpt2, "a").has_value());
  CHECK(!special_token(gpt2, "<|endoftext|><|endoftext|>").has_value());
  CHECK(!end_of_text(Tokenizer()).has_value());
}

}  // namespace
}  // namespace ssm::test
