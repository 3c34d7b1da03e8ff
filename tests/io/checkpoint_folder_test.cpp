// SPDX-License-Identifier: Apache-2.0
#include "ssm/io/checkpoint_folder.hpp"

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/temporary_folder.hpp"

namespace ssm::test {
namespace {

using Steps = std::vector<Index>;
using Path = std::filesystem::path;

std::string read_text_of(const FileReader& file) {
  std::string text(static_cast<std::size_t>(file.size()), ' ');
  file.read(0, std::as_writable_bytes(std::span(text.data(), text.size())));
  return text;
}

void fill(const Path& folder) { write_text(folder / "weights", folder.string()); }

TEST_CASE("checkpoints appear under their step and the newest few stay") {
  const TemporaryFolder folder;
  CheckpointFolder run(folder / "run");
  CHECK(run.steps().empty());
  for (const Index step : {0, 7, 9999999, 12345678}) run.write(step, fill, 3);
  CHECK(run.steps() == Steps{7, 9999999, 12345678});
  CHECK(run.at(7).filename() == "checkpoint-0000007");
  CHECK(run.at(12345678).filename() == "checkpoint-12345678");
  CHECK(file_text(run.at(7) / "weights").ends_with("checkpoint-0000007"));
}

TEST_CASE("a write that fails leaves what was there and nothing else") {
  const TemporaryFolder folder;
  CheckpointFolder run(folder.path());
  run.write(1, fill);
  const auto files = folder.file_count();
  CHECK_THROWS_AS(run.write(2,
                            [](const Path& place) {
                              fill(place);
                              throw std::runtime_error("the disk is full");
                            }),
                  std::runtime_error);
  CHECK(run.steps() == Steps{1});
  CHECK(folder.file_count() == files);
  run.write(2, fill);
  CHECK(run.steps() == Steps{1, 2});
}

TEST_CASE("a checkpoint that is there already is not written again") {
  const TemporaryFolder folder;
  CheckpointFolder run(folder.path());
  run.write(1, fill);
  run.write(1, [](const Path&) { throw std::runtime_error("not reached"); });
  CHECK(run.steps() == Steps{1});
}

TEST_CASE("what a killed process left half written is no checkpoint and goes away") {
  const TemporaryFolder folder;
  {
    CheckpointFolder run(folder.path());
    run.write(1, fill);
  }
  std::filesystem::create_directory(folder / ".partial-checkpoint-0000002");
  fill(folder / ".partial-checkpoint-0000002");
  CHECK(CheckpointFolder::steps_in(folder.path()) == Steps{1});
  CheckpointFolder run(folder.path());
  CHECK(!std::filesystem::exists(folder / ".partial-checkpoint-0000002"));
}

TEST_CASE("only names that a step makes count as checkpoints") {
  const TemporaryFolder folder;
  for (const char* name :
       {"checkpoint-0000003", "checkpoint-3", "checkpoint-", "checkpoint-00000x1",
        "checkpoint--000001", "checkpoint-0000004.old", "other"})
    std::filesystem::create_directory(folder / name);
  CHECK(CheckpointFolder::steps_in(folder.path()) == Steps{3});
  CHECK(CheckpointFolder::steps_in(folder / "absent").empty());
}

TEST_CASE("a second process is kept out until the first is gone") {
  const TemporaryFolder folder;
  const auto is_refused = [&] {
    const pid_t child = ::fork();
    if (child == 0) {
      try {
        CheckpointFolder run(folder.path());
      } catch (const CheckpointError&) {
        ::_exit(1);
      }
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WEXITSTATUS(status) == 1;
  };
  {
    CheckpointFolder run(folder.path());
    CHECK(is_refused());
  }
  CHECK(!is_refused());
}

TEST_CASE("a folder that cannot be made is refused") {
  const TemporaryFolder folder;
  write_text(folder / "file", "x");
  CHECK_THROWS_AS(CheckpointFolder(folder / "file"), CheckpointError);
  CHECK_THROWS_AS(CheckpointFolder(folder.path() / "file" / "run"), CheckpointError);
}

TEST_CASE("a model is found in a folder of its own or in the newest checkpoint") {
  const TemporaryFolder folder;
  CHECK_THROWS_AS(model_folder(folder.path()), CheckpointError);
  CHECK_THROWS_AS(model_folder(folder / "absent"), CheckpointError);
  CheckpointFolder run(folder.path());
  run.write(3, fill);
  run.write(20, fill);
  CHECK(model_folder(folder.path()) == run.at(20));
  write_text(folder / "config.json", "{}");
  CHECK(model_folder(folder.path()) == folder.path());
}

TEST_CASE("a checkpoint that is removed while it is opened gives way to the newer one") {
  const TemporaryFolder folder;
  CheckpointFolder run(folder.path());
  run.write(1, fill, 1);
  std::vector<Path> opened;
  const std::string text = open_newest(folder.path(), [&](const Path& place) {
    opened.push_back(place);
    if (opened.size() == 1) run.write(2, fill, 1);
    if (!std::filesystem::exists(place / "weights"))
      throw CheckpointError(place.string(), "", "is gone");
    return file_text(place / "weights");
  });
  CHECK(opened == std::vector<Path>{run.at(1), run.at(2)});
  CHECK(text.ends_with("checkpoint-0000002"));
}

TEST_CASE("what is wrong with a checkpoint that stays is not tried again") {
  const TemporaryFolder folder;
  CheckpointFolder run(folder.path());
  run.write(1, fill);
  int calls = 0;
  CHECK_THROWS_WITH_AS(open_newest(folder.path(),
                                   [&](const Path&) -> int {
                                     ++calls;
                                     throw CheckpointError("weights", "", "is damaged");
                                   }),
                       "weights: is damaged", CheckpointError);
  CHECK(calls == 1);
  CHECK_THROWS_AS(open_newest(folder / "absent", [](const Path&) { return 0; }), CheckpointError);
}

TEST_CASE("a reader beside a training that keeps one checkpoint always finds a whole one") {
  const TemporaryFolder folder;
  const Path path = folder / "run";
  const auto fill_both = [](const Path& place) {
    write_text(place / "config", place.filename().string());
    write_text(place / "weights", place.filename().string());
  };
  CheckpointFolder(path).write(0, fill_both, 1);
  const pid_t writer = ::fork();
  if (writer == 0) {
    CheckpointFolder run(path);
    for (Index step = 1; step <= 150; ++step) run.write(step, fill_both, 1);
    ::_exit(0);
  }
  int status = 0;
  std::string newest;
  int reads = 0;
  do {
    const std::string found = open_newest(path, [&](const Path& place) {
      const FileReader config(place / "config");
      std::string text = read_text_of(config);
      const std::string weights = read_text_of(FileReader(place / "weights"));
      CHECK(weights == text);
      return text;
    });
    CHECK(found >= newest);  // steps have as many digits
    newest = found;
    ++reads;
  } while (::waitpid(writer, &status, WNOHANG) == 0);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(reads > 0);
}

}  // namespace
}  // namespace ssm::test
