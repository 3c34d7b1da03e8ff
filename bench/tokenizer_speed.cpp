// SPDX-License-Identifier: Apache-2.0
// The library's side of tokenizer_compare.py: seconds to encode a text, and how many tokens it has.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/io/input.hpp"
#include "ssm/tokenizer/open.hpp"

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fputs("usage: tokenizer_speed TOKENIZER TEXT whole|lines\n", stderr);
    return 2;
  }
  const ssm::Tokenizer tokenizer = ssm::open_tokenizer(argv[1]);
  const std::string text = ssm::read_text(argv[2]);
  const bool by_lines = std::string_view(argv[3]) == "lines";
  std::size_t count = 0;
  std::vector<ssm::Token> tokens;
  const auto begin = std::chrono::steady_clock::now();
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t end = by_lines ? std::min(rest.find('\n'), rest.size()) : rest.size();
    tokens.clear();
    tokenizer.encode(rest.substr(0, end), tokens);
    count += tokens.size();
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::printf("%.9f %zu\n", seconds, count);
  return 0;
}
