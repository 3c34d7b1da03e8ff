// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/io/file.hpp"
#include "ssm/io/safetensors_header.hpp"
#include "ssm/io/stored_scalar.hpp"

namespace ssm {

/// The name of a scalar in safetensors files.
template <StoredScalar T>
constexpr std::string_view safetensors_dtype() {
  if constexpr (std::same_as<T, double>) return "F64";
  if constexpr (std::same_as<T, float>) return "F32";
  if constexpr (std::same_as<T, Float16>) return "F16";
  if constexpr (std::same_as<T, BFloat16>) return "BF16";
  if constexpr (std::same_as<T, std::int64_t>) return "I64";
  if constexpr (std::same_as<T, std::int32_t>) return "I32";
}

/// A safetensors file, checked as a whole when it is opened; tensors are read when asked for.
///   const SafetensorsFile file("model.safetensors");
///   file.read("embedding.weight", weight);         // into any host tensor of the same extents
///   auto bias = file.read<float, 1>("head.bias");  // or into a new one
/// Cost    the header stays in memory; reading adds one small buffer, never a copy of the file
/// Throws  CheckpointError  if the file is damaged in any way, or the tensor is missing, of other
///                          extents, or of a type that does not convert (F64 F32 F16 BF16 convert
///                          to any float; I64 I32 to any scalar that holds them)
/// Source  safetensors format, github.com/huggingface/safetensors
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path) : file_(path) {
    std::array<std::byte, 8> prefix{};
    if (file_.size() < prefix.size())
      throw CheckpointError(path_name(), "", "is too short for safetensors");
    file_.read(0, prefix);
    std::uint64_t length = 0;
    for (std::size_t i = 0; i < prefix.size(); ++i)
      length |= std::to_integer<std::uint64_t>(prefix[i]) << (8 * i);
    if (length > file_.size() - prefix.size() || length > detail::longest_safetensors_header)
      throw CheckpointError(
          path_name(), "",
          "safetensors header of " + std::to_string(length) + " bytes does not fit the file");
    std::string json(static_cast<std::size_t>(length), '\0');
    file_.read(prefix.size(), std::as_writable_bytes(std::span(json)));
    data_ = prefix.size() + length;
    header_ = parse_safetensors_header(json, file_.size() - data_, path_name());
    for (std::size_t i = 0; i < header_.tensors.size(); ++i)
      index_.emplace(header_.tensors[i].name, i);
  }

  const std::string& path_name() const { return file_.name(); }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }

  /// All names, in the order of the data.
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const SafetensorsEntry& tensor : header_.tensors) all.push_back(tensor.name);
    return all;
  }
  bool contains(std::string_view name) const { return index_.find(name) != index_.end(); }
  const std::vector<Index>& shape(std::string_view name) const { return at(name).shape; }
  const std::string& dtype(std::string_view name) const { return at(name).dtype; }
  std::uint64_t byte_size(std::string_view name) const { return at(name).end - at(name).begin; }

  /// Fills a host tensor of the same extents, converting scalars. After a failed read from the disk
  /// itself, or an integer out of range, the elements are unspecified; after any other error they
  /// are as before.
  template <HostTensor Output>
  void read(std::string_view name, Output&& output) const {
    const auto view = view_of(output);
    require_readable(name, view);
    using Value = typename decltype(view)::Value;
    if (view.is_contiguous()) return read_values(name, view.data(), view.size());
    DynamicTensor<Value, 1> values(view.size());
    read_values(name, values.data(), values.size());
    detail::InOrder<Value> next{values.data()};
    for_each_element(next, view);
  }

  /// A new tensor with the extents of the file.
  template <StoredScalar T, int Rank>
  DynamicTensor<T, Rank> read(std::string_view name) const {
    require_dtype<T>(at(name));
    auto result =
        detail::tensor_of_shape<T, Rank>(path_name(), detail::printable(name), shape(name));
    read(name, result);
    return result;
  }

  /// The bytes of a tensor of any type.
  std::vector<std::byte> bytes(std::string_view name) const {
    const SafetensorsEntry& tensor = at(name);
    std::vector<std::byte> result(static_cast<std::size_t>(tensor.end - tensor.begin));
    file_.read(data_ + tensor.begin, result);
    return result;
  }

  /// Checks all that `read` checks, and reads nothing.
  template <HostTensor Output>
  void require_readable(std::string_view name, const Output& output) const {
    const auto view = view_of(output);
    require_dtype<typename decltype(view)::Value>(at(name));
    detail::require_shape(path_name(), detail::printable(name), shape(name), view);
  }
  /// Checks that the tensor is there and of a type that converts to T.
  template <StoredScalar T>
  void require_convertible(std::string_view name) const {
    require_dtype<T>(at(name));
  }
  void require_unchanged_size() const { file_.require_unchanged_size(); }

 private:
  const SafetensorsEntry& at(std::string_view name) const {
    const auto found = index_.find(name);
    if (found == index_.end())
      throw CheckpointError(path_name(), detail::printable(name), "is missing");
    return header_.tensors[found->second];
  }
  /// All elements, in order, whatever they are stored as: compiled once for a type of elements.
  template <class Value>
  void read_values(std::string_view name, Value* to, Index count) const {
    const SafetensorsEntry& tensor = at(name);
    visit_dtype(tensor, [&](auto scalar) {
      detail::read_elements<typename decltype(scalar)::type>(
          file_, detail::printable(name), data_ + tensor.begin, View<Value, 1>(to, {count}));
    });
  }
  template <class Visit>
  void visit_dtype(const SafetensorsEntry& tensor, Visit&& visit) const {
    const bool known =
        [&]<class... T>(std::type_identity<T>... scalar) {
          return ((tensor.dtype == safetensors_dtype<T>() && (visit(scalar), true)) || ...);
        }(std::type_identity<float>(), std::type_identity<double>(), std::type_identity<BFloat16>(),
          std::type_identity<Float16>(), std::type_identity<std::int64_t>(),
          std::type_identity<std::int32_t>());
    if (!known)
      throw CheckpointError(
          path_name(), detail::printable(tensor.name),
          "is of type " + detail::printable(tensor.dtype) + ", which is not supported");
  }
  template <class T>
  void require_dtype(const SafetensorsEntry& tensor) const {
    visit_dtype(tensor, [&](auto scalar) {
      if constexpr (!detail::is_storable<typename decltype(scalar)::type, T>)
        throw CheckpointError(path_name(), detail::printable(tensor.name),
                              "is of type " + tensor.dtype + ", asked for integers");
    });
  }

  FileReader file_;
  SafetensorsHeader header_;
  std::map<std::string, std::size_t, std::less<>> index_;
  std::uint64_t data_ = 0;  // byte where the data begins
};

