// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/io/file.hpp"

namespace ssm {

/// The name of standard input where a file is asked for. A file of this name is "./-".
inline constexpr std::string_view standard_input = "-";

/// What is taken of an input that has to be kept.
struct InputLimits {
  std::uint64_t bytes = std::uint64_t{1} << 40;  // more are refused
  std::size_t in_memory = std::size_t{1} << 24;  // bytes; more of a pipe go to a temporary file
};

namespace detail {

inline void write_all(const platform::File& file, std::span<const std::byte> bytes,
                      const std::string& name, const std::string& folder) {
  while (!bytes.empty()) {
    const auto count = platform::write(file, bytes.data(), bytes.size());
    if (count <= 0)
      throw CheckpointError(
          name, "",
          reason(("cannot be kept in " + folder + ", TMPDIR names another place").c_str()));
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

/// A file without a name, gone when it is closed; `folder` becomes where it is.
inline platform::File unnamed_file(const std::string& name, std::string& folder) {
  const char* wanted = std::getenv("TMPDIR");
  std::vector<std::string> folders{"/var/tmp", "/tmp"};  // the first is on a disk more often
  if (wanted != nullptr && *wanted != '\0') folders = {wanted};
  for (const std::string& place : folders) {
    std::string path = place + "/ssm-input-XXXXXX";
    platform::File file = platform::create_unnamed(path.data());
    if (!file) continue;
    folder = place;
    return file;
  }
  throw CheckpointError(
      name, "",
      reason(("cannot be kept in " + folders.back() + ", TMPDIR names another place").c_str()));
}

/// Reads to the end what cannot be read at any position, and keeps it.
inline FileReader keep_input(const platform::File& source, const std::string& name,
                             const InputLimits& limits) {
  constexpr std::size_t block = 1 << 16;
  std::vector<std::byte> memory;
  std::vector<std::byte> bytes(block);
  platform::File file;
  std::string folder;
  std::uint64_t size = 0;
  for (;;) {
    // Whoever opened the pipe may not wait, this does.
    const auto count = platform::read(source, bytes.data(), bytes.size());
    if (count < 0) throw CheckpointError(name, "", reason("cannot be read"));
    if (count == 0) break;
    const auto part = std::span(bytes).first(static_cast<std::size_t>(count));
    size += part.size();
    if (size > limits.bytes)
      throw CheckpointError(name, "", "is larger than " + std::to_string(limits.bytes) + " bytes");
    if (!file && size > limits.in_memory) {
      file = unnamed_file(name, folder);
      write_all(file, memory, name, folder);
      memory = {};
    }
    if (file)
      write_all(file, part, name, folder);
    else
      memory.insert(memory.end(), part.begin(), part.end());
  }
  if (file) return {name, std::move(file)};
  return {name, std::move(memory)};
}

/// Throws  CheckpointError  for a folder, and for what may have no end or no bytes: a device that
///                          is no terminal, a socket
inline void require_input(platform::FileKind kind, bool is_standard, const std::string& name) {
  using enum platform::FileKind;
  if (kind == regular || kind == pipe || kind == null_device) return;
  if (kind == folder) throw CheckpointError(name, "", "is a folder, not a file");
  const bool is_connected = kind == socket || platform::is_terminal(0);
  if (!(is_standard && is_connected))
    throw CheckpointError(name, "", "is neither a file nor a pipe");
}

}  // namespace detail

/// Opens what a user names as input: a regular file, "-" or /dev/stdin for standard input, a FIFO,
/// the pipe of a shell's <(command). The result can be read at any position. A regular file is read
/// where it is asked for; anything else is read to its end first and kept, up to 16 MiB in memory
/// and more in a file without a name in TMPDIR (/var/tmp where it is not set), which is gone with
/// the reader or the process.
///   const NpyFile tokens(open_input("-"));
/// Throws  CheckpointError  if it is a folder, missing, a device other than /dev/null and a
///                          terminal as standard input, cannot be read or kept, or is larger than
///                          the limit
inline FileReader open_input(const std::filesystem::path& path, const InputLimits& limits = {}) {
  const bool is_standard = path == standard_input || path == "/dev/stdin";
  const std::string name = is_standard ? "standard input" : path.string();
  platform::FileStatus status;
  platform::File file;
  if (is_standard) {
    file = platform::open_standard_input();
  } else {
    // Looked at first: to open a device may have consequences.
    if (platform::examine(name.c_str(), status)) detail::require_input(status.kind, false, name);
    file = platform::open_and_wait(name.c_str());
  }
  if (!file || !platform::examine(file, status))
    throw CheckpointError(name, "", detail::reason("cannot be opened"));
  detail::require_input(status.kind, is_standard, name);
  // Standard input may have been read in part already; files of the system say that they are empty
  // and are not.
  const bool is_whole =
      status.kind == platform::FileKind::regular && status.size > 0 && platform::is_at_begin(file);
  if (!is_whole) return detail::keep_input(file, name, limits);
  FileReader reader(name, std::move(file));
  if (reader.size() > limits.bytes)
    throw CheckpointError(name, "", "is larger than " + std::to_string(limits.bytes) + " bytes");
  return reader;
}

/// The whole of a text from anything that open_input opens.
///   const std::string prompt = read_text("-");
/// Throws  CheckpointError  as open_input, or if it is larger than `limit` bytes
inline std::string read_text(const std::filesystem::path& path,
                             std::uint64_t limit = std::uint64_t{1} << 30) {
  const FileReader input = open_input(path, {.bytes = limit});
  std::string text(static_cast<std::size_t>(input.size()), '\0');
  input.read(0, std::as_writable_bytes(std::span(text.data(), text.size())));
  return text;
}

}  // namespace ssm
