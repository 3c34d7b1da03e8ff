// SPDX-License-Identifier: Apache-2.0
#include "kernel/packing.cuh"
#include "ssm/backend/cuda/pair_rotation.hpp"

namespace ssm::cuda {
namespace device {
namespace {

/// One pair of every head at one position.
template <class T>
struct RotatePairs {
  SSM_DEVICE void operator()(Index index) const {
    const Index i = index % pairs;
    const Index t = index / pairs % packing.length;
    const Index b = index / pairs / packing.length;
    const Sequence s = packing.sequence_with(b, t);
    const std::int64_t first = position ? position(s.row) : 0;
    const double place =
        static_cast<double>(i) / (pairs > 1 ? static_cast<double>(pairs - 1) : 1.0);
    const double angle =
        static_cast<double>(direction * (first + t - s.begin)) * std::pow(base, -place);
    const double cosine = scale * std::cos(angle);
    const double sine = scale * std::sin(angle);
    for (Index h = 0; h < heads; ++h) {
      const double even = x(b, t, h, 2 * i);
      const double odd = x(b, t, h, 2 * i + 1);
      y(b, t, h, 2 * i) = static_cast<T>(even * cosine - odd * sine);
      y(b, t, h, 2 * i + 1) = static_cast<T>(odd * cosine + even * sine);
    }
  }

  Operand<const T, 4> x;
  Operand<T, 4> y;
  Operand<const std::int64_t, 1> position;
  Packing packing;
  Index heads;
  Index pairs;
  Index direction;
  double base;
  double scale;
};

}  // namespace
}  // namespace device

template <class T>
void pair_rotation(const ssm::PairRotation<T, CudaSpace>& a, DeviceSegments segments,
                   Stream stream) {
  const Index pairs = a.x.extent(3) / 2;
  device::for_each_index(
      a.x.extent(0) * a.x.extent(1) * pairs, stream, "pair_rotation",
      device::RotatePairs<T>{device::operand(a.x), device::operand(a.y),
                             device::operand(a.position),
                             device::Packing(segments, a.x.extent(0), a.x.extent(1)), a.x.extent(2),
                             pairs, Index{a.direction}, a.base, a.scale});
}

void advance_position(const ssm::AdvancePosition<CudaSpace>& a, DeviceSegments segments,
                      Stream stream) {
  const auto position = device::operand(a.position);
  const auto y = device::operand(a.y);
  const device::Packing packing(segments, a.y.extent(0), a.length);
  device::for_each_index(a.y.extent(0), stream, "advance_position", [=] SSM_DEVICE(Index row) {
    const Sequence s = packing.sequence(row);
    y(row) = (position ? position(row) : 0) + s.end - s.begin;
  });
}

#define SSM_INSTANTIATE(T)                                                            \
  template SSM_CUDA_API void pair_rotation<T>(const ssm::PairRotation<T, CudaSpace>&, \
                                              DeviceSegments, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
