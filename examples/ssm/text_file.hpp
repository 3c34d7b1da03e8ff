// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <numbers>
#include <string>

#include "ssm/io/json_file.hpp"  // read_text_file
#include "ssm/train/text_loss.hpp"

namespace ssm::cli {

/// Throws  CheckpointError; ArgumentError  for an empty text
inline std::string read_training_text(const std::filesystem::path& path) {
  std::string text = read_text_file(path, std::uint64_t{1} << 32);
  if (text.empty()) throw ArgumentError(path.string() + ": the text is empty");
  return text;
}

/// Where the held-out part of a text of so many bytes begins.
inline std::size_t held_out_begin(std::size_t bytes, double held_out) {
  return static_cast<std::size_t>((1 - held_out) * static_cast<double>(bytes));
}

/// For tokens that are bytes.
inline double bits_per_byte(const TextLoss& loss) { return loss.mean() / std::numbers::ln2; }

/// How far a model's state is carried in a text, 0 for all of it: attention over a whole text would be quadratic.
inline Index evaluation_context(bool has_attention) { return has_attention ? 1024 : 0; }

}  // namespace ssm::cli
