// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/io/file.hpp"
#include "ssm/io/stored_scalar.hpp"

namespace ssm {

/// The name of a scalar in files of tensors, as safetensors writes it.
template <StoredScalar T>
constexpr std::string_view stored_dtype() {
  if constexpr (std::same_as<T, double>) return "F64";
  if constexpr (std::same_as<T, float>) return "F32";
  if constexpr (std::same_as<T, Float16>) return "F16";
  if constexpr (std::same_as<T, BFloat16>) return "BF16";
  if constexpr (std::same_as<T, std::int64_t>) return "I64";
  if constexpr (std::same_as<T, std::int32_t>) return "I32";
}

/// Bytes of an element of a dtype in files; 0 for one that is not known.
inline std::size_t stored_width(std::string_view dtype) {
  for (const std::string_view wide : {"F64", "I64", "U64"})
    if (dtype == wide) return 8;
  for (const std::string_view single : {"F32", "I32", "U32"})
    if (dtype == single) return 4;
  for (const std::string_view half : {"F16", "BF16", "I16", "U16"})
    if (dtype == half) return 2;
  for (const std::string_view byte : {"I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"})
    if (dtype == byte) return 1;
  return 0;
}

/// Where a file has a tensor.
struct TensorEntry {
  std::string name;
  std::string dtype;  // "F64", "F32", "F16", "BF16", "I64", "I32", or one that cannot be read
  std::vector<Index> shape;
  std::uint64_t begin = 0;          // bytes of the file, of the first element
  std::uint64_t end = 0;            // behind the last
  std::vector<Index> strides = {};  // elements, not negative; left out: row-major without gaps
};

/// A file of named tensors, whose places are known when it is opened; tensors are read when asked
/// for. SafetensorsFile and TorchFile are such files.
///   file.read("embedding.weight", weight);         // into any host tensor of the same extents
///   auto bias = file.read<float, 1>("head.bias");  // or into a new one
/// Cost    reading adds one small buffer; of a tensor that does not lie in row-major order a copy
/// Throws  CheckpointError  if a tensor is missing, of other extents, or of a type that does not
///                          convert (F64 F32 F16 BF16 convert to any float; I64 I32 to any scalar
///                          that holds them)
class TensorFile {
 public:
  const std::string& path_name() const { return file_.name(); }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  /// All names, in the order of the file.
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const TensorEntry& tensor : tensors_) all.push_back(tensor.name);
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

  /// The bytes of a tensor of any type, as they lie in the file.
  std::vector<std::byte> bytes(std::string_view name) const {
    const TensorEntry& tensor = at(name);
    std::vector<std::byte> result(static_cast<std::size_t>(tensor.end - tensor.begin));
    file_.read(tensor.begin, result);
    return result;
  }

  /// The file in memory, for `place_of`.
  FileMapping map() const { return file_.map(); }
  /// Where in a mapping of this file a tensor lies as T in row-major order; null where it is stored
  /// otherwise, or not aligned.
  template <StoredScalar T>
  T* place_of(std::string_view name, const FileMapping& mapping) const {
    const TensorEntry& tensor = at(name);
    const bool fits = tensor.dtype == stored_dtype<T>() && tensor.strides.empty() &&
                      tensor.begin % alignof(T) == 0 && tensor.end <= mapping.size();
    return fits ? reinterpret_cast<T*>(mapping.data() + tensor.begin) : nullptr;
  }
  /// Whether a tensor has the type, extents and bytes of another one, of this file or another.
  bool is_identical(std::string_view name, const TensorFile& other,
                    std::string_view other_name) const {
    const TensorEntry &a = at(name), &b = other.at(other_name);
    if (a.dtype != b.dtype || a.shape != b.shape || a.strides != b.strides) return false;
    if (this == &other && a.begin == b.begin) return true;
    if (!a.strides.empty()) return false;
    constexpr std::uint64_t block = 1 << 20;
    std::vector<std::byte> left, right;
    for (std::uint64_t done = 0; a.begin + done < a.end; done += block) {
      left.resize(static_cast<std::size_t>(std::min(block, a.end - a.begin - done)));
      right.resize(left.size());
      file_.read(a.begin + done, left);
      other.file_.read(b.begin + done, right);
      if (left != right) return false;
    }
    return true;
  }

