// SPDX-License-Identifier: Apache-2.0
// Layers of the C interface on the CUDA backend, whose kernels run as loops of the host here:
// headers say that memory is a device's, and it is the host's.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "backends.hpp"
#include "layer_on.hpp"
#include "ssm/layer/attention.hpp"
#include "ssm/layer/h3.hpp"

using namespace ssm;
using ssm::api::LayerOn;

namespace {

/// A tensor of the caller's, on the host or said to be on a device.
template <class T>
struct Array {
  std::vector<std::int64_t> shape;
  std::vector<T> values;
  ssm_tensor header;

  Array(std::vector<std::int64_t> extents, bool is_on_device, T value = {})
      : shape(std::move(extents)), values(size(shape), value) {
    header = {.data = values.data(),
              .device = {is_on_device ? 2 : 1, 0},
              .ndim = static_cast<std::int32_t>(shape.size()),
              .type = api::scalar_of<T>(),
              .shape = shape.data(),
              .strides = nullptr,
              .byte_offset = 0};
  }
  static std::size_t size(const std::vector<std::int64_t>& extents) {
    std::size_t count = 1;
    for (const std::int64_t extent : extents) count *= static_cast<std::size_t>(extent);
    return count;
  }
  void fill(unsigned seed) {
    std::mt19937 random(seed);
    for (T& value : values)
      value = static_cast<T>(std::uniform_real_distribution(-1.0, 1.0)(random));
  }
};

template <class T>
using Arrays = std::vector<std::unique_ptr<Array<T>>>;

template <class T>
std::vector<const ssm_tensor*> headers(const Arrays<T>& arrays) {
  std::vector<const ssm_tensor*> all;
  for (const auto& array : arrays) all.push_back(&array->header);
  return all;
}

/// The float tensors of a state, copied out.
template <class T>
std::vector<std::vector<T>> values_of(ssm_layer_state& state) {
  std::vector<std::vector<T>> all;
  for (int i = 0; i < state.count(); ++i) {
    ssm_tensor tensor{};
    state.tensor(i, nullptr, tensor);
    if (tensor.type.code != 2) continue;
    const auto* const data = static_cast<const T*>(tensor.data);
    all.emplace_back(data, data + Array<T>::size({tensor.shape, tensor.shape + tensor.ndim}));
  }
  return all;
}

/// What every verb of a layer gives, by name.
template <class T>
using Results = std::map<std::string, std::vector<T>>;

template <class T>
Results<T> run(ssm_layer& layer, bool is_on_device) {
  constexpr std::int64_t sequences = 2, length = 5;
  const auto channels = static_cast<std::int64_t>(layer.channels());
  Arrays<T> parameters, gradients;
  for (const api::TensorFacts& facts : layer.parameters()) {
    parameters.push_back(std::make_unique<Array<T>>(facts.shape, is_on_device));
    gradients.push_back(std::make_unique<Array<T>>(facts.shape, is_on_device, T{1}));
  }
  const auto given = headers(parameters), sums = headers(gradients);
  layer.initialize(Seed{3}, given);
  Array<T> x({sequences, length, channels}, is_on_device), y(x.shape, is_on_device),
      dx(x.shape, is_on_device), chunk(x.shape, is_on_device);
  x.fill(1);
  Results<T> results;
  const auto tape = layer.make_tape();
  const auto last = layer.make_state(sequences), dfirst = layer.make_state(sequences),
             first = layer.make_state(sequences);
  layer.forward({.parameters = given,
                 .x = &x.header,
                 .y = &y.header,
                 .initial_state = first.get(),
                 .final_state = last.get(),
                 .tape = tape.get()});
  layer.backward({.parameters = given,
                  .tape = tape.get(),
                  .dy = &y.header,
                  .dx = &dx.header,
                  .gradients = sums,
                  .dinitial_state = dfirst.get()});
  results["y"] = y.values;
  results["dx"] = dx.values;
  for (std::size_t i = 0; i < gradients.size(); ++i)
    results["d" + layer.parameters()[i].name] = gradients[i]->values;
  const auto keep = [&](const std::string& name, ssm_layer_state& state) {
    const auto all = values_of<T>(state);
    for (std::size_t i = 0; i < all.size(); ++i) results[name + std::to_string(i)] = all[i];
  };
  keep("final", *last);
  keep("dinitial", *dfirst);
  const auto copied = last->copy();
  layer.prefill(
      {.parameters = given, .x = &x.header, .y = &chunk.header, .final_state = copied.get()});
  results["chunk"] = chunk.values;
  Array<T> now({sequences, channels}, is_on_device, T{1}), then(now.shape, is_on_device);
  layer.step(
      {.parameters = given, .x = &now.header, .y = &then.header, .final_state = copied.get()});
  results["step"] = then.values;
  keep("behind", *copied);
  return results;
}

template <class T>
void require_near(const Results<T>& found, const Results<T>& expected, double tolerance) {
  REQUIRE(found.size() == expected.size());
  for (const auto& entry : expected) {
    const auto& values = entry.second;
    const std::string& name = entry.first;
    INFO(name);
    const auto& own = found.at(name);
    REQUIRE(own.size() == values.size());
    for (std::size_t i = 0; i < values.size(); ++i)
      CHECK(std::abs(double{own[i]} - double{values[i]}) <=
            tolerance * std::max(1.0, std::abs(double{values[i]})));
  }
}

H3<H3Config{.state = dyn, .head_dim = dyn}> small_h3() {
  return H3<H3Config{.state = dyn, .head_dim = dyn}>({.channels = 4, .state = 4, .head_dim = 2});
}

int allocations = 0, deallocations = 0;
void* last_stream = nullptr;

}  // namespace

