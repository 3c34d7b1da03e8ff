// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "ssm/io/input.hpp"
#include "ssm/long_range/gray_image.hpp"
#include "ssm/long_range/labeled_sequences.hpp"
#include "ssm/long_range/list_ops.hpp"

// The published files of the Long Range Arena, as people have them.
// Throws  CheckpointError  by the name of the file and the line, for what is missing or damaged
namespace ssm::detail {

[[noreturn]] inline void refuse_line(const std::string& file, Index line, const std::string& why) {
  throw CheckpointError(file, "", "line " + std::to_string(line) + ": " + why);
}

/// visit(line, its number from 1) for every line; what ends a line is not part of it.
template <class Visit>
void for_each_line(std::string_view text, Visit&& visit) {
  for (Index number = 1; !text.empty(); ++number) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty()) visit(line, number);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

inline std::vector<std::string_view> fields_of(std::string_view line, char separator) {
  std::vector<std::string_view> fields;
  for (;;) {
    const std::size_t end = std::min(line.find(separator), line.size());
    fields.push_back(line.substr(0, end));
    if (end == line.size()) return fields;
    line.remove_prefix(end + 1);
  }
}

inline std::span<const std::uint8_t> bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

/// Paths in a folder, in the order of their names.
inline std::vector<std::filesystem::path> paths_in(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> paths;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error))
    paths.push_back(entry->path());
  if (error) throw CheckpointError(folder.string(), "", "cannot be read: " + error.message());
  std::sort(paths.begin(), paths.end());
  return paths;
}

inline LabeledSequences read_list_ops_table(const std::filesystem::path& path) {
  LabeledSequences result{.symbols = list_ops::symbols, .classes = list_ops::classes};
  const std::string text = read_text(path);
  std::vector<std::uint8_t> symbols;
  for_each_line(text, [&](std::string_view line, Index number) {
    if (number == 1 && line.starts_with("Source")) return;
    const auto fields = fields_of(line, '\t');
    if (fields.size() != 2)
      refuse_line(path.string(), number, "is not an expression, a tab, a digit");
    symbols.clear();
    for (const std::string_view word : fields_of(fields[0], ' ')) {
      if (word.empty() || word == "(" || word == ")") continue;  // the published tree, as pairs
      const auto* const name =
          std::find(std::begin(list_ops::names), std::end(list_ops::names), word);
      if (name == std::end(list_ops::names))
        refuse_line(path.string(), number, "'" + printable(word) + "' is no symbol of ListOps");
      symbols.push_back(static_cast<std::uint8_t>(name - std::begin(list_ops::names)));
    }
    int value = 0;
    try {
      value = list_ops::value(symbols);
    } catch (const ArgumentError& error) {
      refuse_line(path.string(), number, error.what());
    }
    if (fields[1] != std::to_string(value))
      refuse_line(path.string(), number,
                  "the value is " + std::to_string(value) + ", not '" + printable(fields[1]) + "'");
    result.add(symbols, static_cast<Token>(value));
  });
  return result;
}

/// The bytes of texts in two folders, at most `longest` of each.
inline LabeledSequences read_review_folders(const std::filesystem::path& folder, Index longest) {
  LabeledSequences result;
  for (const bool is_positive : {false, true})
    for (const auto& path : paths_in(folder / (is_positive ? "pos" : "neg"))) {
      if (path.extension() != ".txt") continue;
      std::string text = read_text(path);
      if (text.empty()) throw CheckpointError(path.string(), "", "is empty");
      text.resize(std::min(text.size(), static_cast<std::size_t>(longest)));
      result.add(bytes_of(text), is_positive ? 1 : 0);
    }
  return result;
}

inline LabeledSequences read_document_pair_table(const std::filesystem::path& path, Index longest) {
  LabeledSequences result;
  const std::string text = read_text(path, std::uint64_t{1} << 36);
  std::string both;
  for_each_line(text, [&](std::string_view line, Index number) {
    const auto fields = fields_of(line, '\t');
    if (fields.size() != 5)
      refuse_line(path.string(), number, "has not the five columns label, id, id, text, text");
    const bool is_positive = fields[0] == "1" || fields[0] == "1.0";
    if (!is_positive && fields[0] != "0" && fields[0] != "0.0")
      refuse_line(path.string(), number, "'" + printable(fields[0]) + "' is no label, 0 or 1");
    both = fields[3].substr(0, static_cast<std::size_t>(longest));
    both += '\0';
    both += fields[4].substr(0, static_cast<std::size_t>(longest));
    result.add(bytes_of(both), is_positive ? 1 : 0);
  });
  return result;
}

