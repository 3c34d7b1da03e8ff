// SPDX-License-Identifier: Apache-2.0
#include "kernel/one_row.cuh"
#include "scan/h3_step_row.cuh"

namespace ssm::cuda {
namespace device {
namespace {

/// A warp makes q, k and v of one channel, as OneRow, and steps with them.
template <class T, class W>
struct H3ProjectedRow {
  static constexpr int threads = 128;
  using S = Wide<T>;
  using Products = OneRow<T, W, threads, h3_projected_depth, 1, 3, false>;
  using Block = typename Products::Block;

  SSM_DEVICE static int channel_of(Index block, Block lanes) {
    return static_cast<int>(block * Block::warps + lanes.warp());
  }
  SSM_DEVICE typename Products::Place place(int which, int d) const {
    return {&products.products[which], d};
  }

  struct Ahead {
    typename Products::Ahead weights[3];
    typename H3StepRow<T>::Channel channel;
  };
  SSM_DEVICE void load(int d, Ahead& ahead) const {
    SSM_UNROLL
    for (int which = 0; which < 3; ++which)
      products.load(place(which, d), Lanes(), ahead.weights[which]);
  }
  /// Parameters; where a predecessor may make them, they are brought to the cache.
  SSM_DEVICE void ask(Index block, Block lanes, Ahead& ahead) const {
    const int d = channel_of(block, lanes);
    products.prefetch_norm(block, lanes);
    if (d >= mixer.channels) return;
    if (products.stays) {
      load(d, ahead);
      mixer.prefetch_states(0, d, Lanes());
      ahead.channel = mixer.read_channel(d, Lanes());
      return;
    }
    SSM_UNROLL
    for (int which = 0; which < 3; ++which) products.prefetch(place(which, d), Lanes());
    mixer.prefetch(d, Lanes());
  }

  SSM_DEVICE void operator()(Index block, Block lanes, Ahead& ahead) const {
    const Lanes warp;
    S* const x = lanes.template shared<S, h3_projected_depth>();
    const int d = channel_of(block, lanes);
    const bool is_there = d < mixer.channels;
    typename H3StepRow<T>::Position now;
    if (is_there) {
      if (!products.stays) load(d, ahead);
      now = mixer.read_states(0, d, warp);
    }
    products.prepare(x, lanes, [&] {
      if (is_there && !products.stays) ahead.channel = mixer.read_channel(d, warp);
    });
    lanes.wait();
    if (is_there) {
      S made[3];
      SSM_UNROLL
      for (int which = 0; which < 3; ++which) {
        S sum[1] = {};
        products.add_all(place(which, d), ahead.weights[which], x, warp, sum);
        // Rounded as where it is stored.
        const auto& beside = ahead.weights[which].beside;
        made[which] = widened(narrowed<T>(beside.scaled(warp.total(sum[0]), 0) + beside.bias[0]));
      }
      now.q = made[0];
      now.k = made[1];
      now.v = made[2];
      mixer.step(0, d, ahead.channel, now, warp);
    }
    lanes.wait();
  }

  Products products;
  H3StepRow<T> mixer;
};

template <class T, class W>
void run(const ssm::Normalization<T, CudaSpace>* norm,
         std::span<const ssm::Matmul<T, CudaSpace>> projections, const ssm::H3Step<T, CudaSpace>& a,
         bool stay, Stream stream) {
  using Row = H3ProjectedRow<T, W>;
  const Row row{typename Row::Products(norm, projections, stay), H3StepRow<T>(a, 1)};
  constexpr Index warps = Row::Block::warps;
  for_each_block<Row::threads>((row.mixer.channels + warps - 1) / warps, stream, "h3_step", row);
}

}  // namespace
}  // namespace device

template <class T>
void h3_projected_step(const ssm::Normalization<T, CudaSpace>* norm,
                       std::span<const ssm::Matmul<T, CudaSpace>> projections,
                       const ssm::H3Step<T, CudaSpace>& a, bool parameters_stay, Stream stream) {
  device::with_weight_scalar(projections.front(), [&]<class W>(std::type_identity<W>) {
    device::run<T, W>(norm, projections, a, parameters_stay, stream);
  });
}

#define SSM_INSTANTIATE(T)                                                                    \
  template SSM_CUDA_API void h3_projected_step<T>(const ssm::Normalization<T, CudaSpace>*,    \
                                                  std::span<const ssm::Matmul<T, CudaSpace>>, \
                                                  const ssm::H3Step<T, CudaSpace>&, bool, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