  /// Calls visit(bytes) with the elements of a tensor of any known type in row-major order, some at
  /// a time, never a part of one.
  /// Cost    a small buffer; of a tensor that does not lie in row-major order a copy
  template <class Visit>
  void for_each_block(std::string_view name, Visit&& visit) const {
    constexpr std::size_t block = 1 << 20;
    const TensorEntry& tensor = at(name);
    const std::size_t width = stored_width(tensor.dtype);
    if (width == 0) refuse_dtype(tensor);
    std::vector<std::byte> bytes;
    if (tensor.strides.empty()) {
      for (std::uint64_t at = tensor.begin; at < tensor.end; at += bytes.size()) {
        bytes.resize(static_cast<std::size_t>(std::min<std::uint64_t>(block, tensor.end - at)));
        file_.read(at, bytes);
        visit(std::span<const std::byte>(bytes));
      }
      return;
    }
    const std::vector<std::byte> all = this->bytes(name);
    for_each_place(tensor, [&](Index from) {
      const std::byte* element = all.data() + static_cast<std::size_t>(from) * width;
      bytes.insert(bytes.end(), element, element + width);
      if (bytes.size() < block) return;
      visit(std::span<const std::byte>(bytes));
      bytes.clear();
    });
    if (!bytes.empty()) visit(std::span<const std::byte>(bytes));
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

 protected:
  explicit TensorFile(FileReader file) : file_(std::move(file)) {}

  const FileReader& file() const { return file_; }
  void hold(std::vector<TensorEntry> tensors, std::map<std::string, std::string> metadata) {
    tensors_ = std::move(tensors);
    metadata_ = std::move(metadata);
    for (std::size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
  }

 private:
  const TensorEntry& at(std::string_view name) const {
    const auto found = index_.find(name);
    if (found == index_.end())
      throw CheckpointError(path_name(), detail::printable(name), "is missing");
    return tensors_[found->second];
  }
  /// All elements, in order, whatever they are stored as: compiled once for a type of elements.
  template <class Value>
  void read_values(std::string_view name, Value* to, Index count) const {
    const TensorEntry& tensor = at(name);
    visit_dtype(tensor, [&](auto scalar) {
      using Stored = typename decltype(scalar)::type;
      if (tensor.strides.empty())
        detail::read_elements<Stored>(file_, detail::printable(name), tensor.begin,
                                      View<Value, 1>(to, {count}));
      else
        read_strided<Stored>(tensor, to);
    });
  }
  /// Everything from the first to the last element, then what of it belongs to the tensor.
  template <class Stored, class Value>
  void read_strided(const TensorEntry& tensor, Value* to) const {
    if constexpr (!detail::is_storable<Stored, Value>) {
      throw CheckpointError(path_name(), detail::printable(tensor.name),
                            "holds fractions, asked for integers");
    } else {
      const auto span = static_cast<Index>((tensor.end - tensor.begin) / sizeof(Stored));
      DynamicTensor<Value, 1> values(span);
      detail::read_elements<Stored>(file_, detail::printable(tensor.name), tensor.begin,
                                    values.view());
      for_each_place(tensor, [&](Index from) { *to++ = values(from); });
    }
  }
  /// visit(offset in elements) for each element, in row-major order.
  template <class Visit>
  static void for_each_place(const TensorEntry& tensor, Visit&& visit) {
    const Index count = detail::checked_size(tensor.shape);
    std::vector<Index> place(tensor.shape.size(), 0);
    Index from = 0;
    for (Index i = 0; i < count; ++i) {
      visit(from);
      for (std::size_t axis = place.size(); axis-- > 0;) {
        from += tensor.strides[axis];
        if (++place[axis] < tensor.shape[axis]) break;
        from -= tensor.strides[axis] * tensor.shape[axis];
        place[axis] = 0;
      }
    }
  }
  [[noreturn]] void refuse_dtype(const TensorEntry& tensor) const {
    throw CheckpointError(
        path_name(), detail::printable(tensor.name),
        "is of type " + detail::printable(tensor.dtype) + ", which is not supported");
  }
  template <class Visit>
  void visit_dtype(const TensorEntry& tensor, Visit&& visit) const {
    const bool known =
        [&]<class... T>(std::type_identity<T>... scalar) {
          return ((tensor.dtype == stored_dtype<T>() && (visit(scalar), true)) || ...);
        }(std::type_identity<float>(), std::type_identity<double>(), std::type_identity<BFloat16>(),
          std::type_identity<Float16>(), std::type_identity<std::int64_t>(),
          std::type_identity<std::int32_t>());
    if (!known) refuse_dtype(tensor);
  }
  template <class T>
  void require_dtype(const TensorEntry& tensor) const {
    visit_dtype(tensor, [&](auto scalar) {
      if constexpr (!detail::is_storable<typename decltype(scalar)::type, T>)
        throw CheckpointError(path_name(), detail::printable(tensor.name),
                              "is of type " + tensor.dtype + ", asked for integers");
    });
  }

  FileReader file_;
  std::vector<TensorEntry> tensors_;
  std::map<std::string, std::string> metadata_;
  std::map<std::string, std::size_t, std::less<>> index_;
};

}  // namespace ssm
