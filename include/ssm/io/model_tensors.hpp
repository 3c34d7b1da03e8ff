// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "ssm/io/model_index.hpp"
#include "ssm/io/safetensors.hpp"

namespace ssm {
namespace detail {

/// The file to open for a shard that an index names. A link is followed only to another place in
/// the folder or, as the cache of Hugging Face lays its models out, from …/snapshots/REVISION to
/// …/blobs.
/// Throws  CheckpointError  for a link to anywhere else
inline std::filesystem::path shard_path(const std::filesystem::path& folder,
                                        const std::string& file) {
  namespace fs = std::filesystem;
  const fs::path path = folder / file;
  std::error_code error;
  if (!fs::is_symlink(fs::symlink_status(path, error)) || error) return path;
  const fs::path home = fs::canonical(folder, error);
  const fs::path target = error ? fs::path() : fs::canonical(path, error);
  if (error) throw CheckpointError(path.string(), "", "cannot be opened: " + error.message());
  const bool is_cached = home.parent_path().filename() == "snapshots" &&
                         target.parent_path() == home.parent_path().parent_path() / "blobs";
  if (!is_cached && target.parent_path() != home)
    throw CheckpointError(path.string(), "", "is a link out of the folder");
  return target;
}

}  // namespace detail

/// The tensors of a model by name, wherever they are: in model.safetensors, in shards with a
/// model.safetensors.index.json, or in any files of that format. All headers are checked when it is
/// opened; tensors are read when asked for.
///   const ModelTensors tensors("mamba-2.8b/");
///   auto weight = tensors.read<float, 2>("lm_head.weight");     // converts F64 F32 F16 BF16
/// Cost    the headers stay in memory; one open file for each shard
/// Throws  CheckpointError  if a file is missing or damaged, two files have a tensor of one name,
///                          the index and the shards disagree, or a shard is not in the folder; and
///                          as SafetensorsFile does
class ModelTensors {
 public:
  /// A folder, a .safetensors file or an index. In a folder, model.safetensors goes before shards.
  explicit ModelTensors(const std::filesystem::path& path) : path_name_(path.string()) {
    constexpr std::string_view one = "model.safetensors";
    constexpr std::string_view several = "model.safetensors.index.json";
    std::error_code error;
    if (!std::filesystem::is_directory(path, error)) {
      if (path.extension() == ".json")
        open_shards(path);
      else
        open_file(path);
    } else if (std::filesystem::exists(path / one, error)) {
      open_file(path / one);
    } else if (std::filesystem::exists(path / several, error)) {
      open_shards(path / several);
    } else {
      throw CheckpointError(path_name_, "",
                            "holds neither model.safetensors nor model.safetensors.index.json");
    }
  }
  /// Several files that no index goes with; `folder` names them in messages.
  ModelTensors(const std::filesystem::path& folder, const std::vector<std::filesystem::path>& files)
      : path_name_(folder.string()) {
    for (const std::filesystem::path& file : files) add_file(file);
  }

  /// What is named in messages: the only file, or the index of several.
  const std::string& path_name() const { return path_name_; }
  const std::vector<SafetensorsFile>& files() const { return files_; }
  const ModelIndex& index() const { return index_; }  // empty for a single file

  /// All names, sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& [name, place] : places_) all.push_back(name);
    return all;
  }
  bool contains(std::string_view name) const { return places_.find(name) != places_.end(); }
  const SafetensorsFile& file_of(std::string_view name) const { return files_[at(name).file]; }
  const std::vector<Index>& shape(std::string_view name) const {
    return file_of(name).shape(at(name).stored_name);
  }
  const std::string& dtype(std::string_view name) const {
    return file_of(name).dtype(at(name).stored_name);
  }
  std::uint64_t byte_size(std::string_view name) const {
    return file_of(name).byte_size(at(name).stored_name);
  }

