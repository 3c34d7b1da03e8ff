// SPDX-License-Identifier: Apache-2.0
#include "ssm/io/input.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <thread>

#include "support/temporary_folder.hpp"

namespace ssm::test {
namespace {

/// Standard input is another file as long as this lives.
class StandardInput {
 public:
  explicit StandardInput(int file) : before_(::dup(STDIN_FILENO)) { ::dup2(file, STDIN_FILENO); }
  StandardInput(const StandardInput&) = delete;
  StandardInput& operator=(const StandardInput&) = delete;
  ~StandardInput() {
    ::dup2(before_, STDIN_FILENO);
    ::close(before_);
  }

 private:
  int before_;
};

/// The reading end of a pipe that a thread writes a text into.
class PipeOf {
 public:
  explicit PipeOf(std::string text, int flags = 0) {
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    ::fcntl(ends[0], F_SETFL, flags);
    reading_ = ends[0];
    writer_ = std::thread([text = std::move(text), end = ends[1]] {
      for (std::size_t at = 0; at < text.size();) {
        const auto count = ::write(end, text.data() + at, text.size() - at);
        if (count <= 0) break;
        at += static_cast<std::size_t>(count);
      }
      ::close(end);
    });
  }
  PipeOf(const PipeOf&) = delete;
  PipeOf& operator=(const PipeOf&) = delete;
  ~PipeOf() {
    ::close(reading_);
    writer_.join();
  }
  int end() const { return reading_; }
  std::filesystem::path path() const { return "/dev/fd/" + std::to_string(reading_); }

 private:
  int reading_ = -1;
  std::thread writer_;
};

std::string complaint(const std::filesystem::path& path, const InputLimits& limits = {}) {
  try {
    open_input(path, limits);
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "";
}

std::string long_text(std::size_t size) {
  std::string text;
  for (std::size_t i = 0; i < size; ++i) text += static_cast<char>(i * i / 7);
  return text;
}

TEST_CASE("a regular file is read as it is, whatever its size") {
  const TemporaryFolder folder;
  for (const std::size_t size : {0U, 1U, 4096U, 100'000U}) {
    write_text(folder / "text", long_text(size));
    CHECK(read_text(folder / "text") == long_text(size));
  }
}

TEST_CASE("a pipe by path is read to its end and then at any position") {
  for (const std::size_t size : {0U, 5U, 300'000U}) {
    const PipeOf pipe(long_text(size));
    const FileReader input = open_input(pipe.path());
    CHECK(input.name() == pipe.path());
    CHECK(input.size() == size);
    std::string text(size, ' ');
    input.read(0, std::as_writable_bytes(std::span(text.data(), text.size())));
    CHECK(text == long_text(size));
    input.require_unchanged_size();
    std::array<std::byte, 2> last{};
    CHECK_THROWS_AS(input.read(size, last), CheckpointError);
    if (size < last.size()) continue;
    input.read(size - 2, last);
    CHECK(std::to_integer<char>(last[1]) == text.back());
  }
}

TEST_CASE("a long pipe is kept in a file without a name in TMPDIR") {
  const TemporaryFolder folder;
  ::setenv("TMPDIR", folder.path().c_str(), 1);
  const PipeOf pipe(long_text(200'000));
  const FileReader input = open_input(pipe.path(), {.in_memory = 100'000});
  CHECK(folder.file_count() == 0);
  std::string text;
  input.for_each_block([&](std::span<const std::byte> block) {
    for (const std::byte b : block) text += static_cast<char>(b);
  });
  CHECK(text == long_text(200'000));
  ::setenv("TMPDIR", (folder / "absent").c_str(), 1);
  const PipeOf homeless("much too long");
  CHECK(complaint(homeless.path(), {.in_memory = 1}).find("TMPDIR") != std::string::npos);
  ::unsetenv("TMPDIR");
}

TEST_CASE("a named pipe is read when its writer comes") {
  const TemporaryFolder folder;
  const std::string path = (folder / "pipe").string();
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  std::thread writer([&] { write_text(path, "from the other side"); });
  CHECK(read_text(path) == "from the other side");
  writer.join();
}

TEST_CASE("standard input is read by its two names, be it a pipe or a file") {
  const TemporaryFolder folder;
  write_text(folder / "text", "line\nrest");
  for (const char* name : {"-", "/dev/stdin"}) {
    {
      const PipeOf pipe("through a pipe");
      const StandardInput input(pipe.end());
      CHECK(read_text(name) == "through a pipe");
    }
    {
      const PipeOf pipe(long_text(200'000), O_NONBLOCK);
      const StandardInput input(pipe.end());
      CHECK(read_text(name) == long_text(200'000));
    }
    const int file = ::open((folder / "text").c_str(), O_RDONLY);
    {
      const StandardInput input(file);
      CHECK(read_text(name) == "line\nrest");
      CHECK(open_input(name).name() == "standard input");
    }
    ::lseek(file, 5, SEEK_SET);  // what comes before has been read by another
    {
      const StandardInput input(file);
      CHECK(read_text(name) == "rest");
    }
    ::close(file);
  }
}

TEST_CASE("a file of the system that says it is empty is read") {
  if (std::filesystem::exists("/proc/version")) CHECK(!read_text("/proc/version").empty());
}

TEST_CASE("an empty device is an empty text, an endless one is refused") {
  CHECK(read_text("/dev/null").empty());
  CHECK(complaint("/dev/zero") == "/dev/zero: is neither a file nor a pipe");
}

TEST_CASE("a folder, a file that is missing and one too large are named") {
  const TemporaryFolder folder;
  const std::string path = (folder / "absent").string();
  CHECK(complaint(folder.path()) == folder.path().string() + ": is a folder, not a file");
  CHECK(complaint(path) == path + ": cannot be opened: No such file or directory");
  write_text(folder / "text", "12345");
  CHECK(complaint(folder / "text", {.bytes = 4}).ends_with(": is larger than 4 bytes"));
  const PipeOf pipe("12345");
  CHECK(complaint(pipe.path(), {.bytes = 4}).ends_with(": is larger than 4 bytes"));
  CHECK_THROWS_AS(FileReader{folder.path()}, CheckpointError);
}

TEST_CASE("a closed standard input is named") {
  const int before = ::dup(STDIN_FILENO);
  ::close(STDIN_FILENO);
  CHECK(complaint("-") == "standard input: cannot be opened: Bad file descriptor");
  ::dup2(before, STDIN_FILENO);
  ::close(before);
}

}  // namespace
}  // namespace ssm::test
