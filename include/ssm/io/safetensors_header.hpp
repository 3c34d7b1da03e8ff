// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/io/tensor_file.hpp"

namespace ssm {

/// The whole header: tensors in the order of their data, places in bytes after the header.
struct SafetensorsHeader {
  std::vector<TensorEntry> tensors;
  std::map<std::string, std::string> metadata;
};

namespace detail {

inline constexpr std::uint64_t longest_safetensors_header =
    100'000'000;                                     // bytes; the format's own limit
inline constexpr std::size_t safetensors_axes = 64;  // more are refused

/// Bytes of an element of every type the format knows; 0 for types it does not.
inline std::uint64_t safetensors_element_size(std::string_view dtype) {
  if (dtype == "F64" || dtype == "I64" || dtype == "U64" || dtype == "C64") return 8;
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  if (dtype == "F16" || dtype == "BF16" || dtype == "I16" || dtype == "U16") return 2;
  if (dtype == "I8" || dtype == "U8" || dtype == "BOOL" || dtype.starts_with("F8_")) return 1;
  return 0;
}

/// Receives the header token by token, so that nothing of another form than the format's is ever
/// built.
class SafetensorsHeaderParser : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit SafetensorsHeaderParser(const std::string& file) : file_(file) {}
  SafetensorsHeader take() { return std::move(header_); }

  bool start_object(std::size_t) override {
    if (place_ == Place::before) return enter(Place::header);
    if (place_ != Place::header) refuse("an object");
    if (key_ == "__metadata__") return enter(Place::metadata);
    header_.tensors.emplace_back().name = key_;
    fields_.clear();
    return enter(Place::tensor);
  }
  bool key(string_t& name) override {
    key_ = name;
    const bool is_new = place_ == Place::header     ? names_.insert(name).second
                        : place_ == Place::metadata ? !header_.metadata.contains(name)
                                                    : fields_.insert(name).second;
    if (!is_new) throw_error("name '" + printable(name) + "' occurs twice");
    if (place_ == Place::tensor && name != "dtype" && name != "shape" && name != "data_offsets")
      throw_error("field '" + printable(name) + "' is unknown");
    return true;
  }
  bool end_object() override {
    if (place_ == Place::header) return enter(Place::after);
    if (place_ == Place::tensor && fields_.size() != 3)
      throw_error("dtype, shape or data_offsets is missing");
    return enter(Place::header);
  }
  bool start_array(std::size_t) override {
    if (place_ == Place::tensor && key_ == "shape") return enter(Place::shape);
    if (place_ == Place::tensor && key_ == "data_offsets") return enter(Place::offsets);
    refuse("an array");
  }
  bool end_array() override {
    if (place_ == Place::offsets) {
      if (offsets_.size() != 2) throw_error("data_offsets must be two numbers");
      header_.tensors.back().begin = offsets_[0];
      header_.tensors.back().end = offsets_[1];
      offsets_.clear();
    }
    return enter(Place::tensor);
  }
  bool string(string_t& text) override {
    if (place_ == Place::metadata) {
      header_.metadata.emplace(key_, text);
    } else if (place_ == Place::tensor && key_ == "dtype") {
      header_.tensors.back().dtype = text;
    } else {
      refuse("a string");
    }
    return true;
  }
  bool number_unsigned(number_unsigned_t number) override {
    if (place_ == Place::shape && header_.tensors.back().shape.size() < safetensors_axes &&
        number <= static_cast<std::uint64_t>(std::numeric_limits<Index>::max())) {
      header_.tensors.back().shape.push_back(static_cast<Index>(number));
    } else if (place_ == Place::offsets && offsets_.size() < 2) {
      offsets_.push_back(number);
    } else {
      refuse("a number");
    }
    return true;
  }
  bool number_integer(number_integer_t) override { refuse("a negative number"); }
  bool number_float(number_float_t, const string_t&) override {
    refuse("a fraction or huge number");
  }
  bool null() override { refuse("null"); }
  bool boolean(bool) override { refuse("a boolean"); }
  bool binary(binary_t&) override { refuse("binary data"); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    place_ = Place::header;
    throw_error("is not JSON at byte " + std::to_string(position));
  }

 private:
  enum class Place { before, header, metadata, tensor, shape, offsets, after };

  bool enter(Place place) {
    place_ = place;
    return true;
  }
  [[noreturn]] void refuse(const char* what) const {
    throw_error(std::string("has ") + what + " where there must be none");
  }
  [[noreturn]] void throw_error(const std::string& what) const {
    const bool inside =
        place_ == Place::tensor || place_ == Place::shape || place_ == Place::offsets;
    throw CheckpointError(file_, inside ? printable(header_.tensors.back().name) : "",
                          "safetensors header " + what);
  }

  const std::string& file_;
  SafetensorsHeader header_;
  Place place_ = Place::before;
  std::string key_;
  std::set<std::string> names_;
  std::set<std::string> fields_;
  std::vector<std::uint64_t> offsets_;
};

/// The data of the tensors must follow one another from 0 to `data_size` without gaps or overlaps.
inline void require_data_layout(const std::string& file, std::vector<TensorEntry>& tensors,
                                std::uint64_t data_size) {
  for (const TensorEntry& tensor : tensors) {
    if (tensor.begin > tensor.end || tensor.end > data_size)
      throw CheckpointError(file, printable(tensor.name),
                            "data from " + std::to_string(tensor.begin) + " to " +
                                std::to_string(tensor.end) + " is outside the file's " +
                                std::to_string(data_size) + " bytes");
    const Index count = checked_size(tensor.shape);
    const std::uint64_t width = safetensors_element_size(tensor.dtype);
    const std::uint64_t bytes = tensor.end - tensor.begin;
    const bool agrees =
        width == 0 || (bytes % width == 0 && static_cast<Index>(bytes / width) == count);
    if (count < 0 || !agrees)
      throw CheckpointError(file, printable(tensor.name),
                            shape_text(tensor.shape) + " of " + printable(tensor.dtype) +
                                " does not take the " + std::to_string(bytes) + " bytes it has");
  }
  std::stable_sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::uint64_t end = 0;
  for (const TensorEntry& tensor : tensors) {
    if (tensor.begin != end)
      throw CheckpointError(file, printable(tensor.name),
                            "data begins at " + std::to_string(tensor.begin) +
                                ", but the data before it ends at " + std::to_string(end));
    end = tensor.end;
  }
  if (end != data_size)
    throw CheckpointError(file, "",
                          "has " + std::to_string(data_size) +
                              " bytes of data, its header describes " + std::to_string(end));
}

}  // namespace detail

/// Reads and checks the JSON header of a safetensors file that has `data_size` bytes after it.
/// Throws  CheckpointError  if anything is not as the format says; `file` names the file in the
///                          message
inline SafetensorsHeader parse_safetensors_header(std::string_view json, std::uint64_t data_size,
                                                  const std::string& file) {
  // The JSON library takes a zero byte for the end and would not look at what follows.
  if (json.find('\0') != std::string_view::npos)
    throw CheckpointError(file, "", "safetensors header has a zero byte");
  detail::SafetensorsHeaderParser parser(file);
  nlohmann::json::sax_parse(json.begin(), json.end(), &parser);
  SafetensorsHeader header = parser.take();
  detail::require_data_layout(file, header.tensors, data_size);
  return header;
}

}  // namespace ssm
