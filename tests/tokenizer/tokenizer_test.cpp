// SPDX-License-Identifier: Apache-2.0
#include "ssm/io/tokenizer.hpp"

#include <doctest/doctest.h>

#include <string>
#include <string_view>
#include <vector>

#include "ssm/tokenizer/open.hpp"
#include "ssm/tokenizer/train_bpe.hpp"
#include "temporary_folder.hpp"

namespace ssm::test {
namespace {

const std::filesystem::path data = std::filesystem::path(SSM_TEST_DATA) / "tokenizers";

nlohmann::json expected() {
  return parse_json_value(read_text_file(data / "expected.json", 1 << 20), "expected.json");
}
std::string refusal(const std::string& json) {
  try {
    parse_tokenizer(json, "file");
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "";
}
/// A tokenizer of the bytes "a" and "b" with one merge, where a part may be put in another's place.
std::string small_json(const std::string& from = "", const std::string& to = "") {
  std::string json = R"({"added_tokens": [{"id": 3, "content": "<|x|>", "special": true}],)"
                     R"("normalizer": null, "pre_tokenizer": {"type": "ByteLevel"},)"
                     R"("decoder": {"type": "ByteLevel"},)"
                     R"("model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2},)"
                     R"("merges": ["a b"]}})";
  if (!from.empty()) json.replace(json.find(from), from.size(), to);
  return json;
}
/// A tokenizer of GPT-2's kind whose tokens are all that a run of one letter may merge to.
Tokenizer doubling() {
  return parse_gpt2_tokenizer(R"({"a": 0, "b": 1, "aa": 2, "aaaa": 3, "aaaaaaaa": 4, "ab": 5})",
                              "#version: 0.2\na a\naa aa\naaaa aaaa\na b\n", "vocab.json",
                              "merges.txt");
}

TEST_CASE("tokens and their text are those of the library tokenizers") {
  const nlohmann::json all = expected();
  for (auto entry = all.begin(); entry != all.end(); ++entry) {
    const std::string& name = entry.key();
    const nlohmann::json& rows = entry.value();
    CAPTURE(name);
    const Tokenizer tokenizer = open_tokenizer(data / name);
    CHECK(tokenizer.files().size() == (name == "gpt2" ? 2 : 1));
    for (const nlohmann::json& row : rows) {
      const auto text = row[0].get<std::string>();
      CAPTURE(text);
      const auto tokens = tokenizer.encode(text);
      CHECK(tokens == row[1].get<std::vector<Token>>());
      CHECK(tokenizer.encode(text) == tokens);  // from memory
      CHECK(Tokenizer(tokenizer).encode(text) == tokens);
      CHECK(tokenizer.decode(tokens) == row[2].get<std::string>());
    }
  }
}

TEST_CASE("bytes that are not UTF-8 count as the replacement character") {
  const Tokenizer tokenizer = open_tokenizer(data / "byte_level");
  CHECK(tokenizer.encode("a\xff\xe2\x82z\xed\xa0\x80") ==
        tokenizer.encode("a\uFFFD\uFFFDz\uFFFD\uFFFD\uFFFD"));
  CHECK(Tokenizer().encode("a\xff") == std::vector<Token>{97, 255});
}

TEST_CASE("a streamed text is never cut inside a character") {
  for (const char* name : {"byte_level", "fallback"}) {
    CAPTURE(name);
    const Tokenizer tokenizer = open_tokenizer(data / name);
    const std::string text = "To be \U0001f600 \u6570\u732b!";
    Detokenizer<Tokenizer> stream(tokenizer);
    std::string all;
    for (const Token token : tokenizer.encode(text)) {
      const std::string piece = stream.push(token);
      CHECK(detail::valid_utf8_prefix(piece) == piece.size());
      all += piece;
    }
    CHECK(all == text);
    CHECK(stream.finish().empty());
  }
}

TEST_CASE("the space in front of a text is left out, the one of a continuation is not") {
  const Tokenizer tokenizer = open_tokenizer(data / "fallback");
  const auto tokens = tokenizer.encode("the model");
  CHECK(tokenizer.leading_spaces() == 1);
  CHECK(tokenizer.decode(tokens) == "the model");
  Detokenizer<Tokenizer> text(tokenizer, TextPlace::continuation);
  std::string all;
  for (const Token token : tokens) all += text.push(token);
  CHECK(all == " the model");
  CHECK(tokenizer.decode(tokenizer.encode("  two")) == "  two");
}

TEST_CASE("special tokens are told from others") {
  const Tokenizer tokenizer = open_tokenizer(data / "byte_level");
  const auto tokens = tokenizer.encode("a<|end|>");
  REQUIRE(tokens.size() == 2);
  CHECK_FALSE(tokenizer.is_special(tokens[0]));
  CHECK(tokenizer.is_special(tokens[1]));
  CHECK(tokenizer.bytes(tokens[1]) == "<|end|>");
  CHECK_THROWS_AS(tokenizer.bytes(-1), ArgumentError);
  CHECK_THROWS_AS(tokenizer.bytes(static_cast<Token>(tokenizer.vocabulary())), ArgumentError);
}

TEST_CASE("a long run of one letter is merged as a short one, from its beginning") {
  const Tokenizer tokenizer = doubling();
  for (const std::size_t length : {1U, 7U, 31U, 32U, 33U, 64U, 1000U, 200003U}) {
    std::vector<Token> tokens(length / 8, 4);
    if ((length & 4) != 0) tokens.push_back(3);
    if ((length & 2) != 0) tokens.push_back(2);
    if ((length & 1) != 0) tokens.push_back(0);
    CHECK(tokenizer.encode(std::string(length, 'a')) == tokens);
  }
}

TEST_CASE("more words than are remembered are encoded alike") {
  const Tokenizer tokenizer = doubling();
  const auto word = [](int number) {
    std::string text;
    for (int bit = 0; bit < 17; ++bit) text += (number >> bit & 1) != 0 ? 'b' : 'a';
    return text;
  };
  for (int number = 0; number < 70000; ++number) tokenizer.encode(word(number));
  for (int number = 0; number < 70000; number += 997)
    CHECK(tokenizer.encode(word(number)) == doubling().encode(word(number)));
}

TEST_CASE("training merges what occurs most often, of equals the smaller numbers first") {
  BpeTrainer trainer({.vocabulary = 261, .special = {"<|x|>"}});
  trainer.add("abab abab cd cd cd\xff");
  const nlohmann::json json = parse_json_value(trainer.train(), "trained");
  // ab occurs four times; then cd, before " cd", and abab twice.
  CHECK(json["model"]["merges"] == nlohmann::json{"a b", "c d", "\u0120 cd", "ab ab"});
  CHECK(json["model"]["vocab"].size() == 261);
  const Tokenizer tokenizer = parse_tokenizer(json.dump(), "trained");
  CHECK(tokenizer.encode("abab<|x|> cd") == std::vector<Token>{260, 0, 259});
  CHECK(tokenizer.decode(tokenizer.encode("abab<|x|> cd")) == "abab<|x|> cd");
}

TEST_CASE("training in parts that may be cut is training on the whole") {
  std::string text;
  for (int i = 0; i < 400; ++i) text += (i % 7 == 0 ? "\n\n  it's " : "word\n") + std::to_string(i);
  BpeTrainer whole({.vocabulary = 400}), parts({.vocabulary = 400});
  whole.add(text);
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size(); ++at)
    if (BpeTrainer::may_cut_behind(text, at)) {
      parts.add(std::string_view(text).substr(begin, at + 1 - begin));
      begin = at + 1;
    }
  REQUIRE(begin > 0);
  parts.add(std::string_view(text).substr(begin));
  CHECK(parts.train() == whole.train());
  CHECK_THROWS_AS(BpeTrainer({.vocabulary = 256}), ArgumentError);
  CHECK_THROWS_AS(BpeTrainer({.special = {"x"}}), ArgumentError);
  CHECK_THROWS_AS(BpeTrainer({.special = {"xy", "xy"}}), ArgumentError);
}

