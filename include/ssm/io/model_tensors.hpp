// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
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
#include "ssm/io/torch_file.hpp"

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

/// A file of tensors of either format, by what it begins with.
/// Throws  CheckpointError  as SafetensorsFile and TorchFile do
inline TensorFile open_tensor_file(const std::filesystem::path& path) {
  if (TorchFile::is_one(FileReader(path))) return TorchFile(path);
  return SafetensorsFile(path);
}

/// The tensors of a model by name, wherever they are: in a safetensors file, a file of torch.save
/// (.pt, .pth, .bin, .ckpt), or shards of either with their index. All places are checked when it
/// is opened; tensors are read when asked for.
///   const ModelTensors tensors("mamba-2.8b/");
///   auto weight = tensors.read<float, 2>("lm_head.weight");     // converts F64 F32 F16 BF16
/// Cost    names and places stay in memory; one open file for each shard
/// Throws  CheckpointError  if a file is missing or damaged, two files have a tensor of one name,
///                          the index and the shards disagree, a shard is not in the folder, or the
///                          folder has no weights or several to choose from; and as SafetensorsFile
///                          and TorchFile do
class ModelTensors {
 public:
  /// A folder, a file of weights or an index. In a folder model.safetensors goes first, then its
  /// shards, pytorch_model.bin, its shards, and the only file that is called like one of weights.
  explicit ModelTensors(const std::filesystem::path& path) : path_name_(path.string()) {
    std::error_code error;
    const bool is_folder = std::filesystem::is_directory(path, error);
    const std::filesystem::path file = is_folder ? weights_in(path) : path;
    if (file.extension() == ".json")
      open_shards(file);
    else
      open_file(file);
  }
  /// Several files that no index goes with; `folder` names them in messages.
  ModelTensors(const std::filesystem::path& folder, const std::vector<std::filesystem::path>& files)
      : path_name_(folder.string()) {
    for (const std::filesystem::path& file : files) add_file(file);
  }

  /// What is named in messages: the only file, or the index of several.
  const std::string& path_name() const { return path_name_; }
  const std::vector<TensorFile>& files() const { return files_; }
  const ModelIndex& index() const { return index_; }  // empty for a single file

  /// All names, sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& [name, place] : places_) all.push_back(name);
    return all;
  }
  bool contains(std::string_view name) const { return places_.find(name) != places_.end(); }
  const TensorFile& file_of(std::string_view name) const { return files_[at(name).file]; }
  const std::vector<Index>& shape(std::string_view name) const {
    return file_of(name).shape(at(name).stored_name);
  }
  const std::string& dtype(std::string_view name) const {
    return file_of(name).dtype(at(name).stored_name);
  }
  std::uint64_t byte_size(std::string_view name) const {
    return file_of(name).byte_size(at(name).stored_name);
  }

  /// As TensorFile reads.
  template <HostTensor Output>
  void read(std::string_view name, Output&& output) const {
    file_of(name).read(at(name).stored_name, std::forward<Output>(output));
  }
  template <StoredScalar T, int Rank>
  DynamicTensor<T, Rank> read(std::string_view name) const {
    return file_of(name).template read<T, Rank>(at(name).stored_name);
  }
  /// As TensorFile; mappings are by file.
  template <StoredScalar T>
  T* place_of(std::string_view name, std::vector<FileMapping>& mappings) const {
    const Place& place = at(name);
    mappings.resize(files_.size());
    if (!mappings[place.file]) mappings[place.file] = files_[place.file].map();
    return files_[place.file].template place_of<T>(place.stored_name, mappings[place.file]);
  }
  bool are_identical(std::string_view name, std::string_view other) const {
    return file_of(name).is_identical(at(name).stored_name, file_of(other), at(other).stored_name);
  }
  template <class Visit>
  void for_each_block(std::string_view name, Visit&& visit) const {
    file_of(name).for_each_block(at(name).stored_name, std::forward<Visit>(visit));
  }
  template <HostTensor Output>
  void require_readable(std::string_view name, const Output& output) const {
    file_of(name).require_readable(at(name).stored_name, output);
  }
  void require_unchanged_size() const {
    for (const TensorFile& file : files_) file.require_unchanged_size();
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

  static std::filesystem::path weights_in(const std::filesystem::path& folder) {
    std::error_code error;
    for (const char* name : {"model.safetensors", "model.safetensors.index.json",
                             "pytorch_model.bin", "pytorch_model.bin.index.json"})
      if (std::filesystem::exists(folder / name, error)) return folder / name;
    std::vector<std::filesystem::path> found;
    for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
      const std::string extension = entry.path().extension().string();
      for (const char* known : {".safetensors", ".pt", ".pth", ".bin", ".ckpt"})
        if (extension == known && entry.is_regular_file(error)) found.push_back(entry.path());
    }
    std::sort(found.begin(), found.end());
    if (found.size() == 1) return found[0];
    if (found.empty())
      throw CheckpointError(folder.string(), "",
                            "holds no weights: neither model.safetensors nor pytorch_model.bin, in "
                            "one file or in shards, nor a .safetensors, .pt, .pth, .bin or .ckpt "
                            "file");
    throw CheckpointError(folder.string(), "",
                          "holds several files of weights, name one: " +
                              detail::printable(found[0].filename().string()) + ", " +
                              detail::printable(found[1].filename().string()) +
                              (found.size() > 2 ? ", …" : ""));
  }

  void open_file(const std::filesystem::path& path) {
    path_name_ = path.string();
    add_file(path);
  }
  void add_file(const std::filesystem::path& path) {
    files_.push_back(open_tensor_file(path));
    const TensorFile& file = files_.back();
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
  void require_listed(const TensorFile& shard, const std::string& file) const {
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
  std::vector<TensorFile> files_;
  Places places_;
};

}  // namespace ssm
