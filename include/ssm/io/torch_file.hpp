// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/io/pickle.hpp"
#include "ssm/io/tensor_file.hpp"
#include "ssm/io/zip_archive.hpp"

namespace ssm {
namespace detail {

/// Memory of a torch file that tensors share.
struct TorchStorage {
  std::uint64_t begin = 0;  // bytes of the file
  std::uint64_t size = 0;   // bytes
};

/// The dtype of a storage class or of a torch.dtype, as safetensors names it; the name itself where
/// it is none that is known.
inline std::string torch_dtype(std::string_view name) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 20> known{{
      {"torch.FloatStorage", "F32"}, {"torch.DoubleStorage", "F64"},
      {"torch.HalfStorage", "F16"},  {"torch.BFloat16Storage", "BF16"},
      {"torch.LongStorage", "I64"},  {"torch.IntStorage", "I32"},
      {"torch.ShortStorage", "I16"}, {"torch.CharStorage", "I8"},
      {"torch.ByteStorage", "U8"},   {"torch.BoolStorage", "BOOL"},
      {"torch.float32", "F32"},      {"torch.float64", "F64"},
      {"torch.float16", "F16"},      {"torch.bfloat16", "BF16"},
      {"torch.int64", "I64"},        {"torch.int32", "I32"},
      {"torch.int16", "I16"},        {"torch.int8", "I8"},
      {"torch.uint8", "U8"},         {"torch.bool", "BOOL"},
  }};
  for (const auto& [torch, dtype] : known)
    if (name == torch) return std::string(dtype);
  return std::string(name);
}

/// Finds the tensors of an unpickled object: a state dict, or what a trainer wraps around one.
class TorchStateDict {
 public:
  using Storages = std::map<std::string, TorchStorage, std::less<>>;

  TorchStateDict(const std::string& file, const Storages& storages)
      : file_(file), storages_(storages) {}

  std::vector<TensorEntry> tensors_of(const PickleValue& root) const {
    const PickleDict* dict = state_dict_of(root);
    if (dict == nullptr) throw CheckpointError(file_, "", "holds no dictionary of tensors");
    // Lightning keeps metrics and losses with the model, whose tensors it calls "model.…".
    const auto* whole = root.as<PickleDict>();
    const bool is_lightning =
        whole != nullptr && whole->find("pytorch-lightning_version") != nullptr;
    std::vector<TensorEntry> tensors;
    std::set<std::string> names;
    for (const auto& [key, value] : dict->items) {
      const auto* name = key->as<std::string>();
      const auto* call = value->as<PickleCall>();
      if (name == nullptr || call == nullptr || !is_tensor(*call)) continue;
      if (is_lightning && !name->starts_with("model.")) continue;
      if (!names.insert(*name).second)
        throw CheckpointError(file_, printable(*name), "is there twice");
      tensors.push_back(tensor_of(*name, *call));
    }
    if (tensors.empty()) throw CheckpointError(file_, "", "holds no tensors");
    return tensors;
  }

 private:
  static bool is_tensor(const PickleCall& call) {
    return call.name.starts_with("torch._utils._rebuild_") || call.name == "torch.Tensor" ||
           call.name.starts_with("torch._tensor._rebuild");
  }
  static bool has_tensors(const PickleDict& dict) {
    return std::any_of(dict.items.begin(), dict.items.end(), [](const auto& item) {
      const auto* call = item.second->template as<PickleCall>();
      return call != nullptr && is_tensor(*call);
    });
  }
  /// Optimizers and loops of a trainer lie beside it, and are not looked at.
  static const PickleDict* state_dict_of(const PickleValue& root) {
    const auto* dict = root.as<PickleDict>();
    if (dict == nullptr || has_tensors(*dict)) return dict;
    for (const char* key : {"state_dict", "model_state_dict", "model", "module"}) {
      const PickleValue* inner = dict->find(key);
      const auto* found = inner == nullptr ? nullptr : inner->as<PickleDict>();
      if (found != nullptr && has_tensors(*found)) return found;
    }
    return dict;
  }

