// SPDX-License-Identifier: Apache-2.0
#include "kernel/packing.cuh"
#include "ssm/backend/cuda/h3_mixer.hpp"

namespace ssm::cuda {

template <class T>
void h3_outer_product(const composed::H3OuterProduct<T, CudaSpace>& a, Stream stream) {
  const auto heads = a.heads;
  const auto k = device::operand(a.k);
  const auto v = device::operand(a.v);
  const auto products = device::operand(a.products);
  const device::Positions positions(a.products);
  device::for_each_index(positions.size, stream, "h3_mixer", [=] SSM_DEVICE(Index index) {
    const auto [b, t, product] = positions.place(index);
    const Index h = product % heads.count;
    const Index i = product / heads.count / heads.width;
    const Index j = product / heads.count % heads.width;
    products(b, t, product) = k(b, t, heads.channel(h, i)) * v(b, t, heads.channel(h, j));
  });
}

template <class T>
void h3_outer_product_backward(const composed::H3OuterProductBackward<T, CudaSpace>& g,
                               Stream stream) {
  const auto heads = g.forward.heads;
  const auto k = device::operand(g.forward.k);
  const auto v = device::operand(g.forward.v);
  const auto dproducts = device::operand(g.dproducts);
  const auto dk = device::operand(g.dk);
  const auto dv = device::operand(g.dv);
  const device::Positions positions(g.dk, g.dproducts);
  device::for_each_index(positions.size, stream, "h3_mixer_backward", [=] SSM_DEVICE(Index index) {
    const auto [b, t, channel] = positions.place(index);
    const Index h = channel / heads.width;
    const Index own = channel % heads.width;
    T sum_k{0};
    T sum_v{0};
    for (Index other = 0; other < heads.width; ++other) {
      const Index opposite = heads.channel(h, other);
      sum_k += dproducts(b, t, heads.product(h, own, other)) * v(b, t, opposite);
      sum_v += dproducts(b, t, heads.product(h, other, own)) * k(b, t, opposite);
    }
    dk(b, t, channel) = sum_k;
    dv(b, t, channel) = sum_v;
  });
}

template <class T>
void h3_contract(const composed::H3Contraction<T, CudaSpace>& a, Stream stream) {
  const auto heads = a.heads;
  const auto q = device::operand(a.q);
  const auto sums = device::operand(a.sums);
  const auto y = device::operand(a.y);
  const device::Positions positions(a.y, a.sums);
  device::for_each_index(positions.size, stream, "h3_mixer", [=] SSM_DEVICE(Index index) {
    const auto [b, t, channel] = positions.place(index);
    const Index h = channel / heads.width;
    const Index j = channel % heads.width;
    T sum{0};
    for (Index i = 0; i < heads.width; ++i)
      sum += q(b, t, heads.channel(h, i)) * sums(b, t, heads.product(h, i, j));
    y(b, t, channel) = sum;
  });
}

template <class T>
void h3_contract_backward(const composed::H3ContractionBackward<T, CudaSpace>& g, Stream stream) {
  const auto heads = g.forward.heads;
  const auto q = device::operand(g.forward.q);
  const auto sums = device::operand(g.forward.sums);
  const auto dy = device::operand(g.dy);
  const auto dq = device::operand(g.dq);
  const auto dsums = device::operand(g.dsums);
  const device::Positions positions(g.dq, g.dsums);
  device::for_each_index(positions.size, stream, "h3_mixer_backward", [=] SSM_DEVICE(Index index) {
    const auto [b, t, channel] = positions.place(index);
    const Index h = channel / heads.width;
    const Index i = channel % heads.width;
    const T own = q(b, t, channel);
    T sum{0};
    for (Index j = 0; j < heads.width;
         ++j) {  // an entry is read before its gradient takes its place
      const T gradient = dy(b, t, heads.channel(h, j));
      sum += gradient * sums(b, t, heads.product(h, i, j));
      dsums(b, t, heads.product(h, i, j)) = gradient * own;
    }
    dq(b, t, channel) = sum;
  });
}

#define SSM_INSTANTIATE(T)                                                                         \
  template SSM_CUDA_API void h3_outer_product<T>(const composed::H3OuterProduct<T, CudaSpace>&,    \
                                                 Stream);                                          \
  template SSM_CUDA_API void h3_outer_product_backward<T>(                                         \
      const composed::H3OuterProductBackward<T, CudaSpace>&, Stream);                              \
  template SSM_CUDA_API void h3_contract<T>(const composed::H3Contraction<T, CudaSpace>&, Stream); \
  template SSM_CUDA_API void h3_contract_backward<T>(                                              \
      const composed::H3ContractionBackward<T, CudaSpace>&, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
