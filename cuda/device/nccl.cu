// SPDX-License-Identifier: Apache-2.0
#include <dlfcn.h>

#include <atomic>
#include <chrono>
#include <deque>
#include <mutex>
#include <thread>

#include "device/launch.cuh"
#include "ssm/backend/cuda/nccl.hpp"

namespace ssm::cuda {
namespace device {
namespace {

/// What is used of NCCL 2, whose header not every machine with CUDA has. Its calls return 0, or
/// the number of an error.
struct NcclLibrary {
  using Comm = struct ncclComm*;
  struct UniqueId {
    char bytes[128];
  };
  static constexpr int byte = 1, float16 = 6, float32 = 7, float64 = 8, bfloat16 = 9;  // types
  static constexpr int sum = 0;                                                        // operations

  NcclLibrary() {
    void* const library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr)
      throw Failure(std::string("ranks with devices need NCCL 2, which cannot be loaded: ") +
                    dlerror());
    const auto find = [&](const char* name, auto& function) {
      function =
          reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      if (function == nullptr) throw Failure(std::string("NCCL has no function ") + name);
    };
    find("ncclGetErrorString", error_text);
    find("ncclGetUniqueId", make_id);
    find("ncclCommInitRank", join);
    find("ncclCommSplit", split);
    find("ncclCommDestroy", destroy);
    find("ncclCommAbort", abort);
    find("ncclGroupStart", begin_group);
    find("ncclGroupEnd", end_group);
    find("ncclAllReduce", all_reduce);
    find("ncclBroadcast", broadcast);
    find("ncclSend", send);
    find("ncclRecv", receive);
  }
  static const NcclLibrary& loaded() {
    static const NcclLibrary library;
    return library;
  }
  void check(int code, const char* call) const {
    if (code != 0) throw Failure(std::string("NCCL: ") + call + ": " + error_text(code));
  }