  [[noreturn]] void refuse(const std::string& tensor, const std::string& reason) const {
    throw CheckpointError(file_, printable(tensor), reason);
  }
  const PickleList& arguments_of(const std::string& tensor, const PickleCall& call,
                                 std::size_t least) const {
    const auto* list = call.arguments->as<PickleList>();
    if (list == nullptr || list->items.size() < least)
      refuse(tensor, "is made by " + printable(call.name) + " without its arguments");
    return *list;
  }
  Index integer(const std::string& tensor, const Pickled& value, const char* what) const {
    const auto* number = value->as<std::int64_t>();
    if (number == nullptr || *number < 0)
      refuse(tensor, std::string("has a ") + what + " that is no size");
    return static_cast<Index>(*number);
  }
  std::vector<Index> integers(const std::string& tensor, const Pickled& value,
                              const char* what) const {
    const PickleValue* list_value = value.get();
    const auto* size = value->as<PickleCall>();  // torch.Size
    if (size != nullptr) list_value = arguments_of(tensor, *size, 1).items[0].get();
    const auto* list = list_value->as<PickleList>();
    if (list == nullptr || list->items.size() > 64)
      refuse(tensor, std::string("has a ") + what + " that is no list of sizes");
    std::vector<Index> result;
    for (const Pickled& item : list->items) result.push_back(integer(tensor, item, what));
    return result;
  }

  TensorEntry tensor_of(const std::string& name, const PickleCall& call) const {
    if (call.name == "torch._utils._rebuild_parameter" ||
        call.name == "torch._utils._rebuild_parameter_with_state") {
      const auto* inner = arguments_of(name, call, 1).items[0]->as<PickleCall>();
      if (inner == nullptr) refuse(name, "is a parameter without a tensor");
      return strided(name, *inner);
    }
    return strided(name, call);
  }
  TensorEntry strided(const std::string& name, const PickleCall& call) const {
    const bool has_dtype = call.name == "torch._utils._rebuild_tensor_v3";
    if (!has_dtype && call.name != "torch._utils._rebuild_tensor_v2" &&
        call.name != "torch._utils._rebuild_tensor")
      refuse(name, "is made by " + printable(call.name) + ", which is not supported");
    const auto& arguments = arguments_of(name, call, has_dtype ? 7 : 4).items;
    TensorEntry tensor;
    tensor.name = name;
    const TorchStorage storage = storage_of(name, arguments[0], tensor.dtype);
    if (has_dtype) {
      const auto* dtype = arguments[6]->as<PickleName>();
      if (dtype == nullptr) refuse(name, "has a type that is no torch.dtype");
      tensor.dtype = torch_dtype(dtype->name);
    }
    const Index offset = integer(name, arguments[1], "storage offset");
    tensor.shape = integers(name, arguments[2], "size");
    std::vector<Index> strides = integers(name, arguments[3], "stride");
    if (strides.size() != tensor.shape.size()) refuse(name, "has not one stride for each axis");
    place(tensor, storage, offset, std::move(strides));
    return tensor;
  }
  /// The storage that a tuple ('storage', class, key, location, count, …) stands for.
  TorchStorage storage_of(const std::string& tensor, const Pickled& value,
                          std::string& dtype) const {
    const auto* outside = value->as<PickleOutside>();
    const auto* id = outside == nullptr ? nullptr : outside->id->as<PickleList>();
    const auto* kind =
        id == nullptr || id->items.size() < 5 ? nullptr : id->items[1]->as<PickleName>();
    const auto* key = kind == nullptr ? nullptr : id->items[2]->as<std::string>();
    if (key == nullptr) refuse(tensor, "has no storage");
    dtype = torch_dtype(kind->name);
    const auto found = storages_.find(*key);
    if (found == storages_.end())
      refuse(tensor, "is in the storage '" + printable(*key) + "', which the file does not have");
    return found->second;
  }
  /// Checks that all elements are in the storage.
  void place(TensorEntry& tensor, const TorchStorage& storage, Index offset,
             std::vector<Index> strides) const {
    const std::uint64_t width = stored_width(tensor.dtype);
    const Index count = checked_size(tensor.shape);
    if (count < 0) refuse(tensor.name, shape_text(tensor.shape) + " is too large");
    if (width == 0) {  // it can be listed, not read
      tensor.begin = tensor.end = storage.begin;
      return;
    }
    const std::uint64_t available = storage.size / width;
    // Strides of zero repeat elements: a few bytes must not ask for any amount of memory.
    constexpr std::uint64_t most_repeated = std::uint64_t{1} << 24;
    if (static_cast<std::uint64_t>(count) > std::max(available, most_repeated))
      refuse(tensor.name, shape_text(tensor.shape) + " has more elements than its storage of " +
                              std::to_string(available));
    std::uint64_t last = static_cast<std::uint64_t>(offset);
    Index expected = 1;
    bool is_row_major = true;
    for (std::size_t axis = tensor.shape.size(); axis-- > 0;) {
      const Index extent = tensor.shape[axis];
      if (extent > 1) {
        is_row_major = is_row_major && strides[axis] == expected;
        const auto step = static_cast<std::uint64_t>(strides[axis]);
        const auto steps = static_cast<std::uint64_t>(extent - 1);
        if (step > 0 && steps > (std::numeric_limits<std::uint64_t>::max() / 2 - last) / step)
          refuse(tensor.name, "lies outside its storage");
        last += step * steps;
      }
      if (count > 0) expected *= extent;
    }
    if (count > 0 && last >= available)
      refuse(tensor.name, "ends at element " + std::to_string(last) + " of a storage of " +
                              std::to_string(available));
    tensor.begin = storage.begin + static_cast<std::uint64_t>(count > 0 ? offset : 0) * width;
    tensor.end = count > 0 ? storage.begin + (last + 1) * width : tensor.begin;
    if (!is_row_major && count > 0) tensor.strides = std::move(strides);
  }