TEST_CASE("a part that is not supported is refused by its name") {
  CHECK(refusal(small_json()).empty());
  CHECK(refusal(small_json(R"("type": "BPE")", R"("type": "Unigram")")) ==
        "file: 'model.type' 'Unigram' is not supported");
  CHECK(refusal(small_json(R"("normalizer": null)", R"("normalizer": {"type": "Precompiled"})")) ==
        "file: 'normalizer.type' 'Precompiled' is not supported");
  CHECK(refusal(small_json(R"({"type": "ByteLevel"})", R"({"type": "Whitespace"})")) ==
        "file: 'pre_tokenizer.type' 'Whitespace' is not supported");
  CHECK(
      refusal(small_json(R"("decoder": {"type": "ByteLevel"})", R"("decoder": {"type": "CTC"})")) ==
      "file: 'decoder.type' 'CTC' is not supported here");
  CHECK(refusal(small_json(R"("normalizer": null)", R"("truncation": {"max_length": 4})"))
            .starts_with("file: 'truncation' is not supported"));
  for (const char* pattern :
       {R"(\\w+)", R"([a&&b])", R"(a{2}+)", "^a", R"((?m:a))", "[[:alpha:]]"}) {
    const std::string step =
        std::string(R"({"type": "Split", "behavior": "Isolated", "pattern": {"Regex": ")") +
        pattern + R"("}})";
    CAPTURE(pattern);
    CHECK(refusal(small_json(R"({"type": "ByteLevel"})", step)).find("is not supported") !=
          std::string::npos);
  }
  CHECK(refusal(
            small_json(R"({"type": "ByteLevel"})",
                       R"({"type": "Split", "behavior": "Isolated", "pattern": {"Regex": "a*"}})"))
            .find("matches an empty text") != std::string::npos);
}