/// Images of a file of CIFAR-10 in its binary version, a byte of class and 3 · 1024 of colors each,
/// as gray values.
inline void add_cifar_images(const std::filesystem::path& path, LabeledSequences& to) {
  constexpr std::size_t pixels = 1024, record = 1 + 3 * pixels;
  const std::string text = read_text(path);
  if (text.empty() || text.size() % record != 0)
    throw CheckpointError(
        path.string(), "",
        "is not a whole number of images of " + std::to_string(record) + " bytes");
  const auto bytes = bytes_of(text);
  std::vector<std::uint8_t> gray(pixels);
  for (std::size_t at = 0; at < bytes.size(); at += record) {
    if (bytes[at] >= 10)
      throw CheckpointError(path.string(), "",
                            "image " + std::to_string(at / record) + " is of class " +
                                std::to_string(bytes[at]) + ", there are ten");
    for (std::size_t i = 0; i < pixels; ++i)
      gray[i] = static_cast<std::uint8_t>(std::lround(0.299 * bytes[at + 1 + i] +
                                                      0.587 * bytes[at + 1 + pixels + i] +
                                                      0.114 * bytes[at + 1 + 2 * pixels + i]));
    to.add(gray, static_cast<Token>(bytes[at]));
  }
}

}  // namespace ssm::detail

namespace ssm {

/// basic_train.tsv and basic_test.tsv: an expression, a tab, its value; a first line of titles. The
/// values are computed again.
inline ClassificationData read_list_ops(const std::filesystem::path& folder) {
  return {detail::read_list_ops_table(folder / "basic_train.tsv"),
          detail::read_list_ops_table(folder / "basic_test.tsv")};
}

/// aclImdb: train/pos, train/neg, test/pos, test/neg, a text in each file. Symbols are bytes, those
/// behind the first `longest` are left out.
inline ClassificationData read_reviews(const std::filesystem::path& folder, Index longest = 4096) {
  return {detail::read_review_folders(folder / "train", longest),
          detail::read_review_folders(folder / "test", longest)};
}

/// new_aan_pairs.train.tsv and new_aan_pairs.test.tsv: label, id, id, text, text. A sequence is the
/// first `longest` bytes of both texts with a zero byte between them; the published models read
/// them apart.
inline ClassificationData read_document_pairs(const std::filesystem::path& folder,
                                              Index longest = 4000) {
  return {detail::read_document_pair_table(folder / "new_aan_pairs.train.tsv", longest),
          detail::read_document_pair_table(folder / "new_aan_pairs.test.tsv", longest)};
}

/// data_batch_1.bin … data_batch_5.bin and test_batch.bin of CIFAR-10's binary version.
inline ClassificationData read_cifar(const std::filesystem::path& folder) {
  ClassificationData result;
  result.training.classes = result.test.classes = 10;
  for (int i = 1; i <= 5; ++i)
    detail::add_cifar_images(folder / ("data_batch_" + std::to_string(i) + ".bin"),
                             result.training);
  detail::add_cifar_images(folder / "test_batch.bin", result.test);
  return result;
}

/// A folder of Pathfinder of one difficulty, such as curv_contour_length_14: in metadata/*.npy,
/// which are texts, each line names a folder, an image in it and as its fourth word the class.
/// Every tenth image is one of the test.
/// side         of the square images
/// read_image   `read_png`, where libpng is linked
inline ClassificationData read_pathfinder(const std::filesystem::path& folder, Index side,
                                          const ReadImage& read_image) {
  ClassificationData result;
  Index number_of_image = 0;
  for (const auto& path : detail::paths_in(folder / "metadata")) {
    if (path.extension() != ".npy") continue;
    const std::string text = read_text(path);
    detail::for_each_line(text, [&](std::string_view line, Index number) {
      const auto words = detail::fields_of(line, ' ');
      if (words.size() < 4 || (words[3] != "0" && words[3] != "1"))
        detail::refuse_line(path.string(), number, "names no folder, image and class");
      const auto inside = std::filesystem::path(words[0]) / words[1];
      if (inside.is_absolute() || inside.lexically_normal().string().starts_with(".."))
        detail::refuse_line(path.string(), number, "names an image outside the folder");
      const GrayImage image = read_image(folder / inside);
      if (image.width != side || image.height != side)
        throw CheckpointError((folder / inside).string(), "",
                              message({"is of ", image.width, " × ", image.height, " pixels, not ",
                                       side, " × ", side}));
      LabeledSequences& to = number_of_image++ % 10 == 9 ? result.test : result.training;
      to.add(image.values, words[3] == "1" ? 1 : 0);
    });
  }
  return result;
}

}  // namespace ssm
