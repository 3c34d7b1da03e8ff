// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fstream>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/language_model/completion_options.hpp"

namespace ssm::cli {

using Tokens = std::vector<Token>;

/// "3 1 4" as tokens.
/// Throws  ArgumentError  for a word that is no token
Tokens ids_of(const std::string& text);

/// \n, \t and \\ as a new line, a tab and a backslash.
std::string unescaped(std::string_view text);

/// Writes to standard output.
/// Throws  Error  if it cannot be written
void print(std::string_view text);

/// Prints texts as they come: one alone piece by piece, several one behind the other.
class CompletionOutput {
 public:
  struct Options {
    std::vector<std::string> prompts;
    Index continuations = 1;
    bool echo = true;
    bool ids = false;
    bool json = false;
    std::string log_probabilities;  // file, - or nothing
  };

  /// text   null where ids are printed
  CompletionOutput(Options options, TokenTextMaker text);

  bool piece(const CompletionPiece& piece);
  void finish(const std::vector<Completion>& texts);
  TokenTextMaker text() const { return text_; }

 private:
  bool is_streamed() const;

  Options options_;
  TokenTextMaker text_;
  std::ofstream file_;
  std::ostream* log_ = nullptr;
  std::vector<Index> told_;  // tokens of each text in the log
  bool is_begun_ = false;
};

}  // namespace ssm::cli
