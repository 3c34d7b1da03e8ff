// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "case.hpp"
#include "kind.hpp"
#include "ssm/version.hpp"
#include "trial.hpp"
#ifdef SSM_WITH_CUDA
#include "ssm/backend/cuda/launch.hpp"
#endif

namespace ssm::conformance {
namespace {

namespace fs = std::filesystem;

/// Counts what came of the cases, and says so line by line.
class Tally {
 public:
  void pass(const std::string& name, const Verdict& verdict) {
    ++passed_;
    std::printf("pass         %-36s %8.1e  %s\n", name.c_str(), verdict.error,
                printable(verdict.tensor).c_str());
  }
  void fail(const std::string& name, const Verdict& verdict) {
    ++failed_;
    std::printf("FAIL         %-36s %8.1e  %s: %s\n", name.c_str(), verdict.error,
                printable(verdict.tensor).c_str(), printable(verdict.reason).c_str());
  }
  void fail(const std::string& name, const std::string& sentence) {
    ++failed_;
    std::printf("FAIL         %-36s           %s\n", name.c_str(), printable(sentence).c_str());
  }
  void unsupported(const std::string& name, const std::string& what) {
    ++unsupported_;
    std::printf("unsupported  %-36s           %s\n", name.c_str(), printable(what).c_str());
  }

  /// The last line. Returns the exit status.
  int finish() const {
    std::printf("%d passed, %d failed, %d unsupported\n", passed_, failed_, unsupported_);
    const bool all_passed = passed_ > 0 && failed_ == 0 && unsupported_ == 0;
    return all_passed ? 0 : 1;
  }

 private:
  /// One line, whatever a file is called or says.
  static std::string printable(std::string text) {
    std::replace_if(
        text.begin(), text.end(), [](char c) { return (c >= 0 && c < ' ') || c == '\x7f'; }, '?');
    return text;
  }

  int passed_ = 0;
  int failed_ = 0;
  int unsupported_ = 0;
};

/// The cases of a folder, in the order of their names: files, model folders, and folders of them.
std::vector<fs::path> cases_under(const fs::path& path) {
  if (!fs::is_directory(path) || is_model_folder(path)) return {path};
  std::vector<fs::path> entries(fs::directory_iterator(path), fs::directory_iterator{});
  std::sort(entries.begin(), entries.end());
  std::vector<fs::path> cases;
  for (const fs::path& entry : entries) {
    if (fs::is_directory(entry)) {
      const auto inner = cases_under(entry);
      cases.insert(cases.end(), inner.begin(), inner.end());
    } else if (entry.extension() == ".safetensors") {
      cases.push_back(entry);
    }
  }
  return cases;
}

std::string name_of(const fs::path& path) {
  const fs::path tidy = path.has_filename() ? path : path.parent_path();
  return (fs::is_directory(tidy) ? tidy.filename() : tidy.stem()).string();
}

/// Which kinds of cases are run: those of `only`, or all where it is empty, but none of `without`.
struct Selection {
  std::vector<std::string> only, without;

  bool has(const std::string& op) const {
    const auto is_in = [&](const std::vector<std::string>& ops) {
      return std::find(ops.begin(), ops.end(), op) != ops.end();
    };
    return (only.empty() || is_in(only)) && !is_in(without);
  }
};

void run_case(const fs::path& path, const std::vector<Kind>& kinds, const Selection& wanted,
              Tally& tally) {
  const std::string name = name_of(path);
  try {
    const Case which = read_case(path);
    if (!wanted.has(which.op)) return;
    const auto kind =
        std::find_if(kinds.begin(), kinds.end(), [&](const Kind& k) { return k.op == which.op; });
    if (kind == kinds.end()) return tally.unsupported(name, which.op);
    Trial trial(which);
    kind->check(trial);
    const Verdict verdict = trial.verdict();
    return verdict.passed ? tally.pass(name, verdict) : tally.fail(name, verdict);
  } catch (const Unsupported& error) {
    tally.unsupported(name, error.what());
  } catch (const std::exception& error) {
    tally.fail(name, error.what());
  }
}

void run_path(const fs::path& path, const std::vector<Kind>& kinds, const Selection& wanted,
              Tally& tally) {
  try {
    if (!fs::exists(path)) return tally.fail(path.string(), "does not exist");
    const std::vector<fs::path> cases = cases_under(path);
    if (cases.empty()) tally.fail(path.string(), "holds no cases");
    for (const fs::path& one : cases) run_case(one, kinds, wanted, tally);
  } catch (const fs::filesystem_error& error) {
    tally.fail(path.string(), error.code().message());
  }
}

constexpr const char* description =
    "Holds the library against published numbers: outputs, states, gradients, models, training "
    "runs.\n"
    "Prints one line a case with the largest |x - y| / max(1, max|y|), measured against the "
    "tolerance\n"
    "of its tensor, then the counts. The exit status is 0 only if every case passed.\n";

constexpr const char* examples =
    "\nExamples:\n"
    "  ssm-conformance tests/data/conformance/cases\n"
    "  ssm-conformance --backend reference --scalar float cases/h3_l7.safetensors "
    "cases/model_h3_hybrid\n"
    "  ssm-conformance --kinds h3,diagonal_ssm cases\n";

}  // namespace
}  // namespace ssm::conformance

int main(int argc, char** argv) {
  using namespace ssm::conformance;
  CLI::App app(description, "ssm-conformance");
  std::string backend = "cpu";
  std::string scalar = "double";
  Selection wanted;
  std::vector<std::string> paths;
  std::vector<std::string> known;
  for (const Kind& kind : kinds_of("reference", "double")) known.emplace_back(kind.op);
  app.add_option("--backend", backend, "What computes")
      ->check(CLI::IsMember(backend_names()))
      ->capture_default_str();
  app.add_option("--scalar", scalar, "In which arithmetic")
      ->check(CLI::IsMember({"double", "float"}))
      ->capture_default_str();
  app.add_option("--kinds", wanted.only,
                 "Only cases of these (the cases' config.op), separated by commas")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::IsMember(known));
  app.add_option("--without", wanted.without, "No cases of these, separated by commas")
      ->delimiter(',')
      ->allow_extra_args(false);
  app.add_option("PATH", paths, "A case file, a model_* folder, or a folder of them")->required();
  app.set_version_flag("--version", SSM_VERSION_STRING);
  app.footer(examples);
  CLI11_PARSE(app, argc, argv);

#ifdef SSM_WITH_CUDA
  if (backend == "cuda" && ssm::cuda::device_count() == 0) {
    std::printf("skipped: no CUDA device\n");
    return 77;
  }
#endif
  Tally tally;
  for (const std::string& path : paths) run_path(path, kinds_of(backend, scalar), wanted, tally);
  return tally.finish();
}
