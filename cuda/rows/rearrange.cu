// SPDX-License-Identifier: Apache-2.0
#include <cstdint>

#include "kernel/packs.cuh"
#include "kernel/tensor_list.cuh"
#include "ssm/backend/cuda/rearrange.hpp"

namespace ssm::cuda {
namespace device {
namespace {

/// Numbers that one thread converts where both sides allow it: 8 bytes of a half type.
constexpr Index convert_run = 4;

template <class T>
struct alignas(convert_run * sizeof(T)) ConvertRun {
  T values[convert_run];
};

/// Whether rows are contiguous and begin at addresses that a run's size divides.
template <class T>
bool has_convert_runs(const View<T, 3, CudaSpace>& x) {
  const auto is_aligned = [&](int axis) {
    return x.extent(axis) == 1 || x.stride(axis) % convert_run == 0;
  };
  return (x.stride(2) == 1 || x.extent(2) == 1) && is_aligned(0) && is_aligned(1) &&
         reinterpret_cast<std::uintptr_t>(x.data()) % sizeof(ConvertRun<T>) == 0;
}

/// `count` ≤ convert_run numbers; all of them in one load and one store.
template <class From, class To>
SSM_HOST_DEVICE void convert_neighbors(const From* from, To* to, Index count) {
  if (count < convert_run) {
    for (Index i = 0; i < count; ++i) to[i] = converted<To>(from[i]);
    return;
  }
  const auto read = *reinterpret_cast<const ConvertRun<From>*>(from);
  ConvertRun<To> written;
  for (Index i = 0; i < convert_run; ++i) written.values[i] = converted<To>(read.values[i]);
#ifdef __CUDA_ARCH__  // where plain stores of a vector come apart
  const To* const v = written.values;
  if constexpr (sizeof(To) == sizeof(float)) {
    __stwb(reinterpret_cast<float4*>(to), float4{v[0], v[1], v[2], v[3]});
  } else {
    const auto pair = [](To low, To high) { return low.bits() | unsigned{high.bits()} << 16; };
    __stwb(reinterpret_cast<uint2*>(to), uint2{pair(v[0], v[1]), pair(v[2], v[3])});
  }
#else
  *reinterpret_cast<ConvertRun<To>*>(to) = written;
#endif
}

/// One tensor of a fill.
template <class T>
struct FilledTensor {
  static constexpr Index part = 4 * 32;  // runs that a warp writes

  Index parts() const { return (runs.count() + part - 1) / part; }
  SSM_DEVICE void fill(Index number, Lanes lanes) const {
    const Index first = number * part, left = runs.count() - first;
    Wide<T> values[pack_size<T>];
    SSM_UNROLL
    for (auto& entry : values) entry = value;
    lanes.each(left < part ? left : part, [&](Index i) {
      const Index run = first + i;
      write_neighbors(&y(runs.first(run)), y.strides[0], runs.size(run), values);
    });
  }
  Operand<T, 1> y;
  RowRuns<pack_size<T>> runs{};
  Wide<T> value{};
};

}  // namespace
}  // namespace device

template <class From, class To>
void convert(const ssm::Convert<From, To, CudaSpace>& a, Stream stream) {
  const auto x = device::operand(a.x);
  const auto y = device::operand(a.y);
  const Index depth = a.x.extent(2);
  const auto rows = device::matrix_elements(a.x.extent(0), a.x.extent(1));
  if (device::has_convert_runs(View<const From, 3, CudaSpace>(a.x)) &&
      device::has_convert_runs(a.y)) {
    constexpr Index run = device::convert_run;
    const auto runs = device::matrix_elements(rows.count, (depth + run - 1) / run);
    device::for_each_index(runs.count, stream, "convert", [=] SSM_DEVICE(Index i) {
      const auto [row, column] = runs.at(i);
      const auto [outer, inner] = rows.at(row);
      const Index first = column * run;
      device::convert_neighbors(&x(outer, inner, first), &y(outer, inner, first),
                                depth - first < run ? depth - first : run);
    });
    return;
  }
  const auto elements = device::matrix_elements(rows.count, depth);
  device::for_each_index(elements.count, stream, "convert", [=] SSM_DEVICE(Index i) {
    const auto [row, column] = elements.at(i);
    const auto [outer, inner] = rows.at(row);
    y(outer, inner, column) = device::converted<To>(x(outer, inner, column));
  });
}

template <class T>
void rearrange(const ssm::Rearrange<T, CudaSpace>& a, Stream stream) {
  const auto x = device::operand(a.x);
  const auto y = device::operand(a.y);
  const Index columns = a.x.extent(1);
  const Index depth = a.x.extent(2);
  device::for_each_index(a.x.size(), stream, "rearrange", [=] SSM_DEVICE(Index i) {
    const Index k = i % depth;
    const Index j = i / depth % columns;
    const Index row = i / depth / columns;
    y(row, j, k) = x(row, j, k);
  });
}

template <class T>
void add(const ssm::Add<T, CudaSpace>& a, Stream stream) {
  using S = Wide<T>;
  constexpr int size = device::pack_size<T>;
  const auto first = device::operand(a.a);
  const auto second = device::operand(a.b);
  const auto y = device::operand(a.y);
  const auto first_scale = static_cast<S>(a.a_scale);
  const auto second_scale = static_cast<S>(a.b_scale);
  const auto runs = device::row_runs<size>(a.a.extent(0), a.a, a.b, a.y);
  device::for_each_index(runs.count(), stream, "add", [=] SSM_DEVICE(Index run) {
    const Index i = runs.first(run);
    device::with_full_run<size>(runs.size(run), [&](auto count) {
      S values[size], others[size];
      device::read_neighbors(&first(i), first.strides[0], count, values);
      if (second) device::read_neighbors(&second(i), second.strides[0], count, others);
      SSM_UNROLL
      for (int k = 0; k < size; ++k)
        values[k] = first_scale * values[k] + (second ? second_scale * others[k] : S{0});
      device::write_neighbors(&y(i), y.strides[0], count, values);
    });
  });
}

template <class T>
void fill(std::span<const ssm::Fill<T, CudaSpace>> tensors, Stream stream) {
  using namespace device;
  using List = TensorList<FilledTensor<T>>;
  for_each_list<List>(
      tensors,
      [](List& list, const auto& a) {
        const auto runs = row_runs<pack_size<T>>(a.y.extent(0), a.y);
        const FilledTensor<T> tensor{operand(a.y), runs, static_cast<Wide<T>>(a.value)};
        list.add(tensor, tensor.parts());
      },
      [&](const List& list) {
        for_each_row(list.units(), stream, "fill", [list] SSM_DEVICE(Index unit, Lanes lanes) {
          const auto [tensor, number] = list.at(unit);
          list.entries[tensor].fill(number, lanes);
        });
      });
}

#define SSM_INSTANTIATE(T)                                                              \
  template SSM_CUDA_API void rearrange<T>(const ssm::Rearrange<T, CudaSpace>&, Stream); \
  template SSM_CUDA_API void add<T>(const ssm::Add<T, CudaSpace>&, Stream);             \
  template SSM_CUDA_API void fill<T>(std::span<const ssm::Fill<T, CudaSpace>>, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE
#define SSM_INSTANTIATE(T)                                                                        \
  template SSM_CUDA_API void convert<T, float>(const ssm::Convert<T, float, CudaSpace>&, Stream); \
  template SSM_CUDA_API void convert<float, T>(const ssm::Convert<float, T, CudaSpace>&, Stream);
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