TEST_CASE("every verb of a layer on a device is that of the reference") {
  LayerOn<decltype(small_h3()), Cuda, double> device(small_h3(), 1);
  LayerOn<decltype(small_h3()), Reference, double> host(small_h3(), 1);
  CHECK(!device.is_on_host());
  require_near(run<double>(device, true), run<double>(host, false), 1e-10);
}

TEST_CASE("a cache that grows on a device; positions stay on the host") {
  using Layer = CausalAttention<CausalAttentionConfig{}>;
  const Layer layer({.channels = 8, .heads = 2, .rotary_dim = 2});
  LayerOn<Layer, Cuda, float> device(layer, 1);
  LayerOn<Layer, Reference, float> host(layer, 1);
  require_near(run<float>(device, true), run<float>(host, false), 1e-4);
  const auto state = device.make_state(2);
  for (int i = 0; i < state->count(); ++i) {
    ssm_tensor tensor{};
    state->tensor(i, nullptr, tensor);
    CHECK(tensor.device.type == (tensor.type.code == 0 ? 1 : 2));
  }
}

TEST_CASE("memory of states and tapes comes from the caller's allocator, on the layer's stream") {
  LayerOn<decltype(small_h3()), Cuda, double> device(small_h3(), 1);
  int stream = 0;
  device.set_stream(&stream);
  REQUIRE(ssm_set_device_allocator(
              [](void*, std::size_t bytes, std::int32_t, void* on) {
                ++allocations;
                last_stream = on;
                return std::aligned_alloc(64, (bytes + 63) / 64 * 64);
              },
              [](void*, void* memory) {
                ++deallocations;
                std::free(memory);
              },
              nullptr) == SSM_OK);
  const auto results = run<double>(device, true);
  CHECK(allocations > 5);
  CHECK(last_stream == &stream);
  CHECK(deallocations > 5);
  const int before = deallocations;
  void* const left = cuda::allocate(64);
  REQUIRE(ssm_set_device_allocator(nullptr, nullptr, nullptr) == SSM_OK);
  cuda::deallocate(left);
  CHECK(deallocations == before);
  std::free(left);
  const int all = allocations;
  require_near(run<double>(device, true), results, 0);
  CHECK(allocations == all);
  CHECK(ssm_set_device_allocator(
            nullptr, [](void*, void*) {}, nullptr) == SSM_ARGUMENT);
}

TEST_CASE("a state of no sequences takes memory of any") {
  LayerOn<decltype(small_h3()), Cuda, double> device(small_h3(), 1);
  const auto state = device.make_state(0);
  std::vector<std::int64_t> shape = device.state()[0].shape;
  shape[0] = 3;
  const Array<double> memory(shape, true), wrong({3, 4, 5}, true), host(shape, false);
  state->borrow(0, memory.header);
  ssm_tensor tensor{};
  state->tensor(0, nullptr, tensor);
  CHECK(tensor.data == memory.header.data);
  CHECK_THROWS_AS(device.make_state(0)->borrow(0, wrong.header), ShapeError);
  CHECK_THROWS_AS(device.make_state(0)->borrow(0, host.header), api::TensorError);
}

TEST_CASE("half types beside float32 on a device; what lies elsewhere is refused by name") {
  LayerOn<decltype(small_h3()), Cuda, float> device(small_h3(), 1);
  Arrays<float> parameters;
  for (const api::TensorFacts& facts : device.parameters())
    parameters.push_back(std::make_unique<Array<float>>(facts.shape, true));
  const auto given = headers(parameters);
  device.initialize(Seed{3}, given);
  Array<float> x({2, 5, 4}, true), y(x.shape, true);
  Array<BFloat16> half(x.shape, true), rounded(x.shape, true);
  x.fill(1);
  for (std::size_t i = 0; i < x.values.size(); ++i) {
    half.values[i] = BFloat16(x.values[i]);
    x.values[i] = static_cast<float>(half.values[i]);
  }
  device.forward({.parameters = given, .x = &x.header, .y = &y.header});
  device.forward({.parameters = given, .x = &half.header, .y = &rounded.header});
  for (std::size_t i = 0; i < y.values.size(); ++i)
    CHECK(static_cast<float>(rounded.values[i]) == static_cast<float>(BFloat16(y.values[i])));
  const auto refused = [&](const ssm_tensor& in, const ssm_tensor& out, const char* words) {
    try {
      device.forward({.parameters = given, .x = &in, .y = &out});
      FAIL("nothing was refused");
    } catch (const api::TensorError& error) {
      CHECK(std::string(error.what()).find(words) != std::string::npos);
    }
  };
  Array<float> on_host(x.shape, false);
  refused(on_host.header, y.header, "x lies in host memory");
  ssm_tensor other = y.header;
  other.device.id = 1;
  refused(x.header, other, "must be on one");
}
