// SPDX-License-Identifier: Apache-2.0
// What stands before the first zero byte is either a tokenizer.json or a CheckpointError. What
// stands behind it is a text that becomes tokens, the same ones each time.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <ssm/tokenizer/open.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace {

void encode(const ssm::Tokenizer& tokenizer, std::string_view text) {
  std::vector<ssm::Token> tokens;
  try {
    tokens = tokenizer.encode(text);
  } catch (const ssm::ArgumentError&) {
    return;  // a regular expression that takes too long
  }
  if (tokenizer.encode(text) != tokens || ssm::Tokenizer(tokenizer).encode(text) != tokens)
    std::abort();
  const std::string decoded = tokenizer.decode(tokens);
  if (ssm::detail::valid_utf8_prefix(decoded) != decoded.size()) std::abort();
}

/// Any text comes back from one that has all bytes.
void encode_bytes(std::string_view text) {
  static const ssm::Tokenizer tokenizer = [] {
    nlohmann::json vocabulary = nlohmann::json::object();
    for (int byte = 0; byte < 256; ++byte)
      vocabulary[ssm::detail::byte_alphabet().character(static_cast<unsigned char>(byte))] = byte;
    vocabulary["aa"] = 256;
    vocabulary["aaa"] = 257;
    vocabulary["ab"] = 258;
    return ssm::parse_gpt2_tokenizer(vocabulary.dump(), "a a\naa a\na b\n", "vocab", "merges");
  }();
  if (tokenizer.decode(tokenizer.encode(text)) != ssm::detail::replace_invalid_utf8(text))
    std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t end = std::min(input.find('\0'), size);
  const std::string_view text = input.substr(std::min(end + 1, size));
  encode_bytes(text);
  try {
    encode(ssm::parse_tokenizer(input.substr(0, end), "input"), text);
  } catch (const ssm::CheckpointError&) {
  }
  return 0;
}
