// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "ssm/core/error.hpp"  // ArgumentError
#include "ssm/core/parameter.hpp"
#include "ssm/core/scalar.hpp"  // BFloat16, Float16

namespace ssm {

/// What a weight matrix is kept in: the scalar that it is trained in, or for inference bf16, f16,
/// or whole numbers with a scale for each row.
enum class WeightForm { full, bf16, f16, int8 };

/// The name of a form in messages and on the command line.
constexpr std::string_view weight_form_name(WeightForm form) {
  switch (form) {
    case WeightForm::bf16:
      return "bf16";
    case WeightForm::f16:
      return "f16";
    case WeightForm::int8:
      return "int8";
    default:
      return "full precision";
  }
}

/// A weight matrix, or some of its rows, in the form that it is kept in; the others are null.
/// full, bf16, f16, int8   [outputs, inputs]
/// scale                   [outputs]   of int8: row n is scale[n] · int8[n]
template <class T, class Space>
struct WeightView {
  View<const T, 2, Space> full{};
  View<const BFloat16, 2, Space> bf16{};
  View<const Float16, 2, Space> f16{};
  View<const std::int8_t, 2, Space> int8{};
  View<const float, 1, Space> scale{};

  WeightView rows(Index begin, Index end) const {
    const auto part = [&](const auto& view) { return view ? view.slice(0, begin, end) : view; };
    return {part(full), part(bf16), part(f16), part(int8), part(scale)};
  }
};

/// Rounds each row of a matrix to whole numbers from −127 to 127 times a scale of its own.
///   scale[n] = max_k |weight[n,k]| / 127
///   int8[n,k] = weight[n,k] / scale[n], to nearest, ties to even
/// So |weight[n,k] − scale[n]·int8[n,k]| ≤ scale[n] / 2. A row of zeros has the scale 0, and so has
/// one whose scale would be less than the smallest normal float, 1.2e-38: its numbers become 0.
/// Returns the first row that has a number that is not finite, or whose scale no float holds; the
/// rows from there on are not written.
/// weight, int8   [N, K]
/// scale          [N]
template <class T>
[[nodiscard]] std::optional<Index> round_rows_to_int8(const View<const T, 2, HostSpace>& weight,
                                                      const View<std::int8_t, 2, HostSpace>& int8,
                                                      const View<float, 1, HostSpace>& scale) {
  const Index inputs = weight.extent(1);
  for (Index n = 0; n < weight.extent(0); ++n) {
    double largest = 0;
    bool is_finite = true;
    for (Index k = 0; k < inputs; ++k) {
      const double size = std::abs(scalar_cast<double>(weight(n, k)));
      is_finite = is_finite && size <= std::numeric_limits<double>::max();
      largest = std::max(largest, size);
    }
    if (!is_finite || largest / 127 > double{std::numeric_limits<float>::max()}) return n;
    const auto step = static_cast<float>(largest / 127);
    const bool is_zero = step < std::numeric_limits<float>::min();
    scale(n) = is_zero ? 0.0F : step;
    const double inverse = is_zero ? 0 : 1 / double{step};
    for (Index k = 0; k < inputs; ++k) {
      const double whole = std::nearbyint(scalar_cast<double>(weight(n, k)) * inverse);
      int8(n, k) = static_cast<std::int8_t>(std::clamp(whole, -127.0, 127.0));
    }
  }
  return std::nullopt;
}

/// A matrix of weights: a tensor in T as long as it learns, or rounded to another form for
/// inference, where reading the weights is what takes the time. Exactly one of the forms is there;
/// the others are empty.
///   weight.keep_in(WeightForm::bf16);
///   matmul(ctx, by_weight<float, HostSpace>(weight, {.a = x, .c = y}));
template <class T, class ExtentsType, class Space = HostSpace>
struct Weight : Tensor<T, ExtentsType, Space> {
  static_assert(ExtentsType::rank() == 2);
  using Full = Tensor<T, ExtentsType, Space>;

  DynamicTensor<BFloat16, 2, Space> bf16;
  DynamicTensor<Float16, 2, Space> f16;
  DynamicTensor<std::int8_t, 2, Space> int8;
  DynamicTensor<float, 1, Space> scale;  // of int8, one for each row

  Weight() = default;
  Weight(Full&& full) : Full(std::move(full)) {}

  explicit operator bool() const { return bf16 || f16 || int8 || Full::operator bool(); }
  operator WeightView<T, Space>() const {
    const Full& full = *this;
    return {.full = full ? View<const T, 2, Space>(full) : View<const T, 2, Space>(),
            .bf16 = bf16,
            .f16 = f16,
            .int8 = int8,
            .scale = scale};
  }
  WeightForm form() const {
    return bf16   ? WeightForm::bf16
           : f16  ? WeightForm::f16
           : int8 ? WeightForm::int8
                  : WeightForm::full;
  }
  /// Scalars that were learned, in whichever form they are kept.
  Index weight_count() const { return this->size() + bf16.size() + f16.size() + int8.size(); }
  std::size_t weight_bytes() const {
    return static_cast<std::size_t>(this->size()) * sizeof(T) +
           static_cast<std::size_t>(bf16.size() + f16.size()) * sizeof(BFloat16) +
           static_cast<std::size_t>(int8.size()) +
           static_cast<std::size_t>(scale.size()) * sizeof(float);
  }
  /// Where the first element lies, in whichever form.
  const void* place() const {
    return bf16   ? static_cast<const void*>(bf16.data())
           : f16  ? static_cast<const void*>(f16.data())
           : int8 ? static_cast<const void*>(int8.data())
                  : static_cast<const void*>(this->data());
  }
  Weight clone() const {
    Weight copy(Full::clone());
    copy.bf16 = bf16.clone();
    copy.f16 = f16.clone();
    copy.int8 = int8.clone();
    copy.scale = scale.clone();
    return copy;
  }

