// SPDX-License-Identifier: Apache-2.0
#include "../wide_copy.hpp"

#include "../primitive_on.hpp"

namespace ssm::api {
namespace {

/// A tensor of 1 to 3 axes as one of 3.
template <class T>
View<T, 3> view_of_any(const ssm_tensor& tensor) {
  std::array<Index, 3> extents{1, 1, 1}, strides{};
  for (int axis = 0; axis < tensor.ndim; ++axis) {
    const auto to = static_cast<std::size_t>(axis + 3 - tensor.ndim);
    extents[to] = static_cast<Index>(tensor.shape[axis]);
    strides[to] = static_cast<Index>(stride_of(tensor, axis));
  }
  return {elements_of<T>(tensor), DynamicExtents<3>(extents[0], extents[1], extents[2]), strides};
}

template <class Half, bool widens>
void convert_all(const ssm_tensor& half, const ssm_tensor& wide, int threads) {
  auto& ctx = thread_context<Cpu>(threads, nullptr);
  if constexpr (widens)
    convert(ctx, Convert<Half, float, HostSpace>{.x = view_of_any<Half>(half),
                                                 .y = view_of_any<float>(wide)});
  else
    convert(ctx, Convert<float, Half, HostSpace>{.x = view_of_any<float>(wide),
                                                 .y = view_of_any<Half>(half)});
}

template <bool widens>
void convert_half(const ssm_tensor& half, const ssm_tensor& wide, int threads) {
  if (is_same_scalar(half.type, scalar_of<BFloat16>()))
    convert_all<BFloat16, widens>(half, wide, threads);
  else
    convert_all<Float16, widens>(half, wide, threads);
}

}  // namespace

WideCopy::WideCopy(const ssm_tensor* tensor, const std::string& name, Use use, int threads)
    : given_(tensor), threads_(threads) {
  if (tensor == nullptr || !is_half(tensor->type)) return;
  require_tensor(tensor, name, tensor->type);
  if (tensor->ndim < 1 || tensor->ndim > 3) refuse_rank(name, *tensor, "1, 2 or 3");
  if (use == Use::written) require_distinct_elements(*tensor, name);
  std::size_t elements = 1;
  shape_ = std::make_unique<std::array<std::int64_t, 3>>();
  for (int axis = 0; axis < tensor->ndim; ++axis) {
    (*shape_)[static_cast<std::size_t>(axis)] = tensor->shape[axis];
    elements *= static_cast<std::size_t>(tensor->shape[axis]);
  }
  if (elements == 0) elements = 1;
  memory_ = std::make_unique_for_overwrite<float[]>(elements);
  wide_ = {.data = memory_.get(),
           .device = {1, 0},
           .ndim = tensor->ndim,
           .type = scalar_of<float>(),
           .shape = shape_->data(),
           .strides = nullptr,
           .byte_offset = 0};
  if (use == Use::read && tensor->data != nullptr) convert_half<true>(*tensor, wide_, threads_);
}

void WideCopy::finish() const {
  if (memory_ != nullptr && given_->data != nullptr) convert_half<false>(*given_, wide_, threads_);
}

void require_same_half(const ssm_tensor* tensor, const char* name, const ssm_tensor* other,
                       const char* other_name) {
  if (tensor == nullptr || other == nullptr || is_same_scalar(tensor->type, other->type)) return;
  if (is_half(tensor->type) || is_half(other->type))
    throw TensorError(message({name, " is of ", scalar_name(tensor->type), ", must be of ",
                               scalar_name(other->type), " as ", other_name}));
}

}  // namespace ssm::api
