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
  explicit AdamWTensor(const ssm::AdamWUpdate<T, CudaSpace>& a)
      : parameter(operand(a.parameter)),
        first_moment(operand(a.first_moment)),
        second_moment(operand(a.second_moment)),
        gradient(operand(a.gradient)),
        copied(operand(a.copied)),
        rounded_bf16(operand(a.rounded_bf16)),
        rounded_f16(operand(a.rounded_f16)),
        runs(row_runs<pack_size<T>>(a.parameter.extent(0), a.parameter, a.gradient, a.first_moment,
                                    a.second_moment, a.copied)),
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
    SSM_UNROLL
    for (int k = 0; k < size; ++k) {
      const T scaled = gradient_scale * g[k];
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
  T gradient_scale{}, beta1{}, beta2{}, share1{}, share2{}, decay{}, eps{}, rate{},
      root_correction{};
};

/// One tensor whose squares are added.
template <class T>
struct SquaresTensor {
  explicit SquaresTensor(const ssm::SumOfSquares<T, CudaSpace>& a)
      : x(operand(a.x)),
        sum(a.sum.data()),
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
  double* sum = nullptr;
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
/// Adds the slices of each tensor, a warp those of one, and then the tensors of a sum in order.
template <class List>
struct AddSquares {
  template <class BlockLanes>
  SSM_DEVICE void operator()(Index, BlockLanes lanes) const {
    struct Total {
      double* sum;
      double squares;
    };
    Total* const totals = lanes.template shared<Total, static_cast<int>(List::capacity)>();
    for (Index tensor = lanes.warp(); tensor < list.count; tensor += BlockLanes::warps) {
      const double* const first = partial + list.first[tensor];
      const double squares = Lanes().sum(list.first[tensor + 1] - list.first[tensor],
                                         [&](Index slice) { return first[slice]; });
      if (Lanes().first()) totals[tensor] = {list.entries[tensor].sum, squares};
    }
    lanes.wait();
    if (!lanes.first()) return;
    double* target = nullptr;
    double total = 0;
    for (int tensor = 0; tensor < list.count; ++tensor) {
      const auto [sum, squares] = totals[tensor];
      if (sum != target) {
        if (target != nullptr) *target = total;
        target = sum, total = *sum;
      }
      total += squares;
    }
    if (target != nullptr) *target = total;
  }
  List list;
  const double* partial;
};

}  // namespace
}  // namespace device

template <class T>
void adamw_update(std::span<const ssm::AdamWUpdate<T, CudaSpace>> tensors, Stream stream) {
  using namespace device;
  using List = TensorList<AdamWTensor<T>>;
  for_each_list<List>(
      tensors,
      [](List& list, const auto& a) {
        const AdamWTensor<T> tensor(a);
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
void sum_of_squares(std::span<const ssm::SumOfSquares<T, CudaSpace>> tensors, double* partial,
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
        for_each_block<512>(Index{1}, stream, "sum_of_squares", AddSquares<List>{list, partial});
      });
}

#define SSM_INSTANTIATE(T)                                                                       \
  template SSM_CUDA_API void adamw_update<T>(std::span<const ssm::AdamWUpdate<T, CudaSpace>>,    \
                                             Stream);                                            \
  template SSM_CUDA_API void sum_of_squares<T>(std::span<const ssm::SumOfSquares<T, CudaSpace>>, \
                                               double*, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