  const std::string& file_;
  const Storages& storages_;
};

}  // namespace detail

/// A file of torch.save: .pt, .pth, .bin, .ckpt; a state dict, or a checkpoint that has one as
/// "state_dict", "model_state_dict", "model" or "module" (Lightning, DeepSpeed). Read as data:
/// nothing in it is run. Tensors may share a storage, be views of one, and have any strides. The
/// zip format and the one before it (PyTorch below 1.6).
///   const TorchFile file("pytorch_model.bin");
/// Cost    the pickle stays in memory while the file is opened; then names and places
/// Throws  CheckpointError  if the file is damaged, holds no tensors, or wants something called;
///                          and as TensorFile does
/// Source  PyTorch, torch/serialization.py
class TorchFile : public TensorFile {
 public:
  explicit TorchFile(const std::filesystem::path& path) : TorchFile(FileReader(path)) {}
  explicit TorchFile(FileReader reader) : TensorFile(std::move(reader)) {
    if (detail::ZipArchive::is_one(file()))
      read_zip();
    else
      read_before_zip();
  }

  /// Whether a file begins as one does: a zip archive, or a pickle. A safetensors file begins with
  /// the length of its header, which may be any number, and then the header's brace.
  static bool is_one(const FileReader& file) {
    if (detail::ZipArchive::is_one(file)) return true;
    std::array<std::byte, 9> start{};
    if (file.size() < start.size()) return false;
    file.read(0, start);
    const auto protocol = std::to_integer<int>(start[1]);
    return start[0] == std::byte{0x80} && protocol >= 2 && protocol <= 5 &&
           start[8] != std::byte{'{'};
  }

 private:
  static constexpr std::uint64_t largest_pickle = std::uint64_t{1} << 26;  // bytes

  void read_zip() {
    const detail::ZipArchive archive(file());
    const auto& entries = archive.entries();
    constexpr std::string_view ending = "/data.pkl";
    std::string prefix;
    for (const auto& [name, entry] : entries)
      if (name.ends_with(ending) && name.find('/') == name.size() - ending.size())
        prefix = name.substr(0, name.size() - ending.size()) + "/";
    if (prefix.empty()) throw CheckpointError(path_name(), "", "is a zip archive without data.pkl");
    if (const auto order = entries.find(prefix + "byteorder"); order != entries.end()) {
      std::string text(static_cast<std::size_t>(std::min<std::uint64_t>(order->second.size, 16)),
                       '\0');
      file().read(order->second.begin, std::as_writable_bytes(std::span(text)));
      if (text != "little")
        throw CheckpointError(path_name(), "",
                              "has the byte order '" + detail::printable(text) + "'");
    }
    detail::TorchStateDict::Storages storages;
    const std::string data = prefix + "data/";
    for (const auto& [name, entry] : entries)
      if (name.starts_with(data))
        storages.emplace(name.substr(data.size()), detail::TorchStorage{entry.begin, entry.size});
    const auto pickle = entries.find(prefix + "data.pkl");
    const std::vector<std::byte> bytes = pickle_bytes(pickle->second.begin, pickle->second.size);
    detail::PickleReader reader(bytes, path_name());
    hold(detail::TorchStateDict(path_name(), storages).tensors_of(*reader.read()), {});
  }
  std::vector<std::byte> pickle_bytes(std::uint64_t begin, std::uint64_t size) const {
    if (size > largest_pickle)
      throw CheckpointError(path_name(), "",
                            "has a pickle of " + std::to_string(size) + " bytes, at most " +
                                std::to_string(largest_pickle) + " are read");
    std::vector<std::byte> bytes(static_cast<std::size_t>(size));
    file().read(begin, bytes);
    return bytes;
  }

