// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/core/error.hpp"  // CheckpointError
#include "ssm/platform.hpp"

namespace ssm {
namespace detail {

inline std::string reason(const char* what) {
  return std::string(what) + ": " + std::strerror(errno);
}

/// A name from a file, safe to print: no control characters, not endless.
inline std::string printable(std::string_view name) {
  std::size_t length = std::min<std::size_t>(name.size(), 80);
  const bool is_cut = length < name.size();
  while (is_cut && length > 0 && (static_cast<unsigned char>(name[length]) & 0xc0U) == 0x80U)
    --length;  // not in the middle of a character
  std::string text(name.substr(0, length));
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return is_cut ? text + "…" : text;
}

}  // namespace detail

/// A file in memory as long as this is there. Pages come from the file when they are first read;
/// what is written to them stays with this process.
/// A program that replaces the file by renaming another one does not disturb it. One that cuts the
/// file short while it is mapped does: the first access beyond the new end ends the process with
/// SIGBUS, as with every mapping.
class FileMapping {
 public:
  FileMapping() = default;
  FileMapping(FileMapping&& other) noexcept
      : begin_(std::exchange(other.begin_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  FileMapping& operator=(FileMapping&& other) noexcept {
    std::swap(begin_, other.begin_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~FileMapping() {
    if (begin_ != nullptr) platform::unmap(begin_, size_);
  }

  std::byte* data() const { return static_cast<std::byte*>(begin_); }
  std::size_t size() const { return size_; }
  explicit operator bool() const { return begin_ != nullptr; }

 private:
  friend class FileReader;
  FileMapping(void* begin, std::size_t size) : begin_(begin), size_(size) {}

  void* begin_ = nullptr;
  std::size_t size_ = 0;
};

/// A file open for reading at any position; its size is taken when it is opened. For texts and
/// tokens from pipes and standard input as well, see open_input.
/// Throws  CheckpointError  if it cannot be opened or read, is not a regular file, or became
///                          shorter
class FileReader {
 public:
  explicit FileReader(const std::filesystem::path& path)
      // Non-blocking, so that a pipe with no writer is refused below instead of waited for.
      : FileReader(path.string(), platform::open_to_read(path.string().c_str())) {}
  /// A file that is open already.
  FileReader(std::string name, platform::File file)
      : name_(std::move(name)), file_(std::move(file)) {
    if (!file_) throw CheckpointError(name_, "", detail::reason("cannot be opened"));
    size_ = current_size();
  }
  /// What is in memory already, under the name of where it came from.
  FileReader(std::string name, std::vector<std::byte> bytes)
      : name_(std::move(name)), memory_(std::move(bytes)), size_(memory_->size()) {}

  const std::string& name() const { return name_; }
  std::uint64_t size() const { return size_; }

  /// Fills `out` from byte `offset` on.
  void read(std::uint64_t offset, std::span<std::byte> out) const {
    if (offset > size_ || out.size() > size_ - offset)
      throw CheckpointError(name_, "",
                            "ends at byte " + std::to_string(size_) + ", needed up to " +
                                std::to_string(offset) + " + " + std::to_string(out.size()));
    if (memory_ || mapping_) {
      const std::byte* begin = memory_ ? memory_->data() : mapping_.data();
      std::copy_n(begin + offset, out.size(), out.data());
      return;
    }
    while (!out.empty()) {
      const auto count = platform::read_at(file_, offset, out.data(), out.size());
      if (count < 0) throw CheckpointError(name_, "", detail::reason("cannot be read"));
      if (count == 0) throw CheckpointError(name_, "", "became shorter while it was read");
      out = out.subspan(static_cast<std::size_t>(count));
      offset += static_cast<std::uint64_t>(count);
    }
  }

  /// Calls visit(bytes) with one part after another, from the beginning to the end.
  template <class Visit>
  void for_each_block(Visit&& visit) const {
    constexpr std::uint64_t block = 1 << 16;
    std::vector<std::byte> bytes(static_cast<std::size_t>(std::min(size_, block)));
    for (std::uint64_t offset = 0; offset < size_; offset += bytes.size()) {
      bytes.resize(static_cast<std::size_t>(std::min(size_ - offset, block)));
      read(offset, bytes);
      visit(std::span<const std::byte>(bytes));
    }
  }

  /// From here on `read` copies out of the file mapped into memory, where it can be: many small
  /// reads without a call of the system for each. FileMapping says what must not happen to it.
  void read_by_mapping() { mapping_ = map(); }

  /// The whole file in memory, page by page as it is read; nothing where it cannot be.
  FileMapping map() const {
    if (memory_ || size_ == 0 || current_size() != size_) return {};
    const auto bytes = static_cast<std::size_t>(size_);
    void* const begin = platform::map(file_, bytes);
    return begin == nullptr ? FileMapping() : FileMapping(begin, bytes);
  }

  void require_unchanged_size() const {
    if (current_size() != size_)
      throw CheckpointError(name_, "", "changed its size while it was read");
  }

 private:
  std::uint64_t current_size() const {
    if (memory_) return size_;
    platform::FileStatus status;
    if (!platform::examine(file_, status))
      throw CheckpointError(name_, "", detail::reason("cannot be examined"));
    if (status.kind == platform::FileKind::folder)
      throw CheckpointError(name_, "", "is a folder, not a regular file");
    if (status.kind != platform::FileKind::regular)
      throw CheckpointError(name_, "", "is not a regular file");
    return status.size;
  }

  std::string name_;
  platform::File file_;
  std::optional<std::vector<std::byte>> memory_;  // instead of a file
  FileMapping mapping_;                           // what is read, if anything is mapped
  std::uint64_t size_ = 0;
};

/// Replaces a file as a whole or not at all: writes a temporary beside it, `commit` puts it in
/// place, and everything else (an exception, a full disk) removes the temporary and leaves what was
/// there. Only a killed process leaves the temporary `PATH.partial-PID-N` behind, which may be
/// deleted.
/// Throws  CheckpointError  if the temporary cannot be created, written or put in place
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
    platform::FileStatus status;
    if (platform::examine(name().c_str(), status) && status.kind != platform::FileKind::regular)
      throw CheckpointError(name(), "", "exists and is not a regular file");
    // Opened first, so that nothing but fsync can fail once the new file is in place.
    const std::filesystem::path folder = path_.has_parent_path() ? path_.parent_path() : ".";
    folder_ = platform::open_folder(folder.string().c_str());
    if (!folder_) fail("folder cannot be opened");
    for (int attempt = 0; !file_; ++attempt) {
      temporary_ = name() + ".partial-" + std::to_string(platform::process()) + "-" +
                   std::to_string(attempt);
      file_ = platform::create(temporary_.c_str());
      if (!file_ && (errno != EEXIST || attempt == 1000)) fail("cannot be created");
    }
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile() {
    if (!temporary_.empty()) platform::remove(temporary_.c_str());
  }

  std::string name() const { return path_.string(); }

  void write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const auto count = platform::write(file_, bytes.data(), bytes.size());
      if (count <= 0) fail("cannot be written");
      bytes = bytes.subspan(static_cast<std::size_t>(count));
      size_ += static_cast<std::uint64_t>(count);
    }
  }
  /// Writes over bytes that have been written already.
  void overwrite(std::uint64_t offset, std::span<const std::byte> bytes) {
    if (offset > size_ || bytes.size() > size_ - offset)
      throw ArgumentError(name() + ": no bytes to overwrite at " + std::to_string(offset));
    while (!bytes.empty()) {
      const auto count = platform::write_at(file_, offset, bytes.data(), bytes.size());
      if (count <= 0) fail("cannot be written");
      bytes = bytes.subspan(static_cast<std::size_t>(count));
      offset += static_cast<std::uint64_t>(count);
    }
  }
  /// Bytes written so far.
  std::uint64_t size() const { return size_; }

  /// Puts the file in place, on the disk when this returns.
  void commit() {
    if (!platform::flush(file_) || !file_.close()) fail("cannot be written");
    if (!platform::rename(temporary_.c_str(), name().c_str())) fail("cannot be replaced");
    temporary_.clear();
    if (!platform::flush_folder(folder_)) fail("folder cannot be flushed");
  }

 private:
  [[noreturn]] void fail(const char* what) const {
    throw CheckpointError(name(), "", detail::reason(what));
  }

  std::filesystem::path path_;
  std::string temporary_;
  platform::File folder_;
  platform::File file_;
  std::uint64_t size_ = 0;
};

}  // namespace ssm
