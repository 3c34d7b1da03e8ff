// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "ssm/io/json_file.hpp"

namespace ssm::conformance {

/// A case file that contradicts the format, or does not fit what it is a case of.
struct CaseError : Error {
  using Error::Error;
};

/// A case of something that this program does not run.
struct Unsupported : Error {
  using Error::Error;
};

/// A tensor of a case file, row-major. Only one of the two vectors is used.
struct Values {
  std::vector<Index> shape;
  std::vector<double> numbers;
  std::vector<std::int64_t> integers;
  bool is_integral = false;
};

/// One case: everything that tests/data/conformance/README.md says a file holds.
struct Case {
  std::string op;
  JsonObject config;
  std::vector<Index> splits;
  std::map<std::string, Values> tensors;
  std::filesystem::path folder;  // of a model, else empty
};

/// Reads NAME.safetensors, or expect.safetensors of a model folder.
/// Throws  CaseError, CheckpointError
Case read_case(const std::filesystem::path& path);

/// Options that must be there, or have a default; lists of them.
/// Throws  CheckpointError  naming the option
double number_in(const JsonObject& options, const std::string& name);
double number_in(const JsonObject& options, const std::string& name, double otherwise);
std::vector<double> numbers_in(const JsonObject& options, const std::string& name);
std::vector<std::string> texts_in(const JsonObject& options, const std::string& name);
std::vector<JsonObject> objects_in(const JsonObject& options, const std::string& name);

/// A model folder has expectations beside its weights.
bool is_model_folder(const std::filesystem::path& path);

}  // namespace ssm::conformance
