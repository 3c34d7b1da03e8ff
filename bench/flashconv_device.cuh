// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <ssm/backend/cuda/launch.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernel/tensor_core.cuh"

namespace bench {

inline void check(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(code));
  std::exit(1);
}

/// Device memory of `size` scalars, filled with NaN.
template <class T>
class Buffer {
 public:
  explicit Buffer(std::size_t size = 0) : size_(size) {
    if (size_ == 0) return;
    check(cudaMalloc(&data_, size_ * sizeof(T)), "cudaMalloc");
    poison();
  }
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_), std::swap(size_, other.size_);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) cudaFree(data_);
  }
  void poison() {
    if (size_ != 0) check(cudaMemset(data_, 0xff, size_ * sizeof(T)), "cudaMemset");
  }
  T* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::vector<T> read(std::size_t first, std::size_t count) const {
    std::vector<T> out(count);
    if (count != 0)
      check(cudaMemcpy(out.data(), data_ + first, count * sizeof(T), cudaMemcpyDeviceToHost),
            "cudaMemcpy");
    return out;
  }
  std::vector<T> read() const { return read(0, size_); }
  void write(const std::vector<T>& in) {
    check(cudaMemcpy(data_, in.data(), in.size() * sizeof(T), cudaMemcpyHostToDevice),
          "cudaMemcpy");
  }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Fills with scale · N(0, 1), a function of (seed, index) alone.
template <class T>
__global__ void fill_normal(T* out, std::size_t size, unsigned seed, float scale) {
  const std::size_t stride = std::size_t{gridDim.x} * blockDim.x;
  for (std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < size; i += stride) {
    unsigned long long z = (i + 1) * 0x9e3779b97f4a7c15ull + seed * 0xd1b54a32d192ed03ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    const float u = (static_cast<unsigned>(z) + 1.0f) * 2.3283064e-10f,
                v = static_cast<unsigned>(z >> 32) * 2.3283064e-10f;
    const float n = sqrtf(-2.f * logf(fminf(u, 1.f))) * cospif(2.f * v);
    ssm::cuda::device::from_float(scale * n, out[i]);
  }
}

template <class T>
Buffer<T> normal(std::size_t size, unsigned seed, float scale = 1.f) {
  Buffer<T> out(size);
  if (size != 0) fill_normal<<<2048, 256>>>(out.data(), size, seed, scale);
  check(cudaGetLastError(), "fill_normal");
  check(cudaDeviceSynchronize(), "fill_normal");
  return out;
}

inline double value(float v) { return v; }
inline double value(ssm::BFloat16 v) { return static_cast<float>(v); }
inline double value(ssm::Float16 v) { return static_cast<float>(v); }

/// What a buffer holds, read by pieces. Small buffers are copied at once: a copy takes
/// microseconds, however small.
template <class T>
class Contents {
 public:
  explicit Contents(const Buffer<T>& buffer) : buffer_(buffer) {
    if (buffer.size() * sizeof(T) <= std::size_t{1} << 27) all_ = buffer.read();
  }
  /// Empty if the buffer is.
  std::vector<double> operator()(std::size_t first, std::size_t count) const {
    std::vector<double> out;
    if (buffer_.size() == 0) return out;
    if (!all_.empty()) {
      for (std::size_t i = 0; i < count; ++i) out.push_back(value(all_[first + i]));
    } else {
      for (const T v : buffer_.read(first, count)) out.push_back(value(v));
    }
    return out;
  }

 private:
  const Buffer<T>& buffer_;
  std::vector<T> all_;
};

/// ‖out − reference‖ / ‖reference‖ over everything added; NaN if anything is NaN.
struct RelativeError {
  double difference = 0, norm = 0;
  void add(double out, double reference) {
    difference += (out - reference) * (out - reference);
    norm += reference * reference;
  }
  void add(const std::vector<double>& out, const std::vector<double>& reference) {
    for (std::size_t i = 0; i < out.size(); ++i) add(out[i], reference[i]);
  }
  double value() const {
    if (norm == 0) return difference == 0 ? 0 : (std::isnan(difference) ? NAN : INFINITY);
    return std::sqrt(difference / norm);
  }
};

/// The errors of every name over all of `parts`.
inline std::map<std::string, double> combined(
    const std::vector<std::map<std::string, RelativeError>>& parts) {
  std::map<std::string, RelativeError> total;
  for (const auto& part : parts)
    for (const auto& [name, e] : part)
      total[name].difference += e.difference, total[name].norm += e.norm;
  std::map<std::string, double> out;
  for (const auto& [name, e] : total) out[name] = e.value();
  return out;
}

inline void parallel_for(int count, const std::function<void(int)>& body) {
  const int threads = std::min<int>(count, std::max(1u, std::thread::hardware_concurrency()));
  std::vector<std::thread> pool;
  for (int w = 0; w < threads; ++w)
    pool.emplace_back([&, w] {
      for (int i = w; i < count; i += threads) body(i);
    });
  for (std::thread& t : pool) t.join();
}

static __global__ void spin(long long cycles) {
  const long long start = clock64();
  while (clock64() - start < cycles) {
  }
}

/// Median milliseconds of `count` calls by events; the calls are queued behind a spinning kernel,
/// so that gaps between launches do not count. `call(i)` launches on `stream`.
inline double median_ms(int count, cudaStream_t stream, const std::function<void(int)>& call) {
  std::vector<cudaEvent_t> events(count + 1);
  for (cudaEvent_t& e : events) check(cudaEventCreate(&e), "cudaEventCreate");
  for (int i = 0; i < 3; ++i) call(i);
  check(cudaStreamSynchronize(stream), "warm-up");
  spin<<<1, 1, 0, stream>>>(4000000);
  check(cudaEventRecord(events[0], stream), "cudaEventRecord");
  for (int i = 0; i < count; ++i) {
    call(i);
    check(cudaEventRecord(events[i + 1], stream), "cudaEventRecord");
  }
  check(cudaStreamSynchronize(stream), "timed calls");
  std::vector<float> ms(count);
  for (int i = 0; i < count; ++i)
    check(cudaEventElapsedTime(&ms[i], events[i], events[i + 1]), "cudaEventElapsedTime");
  for (cudaEvent_t& e : events) cudaEventDestroy(e);
  std::sort(ms.begin(), ms.end());
  return ms[count / 2];
}

/// Device-to-device copy bandwidth, bytes read plus written, in bytes a millisecond.
inline double copy_bandwidth(cudaStream_t stream) {
  const std::size_t bytes = std::size_t{1} << 31;
  Buffer<float> from = normal<float>(bytes / 4, 1), to(bytes / 4);
  const double ms = median_ms(20, stream, [&](int) {
    cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice, stream);
  });
  return 2.0 * bytes / ms;
}

}  // namespace bench
