// SPDX-License-Identifier: Apache-2.0
// A layer as a function that XLA calls: ssm_xla_call of ssm/api.h.
#include "xla.hpp"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "guarded.hpp"
#include "layer.hpp"
#include "tensor.hpp"

namespace ssm::api {
namespace {

/// A layer and, on a device, where memory costs time, the tape of its last call.
struct Entry {
  std::unique_ptr<ssm_layer> layer;
  std::unique_ptr<ssm_tape> tape;
};

/// Layers by configuration, made when they are first called; one is for one call at a time.
class LayerPool {
 public:
  Entry take(const std::string& config) {
    {
      const std::lock_guard lock(mutex_);
      auto& idle = idle_[config];
      if (!idle.empty()) {
        Entry entry = std::move(idle.back());
        idle.pop_back();
        return entry;
      }
    }
    ssm_layer* layer = nullptr;
    if (ssm_layer_create(config.c_str(), &layer) != SSM_OK) throw ArgumentError(ssm_last_error());
    return {std::unique_ptr<ssm_layer>(layer), nullptr};
  }
  void give_back(const std::string& config, Entry entry) {
    if (entry.layer->is_on_host()) entry.tape = nullptr;
    const std::lock_guard lock(mutex_);
    idle_[config].push_back(std::move(entry));
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::vector<Entry>> idle_;
};
LayerPool& pool() {
  static auto* const all = new LayerPool;  // XLA's threads may outlive static objects
  return *all;
}

ssm_scalar scalar_of_xla(int type) {
  switch (type) {
    case 4:
      return {0, 32, 1};
    case 5:
      return {0, 64, 1};
    case 10:
      return {2, 16, 1};
    case 11:
      return {2, 32, 1};
    case 12:
      return {2, 64, 1};
    case 16:
      return {4, 16, 1};
    default:
      return {255, 0, 1};
  }
}

std::vector<ssm_tensor> tensors_of(const xla::Buffers& buffers, ssm_device device) {
  std::vector<ssm_tensor> result;
  for (std::int64_t i = 0; i < buffers.size; ++i) {
    if (buffers.kinds[i] != 1) throw ArgumentError("an operand is no buffer");
    const auto& buffer = *static_cast<const xla::Buffer*>(buffers.buffers[i]);
    result.push_back({.data = buffer.data,
                      .device = device,
                      .ndim = static_cast<std::int32_t>(buffer.rank),
                      .type = scalar_of_xla(buffer.type),
                      .shape = buffer.dims,
                      .strides = nullptr,
                      .byte_offset = 0});
  }
  return result;
}

std::string text_of(const xla::Frame& frame, std::string_view name) {
  const xla::Attributes& all = frame.attributes;
  for (std::int64_t i = 0; i < all.size; ++i) {
    const xla::Text& here = *all.names[i];
    if (std::string_view(here.data, here.size) != name || all.kinds[i] != 4) continue;
    const auto& text = *static_cast<const xla::Text*>(all.values[i]);
    return {text.data, text.size};
  }
  throw ArgumentError(message({"the attribute ", std::string(name), " is missing"}));
}

/// The operands of a call one after another.
class Operands {
 public:
  explicit Operands(std::vector<ssm_tensor> all) : all_(std::move(all)) {}
  std::span<ssm_tensor> next(std::size_t count) {
    if (all_.size() - at_ < count)
      throw ArgumentError("XLA gives fewer operands than the layer has");
    at_ += count;
    return std::span(all_).subspan(at_ - count, count);
  }
  bool is_done() const { return at_ == all_.size(); }

