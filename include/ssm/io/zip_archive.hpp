// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/io/file.hpp"

namespace ssm::detail {

/// Little-endian numbers of a block of bytes.
class LittleEndian {
 public:
  explicit LittleEndian(std::span<const std::byte> bytes) : bytes_(bytes) {}

  std::uint64_t at(std::size_t offset, std::size_t width) const {
    std::uint64_t number = 0;
    for (std::size_t i = 0; i < width; ++i)
      number |= std::to_integer<std::uint64_t>(bytes_[offset + i]) << (8 * i);
    return number;
  }
  std::uint16_t u16(std::size_t offset) const { return static_cast<std::uint16_t>(at(offset, 2)); }
  std::uint32_t u32(std::size_t offset) const { return static_cast<std::uint32_t>(at(offset, 4)); }
  std::uint64_t u64(std::size_t offset) const { return at(offset, 8); }

 private:
  std::span<const std::byte> bytes_;
};

/// The entries of a zip archive whose data lie in it as they are (method "stored"), also in the
/// 64-bit form: what torch.save writes. The central directory is read and checked when it is
/// opened.
/// Throws  CheckpointError  if the archive is damaged, or an entry is compressed or encrypted
/// Source  PKWARE APPNOTE 6.3, §4.3 and §4.5.3
class ZipArchive {
 public:
  struct Entry {
    std::uint64_t begin = 0;  // bytes of the file
    std::uint64_t size = 0;
  };

  explicit ZipArchive(const FileReader& file) : file_(file) {
    const Directory directory = find_directory();
    std::vector<std::byte> bytes(static_cast<std::size_t>(directory.size));
    file_.read(directory.begin, bytes);
    read_directory(bytes, directory.entries);
  }

  static bool is_one(const FileReader& file) {
    std::array<std::byte, 4> start{};
    if (file.size() < start.size()) return false;
    file.read(0, start);
    return LittleEndian(start).u32(0) == local_signature;
  }

  const std::map<std::string, Entry, std::less<>>& entries() const { return entries_; }

 private:
  struct Directory {
    std::uint64_t begin = 0, size = 0, entries = 0;
  };
  static constexpr std::uint32_t local_signature = 0x04034b50;
  static constexpr std::uint32_t entry_signature = 0x02014b50;
  static constexpr std::uint32_t end_signature = 0x06054b50;
  static constexpr std::uint32_t end64_signature = 0x06064b50;
  static constexpr std::uint32_t locator64_signature = 0x07064b50;
  static constexpr std::size_t end_size = 22, locator64_size = 20, end64_size = 56;
  static constexpr std::size_t entry_size = 46, local_size = 30;
  static constexpr std::uint64_t largest_directory = std::uint64_t{1} << 28;  // bytes

  [[noreturn]] void refuse(const std::string& reason) const {
    throw CheckpointError(file_.name(), "", "zip archive " + reason);
  }

  /// The record at the end, behind which at most a comment of 65535 bytes lies.
  Directory find_directory() const {
    const std::uint64_t tail = std::min<std::uint64_t>(file_.size(), end_size + 65535);
    if (tail < end_size) refuse("is too short");
    std::vector<std::byte> bytes(static_cast<std::size_t>(tail));
    const std::uint64_t first = file_.size() - tail;
    file_.read(first, bytes);
    const LittleEndian numbers(bytes);
    for (std::size_t at = bytes.size() - end_size + 1; at-- > 0;) {
      if (numbers.u32(at) != end_signature) continue;
      if (at + end_size + numbers.u16(at + 20) != bytes.size()) continue;
      return directory_at(first + at, LittleEndian(std::span(bytes).subspan(at)));
    }
    refuse("has no end of its directory: the file is cut off");
  }
  Directory directory_at(std::uint64_t end, const LittleEndian& record) const {
    Directory directory{record.u32(16), record.u32(12), record.u16(10)};
    std::uint64_t limit = end;
    if (directory.begin == 0xffffffffU || directory.size == 0xffffffffU ||
        directory.entries == 0xffffU) {
      if (end < locator64_size) refuse("has no 64-bit directory");
      std::array<std::byte, locator64_size> locator{};
      file_.read(end - locator64_size, locator);
      const LittleEndian numbers(locator);
      if (numbers.u32(0) != locator64_signature) refuse("has no 64-bit directory");
      limit = numbers.u64(8);
      std::array<std::byte, end64_size> end64{};
      if (limit > file_.size() || file_.size() - limit < end64.size())
        refuse("has its 64-bit directory outside the file");
      file_.read(limit, end64);
      const LittleEndian large(end64);
      if (large.u32(0) != end64_signature) refuse("has a damaged 64-bit directory");
      directory = {large.u64(48), large.u64(40), large.u64(32)};
    }
    if (directory.size > limit || directory.begin > limit - directory.size)
      refuse("has its directory outside the file");
    if (directory.size > largest_directory)
      refuse("has a directory of " + std::to_string(directory.size) + " bytes");
    return directory;
  }

