// SPDX-License-Identifier: Apache-2.0
#include "../wide_copy.hpp"

#include "../primitive_on.hpp"

namespace ssm::api {
namespace {

/// A tensor of 1 to 3 axes as one of 3.
template <class T, class Space>
View<T, 3, Space> view_of_any(const ssm_tensor& tensor) {
  std::array<Index, 3> extents{1, 1, 1}, strides{};
  for (int axis = 0; axis < tensor.ndim; ++axis) {
    const auto to = static_cast<std::size_t>(axis + 3 - tensor.ndim);
    extents[to] = static_cast<Index>(tensor.shape[axis]);
    strides[to] = static_cast<Index>(stride_of(tensor, axis));
  }
  return {elements_of<T>(tensor), DynamicExtents<3>(extents[0], extents[1], extents[2]), strides};
}

template <class B, class From, class To>
void convert_on(const ssm_tensor& from, const ssm_tensor& to, const CallPlace& place) {
  using Space = typename B::Space;
  const Convert<From, To, Space> call{.x = view_of_any<From, Space>(from),
                                      .y = view_of_any<To, Space>(to)};
  in_thread_context<B>(place, [&](auto& ctx) { convert(ctx, call); });
}

template <class From, class To>
void convert_where(const ssm_tensor& from, const ssm_tensor& to, const CallPlace& place) {
#if defined(SSM_API_WITH_CUDA)
  if (!is_on_host(from)) return convert_on<Cuda, From, To>(from, to, place);
#endif
  convert_on<Cpu, From, To>(from, to, place);
}

void widen(const ssm_tensor& half, const ssm_tensor& wide, const CallPlace& place) {
  if (is_same_scalar(half.type, scalar_of<BFloat16>()))
    convert_where<BFloat16, float>(half, wide, place);
  else
    convert_where<Float16, float>(half, wide, place);
}
void narrow(const ssm_tensor& wide, const ssm_tensor& half, const CallPlace& place) {
  if (is_same_scalar(half.type, scalar_of<BFloat16>()))
    convert_where<float, BFloat16>(wide, half, place);
  else
    convert_where<float, Float16>(wide, half, place);
}

template <class Space>
std::unique_ptr<float, void (*)(void*)> floats(std::size_t count) {
  return {static_cast<float*>(Space::allocate(count * sizeof(float))),
          [](void* memory) { Space::deallocate(memory); }};
}

}  // namespace

WideCopy::WideCopy(const ssm_tensor* tensor, const std::string& name, Use use,
                   const CallPlace& place, bool must_be_on_host)
    : given_(tensor), place_(place) {
  if (tensor == nullptr || !is_half(tensor->type)) return;
  require_tensor(tensor, name, tensor->type, must_be_on_host);
  if (tensor->ndim < 1 || tensor->ndim > 3) refuse_rank(name, *tensor, "1, 2 or 3");
  if (use == Use::written) require_distinct_elements(*tensor, name);
  std::size_t elements = 1;
  shape_ = std::make_unique<std::array<std::int64_t, 3>>();
  for (int axis = 0; axis < tensor->ndim; ++axis) {
    (*shape_)[static_cast<std::size_t>(axis)] = tensor->shape[axis];
    elements *= static_cast<std::size_t>(tensor->shape[axis]);
  }
  if (elements == 0) elements = 1;
#if defined(SSM_API_WITH_CUDA)
  if (!must_be_on_host) memory_ = floats<Cuda::Space>(elements);
#endif
  if (memory_ == nullptr) memory_ = floats<HostSpace>(elements);
  wide_ = {.data = memory_.get(),
           .device = tensor->device,
           .ndim = tensor->ndim,
           .type = scalar_of<float>(),
           .shape = shape_->data(),
           .strides = nullptr,
           .byte_offset = 0};
  if (use == Use::read && tensor->data != nullptr) widen(*tensor, wide_, place_);
}

void WideCopy::finish() const {
  if (memory_ != nullptr && given_->data != nullptr) narrow(wide_, *given_, place_);
}

void require_same_half(const ssm_tensor* tensor, const char* name, const ssm_tensor* other,
                       const char* other_name) {
  if (tensor == nullptr || other == nullptr || is_same_scalar(tensor->type, other->type)) return;
  if (is_half(tensor->type) || is_half(other->type))
    throw TensorError(message({name, " is of ", scalar_name(tensor->type), ", must be of ",
                               scalar_name(other->type), " as ", other_name}));
}

}  // namespace ssm::api