  /// As SafetensorsFile reads.
  template <HostTensor Output>
  void read(std::string_view name, Output&& output) const {
    file_of(name).read(at(name).stored_name, std::forward<Output>(output));
  }
  template <StoredScalar T, int Rank>
  DynamicTensor<T, Rank> read(std::string_view name) const {
    return file_of(name).template read<T, Rank>(at(name).stored_name);
  }
  template <HostTensor Output>
  void require_readable(std::string_view name, const Output& output) const {
    file_of(name).require_readable(at(name).stored_name, output);
  }
  void require_unchanged_size() const {
    for (const SafetensorsFile& file : files_) file.require_unchanged_size();
  }

  /// Lets one family's files be read by one set of names, whichever program wrote them: every
  /// tensor is found under rename(its name) from now on.
  /// Throws  CheckpointError  if two tensors get one name
  template <class Rename>
  void rename(Rename&& new_name_of) {
    Places renamed;
    for (const auto& [name, place] : places_) {
      const std::string new_name = new_name_of(std::string_view(name));
      const auto [other, is_new] = renamed.emplace(new_name, place);
      if (!is_new)
        throw CheckpointError(path_name_, detail::printable(name),
                              "means the same as '" + detail::printable(other->second.stored_name) +
                                  "', which is there too");
    }
    places_ = std::move(renamed);
  }

 private:
  struct Place {
    std::size_t file = 0;
    std::string stored_name;
  };
  using Places = std::map<std::string, Place, std::less<>>;

  const Place& at(std::string_view name) const {
    const auto found = places_.find(name);
    if (found == places_.end())
      throw CheckpointError(path_name_, detail::printable(name), "is missing");
    return found->second;
  }

  void open_file(const std::filesystem::path& path) {
    path_name_ = path.string();
    add_file(path);
  }
  void add_file(const std::filesystem::path& path) {
    const SafetensorsFile& file = files_.emplace_back(path);
    for (const std::string& name : file.names()) {
      const auto [other, is_new] = places_.emplace(name, Place{files_.size() - 1, name});
      if (!is_new)
        throw CheckpointError(file.path_name(), detail::printable(name),
                              "is in " + files_[other->second.file].path_name() + " as well");
    }
  }

  void open_shards(const std::filesystem::path& path) {
    path_name_ = path.string();
    index_ = read_model_index(path);
    const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
    std::map<std::string, std::string> shards;  // file to the first tensor it should hold
    for (const auto& [tensor, file] : index_.file_of) shards.emplace(file, tensor);
    for (const auto& [file, tensor] : shards) {
      require_shard(folder / file, tensor);
      add_file(detail::shard_path(folder, file));
      require_listed(files_.back(), file);
    }
    for (const auto& [tensor, file] : index_.file_of)
      if (!contains(tensor))
        throw CheckpointError((folder / file).string(), detail::printable(tensor),
                              "is missing, the index says it is here");
  }
  void require_shard(const std::filesystem::path& shard, const std::string& tensor) const {
    std::error_code error;
    if (std::filesystem::exists(std::filesystem::symlink_status(shard, error))) return;
    throw CheckpointError(path_name_, detail::printable(tensor),
                          "is in '" + shard.filename().string() + "', which does not exist");
  }
  /// A tensor that the index places elsewhere or nowhere is one that nobody meant to be read.
  void require_listed(const SafetensorsFile& shard, const std::string& file) const {
    for (const std::string& name : shard.names()) {
      const auto listed = index_.file_of.find(name);
      if (listed == index_.file_of.end())
        throw CheckpointError(shard.path_name(), detail::printable(name), "is not in the index");
      if (listed->second != file)
        throw CheckpointError(shard.path_name(), detail::printable(name),
                              "is here, but the index says it is in '" + listed->second + "'");
    }
  }

  std::string path_name_;
  ModelIndex index_;
  std::vector<SafetensorsFile> files_;
  Places places_;
};

}  // namespace ssm
