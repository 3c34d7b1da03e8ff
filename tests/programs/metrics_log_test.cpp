// SPDX-License-Identifier: Apache-2.0
#include "metrics_log.hpp"

#include <doctest/doctest.h>
#include <sys/resource.h>

#include <csignal>
#include <limits>

#include "support/temporary_folder.hpp"

namespace ssm::cli::test {
namespace {

constexpr Index all = std::numeric_limits<Index>::max();

TEST_CASE("every entry is one line of JSON in the order of its fields") {
  const TemporaryFolder folder;
  MetricsLog log(folder / "metrics.jsonl", 0);
  log.append({{"step", 1}, {"loss", 2.5}});
  log.append({{"step", 2}, {"bits_per_byte", 1.25}});
  CHECK(file_text(folder / "metrics.jsonl") ==
        "{\"step\":1,\"loss\":2.5}\n{\"step\":2,\"bits_per_byte\":1.25}\n");
  CHECK(log.entries().size() == 2);
}

TEST_CASE("a resumed log drops what came after its step and goes on") {
  const TemporaryFolder folder;
  {
    MetricsLog log(folder / "metrics.jsonl", 0);
    for (const int step : {10, 20, 30, 40}) log.append({{"step", step}});
  }
  MetricsLog log(folder / "metrics.jsonl", 25);
  CHECK(log.entries().size() == 2);
  log.append({{"step", 30}, {"again", true}});
  CHECK(file_text(folder / "metrics.jsonl") ==
        "{\"step\":10}\n{\"step\":20}\n{\"step\":30,\"again\":true}\n");
}

TEST_CASE("a last line that was cut off is dropped") {
  const TemporaryFolder folder;
  write_text(folder / "metrics.jsonl", "{\"step\":1}\n{\"step\":2,\"lo");
  MetricsLog log(folder / "metrics.jsonl", all);
  CHECK(log.entries().size() == 1);
  CHECK(file_text(folder / "metrics.jsonl") == "{\"step\":1}\n");
}

TEST_CASE("a file that is not such a log is refused and left as it is") {
  const TemporaryFolder folder;
  for (const char* text : {"not JSON\n", "[1]\n", "{\"loss\":1}\n", "{\"step\":\"1\"}\n"}) {
    write_text(folder / "metrics.jsonl", text);
    CHECK_THROWS_AS(MetricsLog(folder / "metrics.jsonl", all), CheckpointError);
    CHECK(file_text(folder / "metrics.jsonl") == text);
  }
}

TEST_CASE("an entry that cannot be written is an error") {
  const TemporaryFolder folder;
  MetricsLog log(folder / "metrics.jsonl", 0);
  struct rlimit before {};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const struct rlimit small { 20, before.rlim_max };
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ::setrlimit(RLIMIT_FSIZE, &small);
  const auto append = [&] { log.append({{"step", 1}, {"note", "longer than twenty bytes"}}); };
  CHECK_THROWS_AS(append(), CheckpointError);
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
}

}  // namespace
}  // namespace ssm::cli::test
