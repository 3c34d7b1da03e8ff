// SPDX-License-Identifier: Apache-2.0
#include "kernel/packs.cuh"
#include "kernel/tensor_list.cuh"
#include "ssm/backend/cuda/optimizer_update.hpp"

namespace ssm::cuda {
namespace device {
namespace {

/// One tensor of an update.
template <class T>
struct AdamWTensor {
  /// factor   what gradients are multiplied by, NaN where nothing is to be changed; null is
  ///          a.gradient_scale
  AdamWTensor(const ssm::AdamWUpdate<T, CudaSpace>& a, const T* factor)
      : parameter(operand(a.parameter)),
        first_moment(operand(a.first_moment)),
        second_moment(operand(a.second_moment)),
        gradient(operand(a.gradient)),
        copied(operand(a.copied)),
        rounded_bf16(operand(a.rounded_bf16)),
        rounded_f16(operand(a.rounded_f16)),
        runs(row_runs<pack_size<T>>(a.parameter.extent(0), a.parameter, a.gradient, a.first_moment,
                                    a.second_moment, a.copied)),
        factor(factor),
        gradient_scale(static_cast<T>(a.gradient_scale)),
        beta1(static_cast<T>(a.beta1)),
        beta2(static_cast<T>(a.beta2)),
        share1(static_cast<T>(1 - a.beta1)),
        share2(static_cast<T>(1 - a.beta2)),
        decay(static_cast<T>(a.rate * a.weight_decay)),
        eps(static_cast<T>(a.eps)) {
    const auto t = static_cast<double>(a.step);
    rate = static_cast<T>(a.rate / (1 - std::pow(a.beta1, t)));
    root_correction = static_cast<T>(1 / std::sqrt(1 - std::pow(a.beta2, t)));
  }
  AdamWTensor() = default;

  SSM_DEVICE void update(Index run) const {
    with_full_run<pack_size<T>>(runs.size(run),
                                [&](auto count) { update(runs.first(run), count); });
  }
  template <class Count>
  SSM_DEVICE void update(Index i, Count count) const {
    constexpr int size = pack_size<T>;
    T g[size], m[size], v[size], p[size];
    read_neighbors(&gradient(i), gradient.strides[0], count, g);
    read_neighbors(&first_moment(i), first_moment.strides[0], count, m);
    read_neighbors(&second_moment(i), second_moment.strides[0], count, v);
    read_neighbors(&parameter(i), parameter.strides[0], count, p);
    const T scale = factor == nullptr ? gradient_scale : *factor;
    if (std::isnan(scale)) return;
    SSM_UNROLL
    for (int k = 0; k < size; ++k) {
      const T scaled = scale * g[k];
      m[k] = beta1 * m[k] + share1 * scaled;
      v[k] = beta2 * v[k] + share2 * scaled * scaled;
      p[k] = p[k] - decay * p[k] - rate * m[k] / (std::sqrt(v[k]) * root_correction + eps);
    }
    write_neighbors(&first_moment(i), first_moment.strides[0], count, m);
    write_neighbors(&second_moment(i), second_moment.strides[0], count, v);
    write_neighbors(&parameter(i), parameter.strides[0], count, p);
    if (copied) write_neighbors(&copied(i), copied.strides[0], count, p);
    if (rounded_bf16) round(rounded_bf16, i, count, p);
    if (rounded_f16) round(rounded_f16, i, count, p);
  }
  /// A run's halves go at once where they may.
  template <class Half, int N>
  SSM_DEVICE static void round(const Operand<Half, 1>& to, Index i, Index count, const T (&p)[N]) {
    Half rounded[N];
    SSM_UNROLL
    for (int k = 0; k < N; ++k) rounded[k] = narrowed<Half>(static_cast<float>(p[k]));
    if (count == N && to.strides[0] == 1 &&
        reinterpret_cast<std::uintptr_t>(&to(i)) % sizeof(rounded) == 0) {
      struct alignas(sizeof(rounded)) Together {
        Half halves[N];
      };
      Together together;
      SSM_UNROLL
      for (int k = 0; k < N; ++k) together.halves[k] = rounded[k];
      *reinterpret_cast<Together*>(&to(i)) = together;
      return;
    }
    SSM_UNROLL
    for (int k = 0; k < N; ++k)
      if (k < count) to(i + k) = rounded[k];
  }

  Operand<T, 1> parameter, first_moment, second_moment;
  Operand<const T, 1> gradient;
  Operand<T, 1> copied;
  Operand<BFloat16, 1> rounded_bf16;
  Operand<Float16, 1> rounded_f16;
  RowRuns<pack_size<T>> runs{};
  const T* factor = nullptr;
  T gradient_scale{}, beta1{}, beta2{}, share1{}, share2{}, decay{}, eps{}, rate{},
      root_correction{};
};

/// What an update multiplies gradients by.
template <class T>
struct ClippedScale {
  SSM_DEVICE void operator()(Index) const {
    const double root = squares == nullptr ? 0.0 : std::sqrt(*squares);
    bool is_finite = gradient_scale * root < INFINITY;
    for (Index i = 0; i < count; ++i) is_finite = is_finite && std::abs(losses(i)) < INFINITY;
    *factor = is_finite ? static_cast<T>(clipped_scale(gradient_scale, clip_norm, root))
                        : static_cast<T>(NAN);
  }

