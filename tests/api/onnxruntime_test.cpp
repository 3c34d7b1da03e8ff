// SPDX-License-Identifier: Apache-2.0
// The operator ssm.Layer called by a table of functions as ONNX Runtime's, on the host and on the
// CUDA backend, whose kernels run as loops of the host here: memory is said to be a device's, and
// is the host's.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "layer_kinds.hpp"
#include "onnxruntime/kernel.hpp"

// Kinds that are not called here.
namespace ssm::api {
static std::unique_ptr<ssm_layer> none(const JsonObject&, const LayerPlace&) { return nullptr; }
const LayerKind s4d_kind{"s4d", "|", none}, h3_kind{"h3", "|", none},
    mamba2_kind{"mamba2", "|", none}, dense_mamba_kind{"dense_mamba", "|", none},
    retention_kind{"retention", "|", none}, dense_retnet_kind{"dense_retnet", "|", none};
}  // namespace ssm::api

namespace ssm::ort {

// What is opaque to the operator.
struct Status {
  std::string text;
};
struct TensorInfo {
  int element;
  std::vector<std::int64_t> extents;
};
struct MemoryInfo {
  int type, id;
};
struct Value {
  TensorInfo info;
  MemoryInfo memory;
  std::vector<std::byte> bytes;
};
struct KernelContext {
  std::vector<const Value*> inputs;
  std::vector<std::unique_ptr<Value>> outputs;
  MemoryInfo memory{};
  std::vector<int> elements;  // of the outputs
  int stream = 0;
};

}  // namespace ssm::ort

