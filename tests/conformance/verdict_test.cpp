// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <iomanip>
#include <sstream>
#include <string>
#include <utility>

#include "case_file.hpp"

namespace {

using ssm::test::CaseFile;
using ssm::test::ScratchFolder;
using ssm::test::write_bytes;

const std::filesystem::path cases = std::filesystem::path(SSM_TEST_DATA) / "conformance/cases";

struct Outcome {
  int status;  // −1 if the program did not exit by itself
  std::string text;
};

Outcome run(const std::string& command) {
  FILE* pipe = popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  Outcome outcome{-1, ""};
  std::array<char, 4096> part{};
  while (const std::size_t count = std::fread(part.data(), 1, part.size(), pipe))
    outcome.text.append(part.data(), count);
  const int status = pclose(pipe);
  if (WIFEXITED(status) && WEXITSTATUS(status) < 128) outcome.status = WEXITSTATUS(status);
  return outcome;
}

Outcome conformance(const std::string& flags, const std::filesystem::path& path) {
  std::ostringstream command;
  command << std::quoted(SSM_CONFORMANCE_PROGRAM) << ' ' << flags << ' '
          << std::quoted(path.string()) << " 2>&1";
  return run(command.str());
}

bool says(const Outcome& outcome, const std::string& words) {
  return outcome.text.find(words) != std::string::npos;
}

/// What becomes of one published case after `damage` was done to it.
template <class Damage>
Outcome after(const std::string& name, const std::string& flags, Damage&& damage) {
  const ScratchFolder scratch;
  CaseFile file((cases / name).concat(".safetensors"));
  damage(file);
  const auto path = (scratch.path() / name).concat(".safetensors");
  write_bytes(path, file.bytes());
  return conformance(flags, path);
}

}  // namespace

TEST_CASE("a case that agrees passes, and the exit status is 0") {
  const Outcome outcome = after("shift_ssm_short", "", [](CaseFile&) {});
  CHECK(outcome.status == 0);
  CHECK(says(outcome, "pass         shift_ssm_short"));
  CHECK(says(outcome, "1 passed, 0 failed, 0 unsupported\n"));
}

TEST_CASE("a wrong number anywhere in what is expected is a failure that names the tensor") {
  const std::array<std::pair<const char*, const char*>, 12> expectations{{
      {"shift_ssm_short", "output/y"},
      {"shift_ssm_short", "state/final/shift"},
      {"shift_ssm_short", "grad/input/x"},
      {"shift_ssm_short", "grad/param/ssm_k_kernel.kernel.B"},
      {"shift_ssm_short", "grad/state/shift"},
      {"diagonal_ssm_packed_state", "state/final/diagonal"},
      {"attention_rotary_cache", "grad/state/k"},
      {"causal_convolution_gated", "grad/input/gate_in"},
      {"adamw_clip", "output/grad_norm"},
      {"schedule", "output/cosine"},
      {"cross_entropy_mean", "output/loss"},
      {"training_h3_linear", "output/after_3/backbone.layers.0.mixer.D"},
  }};
  for (const auto& expectation : expectations) {
    const auto& name = expectation.first;
    const auto& tensor = expectation.second;
    CAPTURE(name);
    CAPTURE(tensor);
    for (const char* backend : {"--backend reference", "--backend cpu"}) {
      const Outcome outcome =
          after(name, backend, [&](CaseFile& file) { file.disturb(tensor, 1e-6); });
      CHECK(outcome.status == 1);
      CHECK(says(outcome, "FAIL         "));
      CHECK(says(outcome, tensor));
      CHECK(says(outcome, "0 passed, 1 failed, 0 unsupported\n"));
    }
  }
}

TEST_CASE("a wrong input changes what is computed") {
  for (const char* tensor : {"input/x", "param/ssm_k_D", "state/initial/shift", "cotangent/y",
                             "cotangent/state/shift"}) {
    CAPTURE(tensor);
    const Outcome outcome =
        after("shift_ssm_short", "", [&](CaseFile& file) { file.disturb(tensor, 1e-3); });
    CHECK(outcome.status == 1);
  }
}

TEST_CASE("single precision is held to its own tolerance") {
  const auto slightly_off = [](CaseFile& file) { file.disturb("output/y", 1e-6); };
  CHECK(after("h3_l7", "--scalar double", slightly_off).status == 1);
  CHECK(after("h3_l7", "--scalar float", slightly_off).status == 0);
  CHECK(after("h3_l7", "--scalar float", [](CaseFile& file) {
          file.disturb("output/y", 1e-2);
        }).status == 1);
}

TEST_CASE("a model is checked in its logits, loss, gradients and continuation") {
  for (const char* tensor : {"output/logits", "output/loss", "output/grad_norm",
                             "grad/param/backbone.ln_f.weight", "output/greedy"}) {
    CAPTURE(tensor);
    const ScratchFolder scratch;
    const auto folder = scratch.path() / "model_h3_pure_n64";
    std::filesystem::copy(cases / "model_h3_pure_n64", folder);
    CHECK(conformance("", folder).status == 0);
    CaseFile expected(folder / "expect.safetensors");
    expected.disturb(tensor, 1e-3);
    write_bytes(folder / "expect.safetensors", expected.bytes());
    const Outcome outcome = conformance("", folder);
    CHECK(outcome.status == 1);
    CHECK(says(outcome, tensor));
  }
}

