// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "ssm/core/error.hpp"
#include "ssm/core/scalar.hpp"

namespace ssm {

/// A rank has ended, or nothing has come from it for longer than a communicator waits.
struct CommunicationError : Error {
  using Error::Error;
};

/// Scalars that ranks add in the memory of devices.
enum class SumScalar { float32, float64, bfloat16, float16 };
template <class T>
inline constexpr SumScalar sum_scalar = SumScalar::float32;
template <>
inline constexpr SumScalar sum_scalar<double> = SumScalar::float64;
template <>
inline constexpr SumScalar sum_scalar<BFloat16> = SumScalar::bfloat16;
template <>
inline constexpr SumScalar sum_scalar<Float16> = SumScalar::float16;

/// How ranks reach the memory of each other's devices. Calls are queued on a stream of the caller,
/// and every rank queues the same ones in the same order.
class DeviceCommunicator {
 public:
  struct Elements {
    void* data = nullptr;
    std::size_t count = 0;
  };
  /// What one rank has and all get.
  struct Told {
    std::span<std::byte> bytes{};
    int root = 0;
  };

  DeviceCommunicator() = default;
  DeviceCommunicator(const DeviceCommunicator&) = delete;
  DeviceCommunicator& operator=(const DeviceCommunicator&) = delete;
  virtual ~DeviceCommunicator() = default;

  /// Every element of every tensor becomes its sum over the ranks: the same bits on all of them,
  /// and in every run with as many ranks.
  virtual void sum(std::span<const Elements> tensors, SumScalar scalar, void* stream) = 0;
  /// The same on a stream of its own, after what `stream` was given so far: what it is given next
  /// runs beside the sum. `join` lets a stream wait for these sums.
  virtual void sum_beside(std::span<const Elements> tensors, SumScalar scalar, void* stream) = 0;
  virtual void join(void* stream) = 0;
  /// Takes a copy: what is queued next may overwrite `bytes` and does not wait for the other rank.
  virtual void send(std::span<const std::byte> bytes, int to, void* stream) = 0;
  virtual void receive(std::span<std::byte> bytes, int from, void* stream) = 0;
  /// Sends to one rank and receives from another, at once. A rank of −1 is none.
  virtual void exchange(std::span<const std::byte> sent, int to, std::span<std::byte> received,
                        int from, void* stream) = 0;
  virtual void broadcast(std::span<const Told> parts, void* stream) = 0;
};

/// How the ranks of one program reach each other: threads (parallel/in_process.hpp), processes of
/// MPI (parallel/mpi.hpp), processes with a device each (backend/cuda/nccl.hpp), or your own. Each
/// rank has one. Every rank makes the same calls in the same order; memory is the host's.
/// Throws  CommunicationError  from every call, where another rank has ended or is silent too long
class Communicator {
 public:
  Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  virtual ~Communicator() = default;

  virtual int rank() const = 0;  // 0 … size() − 1
  virtual int size() const = 0;

  /// Every element becomes its sum over the ranks: the same bits on all of them, and in every run
  /// with as many ranks.
  virtual void sum(std::span<float> elements) = 0;
  virtual void sum(std::span<double> elements) = 0;
  /// Sends to one rank and receives from another, at once. A rank of −1 is none. What is received
  /// has as many bytes as were sent.
  virtual void exchange(std::span<const std::byte> sent, int to, std::span<std::byte> received,
                        int from) = 0;
  /// Every rank gets what `root` has.
  virtual void broadcast(std::span<std::byte> bytes, int root) = 0;
  /// A communicator of the ranks that give the same color, in the order of their ranks here.
  virtual std::unique_ptr<Communicator> split(int color) = 0;
  /// Null where ranks reach each other through the host's memory alone.
  virtual DeviceCommunicator* on_device() { return nullptr; }

  void send(std::span<const std::byte> bytes, int to) { exchange(bytes, to, {}, -1); }
  void receive(std::span<std::byte> bytes, int from) { exchange({}, -1, bytes, from); }
};

/// "rank 1 of 4": how messages name one.
inline std::string rank_text(int rank, int size) { return message({"rank ", rank, " of ", size}); }

}  // namespace ssm
