// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/backend/cuda/launch.hpp"
#include "ssm/backend/cuda/new_threads.hpp"

namespace ssm {

/// One of the machine's CUDA devices.
struct Device {
  int index = 0;
};

namespace cuda {

/// Scalars that every primitive of the CUDA backend takes.
template <class T>
concept DeviceScalar = std::same_as<T, float> || std::same_as<T, double>;
/// Scalars that sequences and weight matrices may be of where a primitive takes half types too.
template <class T>
concept DeviceNumber = DeviceScalar<T> || HalfStorage<T>;

/// Device memory of the host thread's current device, from cudaMalloc or the program's own
/// allocator. Throws OutOfMemory, Failure.
SSM_CUDA_API void* allocate(std::size_t bytes);
SSM_CUDA_API void deallocate(void* pointer) noexcept;
/// Blocks one behind the other, aligned to 256 bytes, each to be deallocated by itself; the memory
/// is free again after the last. Throws OutOfMemory, Failure.
SSM_CUDA_API void allocate_adjacent(std::span<const std::size_t> bytes, std::span<void*> blocks);

/// Where device memory comes from in a program that has an allocator of its own.
///   allocate     null where there is no such memory; what is there may be used in order with the
///                stream that the host thread's StreamScope names
///   deallocate   what was queued with the memory may still run
struct Allocator {
  void* (*allocate)(void* user, std::size_t bytes, int device, Stream stream) = nullptr;
  void (*deallocate)(void* user, void* memory) = nullptr;
  void* user = nullptr;
};
/// For all host threads, from here on; one without functions: cudaMalloc again. Memory of an
/// allocator that is replaced is not given back any more.
SSM_CUDA_API void use_allocator(const Allocator& allocator);

/// Page-locked host memory, which the device reads and writes too, slowly. Throws OutOfMemory.
SSM_CUDA_API void* allocate_page_locked(std::size_t bytes);
SSM_CUDA_API void deallocate_page_locked(void* pointer) noexcept;
/// Between any two memories, in order with the streams of create_stream: after what they were given
/// before, before what comes later. A copy to the host waits until it is done; host memory that is
/// copied from has been read when it returns. Streams that others made with cudaStreamNonBlocking
/// are outside this order. Throws Failure.
SSM_CUDA_API void copy(void* to, const void* from, std::size_t bytes);
/// In the same order; does not wait.
SSM_CUDA_API void fill_zero(void* to, std::size_t bytes);
/// The host thread's current device.
SSM_CUDA_API int current_device();
/// Makes a device the host thread's current one until this goes. allocate, copy and fill_zero are
/// in order with the stream meanwhile, which may be one of cudaStreamNonBlocking.
class SSM_CUDA_API StreamScope {
 public:
  StreamScope(Device device, Stream stream);
  StreamScope(const StreamScope&) = delete;
  StreamScope& operator=(const StreamScope&) = delete;
  ~StreamScope();

 private:
  int device_before_;
  Stream stream_before_;
};
/// A copy that is queued behind what the stream was given before. Host memory that is not
/// page-locked has been read when it returns. Throws Failure.
SSM_CUDA_API void copy(void* to, const void* from, std::size_t bytes, Stream stream);
/// A copy to memory of allocate_page_locked, queued likewise; a few bytes go by a kernel, for which
/// what is queued behind waits less than for the copy engine.
SSM_CUDA_API void send(void* page_locked, const void* from, std::size_t bytes, Stream stream);

/// A stream of `device`, which becomes the host thread's current one. It is in order with the
/// legacy default stream, so with copy and fill_zero.
/// Throws  Failure  without a usable device of that index
SSM_CUDA_API Stream create_stream(Device device);
SSM_CUDA_API void destroy_stream(Stream stream) noexcept;
/// Waits until the stream has done all it was given. Throws Failure if something of it failed.
SSM_CUDA_API void synchronize(Stream stream);

/// Memory of the device. The host cannot index it; CudaSpace::copy crosses, and waits where it
/// copies to the host.
struct CudaSpace {
  static constexpr bool host_readable = false;
  static constexpr std::string_view name() { return "CUDA device memory"; }
  static void* allocate(std::size_t bytes) { return cuda::allocate(bytes); }
  static void allocate_adjacent(std::span<const std::size_t> bytes, std::span<void*> blocks) {
    cuda::allocate_adjacent(bytes, blocks);
  }
  static void deallocate(void* pointer) noexcept {
    if (pointer != nullptr) ++deallocations_;
    cuda::deallocate(pointer);
  }
  /// How often memory has been given back. As long as that stays the same, whatever was recorded
  /// finds its memory.
  static std::uint64_t deallocations() { return deallocations_; }
  static void copy(void* to, const void* from, std::size_t bytes) { cuda::copy(to, from, bytes); }
  static void fill_zero(void* to, std::size_t bytes) { cuda::fill_zero(to, bytes); }