namespace {

using namespace ssm::ort;

std::size_t count(const std::vector<std::int64_t>& extents) {
  std::size_t result = 1;
  for (const std::int64_t extent : extents) result *= static_cast<std::size_t>(extent);
  return result;
}
std::size_t bytes_of(int element) { return element == i64 || element == f64 ? 8 : 4; }

std::unique_ptr<Value> value(int element, const std::vector<std::int64_t>& extents, MemoryInfo at) {
  return std::make_unique<Value>(
      Value{{element, extents}, at, std::vector<std::byte>(count(extents) * bytes_of(element))});
}

const Api& table() {
  static const Api api = [] {
    Api made{};
    made.create_status = [](int, const char* text) { return new Status{text}; };
    made.tensor_data = [](Value* value, void** data) -> Status* {
      *data = value->bytes.data();
      return nullptr;
    };
    made.element_type = [](const TensorInfo* info, int* type) -> Status* {
      *type = info->element;
      return nullptr;
    };
    made.dimension_count = [](const TensorInfo* info, std::size_t* rank) -> Status* {
      *rank = info->extents.size();
      return nullptr;
    };
    made.dimensions = [](const TensorInfo* info, std::int64_t* to, std::size_t rank) -> Status* {
      std::copy_n(info->extents.begin(), rank, to);
      return nullptr;
    };
    made.tensor_info = [](const Value* value, TensorInfo** info) -> Status* {
      *info = new TensorInfo(value->info);
      return nullptr;
    };
    made.release_tensor_info = [](TensorInfo* info) { delete info; };
    made.input_count = [](const KernelContext* context, std::size_t* inputs) -> Status* {
      *inputs = context->inputs.size();
      return nullptr;
    };
    made.output_count = [](const KernelContext* context, std::size_t* outputs) -> Status* {
      *outputs = context->outputs.size();
      return nullptr;
    };
    made.input = [](const KernelContext* context, std::size_t i, const Value** to) -> Status* {
      *to = context->inputs[i];
      return nullptr;
    };
    made.output = [](KernelContext* context, std::size_t i, const std::int64_t* extents,
                     std::size_t rank, Value** to) -> Status* {
      CHECK(context->outputs[i] == nullptr);
      context->outputs[i] = value(context->elements[i], {extents, extents + rank}, context->memory);
      *to = context->outputs[i].get();
      return nullptr;
    };
    made.compute_stream = [](const KernelContext* context, void** stream) -> Status* {
      *stream = const_cast<int*>(&context->stream);
      return nullptr;
    };
    made.tensor_memory = [](const Value* value, const MemoryInfo** memory) -> Status* {
      *memory = &value->memory;
      return nullptr;
    };
    made.memory_id = [](const MemoryInfo* memory, int* id) -> Status* {
      *id = memory->id;
      return nullptr;
    };
    made.memory_device_type = [](const MemoryInfo* memory, int* type) { *type = memory->type; };
    return made;
  }();
  return api;
}

constexpr std::int64_t sequences = 2, channels = 4;
using Values = std::vector<std::unique_ptr<Value>>;

/// A layer's node with parameters, and the state that it was given last.
struct Node {
  Node(const std::string& kind, bool is_on_device, bool is_page_locked = false)
      : at{is_on_device || is_page_locked ? on_gpu : on_host, 0},
        kernel(table(), config(kind, is_on_device), is_on_device) {
    ssm_layer* layer = nullptr;
    require(ssm_layer_create(config(kind, false).c_str(), &layer));
    const Layer owned(layer);
    std::vector<ssm_tensor> tensors(static_cast<std::size_t>(ssm_layer_parameter_count(layer)));
    std::vector<const ssm_tensor*> pointers;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      require(ssm_layer_parameter(layer, static_cast<int>(i), &tensors[i]));
      parameters.push_back(value(f32, {tensors[i].shape, tensors[i].shape + tensors[i].ndim}, at));
      tensors[i].data = parameters.back()->bytes.data();
      pointers.push_back(&tensors[i]);
    }
    require(ssm_layer_initialize(layer, 3, pointers.data(), static_cast<int>(pointers.size())));
    ssm_layer_state* made = nullptr;
    require(ssm_layer_state_create(layer, sequences, &made));
    const State empty(made);
    for (int i = 0; i < ssm_layer_state_count(made); ++i) {
      ssm_tensor own{};
      require(ssm_layer_state_tensor(made, i, nullptr, &own));
      state.push_back(value(own.type.code == 0 ? i64 : f32, {own.shape, own.shape + own.ndim}, at));
    }
  }
  static std::string config(const std::string& kind, bool is_on_device) {
    return R"({"layer": )" + kind + R"(, "channels": 4, "backend": ")" +
           (is_on_device ? "cuda" : "cpu") + "\"}";
  }

  std::vector<float> run(std::int64_t length, unsigned seed, bool has_state = true) {
    const auto x = value(f32, {sequences, length, channels}, at);
    std::mt19937 random(seed);
    for (std::size_t i = 0; i < count(x->info.extents); ++i) {
      const float drawn = std::uniform_real_distribution(-1.0F, 1.0F)(random);
      std::memcpy(x->bytes.data() + 4 * i, &drawn, 4);
    }
    KernelContext context;
    context.memory = at;
    context.inputs.push_back(x.get());
    for (const auto& parameter : parameters) context.inputs.push_back(parameter.get());
    context.elements = {f32};
    if (has_state)
      for (const auto& tensor : state) {
        context.inputs.push_back(tensor.get());
        context.elements.push_back(tensor->info.element);
      }
    context.outputs.resize(context.elements.size());
    kernel.compute(&context);
    std::vector<float> y(count(x->info.extents));
    CHECK(context.outputs[0]->info.extents == x->info.extents);
    std::memcpy(y.data(), context.outputs[0]->bytes.data(), 4 * y.size());
    if (has_state)
      for (std::size_t i = 0; i < state.size(); ++i) state[i] = std::move(context.outputs[1 + i]);
    last_stream = &context.stream;
    return y;
  }

  MemoryInfo at;
  Kernel kernel;
  Values parameters, state;
  const void* last_stream = nullptr;
};