/// Collects tensors by name and writes them as one safetensors file.
///   SafetensorsWriter writer("model.safetensors");
///   writer.metadata("step", "100");
///   writer.add("head.bias", bias);                // borrowed until finish(); a temporary is kept
///   writer.add<BFloat16>("head.weight", weight);  // stored as another scalar
///   writer.finish();
/// The file appears whole, and on the disk, when `finish` returns; if it throws, what was there
/// before is untouched.
/// Throws  CheckpointError  if a name is used twice or is not UTF-8, or the file cannot be written
class SafetensorsWriter {
 public:
  explicit SafetensorsWriter(std::filesystem::path path) : path_(std::move(path)) {}

  std::string path_name() const { return path_.string(); }

  void metadata(const std::string& key, std::string value) { metadata_[key] = std::move(value); }

  template <class Stored = void, HostTensor A>
  void add(const std::string& name, A&& data) {
    using Scalar = std::conditional_t<std::is_void_v<Stored>, ValueOf<A>, Stored>;
    using View = ViewTypeOf<A>;
    constexpr bool is_temporary_owner =
        !std::is_lvalue_reference_v<A> && !std::same_as<std::remove_cvref_t<A>, View>;
    using Kept = std::conditional_t<is_temporary_owner, std::remove_cvref_t<A>, View>;
    const View view = view_of(data);
    if (!view && view.size() != 0) throw CheckpointError(path_.string(), name, "is empty");
    if (name == "__metadata__" || !names_.insert(name).second)
      throw CheckpointError(path_.string(), detail::printable(name), "is a name that is taken");
    const auto extents = view.extents().to_array();
    entries_.push_back({.name = name,
                        .dtype = safetensors_dtype<Scalar>(),
                        .shape = {extents.begin(), extents.end()},
                        .width = sizeof(Scalar),
                        .bytes = static_cast<std::uint64_t>(view.size()) * sizeof(Scalar),
                        .data = make_source<Scalar, Kept>(std::forward<A>(data))});
  }

