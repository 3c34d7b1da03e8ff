// SPDX-License-Identifier: Apache-2.0
#include <utility>
#include <vector>

#include "device/launch.cuh"
#include "device/memory_pool.hpp"
#include "device/own_memory.hpp"
#include "ssm/backend/cuda/device.hpp"

namespace ssm::cuda {

namespace {

/// Of the StreamScope, or null, the legacy default stream, which is in order with those of
/// create_stream.
thread_local Stream scope_stream = nullptr;

}  // namespace

Stream device::scope_stream() noexcept { return cuda::scope_stream; }

namespace {

void* allocate_from_driver(std::size_t bytes) {
  void* pointer = nullptr;
  const cudaError_t code = cudaMalloc(&pointer, bytes);
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not sticky: the next call may ask for less
    throw OutOfMemory(bytes, CudaSpace::name());
  }
  device::check(code, "cudaMalloc");
  return pointer;
}
void give_back_to_driver(void* pointer) { cudaFree(pointer); }
/// As giving back memory of the driver's does, also while another thread records.
void wait_for_device(int index) {
  int before = 0;
  cudaGetDevice(&before);
  cudaSetDevice(index);
  void* any = nullptr;
  if (cudaMalloc(&any, 1) == cudaSuccess) {
    cudaFree(any);
  } else {
    cudaGetLastError();
    cudaDeviceSynchronize();
  }
  cudaSetDevice(before);
}

/// Never destroyed: tensors that are static give their blocks back late.
device::MemoryPool& memory_pool() {
  static auto* const pool =
      new device::MemoryPool({allocate_from_driver, give_back_to_driver, wait_for_device});
  return *pool;
}

}  // namespace

void* device::allocate(std::size_t bytes) {
  return MemoryPool::suits(bytes) ? memory_pool().take(bytes, current_device())
                                  : allocate_from_driver(bytes);
}

void device::deallocate(void* pointer) noexcept {
  if (!memory_pool().give_back(pointer)) cudaFree(pointer);
}

void* allocate_page_locked(std::size_t bytes) {
  void* pointer = nullptr;
  if (cudaMallocHost(&pointer, bytes) != cudaSuccess) {
    cudaGetLastError();
    throw OutOfMemory(bytes, "page-locked memory");
  }
  return pointer;
}

void deallocate_page_locked(void* pointer) noexcept { cudaFreeHost(pointer); }

// The legacy default stream takes what it is given after all that streams of create_stream were
// given before, and they take what comes later after it. So nothing here waits for the device, but
// for a copy to the host.
void copy(void* to, const void* from, std::size_t bytes) {
  if (bytes == 0) return;
  if (scope_stream == nullptr) {
    device::check(cudaMemcpy(to, from, bytes, cudaMemcpyDefault), "cudaMemcpy");
  } else {
    copy(to, from, bytes, scope_stream);
    synchronize(scope_stream);
  }
}

void copy(void* to, const void* from, std::size_t bytes, Stream stream) {
  if (bytes == 0) return;
  device::check(
      cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, static_cast<cudaStream_t>(stream)),
      "cudaMemcpyAsync");
}

namespace {
__global__ void send_bytes(unsigned char* to, const unsigned char* from, int count) {
  device::let_successor_begin();
  device::wait_for_predecessors();
  const int i = static_cast<int>(threadIdx.x);
  if (i < count) to[i] = from[i];
}
struct SendBytes;
}  // namespace

void send(void* page_locked, const void* from, std::size_t bytes, Stream stream) {
  constexpr int most = 256;
  if (bytes > most) return copy(page_locked, from, bytes, stream);
  if (bytes == 0) return;
  device::launch_early<SendBytes>(send_bytes, dim3(1), most, stream, "send",
                                  static_cast<unsigned char*>(page_locked),
                                  static_cast<const unsigned char*>(from), static_cast<int>(bytes));
}

void fill_zero(void* to, std::size_t bytes) {
  if (bytes == 0) return;
  device::check(cudaMemsetAsync(to, 0, bytes, static_cast<cudaStream_t>(scope_stream)),
                "cudaMemsetAsync");
}

int current_device() {
  int device = 0;
  device::check(cudaGetDevice(&device), "cudaGetDevice");
  return device;
}

StreamScope::StreamScope(Device device, Stream stream)
    : device_before_(current_device()), stream_before_(std::exchange(scope_stream, stream)) {
  if (device.index == device_before_) return;
  const cudaError_t code = cudaSetDevice(device.index);
  if (code != cudaSuccess) scope_stream = stream_before_;
  device::check(code, "cudaSetDevice");
}
StreamScope::~StreamScope() {
  scope_stream = stream_before_;
  int device = 0;
  if (cudaGetDevice(&device) == cudaSuccess && device != device_before_)
    cudaSetDevice(device_before_);
}

int device_count() noexcept {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

Stream create_stream(Device device) {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code == cudaErrorInsufficientDriver)
    throw Failure(
        "cuda: no usable device: there is no NVIDIA driver here, or it is older than CUDA 13");
  if (code != cudaSuccess)
    throw Failure(std::string("cuda: no usable device: ") + cudaGetErrorString(code));
  if (device.index < 0 || device.index >= count)
    throw Failure("cuda: there is no device " + std::to_string(device.index) + " among " +
                  std::to_string(count));
  device::check(cudaSetDevice(device.index), "cudaSetDevice");
  cudaStream_t stream = nullptr;
  device::check(cudaStreamCreate(&stream), "cudaStreamCreate");
  return stream;
}

