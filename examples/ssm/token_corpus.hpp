// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "ssm/io/documents.hpp"
#include "ssm/io/tokenizer.hpp"

namespace ssm::cli {

/// A corpus that becomes a file of tokens.
struct CorpusRequest {
  std::vector<std::filesystem::path> files;
  std::filesystem::path out;
  DocumentForm form;
  std::string end;  // the special token behind each document; empty: the tokenizer's usual one
  bool has_no_end = false;
  bool quiet = false;
};

/// The token of that text, or the tokenizer's usual one behind a document where the text is empty.
/// Throws  ArgumentError  where there is none
Token end_token(const Tokenizer& tokenizer, const std::string& text);

/// Writes the tokens of a corpus as .npy, whole or not at all.
/// Throws  CheckpointError, ArgumentError  what reading, encoding and writing throw; for a file
///                                         that would overwrite what it is made from; and where it
///                                         was interrupted
void write_corpus(const Tokenizer& tokenizer, const CorpusRequest& request);

}  // namespace ssm::cli
