// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

namespace ssm::test {

/// A folder that is gone with the test.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "ssm_conformance_XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  ~ScratchFolder() { std::filesystem::remove_all(path_); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// The bytes of a case file, to be damaged: the header as JSON, the data as it is.
class CaseFile {
 public:
  explicit CaseFile(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), sizeof length);
    header_ = nlohmann::json::parse(bytes.substr(sizeof length, length));
    data_ = bytes.substr(sizeof length + length);
  }

  /// Adds to the first element of a tensor.
  void disturb(const std::string& tensor, double by) {
    char* place = data_.data() + header_.at(tensor).at("data_offsets")[0].get<std::size_t>();
    double value = 0;
    std::memcpy(&value, place, sizeof value);
    value += by;
    std::memcpy(place, &value, sizeof value);
  }
  void rename(const std::string& from, const std::string& to) {
    header_[to] = header_.at(from);
    header_.erase(from);
  }
  void set_metadata(const std::string& key, const std::string& value) {
    header_["__metadata__"][key] = value;
  }
  /// One more tensor of a single number.
  void add(const std::string& tensor) {
    header_[tensor] = {{"dtype", "F64"},
                       {"shape", {1}},
                       {"data_offsets", {data_.size(), data_.size() + sizeof(double)}}};
    data_.append(sizeof(double), '\0');
  }

  std::string bytes() const {
    const std::string header = header_.dump();
    const std::uint64_t length = header.size();
    std::string all(reinterpret_cast<const char*>(&length), sizeof length);
    return all.append(header).append(data_);
  }

 private:
  nlohmann::json header_;
  std::string data_;
};

inline void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

}  // namespace ssm::test