TEST_CASE("a damaged vocabulary is refused, and costs no memory") {
  CHECK(refusal(small_json(R"("ab": 2)", R"("ab": 1)")).find("has the number 1 twice") !=
        std::string::npos);
  CHECK(refusal(small_json(R"("ab": 2)", R"("ab": 2147483647)")).find("a number below") !=
        std::string::npos);
  CHECK(refusal(small_json(R"("ab": 2)", R"("ab": -1)")).find("a number below") !=
        std::string::npos);
  CHECK(refusal(small_json(R"("ab": 2)", R"("ac": 2)")).find("'ab', which is not in") !=
        std::string::npos);
  CHECK(refusal(small_json(R"("a b")", R"("a")")).find("two tokens") != std::string::npos);
  CHECK(refusal(small_json(R"("id": 3)", R"("id": 1)")).find("contradicts") != std::string::npos);
  CHECK(refusal(small_json(R"("id": 3)", R"("id": 99999999)")) != "");
  CHECK(refusal(small_json(R"("merges": ["a b"])", R"("merges": 3)")).find("must be a list") !=
        std::string::npos);
}

TEST_CASE("a folder without a tokenizer, and one with a kind that is not read, say so") {
  const TemporaryFolder folder;
  const auto complaint = [&] {
    try {
      open_tokenizer(folder.path());
    } catch (const CheckpointError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(complaint().find("has no tokenizer") != std::string::npos);
  write_text_file(folder / "tokenizer.model", "x");
  CHECK(complaint().find("tokenizer.model") != std::string::npos);
  write_text_file(folder / "vocab.json", R"({"a": 0})");
  write_text_file(folder / "merges.txt", "");
  CHECK(open_tokenizer(folder.path()).encode("a") == std::vector<Token>{0});
  CHECK(open_tokenizer(folder / "merges.txt").encode("a") == std::vector<Token>{0});
}

}  // namespace
}  // namespace ssm::test
