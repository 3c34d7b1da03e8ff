// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/io/file.hpp"
#include "ssm/io/npy_header.hpp"
#include "ssm/io/stored_scalar.hpp"

namespace ssm {

/// The scalars numpy has a name for.
template <class T>
concept NpyScalar = (StoredScalar<T> && !std::same_as<T, BFloat16>) ||
                    std::same_as<T, std::int8_t> || std::same_as<T, std::uint8_t> ||
                    std::same_as<T, std::int16_t> || std::same_as<T, std::uint16_t> ||
                    std::same_as<T, std::uint32_t> || std::same_as<T, std::uint64_t>;

/// What numpy calls a scalar in the header of a file: "<f4" for float.
template <NpyScalar T>
constexpr std::string_view npy_dtype() {
  if constexpr (std::same_as<T, double>) return "<f8";
  if constexpr (std::same_as<T, float>) return "<f4";
  if constexpr (std::same_as<T, Float16>) return "<f2";
  if constexpr (std::same_as<T, std::int64_t>) return "<i8";
  if constexpr (std::same_as<T, std::int32_t>) return "<i4";
  if constexpr (std::same_as<T, std::int16_t>) return "<i2";
  if constexpr (std::same_as<T, std::int8_t>) return "|i1";
  if constexpr (std::same_as<T, std::uint64_t>) return "<u8";
  if constexpr (std::same_as<T, std::uint32_t>) return "<u4";
  if constexpr (std::same_as<T, std::uint16_t>) return "<u2";
  if constexpr (std::same_as<T, std::uint8_t>) return "|u1";
}

namespace detail {

/// What precedes the data of a .npy file: magic, version, length of the header, header; with room
/// for `least` bytes in all.
inline std::string npy_prologue(std::string_view dtype, std::span<const Index> shape,
                                std::size_t least = 0) {
  std::string text = "{'descr': '" + std::string(dtype) + "', 'fortran_order': False, 'shape': (";
  for (const Index extent : shape) text += std::to_string(extent) + ", ";
  text += "), }";
  constexpr std::size_t prefix_length = 10;
  constexpr std::size_t alignment = 64;
  const std::size_t total =
      std::max(least, (prefix_length + text.size() + alignment) / alignment * alignment);
  text.resize(total - prefix_length - 1, ' ');
  text += '\n';
  std::string prefix = "\x93NUMPY\x01";
  prefix += '\0';
  prefix += static_cast<char>(text.size() & 0xffU);
  prefix += static_cast<char>(text.size() >> 8);
  return prefix + text;
}

}  // namespace detail

/// One array in numpy's file format, versions 1 to 3; the header is checked when it is opened.
///   const NpyFile file("x.npy");
///   file.read(x);                          // into any host tensor of the same extents
///   auto y = file.read<float, 2>();        // or into a new one
///   file.read_from(1000, part);            // elements 1000, 1001, … of a long row
///   const NpyFile piped(open_input("-"));  // see open_input
/// Throws  CheckpointError  if the file is damaged, longer or shorter than its header says, of
///                          other extents or of a type that does not convert (floats to any float;
///                          integers of 1 to 8 bytes to any scalar that holds them)
/// Source  numpy.lib.format
class NpyFile {
 public:
  explicit NpyFile(const std::filesystem::path& path) : NpyFile(FileReader(path)) {}
  explicit NpyFile(FileReader file) : file_(std::move(file)) {
    std::array<std::byte, 12> prefix{};
    const std::size_t present =
        std::min<std::size_t>(prefix.size(), static_cast<std::size_t>(file_.size()));
    file_.read(0, std::span(prefix).first(present));
    constexpr std::array<unsigned char, 6> magic{0x93, 'N', 'U', 'M', 'P', 'Y'};
    const auto byte = [&](std::size_t i) { return std::to_integer<std::uint64_t>(prefix[i]); };
    for (std::size_t i = 0; i < magic.size(); ++i)
      if (byte(i) != magic[i]) refuse("is not a .npy file");
    const std::uint64_t version = byte(6);
    if (version < 1 || version > 3 || byte(7) != 0) refuse("is of an unknown .npy version");
    const std::uint64_t start = version == 1 ? 10 : 12;
    std::uint64_t length = byte(8) | byte(9) << 8;
    if (version > 1) length |= byte(10) << 16 | byte(11) << 24;
    if (file_.size() < start || length > file_.size() - start || length > longest_header)
      refuse("npy header of " + std::to_string(length) + " bytes does not fit the file");
    std::string text(static_cast<std::size_t>(length), '\0');
    file_.read(start, std::as_writable_bytes(std::span(text)));
    header_ = parse_npy_header(text, file_.name());
    data_ = start + length;
    require_size();
  }

  const std::string& name() const { return file_.name(); }
  const NpyHeader& header() const { return header_; }
  const std::vector<Index>& shape() const { return header_.shape; }

  template <HostTensor Output>
  void read(Output&& output) const {
    auto view = view_of(output);
    detail::require_shape(file_.name(), "", header_.shape, view);
    if (header_.fortran_order)
      read_elements(0, reverse_axes(view));
    else
      read_elements(0, view);
  }

  /// Fills a view in row-major order with the elements of the file from number `begin` on, in the
  /// order in which they are stored.
  /// Throws  ArgumentError  for a range that is not inside
  template <HostTensor Output>
  void read_from(Index begin, Output&& output) const {
    const auto view = view_of(output);
    const Index count = detail::checked_size(header_.shape);
    if (begin < 0 || begin > count || view.size() > count - begin)
      throw ArgumentError(file_.name() + ": elements " + std::to_string(begin) + " + " +
                          std::to_string(view.size()) + " are outside its " +
                          std::to_string(count));
    read_elements(begin, view);
  }