  /// Rounds to nearest, ties to even, and gives the memory of T back; to int8 as
  /// round_rows_to_int8. An empty weight stays empty, a rounded one as it is.
  /// Throws  OutOfMemory; ArgumentError  for a number that is not finite in int8, one that only f16
  ///                                     makes infinite, or a weight that was rounded in full
  ///                                     precision: the weight stays as it was
  void keep_in(WeightForm form) {
    static_assert(Space::host_readable, "round on the host, then copy to the device");
    if (form == WeightForm::full && this->form() != WeightForm::full)
      throw ArgumentError(
          message({"weights that are kept in ", weight_form_name(this->form()),
                   " have no more digits, open the model again in full precision"}));
    if (form == WeightForm::full || !Full::operator bool()) return;
    const DynamicExtents<2> extents(this->extent(0), this->extent(1));
    if (form == WeightForm::bf16) {
      bf16.resize(extents);
      for (Index i = 0; i < this->size(); ++i)
        bf16.data()[i] = scalar_cast<BFloat16>(this->data()[i]);
    } else if (form == WeightForm::f16) {
      DynamicTensor<Float16, 2, Space> rounded(extents);
      for (Index i = 0; i < this->size(); ++i) {
        const Float16 half = scalar_cast<Float16>(this->data()[i]);
        if (std::isinf(static_cast<float>(half)) &&
            !std::isinf(scalar_cast<double>(this->data()[i])))
          throw ArgumentError(message({"row ", i / this->extent(1), " has a number beyond 65504, ",
                                       "the largest that f16 can hold"}));
        rounded.data()[i] = half;
      }
      f16 = std::move(rounded);
    } else {
      DynamicTensor<std::int8_t, 2, Space> rounded(extents);
      DynamicTensor<float, 1, Space> scales({this->extent(0)});
      const View<const T, 2, Space> full(static_cast<const Full&>(*this));
      if (const auto row = round_rows_to_int8<T>(full, rounded, scales))
        throw ArgumentError(
            message({"row ", *row, " has a number that is not finite, which int8 cannot hold"}));
      int8 = std::move(rounded);
      scale = std::move(scales);
    }
    Full().swap(*this);
  }
};

namespace detail {
/// Whether a tensor of a parameter struct is a Weight.
template <class AnyTensor>
inline constexpr bool is_weight = requires(const AnyTensor& tensor) {
  tensor.weight_count();
};
}  // namespace detail

/// Keeps every weight matrix and embedding of a parameter struct in a form for inference;
/// everything else stays in full precision. bf16 and f16 take half the memory of float, int8 a
/// quarter.
/// Weights that are kept in such a form stay as they are.
///   auto model = ssm::load_language_model<MambaFamily>(ctx, "mamba-130m/");
///   ssm::keep_weights_in(model.parameters, ssm::WeightForm::bf16);
/// Throws  OutOfMemory; ArgumentError  that names the tensor, as Weight::keep_in: those before it
///                                     are rounded
template <class P>
void keep_weights_in(P& parameters, WeightForm form) {
  for_each_parameter(
      [&](const ParameterSpec& spec, auto& tensor) {
        if constexpr (detail::is_weight<std::remove_reference_t<decltype(tensor)>>) {
          try {
            tensor.keep_in(form);
          } catch (const ArgumentError& error) {
            throw ArgumentError(spec.name + ": " + error.what());
          }
        }
      },
      parameters);
}

/// What the weight matrices of a parameter struct are kept in: the first form that is not full.
template <class P>
WeightForm weight_form(const P& parameters) {
  WeightForm form = WeightForm::full;
  for_each_parameter(
      [&](const ParameterSpec&, const auto& tensor) {
        if constexpr (detail::is_weight<std::remove_cvref_t<decltype(tensor)>>)
          if (form == WeightForm::full) form = tensor.form();
      },
      parameters);
  return form;
}

/// Bytes of a parameter struct, in whichever form its weights are kept.
template <class P>
std::size_t parameter_bytes(const P& parameters) {
  std::size_t bytes = 0;
  for_each_parameter(
      [&](const ParameterSpec&, const auto& tensor) {
        using Held = std::remove_cvref_t<decltype(tensor)>;
        if constexpr (detail::is_weight<Held>)
          bytes += tensor.weight_bytes();
        else
          bytes += static_cast<std::size_t>(tensor.size()) * sizeof(typename Held::Value);
      },
      parameters);
  return bytes;
}

namespace detail {
[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_training_of_rounded_weights(
    const char* who) {
  throw ArgumentError(std::string(who) +
                      ": weights that are kept in bf16, f16 or int8 cannot be trained, they "
                      "serve inference");
}
}  // namespace detail

}  // namespace ssm
