// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "backends.hpp"
#include "options.hpp"
#include "primitive.hpp"
#include "tensor.hpp"
#include "thread_context.hpp"

namespace ssm::api {

namespace detail {
/// Points a view to a tensor. A tensor without elements need not have memory, a view that is there
/// needs an address.
template <class V>
void take_operand(V& view, const ssm_tensor* tensor, const std::string& name) {
  static std::max_align_t nothing;
  view = view_of_tensor<typename V::Element, V::rank(), typename V::Space>(tensor, name);
  if (!view)
    view = V(reinterpret_cast<typename V::Element*>(&nothing), view.extents(), view.strides());
}

[[noreturn]] void refuse_operand(const char* primitive, const std::string& name, const char* why);
/// Throws  ArgumentError  unless there is a tensor or a null for each operand
void require_operand_count(const char* primitive, std::size_t given, std::size_t expected);
/// Throws  ArgumentError  where what is written begins where something else that is read or written
///                        does; a final state may be the memory of its initial state
void require_apart(const char* primitive, std::span<const ssm_tensor* const> tensors,
                   const std::vector<OperandFacts>& facts);

template <class Call>
void take_operands(Call& a, const PrimitiveCall& call, bool is_forward) {
  std::size_t i = 0;
  Call::for_each_operand([&](const Operand& what, auto member, auto) {
    if (what.role == Role::again) return;
    const ssm_tensor* const tensor = call.operands[i++];
    if (tensor != nullptr && (is_forward || is_read(what)))
      take_operand(a.*member, tensor, what.name);
  });
  if constexpr (requires { a.segments; })
    a.segments = segments_of(call.segments);
  else if (call.segments != nullptr)
    refuse_operand(Call::name, "segments", "has no meaning here");
}

template <class Call, class Gradient>
void take_gradients(Gradient& g, const PrimitiveCall& call) {
  std::size_t i = 0;
  std::array<const char*, 32> names{};
  Call::for_each_operand([&](const Operand& what, auto, auto partner) {
    if (what.role == Role::again) {
      std::size_t before = 0;
      while (std::string_view(names[before]) != what.name) ++before;
      if constexpr (!std::is_same_v<decltype(partner), std::nullptr_t>)
        if (call.operands[before] != nullptr)
          take_operand(g.*partner, call.operands[before], what.name);
      return;
    }
    names[i] = what.name;
    const ssm_tensor* const tensor = call.gradients[i++];
    if (tensor == nullptr) return;
    if constexpr (std::is_same_v<decltype(partner), std::nullptr_t>)
      refuse_operand(Call::name, what.name, "has no gradient");
    else
      take_operand(g.*partner, tensor, std::string("d") + what.name);
  });
}
}  // namespace detail

/// The operands of a kind of primitive, each once.
template <class Kind>
const std::vector<OperandFacts>& operands_of() {
  static const std::vector<OperandFacts> all = [] {
    using T = std::conditional_t<Kind::takes_half, BFloat16, float>;
    std::vector<OperandFacts> result;
    Kind::template Call<T, HostSpace>::for_each_operand([&](const Operand& what, auto member,
                                                            auto partner) {
      using Call = typename Kind::template Call<T, HostSpace>;
      using Value = typename std::remove_cvref_t<decltype(std::declval<Call&>().*member)>::Value;
      if (what.role == Role::again) return;
      result.push_back({.name = what.name,
                        .letters = what.letters,
                        .role = what.role,
                        .is_optional = what.is_optional,
                        .gradient = std::is_same_v<decltype(partner), std::nullptr_t> ? "none"
                                    : what.has_optional_gradient                      ? "optional"
                                                                                      : "required",
                        .scalar = std::is_integral_v<Value>  ? "int64"
                                  : std::is_same_v<Value, T> ? "sequence"
                                                             : "wide"});
    });
    return result;
  }();
  return all;
}

/// A kind of primitive on backend B in scalar T. A kind has
///   Call<T, Space>, Gradient<T, Space>     the operands
///   takes_half                             whether sequences may be of half types
///   set(options, call)                     what is no tensor
///   forward(ctx, call), backward(ctx, gradient)
template <class Kind, class B, class T>
class PrimitiveOn final : public ssm_primitive {
  using Call = typename Kind::template Call<T, typename B::Space>;
  using Gradient = typename Kind::template Gradient<T, typename B::Space>;

 public:
  PrimitiveOn(const JsonObject& options, int threads) : threads_(threads) {
    Kind::set(options, call_);
  }

  const std::vector<OperandFacts>& operands() const override { return operands_of<Kind>(); }

  void forward(const PrimitiveCall& call) const override {
    detail::require_operand_count(Call::name, call.operands.size(), operands().size());
    detail::require_apart(Call::name, call.operands, operands());
    Call a = call_;
    detail::take_operands(a, call, true);
    in_thread_context<B>(place_of(call), [&](auto& ctx) { Kind::forward(ctx, a); });
  }
  void backward(const PrimitiveCall& call) const override {
    detail::require_operand_count(Call::name, call.operands.size(), operands().size());
    Gradient g{};
    g.forward = call_;
    detail::take_operands(g.forward, call, false);
    detail::take_gradients<Call>(g, call);
    in_thread_context<B>(place_of(call), [&](auto& ctx) { Kind::backward(ctx, g); });
  }

 private:
  CallPlace place_of(const PrimitiveCall& call) const {
    int device = 0;
    if constexpr (!B::Space::host_readable) device = device_of(Call::name, call.operands);
    return {.threads = threads_, .device = device, .stream = call.stream};
  }

  Call call_{};  // with options and without tensors
  int threads_;
};

/// A primitive where its configuration says.
/// Throws  ArgumentError  for a scalar or a backend that it is not for
template <class Kind>
std::unique_ptr<ssm_primitive> make_primitive(const JsonObject& options,
                                              const PrimitivePlace& place) {
  const auto in = [&]<class T>(std::type_identity<T>) -> std::unique_ptr<ssm_primitive> {
#if defined(SSM_API_WITH_CUDA)
    if (place.backend == "cuda")
      return std::make_unique<PrimitiveOn<Kind, Cuda, T>>(options, place.threads);
#endif
    if (place.backend == "reference")
      return std::make_unique<PrimitiveOn<Kind, Reference, T>>(options, place.threads);
    return std::make_unique<PrimitiveOn<Kind, Cpu, T>>(options, place.threads);
  };
  if (place.scalar == "float64") return in(std::type_identity<double>());
  if (place.scalar == "float32") return in(std::type_identity<float>());
  if constexpr (Kind::takes_half) {
    if (place.scalar == "bfloat16") return in(std::type_identity<BFloat16>());
    return in(std::type_identity<Float16>());
  } else {
    options.refuse("scalar", "must be float32 or float64 here");
  }
}

}  // namespace ssm::api
