// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "ssm/io/file.hpp"

namespace ssm {

/// The checkpoints of a training run: folders DIR/checkpoint-STEP, each there with all its files or
/// not at all, whatever moment the process is killed at or the disk fills up.
///   CheckpointFolder run("run/");
///   run.write(100, [&](const auto& folder) { … files …; });     // keeps the last two
///   const auto steps = run.steps();                              // rising
/// Throws  CheckpointError  if the folder cannot be made, or is in use by another process
class CheckpointFolder {
 public:
  /// writes   false: another process writes, this one only asks what is there
  explicit CheckpointFolder(std::filesystem::path folder, bool writes = true)
      : folder_(std::move(folder)) {
    if (!writes) return;
    std::error_code error;
    std::filesystem::create_directories(folder_, error);
    if (error) throw CheckpointError(folder_.string(), "", "cannot be created: " + error.message());
    const std::string lock = (folder_ / "lock").string();
    // Gone with the process, so a killed one leaves nothing to clean up.
    bool is_taken = false;
    lock_ = platform::open_locked(lock.c_str(), is_taken);
    if (!lock_) throw CheckpointError(folder_.string(), "", detail::reason("cannot be written"));
    if (is_taken) throw CheckpointError(folder_.string(), "", "is in use by another training run");
    remove_leftovers();
  }

  const std::filesystem::path& path() const { return folder_; }
  std::filesystem::path at(Index step) const { return at(folder_, step); }
  static std::filesystem::path at(const std::filesystem::path& folder, Index step) {
    return folder / name_of(step);
  }
  std::vector<Index> steps() const { return steps_in(folder_); }

  /// The steps of all checkpoints in a folder, rising; none if there is no such folder.
  static std::vector<Index> steps_in(const std::filesystem::path& folder) {
    std::vector<Index> found;
    std::error_code error;
    for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
         entry.increment(error))
      if (const Index step = step_of(entry->path().filename().string()); step >= 0)
        found.push_back(step);
    std::sort(found.begin(), found.end());
    return found;
  }

  /// Calls fill(temporary folder), puts the result in place as the checkpoint of this step, on the
  /// disk when this returns, and removes all but the newest `keep`. If `fill` throws, what was
  /// there before is untouched.
  template <class Fill>
  void write(Index step, Fill&& fill, std::size_t keep = 2) {
    const std::filesystem::path place = at(step);
    if (std::filesystem::exists(place)) return;  // the same step of the same run
    const std::filesystem::path temporary = folder_ / (std::string(partial) + name_of(step));
    try {
      std::filesystem::remove_all(temporary);
      std::filesystem::create_directory(temporary);
      fill(temporary);
      flush(temporary);
      std::filesystem::rename(temporary, place);
    } catch (const std::filesystem::filesystem_error& error) {
      remove(temporary);
      throw CheckpointError(place.string(), "", "cannot be written: " + error.code().message());
    } catch (...) {
      remove(temporary);
      throw;
    }
    flush(folder_);
    std::vector<Index> all = steps();
    for (std::size_t i = 0; i + keep < all.size(); ++i) retire(all[i]);
  }

 private:
  static constexpr std::string_view prefix = "checkpoint-";
  static constexpr std::string_view partial = ".partial-";

  static std::string name_of(Index step) {
    const std::string digits = std::to_string(step);
    return std::string(prefix) + std::string(digits.size() < 7 ? 7 - digits.size() : 0, '0') +
           digits;
  }
  static Index step_of(std::string_view name) {
    if (!name.starts_with(prefix)) return -1;
    Index step = -1;
    std::from_chars(name.data() + prefix.size(), name.data() + name.size(), step);
    return step >= 0 && name == name_of(step) ? step : -1;
  }
  static void remove(const std::filesystem::path& path) {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  /// First under a name that nobody takes for a checkpoint, because its files go one by one.
  void retire(Index step) const {
    const std::filesystem::path leaving =
        folder_ / (std::string(partial) + "old-" + std::to_string(step));
    std::error_code error;
    std::filesystem::rename(at(step), leaving, error);
    if (!error) remove(leaving);
  }
  /// What a killed process left: half-written checkpoints, and temporaries of single files.
  void remove_leftovers() const {
    std::vector<std::filesystem::path> leftovers;
    std::error_code error;
    for (std::filesystem::directory_iterator entry(folder_, error), end; !error && entry != end;
         entry.increment(error))
      if (entry->path().filename().string().find(partial) != std::string::npos)
        leftovers.push_back(entry->path());
    for (const auto& path : leftovers) remove(path);
  }
  static void flush(const std::filesystem::path& folder) {
    const platform::File file = platform::open_folder(folder.string().c_str());
    if (!file || !platform::flush_folder(file))
      throw CheckpointError(folder.string(), "", detail::reason("cannot be flushed"));
  }

  std::filesystem::path folder_;
  platform::File lock_;
};

/// The folder a model is in: `path` itself if it has a config.json, else its newest checkpoint.
/// Beside a running training it may be gone a moment later; see open_newest.
/// Throws  CheckpointError  if it is neither
inline std::filesystem::path model_folder(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::is_directory(path, error))
    throw CheckpointError(
        path.string(), "",
        std::filesystem::exists(path, error) ? "is not a folder" : "does not exist");
  if (std::filesystem::exists(path / "config.json", error)) return path;
  // A listing is no snapshot: one that is made while a checkpoint comes and another goes may hold
  // neither.
  constexpr int listings = 10;
  for (int attempt = 0; attempt < listings; ++attempt)
    if (const std::vector<Index> steps = CheckpointFolder::steps_in(path); !steps.empty())
      return CheckpointFolder::at(path, steps.back());
  throw CheckpointError(path.string(), "", "holds no model and no checkpoints");
}

/// What open(folder) makes of the model in `path`, or of its newest checkpoint. A training run
/// beside it may remove that checkpoint while it is opened, because a newer one is there: then
/// `open` is called again, for the newer one. Files that are open stay readable, so `open` may read
/// for as long as it likes once it has opened all it needs.
///   const auto model =
///       open_newest("run/", [&](const auto& folder) { return load_h3(ctx, folder); });
/// Throws  CheckpointError  if there is no model; and what `open` throws for a folder that is there
template <class Open>
auto open_newest(const std::filesystem::path& path, Open&& open) {
  constexpr int attempts =
      100;  // a reader that is slower than each of so many checkpoints gives up
  for (int attempt = 1;; ++attempt) {
    const std::filesystem::path folder = model_folder(path);
    try {
      return open(folder);
    } catch (...) {
      std::error_code error;
      if (attempt == attempts || std::filesystem::exists(folder, error)) throw;
    }
  }
}

}  // namespace ssm