  /// Pickles of a magic number, a version, sizes of types, the object, and the storages' keys in
  /// order; then each storage: its number of elements, and these.
  void read_before_zip() {
    const std::vector<std::byte> bytes =
        pickle_bytes(0, std::min<std::uint64_t>(file().size(), largest_pickle));
    detail::PickleReader reader(bytes, path_name());
    const auto* magic = reader.read()->as<detail::PickleName>();
    if (magic == nullptr || magic->name != "an integer of 10 bytes")
      throw CheckpointError(path_name(), "", "is no file of torch.save");
    const detail::Pickled version = reader.read();
    const auto* protocol = version->as<std::int64_t>();
    if (protocol == nullptr || *protocol != 1001)
      throw CheckpointError(path_name(), "", "is of an unknown version of torch.save");
    reader.read();  // sizes of types
    const detail::Pickled root = reader.read();
    const detail::Pickled keys = reader.read();
    const auto* list = keys->as<detail::PickleList>();
    if (list == nullptr) throw CheckpointError(path_name(), "", "has no list of storages");
    const auto widths = storage_widths(*root);
    detail::TorchStateDict::Storages storages;
    std::uint64_t at = reader.position();
    for (const detail::Pickled& key : list->items) {
      const auto* name = key->as<std::string>();
      const auto width = name == nullptr ? widths.end() : widths.find(*name);
      if (width == widths.end())
        throw CheckpointError(path_name(), "", "lists a storage that nothing is in");
      std::array<std::byte, 8> number{};
      file().read(at, number);
      const std::uint64_t count = detail::LittleEndian(number).u64(0);
      at += number.size();
      if (count > (file().size() - at) / width->second)
        throw CheckpointError(
            path_name(), "",
            "has a storage of " + std::to_string(count) + " elements, beyond the end of the file");
      storages.emplace(*name, detail::TorchStorage{at, count * width->second});
      at += count * width->second;
    }
    hold(detail::TorchStateDict(path_name(), storages).tensors_of(*root), {});
  }
  /// Bytes of an element of each storage, wherever in the object it is.
  std::map<std::string, std::uint64_t> storage_widths(const detail::PickleValue& root) const {
    std::map<std::string, std::uint64_t> widths;
    std::set<const detail::PickleValue*> seen;
    std::vector<const detail::PickleValue*> left{&root};
    const auto visit = [&](const detail::Pickled& value) {
      if (value && seen.insert(value.get()).second) left.push_back(value.get());
    };
    while (!left.empty()) {
      const detail::PickleValue& value = *left.back();
      left.pop_back();
      if (const auto* list = value.as<detail::PickleList>())
        for (const auto& item : list->items) visit(item);
      if (const auto* dict = value.as<detail::PickleDict>())
        for (const auto& [key, item] : dict->items) visit(item);
      if (const auto* call = value.as<detail::PickleCall>()) {
        visit(call->arguments);
        for (const auto& [key, item] : call->items) visit(item);
      }
      const auto* outside = value.as<detail::PickleOutside>();
      const auto* id = outside == nullptr ? nullptr : outside->id->as<detail::PickleList>();
      if (id == nullptr || id->items.size() < 5) continue;
      const auto* kind = id->items[1]->as<detail::PickleName>();
      const auto* key = id->items[2]->as<std::string>();
      if (kind == nullptr || key == nullptr) continue;
      const std::uint64_t width = stored_width(detail::torch_dtype(kind->name));
      if (width == 0)
        throw CheckpointError(
            path_name(), "",
            "has a storage of type " + detail::printable(kind->name) + ", which is not supported");
      widths.emplace(*key, width);
    }
    return widths;
  }
};

}  // namespace ssm
