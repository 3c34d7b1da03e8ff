// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ssm/backend/cuda/device.hpp"
#include "ssm/core/communicator.hpp"

namespace ssm {
namespace cuda {

/// What the ranks of a communicator are brought together by.
using NcclId = std::array<std::byte, 128>;
/// Opens NCCL, so that all ranks know before they wait for each other.
/// Throws  Failure  where libnccl.so.2 cannot be loaded
SSM_CUDA_API void load_nccl();
/// A new one, which the other ranks have to be told. Throws Failure.
SSM_CUDA_API NcclId create_nccl_id();

/// A rank's end of a communicator of NCCL, on one device.
class NcclLink : public DeviceCommunicator {
 public:
  /// Null for a rank that is in none.
  virtual std::unique_ptr<NcclLink> split(int color, int rank) = 0;
  /// Ends all that the device waits for. Later calls, and one that waits now, throw
  /// CommunicationError with this reason. Of any thread.
  virtual void abort(const std::string& reason) noexcept = 0;
};
/// Returns when all ranks have called it. The device of `device` becomes the host thread's current
/// one.
SSM_CUDA_API std::unique_ptr<NcclLink> join_nccl(const NcclId& id, int rank, int size,
                                                 Device device);

}  // namespace cuda

/// Ranks with a device each, which NCCL connects: processes, on one machine or several.
///   const auto here = *ssm::launched_rank();
///   ssm::Rendezvous all(ssm::meeting_place(), here.rank, here.size);
///   ssm::cuda::NcclId id{};
///   if (here.rank == 0) id = ssm::cuda::create_nccl_id();
///   all.broadcast(std::as_writable_bytes(std::span(id)));
///   ssm::Nccl ranks(id, here.rank, here.size, ssm::Device{here.local});
///   all.watch([&](const std::string& reason) { ranks.end(reason); });
/// NCCL is opened when the first communicator is made; a program needs it for nothing else. What
/// the host gives goes through the memory of the device. It outlives recordings of what is summed.
class Nccl final : public Communicator {
 public:
  /// Throws  cuda::Failure
  Nccl(const cuda::NcclId& id, int rank, int size, Device device)
      : Nccl(cuda::join_nccl(id, rank, size, device), rank, size, device,
             std::make_shared<Members>()) {}
  ~Nccl() override {
    const std::lock_guard lock(members_->mutex);
    std::erase(members_->links, link_.get());
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  DeviceCommunicator* on_device() override {
    require_members();
    return link_.get();
  }

  void sum(std::span<float> elements) override { sum_of(elements); }
  void sum(std::span<double> elements) override { sum_of(elements); }

  void exchange(std::span<const std::byte> sent, int to, std::span<std::byte> received,
                int from) override {
    if (to < 0) sent = {};
    if (from < 0) received = {};
    std::byte* const out = take(sent.size() + received.size() + alignment);
    std::byte* const in = out + (sent.size() + alignment - 1) / alignment * alignment;
    cuda::copy(out, sent.data(), sent.size());
    link_->exchange({out, sent.size()}, to, {in, received.size()}, from, stream_.get());
    cuda::synchronize(stream_.get());
    require_members();
    cuda::copy(received.data(), in, received.size());
  }

  void broadcast(std::span<std::byte> bytes, int root) override {
    std::byte* const all = take(bytes.size());
    cuda::copy(all, bytes.data(), bytes.size());
    const DeviceCommunicator::Told told{{all, bytes.size()}, root};
    link_->broadcast({&told, 1}, stream_.get());
    cuda::synchronize(stream_.get());
    require_members();
    cuda::copy(bytes.data(), all, bytes.size());
  }

  std::unique_ptr<Communicator> split(int color) override {
    require_members();
    std::vector<double> colors(static_cast<std::size_t>(size_));
    colors[static_cast<std::size_t>(rank_)] = color;
    sum(std::span(colors));
    const auto begin = colors.begin();
    const auto place = static_cast<int>(std::count(begin, begin + rank_, double(color)));
    const auto size = static_cast<int>(std::count(begin, colors.end(), double(color)));
    return std::unique_ptr<Communicator>(
        new Nccl(link_->split(color, rank_), place, size, device_, members_));
  }

  /// Another process has ended: from here on every call of this rank's communicators throws
  /// CommunicationError with this reason, also one that waits. Of any thread.
  void end(const std::string& reason) {
    const std::lock_guard lock(members_->mutex);
    if (!members_->reason.empty()) return;
    members_->reason = reason;
    for (cuda::NcclLink* const link : members_->links) link->abort(reason);
  }

 private:
  /// The communicators that end together.
  struct Members {
    std::mutex mutex;
    std::vector<cuda::NcclLink*> links{};
    std::string reason{};  // why they have ended
  };
  struct DestroyStream {
    void operator()(void* stream) const noexcept { cuda::destroy_stream(stream); }
  };
  struct Deallocate {
    void operator()(std::byte* memory) const noexcept { cuda::deallocate(memory); }
  };
  static constexpr std::size_t alignment = 256;

  Nccl(std::unique_ptr<cuda::NcclLink> link, int rank, int size, Device device,
       std::shared_ptr<Members> members)
      : link_(std::move(link)),
        rank_(rank),
        size_(size),
        device_(device),
        stream_(cuda::create_stream(device)),
        members_(std::move(members)) {
    const std::lock_guard lock(members_->mutex);
    members_->links.push_back(link_.get());
  }

  template <class T>
  void sum_of(std::span<T> elements) {
    std::byte* const all = take(elements.size_bytes());
    cuda::copy(all, elements.data(), elements.size_bytes());
    const DeviceCommunicator::Elements tensor{all, elements.size()};
    link_->sum({&tensor, 1}, sum_scalar<T>, stream_.get());
    cuda::synchronize(stream_.get());
    require_members();
    cuda::copy(elements.data(), all, elements.size_bytes());
  }
  /// Memory of the device for one call.
  std::byte* take(std::size_t bytes) {
    require_members();
    if (bytes > room_) {
      memory_.reset();
      room_ = std::max(bytes, std::size_t{1} << 16);
      memory_.reset(static_cast<std::byte*>(cuda::allocate(room_)));
    }
    return memory_.get();
  }
  void require_members() const {
    const std::lock_guard lock(members_->mutex);
    if (!members_->reason.empty()) throw CommunicationError(members_->reason);
  }

  std::unique_ptr<cuda::NcclLink> link_;
  int rank_, size_;
  Device device_;
  std::unique_ptr<void, DestroyStream> stream_;
  std::unique_ptr<std::byte, Deallocate> memory_;
  std::size_t room_ = 0;
  std::shared_ptr<Members> members_;
};

}  // namespace ssm