  template <class T, int Rank>
    requires StoredScalar<T> || NpyScalar<T> DynamicTensor<T, Rank> read()
  const {
    if constexpr (std::integral<T>)
      require_integers();
    else
      visit_dtype([](auto) {});
    auto result = detail::tensor_of_shape<T, Rank>(file_.name(), "", header_.shape);
    read(result);
    return result;
  }

  /// Throws  CheckpointError  if the elements are not whole numbers
  void require_integers() const {
    visit_dtype([&](auto scalar) {
      if constexpr (!std::integral<typename decltype(scalar)::type>)
        refuse("is of type " + header_.dtype + ", asked for integers: " + names_of(Integers()));
    });
  }

 private:
  template <class... T>
  struct Scalars {};
  using Floats = Scalars<float, double, Float16>;
  using Integers = Scalars<std::int64_t, std::int32_t, std::int16_t, std::int8_t, std::uint64_t,
                           std::uint32_t, std::uint16_t, std::uint8_t>;

  static constexpr std::uint64_t longest_header = 1 << 20;  // bytes

  [[noreturn]] void refuse(const std::string& what) const {
    throw CheckpointError(file_.name(), "", what);
  }

  template <class... T>
  static std::string names_of(Scalars<T...>) {
    std::string names;
    ((names += (names.empty() ? "" : ", ") + std::string(npy_dtype<T>())), ...);
    return names;
  }
  template <class Visit, class... T>
  bool try_dtype(Visit&& visit, Scalars<T...>) const {
    return ((header_.dtype == npy_dtype<T>() && (visit(std::type_identity<T>()), true)) || ...);
  }
  template <class Visit>
  bool try_dtype(Visit&& visit) const {
    return try_dtype(visit, Floats()) || try_dtype(visit, Integers());
  }
  template <class Visit>
  void visit_dtype(Visit&& visit) const {
    if (!try_dtype(visit))
      refuse("is of type " + detail::printable(header_.dtype) + ", which is not one of " +
             names_of(Floats()) + ", " + names_of(Integers()));
  }
  template <class View>
  void read_elements(Index begin, const View& view) const {
    if constexpr (std::integral<typename View::Value>) require_integers();
    visit_dtype([&](auto scalar) {
      using Stored = typename decltype(scalar)::type;
      const std::uint64_t before = static_cast<std::uint64_t>(begin) * sizeof(Stored);
      detail::read_elements<Stored>(file_, "", data_ + before, view);
    });
  }
  /// The width of types that cannot be read is not known, so neither is the size of their data.
  void require_size() const {
    const Index count = detail::checked_size(header_.shape);
    if (count < 0) refuse("has impossible extents " + shape_text(header_.shape));
    const std::uint64_t bytes = file_.size() - data_;
    try_dtype([&](auto scalar) {
      constexpr std::uint64_t width = sizeof(typename decltype(scalar)::type);
      if (bytes % width != 0 || bytes / width != static_cast<std::uint64_t>(count))
        refuse("has " + std::to_string(bytes) + " bytes of data, not " + shape_text(header_.shape) +
               " of " + header_.dtype);
    });
  }
  template <class View>
  static auto reverse_axes(const View& view) {
    DynamicView<View> reversed(view);
    for (int a = 0, b = View::rank() - 1; a < b; ++a, --b) reversed = reversed.transpose(a, b);
    return reversed;
  }
  template <class View>
  using DynamicView =
      TensorView<typename View::Element, DynamicExtents<View::rank()>, typename View::Space>;

  FileReader file_;
  NpyHeader header_;
  std::uint64_t data_ = 0;  // byte where the data begins
};

/// Reads a .npy file into a new tensor.
///   auto x = read_npy<float, 3>("x.npy");
/// Throws  CheckpointError  as NpyFile
template <class T, int Rank>
  requires StoredScalar<T> || NpyScalar<T> DynamicTensor<T, Rank> read_npy(
      const std::filesystem::path& path) {
    return NpyFile(path).read<T, Rank>();
  }

/// Writes an array part by part, in row-major order, so that it need not be in memory as a whole.
/// The file is replaced as a whole or not at all.
///   NpyWriter<float> file("logits.npy", std::array<Index, 2>{1000, 50280});
///   for (…) file.write(rows);
///   file.finish();
/// Throws  CheckpointError  if it cannot be written; ArgumentError  if the parts do not make up the
///                                                                  array
template <NpyScalar T>
class NpyWriter {
 public:
  NpyWriter(const std::filesystem::path& path, std::span<const Index> shape)
      : file_(path), left_(detail::checked_size(shape)) {
    if (left_ < 0) throw ArgumentError(file_.name() + ": " + shape_text(shape) + " is too large");
    const std::string prologue = detail::npy_prologue(npy_dtype<T>(), shape);
    file_.write(std::as_bytes(std::span(prologue)));
  }

  template <HostTensor A>
  void write(const A& part) {
    const auto view = view_of(part);
    if (view.size() > left_) throw ArgumentError(file_.name() + ": more elements than its shape");
    detail::write_elements<T>(file_, view);
    left_ -= view.size();
  }
  void finish() {
    if (left_ > 0) throw ArgumentError(file_.name() + ": fewer elements than its shape");
    file_.commit();
  }

 private:
  AtomicFile file_;
  Index left_;
};

/// Writes a host tensor as .npy, row-major, version 1. The file is replaced as a whole or not at
/// all.
/// Throws  CheckpointError  if it cannot be written
template <HostTensor A>
  requires NpyScalar<ValueOf<A>>
void write_npy(const std::filesystem::path& path, const A& array) {
  const auto shape = view_of(array).extents().to_array();
  NpyWriter<ValueOf<A>> file(path, shape);
  file.write(array);
  file.finish();
}

}  // namespace ssm