 private:
  std::vector<ssm_tensor> all_;
  std::size_t at_ = 0;
};

std::vector<const ssm_tensor*> pointers_of(std::span<ssm_tensor> tensors) {
  std::vector<const ssm_tensor*> result;
  for (const ssm_tensor& tensor : tensors) result.push_back(&tensor);
  return result;
}

// JAX has no int64 unless it is asked for; positions are int32 then.
constexpr ssm_scalar narrow = {0, 32, 1};

std::size_t elements_in(const ssm_tensor& tensor) {
  std::size_t count = 1;
  for (int axis = 0; axis < tensor.ndim; ++axis)
    count *= static_cast<std::size_t>(tensor.shape[axis]);
  return count;
}
std::size_t bytes_in(const ssm_tensor& tensor) {
  return elements_in(tensor) * (tensor.type.bits / 8U);
}

/// Between integers of two sizes, each on the host or the device.
template <class From, class To>
void copy_integers(ssm_layer& layer, const ssm_tensor& from, const ssm_tensor& to) {
  const std::size_t count = elements_in(from);
  std::vector<From> read(count);
  layer.copy_bytes(to.device.id, read.data(), from.data, bytes_in(from), true);
  std::vector<To> written(count);
  std::transform(read.begin(), read.end(), written.begin(),
                 [](From value) { return static_cast<To>(value); });
  layer.copy_bytes(to.device.id, to.data, written.data(), bytes_in(to), true);
}
void copy_integers(ssm_layer& layer, const ssm_tensor& from, const ssm_tensor& to) {
  if (is_same_scalar(from.type, narrow))
    copy_integers<std::int32_t, std::int64_t>(layer, from, to);
  else if (is_same_scalar(to.type, narrow))
    copy_integers<std::int64_t, std::int32_t>(layer, from, to);
  else
    layer.copy_bytes(to.device.id, to.data, from.data, bytes_in(to), true);
}
void require_alike(const ssm_tensor& a, const ssm_tensor& b, const TensorFacts& facts) {
  if (a.ndim != b.ndim || !std::equal(a.shape, a.shape + a.ndim, b.shape))
    throw ShapeError("layer", facts.name, "has other extents than the state");
}

/// A state over XLA's memory. Integers, which may be of another size or elsewhere, are copied.
std::unique_ptr<ssm_layer_state> state_over(ssm_layer& layer, Index sequences,
                                            std::span<ssm_tensor> tensors, bool is_read = true) {
  const auto is_integer = [](const ssm_tensor& tensor) { return tensor.type.code == 0; };
  const bool copies = std::any_of(tensors.begin(), tensors.end(), is_integer);
  auto state = layer.make_state(copies || layer.is_on_host() ? sequences : 0);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const int index = static_cast<int>(i);
    ssm_tensor own{};
    state->tensor(index, nullptr, own);
    if (is_integer(tensors[i])) {
      require_alike(own, tensors[i], layer.state()[i]);
      if (is_read) copy_integers(layer, tensors[i], own);
    } else {
      state->borrow(index, tensors[i]);
    }
  }
  return state;
}
/// What is not over XLA's memory is copied there.
void write_back(ssm_layer_state* state, ssm_layer& layer, std::span<ssm_tensor> tensors) {
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    ssm_tensor own{};
    state->tensor(static_cast<int>(i), nullptr, own);
    require_alike(own, tensors[i], layer.state()[i]);
    if (own.type.code == 0 && own.data != tensors[i].data)
      copy_integers(layer, own, tensors[i]);
    else if (own.data != tensors[i].data)
      layer.copy_bytes(tensors[i].device.id, tensors[i].data, own.data, bytes_in(own), false);
  }
}

Index sequences_of(const ssm_tensor& x) {
  return x.ndim == 3 ? static_cast<Index>(x.shape[0]) : Index{1};
}

void run_forward(ssm_layer& layer, Operands& given, Operands& made) {
  const std::size_t states = layer.state().size();
  const auto parameters = pointers_of(given.next(layer.parameters().size()));
  const ssm_tensor& x = given.next(1)[0];
  const ssm_tensor& y = made.next(1)[0];
  std::unique_ptr<ssm_layer_state> first, last;
  std::span<ssm_tensor> finals;
  if (!given.is_done()) first = state_over(layer, sequences_of(x), given.next(states));
  if (!made.is_done()) {
    finals = made.next(states);
    last = state_over(layer, sequences_of(x), finals, false);
  }
  layer.forward({.parameters = parameters,
                 .x = &x,
                 .y = &y,
                 .initial_state = first.get(),
                 .final_state = last.get()});
  if (last != nullptr) write_back(last.get(), layer, finals);
}

void run_backward(Entry& entry, Operands& given, Operands& made, bool has_final) {
  ssm_layer& layer = *entry.layer;
  const std::size_t states = layer.state().size();
  const auto parameters = pointers_of(given.next(layer.parameters().size()));
  const ssm_tensor& x = given.next(1)[0];
  const ssm_tensor& dy = given.next(1)[0];
  std::unique_ptr<ssm_layer_state> dlast, first, dfirst;
  if (has_final) dlast = state_over(layer, sequences_of(x), given.next(states));
  if (!given.is_done()) first = state_over(layer, sequences_of(x), given.next(states));
  const auto sums = made.next(parameters.size());
  for (const ssm_tensor& sum : sums) layer.zero_bytes(sum.device.id, sum.data, bytes_in(sum));
  const ssm_tensor& dx = made.next(1)[0];
  // dx has y's extents, scalar and place until the gradient is written over it.
  if (entry.tape == nullptr) entry.tape = layer.make_tape();
  ssm_tape* const tape = entry.tape.get();
  layer.forward(
      {.parameters = parameters, .x = &x, .y = &dx, .initial_state = first.get(), .tape = tape});
  std::span<ssm_tensor> initials;
  if (!made.is_done()) {
    initials = made.next(states);
    dfirst = state_over(layer, sequences_of(x), initials, false);
  }
  layer.backward({.parameters = parameters,
                  .tape = tape,
                  .dy = &dy,
                  .dx = &dx,
                  .gradients = pointers_of(sums),
                  .dfinal_state = dlast.get(),
                  .dinitial_state = dfirst.get()});
  if (dfirst != nullptr) write_back(dfirst.get(), layer, initials);
}

void* stream_of(const xla::Frame& frame) {
  xla::StreamArguments asked{sizeof(xla::StreamArguments), nullptr, frame.context, nullptr};
  if (frame.api->get_stream(&asked) != nullptr) throw ArgumentError("XLA has no stream here");
  return asked.stream;
}

void run(const xla::Frame& frame) {
  const std::string config = text_of(frame, "config"), verb = text_of(frame, "verb");
  Entry entry = pool().take(config);
  ssm_layer& layer = *entry.layer;
  ssm_device device{1, 0};
  if (!layer.is_on_host()) {
    device = {2, current_cuda_device()};  // which XLA has made current
    layer.set_stream(stream_of(frame));
  }
  Operands given(tensors_of(frame.arguments, device)), made(tensors_of(frame.results, device));
  if (verb == "forward")
    run_forward(layer, given, made);
  else if (verb == "backward" || verb == "backward_from_final")
    run_backward(entry, given, made, verb != "backward");
  else
    throw ArgumentError("verb is " + verb + ", must be forward, backward or backward_from_final");
  if (!given.is_done() || !made.is_done())
    throw ArgumentError("XLA gives more operands than the layer has");
  pool().give_back(config, std::move(entry));
}

}  // namespace
}  // namespace ssm::api

using namespace ssm::api;

void* ssm_xla_call(void* call_frame) {
  if (call_frame == nullptr) return nullptr;
  const auto& frame = *static_cast<const xla::Frame*>(call_frame);
  for (xla::Extension* extension = frame.extensions; extension != nullptr;
       extension = extension->next) {
    if (extension->type != 1) continue;
    auto& metadata = *reinterpret_cast<xla::MetadataExtension*>(extension)->metadata;
    metadata.version.major = 0;
    metadata.version.minor = frame.api == nullptr ? 1 : frame.api->version.minor;
    metadata.traits = 0;
    return nullptr;
  }
  if (frame.stage != 3) return nullptr;
  if (guarded([&] { run(frame); }) == SSM_OK) return nullptr;
  xla::ErrorArguments error{sizeof(xla::ErrorArguments), nullptr, ssm_last_error(), 3};
  return frame.api->create_error(&error);
}