TEST_CASE("what the program does not know is unsupported, and the exit status is not 0") {
  const Outcome outcome = after("h3_l7", "", [](CaseFile& file) {
    file.set_metadata("config", R"({"op": "flux_capacitor"})");
  });
  CHECK(outcome.status == 1);
  CHECK(says(outcome, "unsupported  h3_l7"));
  CHECK(says(outcome, "flux_capacitor"));
  CHECK(says(outcome, "0 passed, 0 failed, 1 unsupported\n"));
}

TEST_CASE("nothing in a file goes unused or unchecked") {
  const auto with = [](const char* tensor) {
    return after("layer_norm_basic", "", [&](CaseFile& file) { file.add(tensor); });
  };
  CHECK(says(with("output/z"), "output/z: nothing computes it"));
  CHECK(says(with("grad/param/gain"), "grad/param/gain: nothing computes it"));
  CHECK(says(with("param/gain"), "param/gain: nothing uses it"));
  CHECK(with("output/z").status == 1);
  CHECK(with("param/gain").status == 1);
  CHECK(with("auxiliary/anything").status == 0);
}

TEST_CASE("a missing parameter is a failure with a sentence") {
  const Outcome outcome = after("h3_l7", "", [](CaseFile& file) {
    file.rename("param/q_proj.weight", "param/query.weight");
  });
  CHECK(outcome.status == 1);
  CHECK(says(outcome, "tensor 'param/q_proj.weight' is missing"));
}

TEST_CASE("damaged metadata is a failure with a sentence") {
  const auto with = [](const char* key, const char* value) {
    const Outcome outcome =
        after("h3_l7", "", [&](CaseFile& file) { file.set_metadata(key, value); });
    CHECK(outcome.status == 1);
    CHECK(says(outcome, "0 passed, 1 failed, 0 unsupported\n"));
    return outcome.text;
  };
  CHECK(with("format", "another").find("not 'ssm-conformance-1'") != std::string::npos);
  CHECK(with("config", "{").find("is not JSON") != std::string::npos);
  CHECK(with("config", "[]").find("JSON object") != std::string::npos);
  CHECK(with("config", R"({"op": "h3", "D": 5, "N": 8})").find("'discretization' is missing") !=
        std::string::npos);
  CHECK(with("config", R"({"op": "h3", "D": -1, "N": 8, "discretization": "zoh"})").find("'D'") !=
        std::string::npos);
  CHECK(with("config", R"({"op": "h3", "D": 1000000000, "N": 8, "discretization": "zoh"})")
            .find("'D'") != std::string::npos);
  CHECK(with("splits", "[1, 2]").find("splits do not sum") != std::string::npos);
  CHECK(with("splits", "7").find("list of lengths") != std::string::npos);
  CHECK(with("config", std::string(100000, '[').c_str()).find("not JSON") != std::string::npos);
}

TEST_CASE("a file cut anywhere is a failure with a sentence, never a crash") {
  const ScratchFolder scratch;
  const auto path = scratch.path() / "cut.safetensors";
  const std::string whole = CaseFile(cases / "shift_ssm_l1.safetensors").bytes();
  for (std::size_t length = 0; length < whole.size(); length += 1 + whole.size() / 40) {
    CAPTURE(length);
    write_bytes(path, whole.substr(0, length));
    const Outcome outcome = conformance("", path);
    CHECK(outcome.status == 1);
    CHECK(says(outcome, "FAIL         cut"));
    CHECK(says(outcome, path.string()));
  }
}

TEST_CASE("paths that hold no case are failures") {
  const ScratchFolder scratch;
  const auto nowhere = scratch.path() / "nowhere";
  CHECK(says(conformance("", scratch.path()), "holds no cases"));
  CHECK(says(conformance("", nowhere), "does not exist"));
  CHECK(conformance("", scratch.path()).status == 1);
  CHECK(conformance("", nowhere).status == 1);
  std::filesystem::create_directory(scratch.path() / "model_empty");
  const Outcome outcome = conformance("", scratch.path());
  CHECK(outcome.status == 1);
  CHECK(says(outcome, "FAIL         model_empty"));
}

TEST_CASE("only the wanted kinds run, and wanting what is not there is no success") {
  const Outcome outcome = conformance("--kinds gelu_mlp,swiglu_mlp", cases);
  CHECK(outcome.status == 0);
  CHECK(says(outcome, "2 passed, 0 failed, 0 unsupported\n"));
  CHECK(conformance("--kinds attention", cases / "schedule.safetensors").status == 1);
  CHECK(conformance("--kinds nonsense", cases).status > 1);
  CHECK(conformance("--backend abacus", cases).status > 1);
}
