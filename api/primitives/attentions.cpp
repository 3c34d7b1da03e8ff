// SPDX-License-Identifier: Apache-2.0
// Primitives that relate positions by queries and keys.
#include "../layer_fields.hpp"
#include "../primitive_on.hpp"

namespace ssm::api::primitives {
namespace {

struct AttentionOn {
  template <class T, class Space>
  using Call = Attention<T, Space>;
  template <class T, class Space>
  using Gradient = AttentionBackward<T, Space>;
  static constexpr bool takes_half = true;
  static void set(const JsonObject& options, auto& call) {
    call.scale = options.number("scale", 1, -any_number, any_number);
  }
  static void forward(auto& ctx, const auto& a) { attention(ctx, a); }
  static void backward(auto& ctx, const auto& g) { attention_backward(ctx, g); }
};

struct DecayedAttentionOn {
  template <class T, class Space>
  using Call = DecayedAttention<T, Space>;
  template <class T, class Space>
  using Gradient = DecayedAttentionBackward<T, Space>;
  static constexpr bool takes_half = true;
  static void set(const JsonObject& options, auto& call) {
    call.chunk = static_cast<Index>(options.integer_or("chunk", 0, 0));
  }
  static void forward(auto& ctx, const auto& a) { decayed_attention(ctx, a); }
  static void backward(auto& ctx, const auto& g) { decayed_attention_backward(ctx, g); }
};

}  // namespace

const PrimitiveKind attention_kind{"attention", "| scale", operands_of<AttentionOn>,
                                   make_primitive<AttentionOn>};
const PrimitiveKind decayed_attention_kind{"decayed_attention", "| chunk",
                                           operands_of<DecayedAttentionOn>,
                                           make_primitive<DecayedAttentionOn>};

}  // namespace ssm::api::primitives
