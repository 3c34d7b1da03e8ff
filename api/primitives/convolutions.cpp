// SPDX-License-Identifier: Apache-2.0
// Primitives that are convolutions over time.
#include "../primitive_on.hpp"

namespace ssm::api::primitives {
namespace {

struct CausalConvolutionOn {
  template <class T, class Space>
  using Call = CausalConvolution<T, Space>;
  template <class T, class Space>
  using Gradient = CausalConvolutionBackward<T, Space>;
  static constexpr bool takes_half = true;
  static void set(const JsonObject&, auto&) {}
  static void forward(auto& ctx, const auto& a) { causal_convolution(ctx, a); }
  static void backward(auto& ctx, const auto& g) { causal_convolution_backward(ctx, g); }
};

struct ShiftConvolutionOn {
  template <class T, class Space>
  using Call = ShiftConvolution<T, Space>;
  template <class T, class Space>
  using Gradient = ShiftConvolutionBackward<T, Space>;
  static constexpr bool takes_half = true;
  static void set(const JsonObject&, auto&) {}
  static void forward(auto& ctx, const auto& a) { shift_convolution(ctx, a); }
  static void backward(auto& ctx, const auto& g) { shift_convolution_backward(ctx, g); }
};

struct ShortConvolutionOn {
  template <class T, class Space>
  using Call = ShortConvolution<T, Space>;
  template <class T, class Space>
  using Gradient = ShortConvolutionBackward<T, Space>;
  static constexpr bool takes_half = true;
  static void set(const JsonObject& options, auto& call) {
    call.activation = word_option<ActivationKind>(
        options, "activation", "none",
        {{"none", ActivationKind::none}, {"silu", ActivationKind::silu}});
  }
  static void forward(auto& ctx, const auto& a) { short_convolution(ctx, a); }
  static void backward(auto& ctx, const auto& g) { short_convolution_backward(ctx, g); }
};

}  // namespace

const PrimitiveKind causal_convolution_kind{"causal_convolution", "",
                                            operands_of<CausalConvolutionOn>,
                                            make_primitive<CausalConvolutionOn>};
const PrimitiveKind shift_convolution_kind{"shift_convolution", "", operands_of<ShiftConvolutionOn>,
                                           make_primitive<ShiftConvolutionOn>};
const PrimitiveKind short_convolution_kind{"short_convolution", "| activation",
                                           operands_of<ShortConvolutionOn>,
                                           make_primitive<ShortConvolutionOn>};

}  // namespace ssm::api::primitives