  /// Whether an update asks for it.
  template <class Update>
  static bool is_for(const Update& a) {
    return bool{a.squares} || bool{a.losses};
  }
  /// Whether another one's is the same.
  template <class Update>
  static bool is_shared(const Update& a, const Update& b) {
    return a.squares.data() == b.squares.data() && a.losses.data() == b.losses.data() &&
           a.losses.extents() == b.losses.extents() && a.losses.strides() == b.losses.strides() &&
           a.gradient_scale == b.gradient_scale && a.clip_norm == b.clip_norm;
  }

  const double* squares;
  Operand<const T, 1> losses;
  Index count;
  double gradient_scale, clip_norm;
  T* factor;
};

/// One tensor whose squares are added.
template <class T>
struct SquaresTensor {
  explicit SquaresTensor(const ssm::SumOfSquares<T, CudaSpace>& a)
      : x(operand(a.x)),
        count(a.x.extent(0)),
        slices(squares_slices(count)),
        is_packed(has_packs(a.x)) {}
  SquaresTensor() = default;

  /// In an order that does not depend on strides.
  SSM_DEVICE double sum_of_slice(Index slice, Lanes lanes) const {
    constexpr int size = pack_size<T>;
    const Index begin = slice * slices.length, left = count - begin;
    const Index length = left < slices.length ? left : slices.length;
    const Index packs = length / size, rest = length % size;
    const auto sum_of_packs = [&](auto read) {
      return lanes.sum(packs, [&](Index pack) {
        T values[size];
        read(begin + pack * size, values);
        double own = 0;
        SSM_UNROLL
        for (int k = 0; k < size; ++k) own += double{values[k]} * double{values[k]};
        return own;
      });
    };
    double total = is_packed ? sum_of_packs([&](Index i, T(&values)[size]) {
      detail::read_pack(x.data + i, values);
    })
                             : sum_of_packs([&](Index i, T(&values)[size]) {
                                 SSM_UNROLL
                                 for (int k = 0; k < size; ++k) values[k] = x(i + k);
                               });
    if (rest > 0)
      total += lanes.sum(rest, [&](Index i) {
        const double value = x(begin + packs * size + i);
        return value * value;
      });
    return total;
  }

  Operand<const T, 1> x;
  Index count = 0;
  SumSlices slices{};
  bool is_packed = false;
};
template <class List>
struct SquaresOfSlice {
  SSM_DEVICE void operator()(Index unit, Lanes lanes) const {
    const auto [tensor, slice] = list.at(unit);
    const double total = list.entries[tensor].sum_of_slice(slice, lanes);
    if (lanes.first()) partial[unit] = total;
  }
  List list;
  double* partial;
};
struct AddSquares {
  template <class BlockLanes>
  SSM_DEVICE void operator()(Index, BlockLanes lanes) const {
    double own = 0;
    for (Index i = lanes.index(); i < count; i += BlockLanes::count) own += partial[i];
    const double total = lanes.total(own);
    if (lanes.first()) *sum += total;
  }
  const double* partial;
  Index count;
  double* sum;
};

}  // namespace
}  // namespace device

template <class T>
void adamw_update(std::span<const ssm::AdamWUpdate<T, CudaSpace>> tensors, T* factors,
                  Stream stream) {
  using namespace device;
  using List = TensorList<AdamWTensor<T>>;
  const ssm::AdamWUpdate<T, CudaSpace>* before = nullptr;
  T* factor = nullptr;  // of the tensor before
  for_each_list<List>(
      tensors,
      [&](List& list, const auto& a) {
        const bool is_own = before == nullptr || !ClippedScale<T>::is_shared(a, *before);
        if (is_own) factor = ClippedScale<T>::is_for(a) ? factors++ : nullptr;
        if (is_own && factor != nullptr)
          for_each_index(Index{1}, stream, "adamw_update",
                         ClippedScale<T>{.squares = a.squares.data(),
                                         .losses = operand(a.losses),
                                         .count = a.losses ? a.losses.extent(0) : 0,
                                         .gradient_scale = a.gradient_scale,
                                         .clip_norm = a.squares ? a.clip_norm : 0,
                                         .factor = factor});
        before = &a;
        const AdamWTensor<T> tensor(a, factor);
        list.add(tensor, tensor.runs.count());
      },
      [&](const List& list) {
        for_each_index(list.units(), stream, "adamw_update", [list] SSM_DEVICE(Index unit) {
          const auto [tensor, run] = list.at(unit);
          list.entries[tensor].update(run);
        });
      });
}

template <class T>
void squares_of_slices(std::span<const ssm::SumOfSquares<T, CudaSpace>> tensors, double* partial,
                       Stream stream) {
  using namespace device;
  using List = TensorList<SquaresTensor<T>>;
  for_each_list<List>(
      tensors,
      [](List& list, const auto& a) {
        const SquaresTensor<T> tensor(a);
        list.add(tensor, tensor.slices.count);
      },
      [&](const List& list) {
        for_each_row(list.units(), stream, "sum_of_squares", SquaresOfSlice<List>{list, partial});
        partial += list.units();
      });
}

void add_squares(const double* partial, Index count, double* sum, Stream stream) {
  device::for_each_block<512>(Index{1}, stream, "sum_of_squares",
                              device::AddSquares{partial, count, sum});
}

#define SSM_INSTANTIATE(T)                                                                        \
  template SSM_CUDA_API void adamw_update<T>(std::span<const ssm::AdamWUpdate<T, CudaSpace>>, T*, \
                                             Stream);                                             \
  template SSM_CUDA_API void squares_of_slices<T>(                                                \
      std::span<const ssm::SumOfSquares<T, CudaSpace>>, double*, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