 private:
  inline static std::atomic<std::uint64_t> deallocations_{0};
};

/// How products of float matrices are computed: in float, or with factors rounded to 10 bits and
/// sums in float (TF32), on tensor cores.
enum class MatmulPrecision { exact, tf32 };

/// What matrix products need beside a stream: cuBLASLt, loaded at the first product, and the
/// algorithms chosen so far.
class MatmulLibrary;
SSM_CUDA_API MatmulLibrary* create_matmul_library(MatmulPrecision precision);
SSM_CUDA_API void destroy_matmul_library(MatmulLibrary* library) noexcept;
/// From here on products of half types round a bias at the first of them alone.
SSM_CUDA_API void keep_biases(MatmulLibrary& library);

/// Where blocks of a kernel hand each other a row: device memory for one stream's kernels, of so
/// many numbers and blocks at most.
class RowExchange;
inline constexpr std::int64_t row_exchange_numbers = 4096;
inline constexpr int row_exchange_blocks = 128;
/// Throws OutOfMemory, Failure.
SSM_CUDA_API RowExchange* create_row_exchange(Stream stream);
SSM_CUDA_API void destroy_row_exchange(RowExchange* exchange) noexcept;

/// A place in the work of a stream.
class Event;
SSM_CUDA_API Event* create_event();
SSM_CUDA_API void destroy_event(Event* event) noexcept;
/// Behind all that the stream was given so far.
SSM_CUDA_API void record_event(Event* event, Stream stream);
/// Waits until the device is there. Throws Failure if something before failed.
SSM_CUDA_API void wait_for_event(const Event* event);

/// Work of a stream, recorded to be queued again at the cost of one launch.
class Graph;
/// From here on the stream records what it is given and does none of it. Throws Failure.
SSM_CUDA_API void begin_recording(Stream stream);
/// Throws Failure if something was not recordable; the stream works again in either case.
SSM_CUDA_API Graph* end_recording(Stream stream);
/// Whether it records.
SSM_CUDA_API bool is_recording(Stream stream);
SSM_CUDA_API void launch_graph(const Graph* graph, Stream stream);
SSM_CUDA_API void destroy_graph(Graph* graph) noexcept;

/// What a context of the CUDA backend owns: one stream of one device.
///   ssm::Context<ssm::Cuda> ctx(ssm::cuda::Resources(ssm::Device{0}));
/// Throws  Failure  without a usable device of that index
class Resources {
 public:
  using Scope = StreamScope;

  explicit Resources(Device device = {}, MatmulPrecision precision = MatmulPrecision::exact)
      : stream_(create_stream(device), DestroyStream{false}), precision_(precision) {}
  /// On a stream of the caller's, which is of the host thread's current device, outlives the
  /// context, and is not destroyed with it; null is the legacy default stream.
  static Resources borrow(Stream stream, MatmulPrecision precision = MatmulPrecision::exact) {
    return {stream, precision};
  }

  Stream stream() const { return stream_.get(); }
  /// Queues a copy to device memory; from that of the host, it has been read when this returns.
  void copy(void* to, const void* from, std::size_t bytes) const {
    cuda::copy(to, from, bytes, stream());
  }
  /// Waits for everything this context was given. Allocation and copies to the host wait as well;
  /// nothing else does.
  void synchronize() const { cuda::synchronize(stream()); }
  /// Calls body(begin, end) for ranges that together are 0 … count−1, on threads of the host: what
  /// is drawn there before it goes to the device.
  template <class Body>
  void for_ranges(Index count, const Body& body) const {
    NewThreads().for_ranges(count, body);
  }
  /// Calls that queue the same work on the same memory every time: the first one is recorded, later
  /// ones are one launch, or one for each part where some of the work runs apart.
  ///   cuda::Resources::Recording step;
  ///   step(ctx, [&] { layer.step(ctx, parameters, x_t, y_t, state); });
  /// Recorded once more when the context's workspace has grown. The call must have run before, so
  /// that nothing allocates.
  /// Throws  NotRecordable  where the call reads numbers of the host that change, as dropout does
  class Recording {
   public:
    /// reads_parameters   no call writes what a product of them has by_parameters: kernels may read
    ///                    that while those before them still run
    explicit Recording(bool reads_parameters = false) : reads_parameters_(reads_parameters) {}

    template <class Ctx, class Run>
    void operator()(Ctx& ctx, Run&& run) {
      if (parts_.empty() || workspace_ != ctx.workspace().capacity()) record(ctx, run);
      const auto whole = ctx.workspace().frame();  // until whose end memory stays where it is
      for (const Part& part : parts_)
        if (part.graph)
          launch_graph(part.graph.get(), ctx.resources().stream());
        else
          part.run();
    }

   private:
    friend class Resources;
    struct Destroy {
      void operator()(Graph* graph) const noexcept { destroy_graph(graph); }
    };
    /// What was recorded, or what runs apart.
    struct Part {
      std::unique_ptr<Graph, Destroy> graph;
      std::function<void()> run;
    };