void require_near(const std::vector<float>& found, const std::vector<float>& expected) {
  REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < found.size(); ++i)
    CHECK(std::abs(found[i] - expected[i]) <= 1e-5F * std::max(1.0F, std::abs(expected[i])));
}

const char* const kinds[] = {R"("mamba", "state": 4)", R"("attention", "heads": 2)"};

std::vector<const void*> streams;  // that memory was taken for

}  // namespace

TEST_CASE("sequences in pieces, on a device as on the host, with states where the provider is") {
  for (const char* kind : kinds) {
    INFO(kind);
    Node here(kind, false), there(kind, true);
    require_near(there.run(7, 1, false), here.run(7, 1, false));
    for (const std::int64_t length : {3, 1, 4}) {
      const auto seed = static_cast<unsigned>(length);
      require_near(there.run(length, seed), here.run(length, seed));
      for (std::size_t i = 0; i < here.state.size(); ++i) {
        CHECK(there.state[i]->info.extents == here.state[i]->info.extents);
        CHECK(there.state[i]->memory.type == on_gpu);
        if (here.state[i]->info.element == i64)
          CHECK(there.state[i]->bytes == here.state[i]->bytes);
      }
    }
  }
}

TEST_CASE("a node on the host takes page-locked memory, which is said to be a device's") {
  for (const char* kind : kinds) {
    Node plain(kind, false), locked(kind, false, true);
    for (const std::int64_t length : {3, 1}) CHECK(plain.run(length, 1) == locked.run(length, 1));
  }
}

TEST_CASE("positions of a cache are counted, and the cache grows by them") {
  Node node(kinds[1], true);
  node.run(3, 1);
  node.run(2, 2);
  std::int64_t position[2] = {};
  std::memcpy(position, node.state[2]->bytes.data(), sizeof position);
  CHECK(position[0] == 5);
  CHECK(position[1] == 5);
  CHECK(node.state[0]->info.extents == std::vector<std::int64_t>{5, sequences, 2, 2});
}

TEST_CASE("work on a device is queued on the provider's stream") {
  Node node(kinds[1], true);
  REQUIRE(ssm_set_device_allocator(
              [](void*, std::size_t bytes, std::int32_t, void* stream) {
                streams.push_back(stream);
                return std::aligned_alloc(64, (bytes + 63) / 64 * 64);
              },
              [](void*, void* memory) { std::free(memory); }, nullptr) == SSM_OK);
  node.run(3, 1);
  CHECK(!streams.empty());
  for (const void* stream : streams) CHECK(stream == node.last_stream);
  REQUIRE(ssm_set_device_allocator(nullptr, nullptr, nullptr) == SSM_OK);
}

TEST_CASE("several threads call one node") {
  Node node(kinds[0], false);
  const auto expected = node.run(6, 5, false);
  std::vector<std::thread> threads;
  std::vector<std::vector<float>> found(4);
  for (auto& own : found)
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) own = node.run(6, 5, false);
    });
  for (std::thread& thread : threads) thread.join();
  for (const auto& own : found) CHECK(own == expected);
}

TEST_CASE("what does not fit is refused by name") {
  for (const bool is_on_device : {false, true}) {
    Node node(kinds[0], is_on_device);
    const auto refused = [&](const char* words) {
      try {
        node.run(3, 1);
        FAIL("nothing was refused");
      } catch (const Failure& error) {
        INFO(error.what());
        CHECK(std::string(error.what()).find(words) != std::string::npos);
      }
    };
    auto right = std::move(node.state[1]);
    node.state[1] = value(f32, {sequences, channels, 4}, node.at);
    refused("state ssm has other extents");
    node.state[1] = value(i64, right->info.extents, node.at);
    refused("state ssm is of int64");
    node.state.pop_back();
    refused("has 1 states, the layer has 2");
    node.parameters.pop_back();
    node.state.clear();
    refused("parameters");
  }
}