void destroy_stream(Stream stream) noexcept {
  cudaStreamDestroy(static_cast<cudaStream_t>(stream));
}

void synchronize(Stream stream) {
  device::check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)), "cudaStreamSynchronize");
}

class Event {
 public:
  cudaEvent_t event = nullptr;
};

Event* create_event() {
  cudaEvent_t event = nullptr;
  device::check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
  return new Event{event};
}
void destroy_event(Event* event) noexcept {
  if (event == nullptr) return;
  cudaEventDestroy(event->event);
  delete event;
}
void record_event(Event* event, Stream stream) {
  device::check(cudaEventRecord(event->event, static_cast<cudaStream_t>(stream)),
                "cudaEventRecord");
}
void wait_for_event(const Event* event) {
  device::check(cudaEventSynchronize(event->event), "cudaEventSynchronize");
}

class Graph {
 public:
  cudaGraphExec_t executable = nullptr;
};

void begin_recording(Stream stream) {
  device::check(
      cudaStreamBeginCapture(static_cast<cudaStream_t>(stream), cudaStreamCaptureModeThreadLocal),
      "cudaStreamBeginCapture");
}

namespace {

__global__ void set_elements(void* to, unsigned value, unsigned size, std::size_t count) {
  for (std::size_t i = threadIdx.x; i < count; i += blockDim.x) {
    if (size == 1) static_cast<unsigned char*>(to)[i] = static_cast<unsigned char>(value);
    if (size == 2) static_cast<unsigned short*>(to)[i] = static_cast<unsigned short>(value);
    if (size == 4) static_cast<unsigned*>(to)[i] = value;
  }
}

/// Makes kernels of nodes that set a few bytes, as cuBLASLt does before some products: between
/// kernels each of those takes microseconds.
cudaError_t set_bytes_by_kernels(cudaGraph_t graph) {
  std::size_t count = 0;
  cudaError_t code = cudaGraphGetNodes(graph, nullptr, &count);
  std::vector<cudaGraphNode_t> nodes(count), before, behind;
  if (code == cudaSuccess) code = cudaGraphGetNodes(graph, nodes.data(), &count);
  for (const cudaGraphNode_t node : nodes) {
    cudaGraphNodeType type{};
    if (code == cudaSuccess) code = cudaGraphNodeGetType(node, &type);
    if (code != cudaSuccess) return code;
    cudaMemsetParams set{};
    if (type != cudaGraphNodeTypeMemset) continue;
    code = cudaGraphMemsetNodeGetParams(node, &set);
    if (code != cudaSuccess || set.height != 1 || set.elementSize * set.width > 1024) continue;
    std::vector<cudaGraphEdgeData> edges;
    const auto neighbors = [&](auto ask, std::vector<cudaGraphNode_t>& to) {
      std::size_t size = 0;
      code = ask(node, nullptr, nullptr, &size);
      to.resize(size);
      edges.resize(size);
      if (code == cudaSuccess && size > 0) code = ask(node, to.data(), edges.data(), &size);
    };
    neighbors(cudaGraphNodeGetDependencies, before);
    if (code == cudaSuccess) neighbors(cudaGraphNodeGetDependentNodes, behind);
    if (code != cudaSuccess) return code;
    void* arguments[] = {&set.dst, &set.value, &set.elementSize, &set.width};
    cudaKernelNodeParams call{};
    call.func = reinterpret_cast<void*>(set_elements);
    call.gridDim = dim3(1);
    call.blockDim = dim3(32);
    call.kernelParams = arguments;
    cudaGraphNode_t kernel = nullptr;
    code = cudaGraphAddKernelNode(&kernel, graph, before.data(), before.size(), &call);
    for (const cudaGraphNode_t next : behind)
      if (code == cudaSuccess) code = cudaGraphAddDependencies(graph, &kernel, &next, nullptr, 1);
    if (code == cudaSuccess) code = cudaGraphDestroyNode(node);
  }
  return code;
}

}  // namespace

Graph* end_recording(Stream stream) {
  cudaGraph_t graph = nullptr;
  device::check(cudaStreamEndCapture(static_cast<cudaStream_t>(stream), &graph),
                "cudaStreamEndCapture");
  cudaGraphExec_t executable = nullptr;
  cudaError_t code = set_bytes_by_kernels(graph);
  if (code == cudaSuccess) code = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  device::check(code, "cudaGraphInstantiate");
  return new Graph{executable};
}

bool is_recording(Stream stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  device::check(cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status),
                "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}

void launch_graph(const Graph* graph, Stream stream) {
  device::check(cudaGraphLaunch(graph->executable, static_cast<cudaStream_t>(stream)),
                "cudaGraphLaunch");
}

void destroy_graph(Graph* graph) noexcept {
  if (graph == nullptr) return;
  cudaGraphExecDestroy(graph->executable);
  delete graph;
}

}  // namespace ssm::cuda