    template <class Ctx, class Run>
    void record(Ctx& ctx, Run& run) {
      Resources& resources = ctx.resources();
      parts_.clear();
      begin_recording(resources.stream());
      resources.recording_ = this;
      try {
        run();
      } catch (...) {
        resources.recording_ = nullptr;
        parts_.clear();
        abandon_recording(resources.stream());
        throw;
      }
      resources.recording_ = nullptr;
      parts_.push_back({std::unique_ptr<Graph, Destroy>(end_recording(resources.stream())), {}});
      workspace_ = ctx.workspace().capacity();
    }
    template <class Ctx, class Run>
    void add_apart(Ctx& ctx, Run run) {
      const Stream stream = ctx.resources().stream();
      parts_.push_back({std::unique_ptr<Graph, Destroy>(end_recording(stream)), {}});
      parts_.push_back({nullptr, [&ctx, run = std::move(run), mark = ctx.workspace().mark()] {
                          const auto frame = ctx.workspace().frame_behind(mark);
                          run();
                        }});
      begin_recording(stream);
    }
    static void abandon_recording(Stream stream) noexcept {
      try {
        destroy_graph(end_recording(stream));
      } catch (const Failure&) {  // what broke the call has been said
      }
    }

    std::vector<Part> parts_;
    std::size_t workspace_ = 0;
    bool reads_parameters_;
  };

  /// ssm::run_apart.
  template <class Ctx, class Run>
  void run_apart(Ctx& ctx, Run run) {
    ++runs_apart_;
    if (recording_ != nullptr)
      recording_->add_apart(ctx, std::move(run));
    else
      run();
  }
  /// Whether what is recorded now writes no parameters.
  bool parameters_stay() const { return recording_ != nullptr && recording_->reads_parameters_; }
  /// ssm::run_on_host.
  template <class Run>
  void run_on_host(Run run) {
    if (recording_ != nullptr)
      recording_->parts_.push_back({nullptr, std::move(run)});
    else
      run();
  }
  /// How often run_apart was called.
  std::uint64_t runs_apart() const { return runs_apart_; }

  /// A few numbers of the device on their way to the host. What is queued behind `start` runs while
  /// the host still waits for them.
  class Arrival {
   public:
    template <class Ctx>
    void start(Ctx& ctx, const void* from, std::size_t bytes) {
      if (!event_) event_.reset(create_event());
      if (size_ < bytes) memory_.reset(allocate_page_locked(bytes));
      size_ = std::max(size_, bytes);
      send(memory_.get(), from, bytes, ctx.resources().stream());
      record_event(event_.get(), ctx.resources().stream());
    }
    void wait(void* to, std::size_t bytes) const {
      wait_for_event(event_.get());
      std::memcpy(to, memory_.get(), bytes);
    }

   private:
    struct Destroy {
      void operator()(Event* event) const noexcept { destroy_event(event); }
      void operator()(void* memory) const noexcept { deallocate_page_locked(memory); }
    };
    std::unique_ptr<Event, Destroy> event_;
    std::unique_ptr<void, Destroy> memory_;
    std::size_t size_ = 0;
  };

  MatmulLibrary& matmul_library() {
    if (!library_) {
      library_.reset(create_matmul_library(precision_));
      if (biases_stay_) keep_biases(*library_);
    }
    return *library_;
  }
  /// Made at the first call that is not recorded; null until then.
  RowExchange* row_exchange() {
    if (!row_exchange_ && !is_recording(stream()))
      row_exchange_.reset(create_row_exchange(stream()));
    return row_exchange_.get();
  }
  /// To be called before the first product by who promises that no bias of this context's products
  /// changes or goes while the context computes: what is derived from one is kept.
  void biases_stay() { biases_stay_ = true; }

 private:
  struct DestroyStream {
    bool is_borrowed;
    void operator()(void* stream) const noexcept {
      if (!is_borrowed) destroy_stream(stream);
    }
  };
  struct DestroyLibrary {
    void operator()(MatmulLibrary* library) const noexcept { destroy_matmul_library(library); }
  };
  struct DestroyExchange {
    void operator()(RowExchange* exchange) const noexcept { destroy_row_exchange(exchange); }
  };

  Resources(Stream borrowed, MatmulPrecision precision)
      : stream_(borrowed, DestroyStream{true}), precision_(precision) {}

  std::unique_ptr<void, DestroyStream> stream_;
  MatmulPrecision precision_;
  std::unique_ptr<MatmulLibrary, DestroyLibrary> library_;
  std::unique_ptr<RowExchange, DestroyExchange> row_exchange_;
  bool biases_stay_ = false;
  Recording* recording_ = nullptr;  // under way
  std::uint64_t runs_apart_ = 0;
};

}  // namespace cuda
}  // namespace ssm