  void finish() {
    // Wide scalars first: the header is a multiple of 8 bytes, so every tensor is aligned to its
    // scalar.
    std::stable_sort(entries_.begin(), entries_.end(),
                     [](const Entry& a, const Entry& b) { return a.width > b.width; });
    const std::string header = header_text();
    std::array<std::byte, 8> prefix{};
    for (std::size_t i = 0; i < prefix.size(); ++i)
      prefix[i] = static_cast<std::byte>(std::uint64_t{header.size()} >> (8 * i));
    AtomicFile file(path_);
    file.write(prefix);
    file.write(std::as_bytes(std::span(header)));
    for (const Entry& entry : entries_) entry.data->write(file);
    file.commit();
  }

 private:
  struct Source {
    Source() = default;
    Source(const Source&) = delete;
    Source& operator=(const Source&) = delete;
    virtual ~Source() = default;
    virtual void write(AtomicFile& file) const = 0;
  };
  template <class Scalar, class Kept>
  struct SourceOf : Source {
    template <class A>
    explicit SourceOf(A&& from) : kept(std::forward<A>(from)) {}
    void write(AtomicFile& file) const override {
      detail::write_elements<Scalar>(file, view_of(kept));
    }
    Kept kept;
  };
  struct Entry {
    std::string name;
    std::string_view dtype;
    std::vector<Index> shape;
    std::size_t width;
    std::uint64_t bytes;
    std::unique_ptr<Source> data;
  };

  template <class Scalar, class Kept, class A>
  static std::unique_ptr<Source> make_source(A&& data) {
    if constexpr (std::is_lvalue_reference_v<A>)
      return std::make_unique<SourceOf<Scalar, Kept>>(view_of(data));
    else
      return std::make_unique<SourceOf<Scalar, Kept>>(std::forward<A>(data));
  }
  std::string header_text() const {
    try {
      std::string text = "{";
      if (!metadata_.empty()) text += "\"__metadata__\":" + nlohmann::json(metadata_).dump();
      std::uint64_t begin = 0;
      for (const Entry& entry : entries_) {
        const nlohmann::json value{{"dtype", entry.dtype},
                                   {"shape", entry.shape},
                                   {"data_offsets", {begin, begin + entry.bytes}}};
        text +=
            (text.size() > 1 ? "," : "") + nlohmann::json(entry.name).dump() + ":" + value.dump();
        begin += entry.bytes;
      }
      text += "}";
      text.resize((text.size() + 7) / 8 * 8, ' ');
      return text;
    } catch (const nlohmann::json::exception&) {
      throw CheckpointError(path_.string(), "", "a name or a metadata value is not UTF-8");
    }
  }

  std::filesystem::path path_;
  std::map<std::string, std::string> metadata_;
  std::set<std::string> names_;
  std::vector<Entry> entries_;
};

}  // namespace ssm
