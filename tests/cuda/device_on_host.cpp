// SPDX-License-Identifier: Apache-2.0
// The device that the kernels' arithmetic is tested on where there is none: host memory, and
// streams that are done at once.
#include <cstring>
#include <utility>

#include "device/own_memory.hpp"
#include "ssm/backend/cuda/device.hpp"
#include "ssm/core/memory_space.hpp"  // HostSpace
#include "ssm/core/recording.hpp"

namespace ssm::cuda {

void* device::allocate(std::size_t bytes) { return HostSpace::allocate(bytes); }
void device::deallocate(void* pointer) noexcept { HostSpace::deallocate(pointer); }
void* allocate_page_locked(std::size_t bytes) { return HostSpace::allocate(bytes); }
void deallocate_page_locked(void* pointer) noexcept { HostSpace::deallocate(pointer); }
void copy(void* to, const void* from, std::size_t bytes) { HostSpace::copy(to, from, bytes); }
void copy(void* to, const void* from, std::size_t bytes, Stream) {
  HostSpace::copy(to, from, bytes);
}
void send(void* page_locked, const void* from, std::size_t bytes, Stream) {
  HostSpace::copy(page_locked, from, bytes);
}
void fill_zero(void* to, std::size_t bytes) {
  if (bytes > 0) std::memset(to, 0, bytes);
}

Stream create_stream(Device device) {
  if (device.index != 0) throw Failure("cuda: no device " + std::to_string(device.index));
  return ::operator new(1);
}
void destroy_stream(Stream stream) noexcept { ::operator delete(stream); }
void synchronize(Stream) {}
int device_count() noexcept { return 1; }
int current_device() { return 0; }
static thread_local Stream stream_of_scope = nullptr;
Stream device::scope_stream() noexcept { return stream_of_scope; }
StreamScope::StreamScope(Device, Stream stream)
    : device_before_(0), stream_before_(std::exchange(stream_of_scope, stream)) {}
StreamScope::~StreamScope() {
  static_cast<void>(device_before_);
  stream_of_scope = stream_before_;
}

// Streams on the host do at once what they are given: there is nothing to wait for, nor to record.
class Event {};
Event* create_event() { return new Event(); }
void destroy_event(Event* event) noexcept { delete event; }
void record_event(Event*, Stream) {}
void wait_for_event(const Event*) {}

class Graph {};
void begin_recording(Stream) { throw NotRecordable("cuda: the host records no graphs"); }
Graph* end_recording(Stream) { throw Failure("cuda: the host records no graphs"); }
bool is_recording(Stream) { return false; }
void launch_graph(const Graph*, Stream) {}
void destroy_graph(Graph* graph) noexcept { delete graph; }

}  // namespace ssm::cuda