  const char* (*error_text)(int);
  int (*make_id)(UniqueId*);
  int (*join)(Comm*, int, UniqueId, int);
  int (*split)(Comm, int, int, Comm*, void*);
  int (*destroy)(Comm);
  int (*abort)(Comm);
  int (*begin_group)();
  int (*end_group)();
  int (*all_reduce)(const void*, void*, std::size_t, int, int, Comm, cudaStream_t);
  int (*broadcast)(const void*, void*, std::size_t, int, int, Comm, cudaStream_t);
  int (*send)(const void*, std::size_t, int, int, Comm, cudaStream_t);
  int (*receive)(void*, std::size_t, int, int, Comm, cudaStream_t);
};

constexpr int type_of(SumScalar scalar) {
  switch (scalar) {
    case SumScalar::float64:
      return NcclLibrary::float64;
    case SumScalar::bfloat16:
      return NcclLibrary::bfloat16;
    case SumScalar::float16:
      return NcclLibrary::float16;
    default:
      return NcclLibrary::float32;
  }
}

struct OwnEvent {
  OwnEvent() { check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate"); }
  OwnEvent(const OwnEvent&) = delete;
  OwnEvent& operator=(const OwnEvent&) = delete;
  ~OwnEvent() { cudaEventDestroy(event); }
  cudaEvent_t event = nullptr;
};

class Link final : public NcclLink {
 public:
  explicit Link(NcclLibrary::Comm comm) : comm_(comm) {
    // Not in order with the legacy default stream, as all others are: what runs beside them waits
    // for other ranks.
    check(cudaStreamCreateWithFlags(&beside_, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  ~Link() override {
    const std::lock_guard lock(mutex_);
    if (comm_ != nullptr) nccl_.destroy(comm_);
    cudaStreamSynchronize(beside_);
    for (const Letter& letter : letters_) cudaFree(letter.memory);
    cudaStreamDestroy(beside_);
  }

  void sum(std::span<const Elements> tensors, SumScalar scalar, void* stream) override {
    group("ncclAllReduce", [&] {
      for (const Elements& tensor : tensors)
        if (tensor.count > 0)
          check_nccl(nccl_.all_reduce(tensor.data, tensor.data, tensor.count, type_of(scalar),
                                      NcclLibrary::sum, comm_, stream_of(stream)),
                     "ncclAllReduce");
    });
  }
  void sum_beside(std::span<const Elements> tensors, SumScalar scalar, void* stream) override {
    follow(beside_, stream);
    sum(tensors, scalar, beside_);
  }
  void join(void* stream) override { follow(stream_of(stream), beside_); }

  void send(std::span<const std::byte> bytes, int to, void* stream) override {
    if (bytes.empty()) return;
    Letter& letter = free_letter(bytes.size());
    check(cudaMemcpyAsync(letter.memory, bytes.data(), bytes.size(), cudaMemcpyDeviceToDevice,
                          stream_of(stream)),
          "cudaMemcpyAsync");
    follow(beside_, stream);
    group("ncclSend", [&] {
      check_nccl(nccl_.send(letter.memory, bytes.size(), NcclLibrary::byte, to, comm_, beside_),
                 "ncclSend");
    });
    check(cudaEventRecord(letter.sent.event, beside_), "cudaEventRecord");
  }
  void receive(std::span<std::byte> bytes, int from, void* stream) override {
    exchange({}, -1, bytes, from, stream);
  }
  void exchange(std::span<const std::byte> sent, int to, std::span<std::byte> received, int from,
                void* stream) override {
    group("ncclSend and ncclRecv", [&] {
      if (to >= 0 && !sent.empty())
        check_nccl(
            nccl_.send(sent.data(), sent.size(), NcclLibrary::byte, to, comm_, stream_of(stream)),
            "ncclSend");
      if (from >= 0 && !received.empty())
        check_nccl(nccl_.receive(received.data(), received.size(), NcclLibrary::byte, from, comm_,
                                 stream_of(stream)),
                   "ncclRecv");
    });
  }
  void broadcast(std::span<const Told> parts, void* stream) override {
    group("ncclBroadcast", [&] {
      for (const Told& part : parts)
        if (!part.bytes.empty())
          check_nccl(nccl_.broadcast(part.bytes.data(), part.bytes.data(), part.bytes.size(),
                                     NcclLibrary::byte, part.root, comm_, stream_of(stream)),
                     "ncclBroadcast");
    });
  }

  std::unique_ptr<NcclLink> split(int color, int rank) override {
    const std::lock_guard lock(mutex_);
    require_comm();
    NcclLibrary::Comm part = nullptr;
    nccl_.check(nccl_.split(comm_, color, rank, &part, nullptr), "ncclCommSplit");
    return std::make_unique<Link>(part);
  }

  void abort(const std::string& reason) noexcept override {
    reason_ = reason;
    has_ended_ = true;
    // A call that waits for a rank that is gone has the lock and ends only by the abort. That ends
    // what the device waits for at once, and itself when no recording of such calls is left.
    const std::unique_lock lock(mutex_, std::chrono::seconds(2));
    if (comm_ == nullptr) return;
    std::thread([abort = nccl_.abort, comm = comm_] { abort(comm); }).detach();
    comm_ = nullptr;
  }

 private:
  /// A copy of what is on its way.
  struct Letter {
    void* memory = nullptr;
    std::size_t bytes = 0;
    OwnEvent sent{};
  };

  static cudaStream_t stream_of(void* stream) { return static_cast<cudaStream_t>(stream); }

  /// What `later` is given next waits for what `earlier` was given so far.
  void follow(cudaStream_t later, void* earlier) {
    check(cudaEventRecord(fork_.event, stream_of(earlier)), "cudaEventRecord");
    check(cudaStreamWaitEvent(later, fork_.event, 0), "cudaStreamWaitEvent");
  }
  template <class Calls>
  void group(const char* name, const Calls& calls) {
    const std::lock_guard lock(mutex_);
    require_comm();
    nccl_.check(nccl_.begin_group(), "ncclGroupStart");
    failed_ = 0;
    calls();
    const int code = nccl_.end_group();
    require_comm();
    nccl_.check(failed_ != 0 ? failed_ : code, failed_ != 0 ? failed_call_ : name);
  }
  /// Within a group, which has to be ended all the same.
  void check_nccl(int code, const char* call) {
    if (code == 0 || failed_ != 0) return;
    failed_ = code;
    failed_call_ = call;
  }
  void require_comm() const {
    if (has_ended_) throw CommunicationError(reason_);
  }
  Letter& free_letter(std::size_t bytes) {
    for (Letter& letter : letters_)
      if (letter.bytes >= bytes && cudaEventQuery(letter.sent.event) == cudaSuccess) return letter;
    cudaGetLastError();  // "not ready" is no error
    void* memory = nullptr;
    check(cudaMalloc(&memory, bytes), "cudaMalloc");
    Letter& letter = letters_.emplace_back();
    letter.memory = memory;
    letter.bytes = bytes;
    return letter;
  }

  const NcclLibrary& nccl_ = NcclLibrary::loaded();
  NcclLibrary::Comm comm_;
  std::string reason_;  // why the ranks have ended; written once, before has_ended_
  std::atomic<bool> has_ended_ = false;
  std::timed_mutex mutex_;
  cudaStream_t beside_ = nullptr;
  OwnEvent fork_;
  std::deque<Letter> letters_;
  int failed_ = 0;
  const char* failed_call_ = "";
};

}  // namespace
}  // namespace device

void load_nccl() { device::NcclLibrary::loaded(); }

NcclId create_nccl_id() {
  const auto& nccl = device::NcclLibrary::loaded();
  device::NcclLibrary::UniqueId made{};
  nccl.check(nccl.make_id(&made), "ncclGetUniqueId");
  NcclId id{};
  std::ranges::copy(std::as_bytes(std::span(made.bytes)), id.begin());
  return id;
}

std::unique_ptr<NcclLink> join_nccl(const NcclId& id, int rank, int size, Device device) {
  const auto& nccl = device::NcclLibrary::loaded();
  device::check(cudaSetDevice(device.index), "cudaSetDevice");
  device::NcclLibrary::UniqueId given{};
  std::ranges::copy(id, std::as_writable_bytes(std::span(given.bytes)).begin());
  device::NcclLibrary::Comm comm = nullptr;
  nccl.check(nccl.join(&comm, size, given, rank), "ncclCommInitRank");
  return std::make_unique<device::Link>(comm);
}

}  // namespace ssm::cuda