  void read_directory(std::span<const std::byte> bytes, std::uint64_t count) {
    const LittleEndian numbers(bytes);
    std::size_t at = 0;
    for (std::uint64_t i = 0; i < count; ++i) {
      if (bytes.size() - at < entry_size || numbers.u32(at) != entry_signature)
        refuse("has a damaged directory");
      const std::size_t name_size = numbers.u16(at + 28), extra_size = numbers.u16(at + 30),
                        comment_size = numbers.u16(at + 32);
      if (bytes.size() - at - entry_size < name_size + extra_size + comment_size)
        refuse("has a damaged directory");
      const auto text = bytes.subspan(at + entry_size, name_size);
      const std::string name(reinterpret_cast<const char*>(text.data()), text.size());
      Sizes sizes{numbers.u32(at + 24), numbers.u32(at + 20), numbers.u32(at + 42)};
      widen(sizes, bytes.subspan(at + entry_size + name_size, extra_size), name);
      if ((numbers.u16(at + 8) & 1U) != 0) refuse("has '" + printable(name) + "' encrypted");
      if (numbers.u16(at + 10) != 0 || sizes.stored != sizes.size)
        refuse("has '" + printable(name) + "' compressed; save without compression");
      const Entry entry{data_of(sizes, name), sizes.size};
      if (!entries_.emplace(name, entry).second)
        refuse("has two entries named '" + printable(name) + "'");
      at += entry_size + name_size + extra_size + comment_size;
    }
  }
  struct Sizes {
    std::uint64_t size, stored, header;
  };
  /// Replaces numbers that do not fit 32 bits by those of the extra field.
  void widen(Sizes& sizes, std::span<const std::byte> extra, const std::string& name) const {
    const LittleEndian numbers(extra);
    for (std::size_t at = 0; extra.size() - at >= 4;) {
      const std::size_t field = numbers.u16(at + 2);
      if (extra.size() - at - 4 < field) break;
      if (numbers.u16(at) == 1) {
        std::size_t next = at + 4;
        for (std::uint64_t* number : {&sizes.size, &sizes.stored, &sizes.header}) {
          if (*number != 0xffffffffU) continue;
          if (next + 8 > at + 4 + field)
            refuse("has '" + printable(name) + "' without its 64-bit sizes");
          *number = numbers.u64(next);
          next += 8;
        }
      }
      at += 4 + field;
    }
  }
  std::uint64_t data_of(const Sizes& sizes, const std::string& name) const {
    std::array<std::byte, local_size> header{};
    if (sizes.header > file_.size() || file_.size() - sizes.header < header.size())
      refuse("has '" + printable(name) + "' outside the file");
    file_.read(sizes.header, header);
    const LittleEndian numbers(header);
    if (numbers.u32(0) != local_signature) refuse("has a damaged '" + printable(name) + "'");
    const std::uint64_t begin = sizes.header + local_size + numbers.u16(26) + numbers.u16(28);
    if (begin > file_.size() || file_.size() - begin < sizes.size)
      refuse("has '" + printable(name) + "' outside the file");
    return begin;
  }

  const FileReader& file_;
  std::map<std::string, Entry, std::less<>> entries_;
};

}  // namespace ssm::detail
