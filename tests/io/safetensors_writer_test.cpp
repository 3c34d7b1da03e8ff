// SPDX-License-Identifier: Apache-2.0
// What happens to the previous file when writing a new one fails.
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <ssm/io/npy.hpp>
#include <ssm/io/safetensors.hpp>
#include <string>

#include "support/temporary_folder.hpp"

using ssm::CheckpointError;
using ssm::DynamicTensor;
using ssm::SafetensorsFile;
using ssm::SafetensorsWriter;
using ssm::TemporaryFolder;

namespace {

/// No file grows beyond `bytes` until the end of the scope: what a full disk looks like to one
/// process.
class FullDisk {
 public:
  explicit FullDisk(::rlim_t bytes) : handler_(::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const ::rlimit limited{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limited);
  }
  FullDisk(const FullDisk&) = delete;
  FullDisk& operator=(const FullDisk&) = delete;
  ~FullDisk() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    ::signal(SIGXFSZ, handler_);
  }

 private:
  ::rlimit before_{};
  ::sighandler_t handler_;
};

void write(const std::filesystem::path& path, ssm::Index length, float value) {
  DynamicTensor<float, 1> x(length);
  ssm::fill(x, value);
  SafetensorsWriter writer(path);
  writer.add("x", x);
  writer.finish();
}

float first_element(const std::filesystem::path& path) {
  return SafetensorsFile(path).read<float, 1>("x")(0);
}

std::string message_of(const std::filesystem::path& path) {
  try {
    write(path, 1, 2);
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "nothing thrown";
}

}  // namespace

TEST_CASE("a new file replaces the previous one and leaves nothing beside it") {
  const TemporaryFolder folder;
  write(folder / "x", 100, 1);
  write(folder / "x", 7, 2);
  CHECK(first_element(folder / "x") == 2);
  CHECK(SafetensorsFile(folder / "x").shape("x")[0] == 7);
  CHECK(folder.file_count() == 1);
}

TEST_CASE("a full disk is a CheckpointError and leaves the previous file, and only it") {
  const TemporaryFolder folder;
  write(folder / "x", 100, 1);
  const std::string before = ssm::file_text(folder / "x");
  for (const ::rlim_t bytes : {0U, 4U, 50U, 4096U}) {
    const FullDisk full(bytes);
    CHECK_THROWS_AS(write(folder / "x", 100'000, 2), CheckpointError);
    CHECK_THROWS_AS(ssm::write_npy(folder / "x", DynamicTensor<float, 1>(100'000)),
                    CheckpointError);
  }
  CHECK(ssm::file_text(folder / "x") == before);
  CHECK(folder.file_count() == 1);
  write(folder / "x", 100'000, 2);
  CHECK(first_element(folder / "x") == 2);
}

TEST_CASE("a process killed while it writes leaves the previous file readable") {
  const TemporaryFolder folder;
  write(folder / "x", 100, 1);
  const ::pid_t child = ::fork();
  if (child == 0) {
    const ::rlimit limited{4096, 4096};
    ::setrlimit(RLIMIT_FSIZE, &limited);
    ::signal(SIGXFSZ, SIG_DFL);  // kills where the disk is full
    write(folder / "x", 100'000, 2);
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK(WIFSIGNALED(status));
  CHECK(first_element(folder / "x") == 1);
}

TEST_CASE("a value that does not fit its stored type leaves the previous file, and only it") {
  const TemporaryFolder folder;
  write(folder / "x", 100, 1);
  DynamicTensor<std::int64_t, 1> large(100'000);
  large(99'999) = std::int64_t{1} << 40;
  SafetensorsWriter writer(folder / "x");
  writer.add<std::int32_t>("x", large);
  CHECK_THROWS_AS(writer.finish(), CheckpointError);
  CHECK(first_element(folder / "x") == 1);
  CHECK(folder.file_count() == 1);
}

TEST_CASE("names and metadata that are not UTF-8 leave the previous file") {
  const TemporaryFolder folder;
  write(folder / "x", 100, 1);
  SafetensorsWriter writer(folder / "x");
  writer.metadata("note", "\xff");
  CHECK_THROWS_AS(writer.finish(), CheckpointError);
  CHECK(first_element(folder / "x") == 1);
}

TEST_CASE("a folder that is missing, or a file, is one sentence with the name of the file") {
  const TemporaryFolder folder;
  ssm::write_text(folder / "file", "previous");
  const std::string inside_file = (folder / "file/x").string();
  const std::string missing = (folder / "missing/x").string();
  CHECK(message_of(inside_file) == inside_file + ": folder cannot be opened: Not a directory");
  CHECK(message_of(missing) == missing + ": folder cannot be opened: No such file or directory");
  CHECK(ssm::file_text(folder / "file") == "previous");
}

TEST_CASE("an unwritable folder is refused and keeps its file") {
  if (::geteuid() == 0) {
    MESSAGE("skipped: root may write everywhere");
    return;
  }
  const TemporaryFolder folder;
  write(folder / "x", 100, 1);
  ::chmod(folder.path().c_str(), 0500);
  CHECK_THROWS_AS(write(folder / "x", 100, 2), CheckpointError);
  ::chmod(folder.path().c_str(), 0700);
  CHECK(first_element(folder / "x") == 1);
}

TEST_CASE("folders and devices are not replaced") {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "x");
  CHECK(message_of(folder / "x") == (folder / "x").string() + ": exists and is not a regular file");
  CHECK(message_of("/dev/full") == "/dev/full: exists and is not a regular file");
  CHECK(std::filesystem::is_character_file("/dev/full"));
  CHECK(folder.file_count() == 1);
}

TEST_CASE("nothing is written before finish") {
  const TemporaryFolder folder;
  {
    DynamicTensor<float, 1> x(3);
    SafetensorsWriter writer(folder / "x");
    writer.add("x", x);
    CHECK(folder.file_count() == 0);
  }
  CHECK(folder.file_count() == 0);
}

TEST_CASE("a leftover of a killed process is in nobody's way") {
  const TemporaryFolder folder;
  const std::string leftover =
      (folder / "x").string() + ".partial-" + std::to_string(::getpid()) + "-0";
  ssm::write_text(leftover, "half a file");
  write(folder / "x", 3, 1);
  CHECK(first_element(folder / "x") == 1);
  CHECK(ssm::file_text(leftover) == "half a file");
}

TEST_CASE("a file in the current folder needs no folder in its name") {
  const TemporaryFolder folder;
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  write("x", 3, 1);
  std::filesystem::current_path(before);
  CHECK(first_element(folder / "x") == 1);
}

TEST_CASE("the new file has the permissions that new files have") {
  const TemporaryFolder folder;
  const ::mode_t mask = ::umask(0027);
  write(folder / "x", 3, 1);
  ::umask(mask);
  struct stat status {};
  ::stat((folder / "x").c_str(), &status);
  CHECK((status.st_mode & 0777) == 0640);
}
