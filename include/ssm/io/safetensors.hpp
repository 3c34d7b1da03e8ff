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
#include "ssm/io/tensor_file.hpp"

namespace ssm {

/// A safetensors file, checked as a whole when it is opened; TensorFile says how it is read.
///   const SafetensorsFile file("model.safetensors");
/// Cost    the header stays in memory
/// Throws  CheckpointError  if the file is damaged in any way, and as TensorFile does
/// Source  safetensors format, github.com/huggingface/safetensors
class SafetensorsFile : public TensorFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path) : TensorFile(FileReader(path)) {
    std::array<std::byte, 8> prefix{};
    if (file().size() < prefix.size())
      throw CheckpointError(path_name(), "", "is too short for safetensors");
    file().read(0, prefix);
    std::uint64_t length = 0;
    for (std::size_t i = 0; i < prefix.size(); ++i)
      length |= std::to_integer<std::uint64_t>(prefix[i]) << (8 * i);
    if (length > file().size() - prefix.size() || length > detail::longest_safetensors_header)
      throw CheckpointError(
          path_name(), "",
          "safetensors header of " + std::to_string(length) + " bytes does not fit the file");
    std::string json(static_cast<std::size_t>(length), '\0');
    file().read(prefix.size(), std::as_writable_bytes(std::span(json)));
    const std::uint64_t data = prefix.size() + length;  // byte where the data begins
    SafetensorsHeader header = parse_safetensors_header(json, file().size() - data, path_name());
    for (TensorEntry& tensor : header.tensors) {
      tensor.begin += data;
      tensor.end += data;
    }
    hold(std::move(header.tensors), std::move(header.metadata));
  }
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
    require_new(name);
    const auto extents = view.extents().to_array();
    entries_.push_back({.name = name,
                        .dtype = std::string(stored_dtype<Scalar>()),
                        .shape = {extents.begin(), extents.end()},
                        .width = sizeof(Scalar),
                        .bytes = static_cast<std::uint64_t>(view.size()) * sizeof(Scalar),
                        .data = make_source<Scalar, Kept>(std::forward<A>(data))});
  }

  /// A tensor that is not in memory: `write(file)` is called by finish() and writes its elements in
  /// row-major order, in one or several calls of file.write(bytes).
  /// width    bytes of an element
  /// Throws  CheckpointError  also from finish(), if other than size · width bytes are written
  template <class Write>
  void add_streamed(const std::string& name, std::string dtype, std::vector<Index> shape,
                    std::size_t width, Write write) {
    require_new(name);
    const auto count = static_cast<std::uint64_t>(detail::checked_size(shape));
    entries_.push_back({.name = name,
                        .dtype = std::move(dtype),
                        .shape = std::move(shape),
                        .width = width,
                        .bytes = count * width,
                        .data = std::make_unique<Streamed<Write>>(std::move(write))});
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
    for (const Entry& entry : entries_) {
      const std::uint64_t begin = file.size();
      entry.data->write(file);
      if (file.size() - begin != entry.bytes)
        throw CheckpointError(path_.string(), detail::printable(entry.name),
                              "has other bytes than its shape says");
    }
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
  template <class Write>
  struct Streamed : Source {
    explicit Streamed(Write from) : run(std::move(from)) {}
    void write(AtomicFile& file) const override { run(file); }
    Write run;
  };
  struct Entry {
    std::string name;
    std::string dtype;
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
  void require_new(const std::string& name) {
    if (name == "__metadata__" || !names_.insert(name).second)
      throw CheckpointError(path_.string(), detail::printable(name), "is a name that is taken");
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
