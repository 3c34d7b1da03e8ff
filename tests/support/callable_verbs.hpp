// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/layer/layer.hpp"

namespace ssm::laws {

/// Tensors of a layer on a backend, never made: what calls of the verbs are written with.
template <class L, class B, class T>
struct Operands {
  using Space = typename B::Space;
  Context<B>& ctx;
  const L& layer;
  const typename L::template Parameters<T, Space>& parameters;
  typename L::template Parameters<T, Space>& gradients;
  typename L::template Tape<T, Space>& tape;
  typename L::template State<T, Space>& state;
  View<const T, 3, Space> x;
  View<T, 3, Space> y;
  View<const T, 2, Space> x_t;
  View<T, 2, Space> y_t;
  View<const Token, 2, Space> tokens;
};

/// How many of its verbs a layer may be asked for on a backend: whether the calls pass their constraints. Bodies are not
/// looked at.
template <class L, class B, class T>
constexpr int callable_verbs() {
  using O = Operands<L, B, T>;
  return int{requires(O o){o.layer.evaluate(o.ctx, o.parameters, o.x, o.y, nullptr);
}
}  // namespace ssm::laws
+ int{requires(O o){o.layer.forward(o.ctx, o.parameters, o.x, o.y);
}
}
+ int{requires(O o){o.layer.forward(o.ctx, o.parameters, o.x, o.y, o.tape);
}
}
+ int{requires(O o){o.layer.prefill(o.ctx, o.parameters, o.x, o.y, o.state);
}
}
+ int{requires(O o){o.layer.step(o.ctx, o.parameters, o.x_t, o.y_t, o.state);
}
}
+ int{requires(O o){o.layer.backward(o.ctx, o.parameters, o.tape, o.x, o.y, o.gradients);
}
}
;
}

/// The same of a language model, which reads tokens and has no gradient for them.
template <class L, class B, class T>
constexpr int callable_language_verbs() {
  using O = Operands<L, B, T>;
  return int{requires(O o){o.layer.evaluate(o.ctx, o.parameters, o.tokens, o.y, nullptr);
}
}
+ int{requires(O o){o.layer.forward(o.ctx, o.parameters, o.tokens, o.y);
}
}
+ int{requires(O o){o.layer.forward(o.ctx, o.parameters, o.tokens, o.y, o.tape);
}
}
+ int{requires(O o){o.layer.prefill(o.ctx, o.parameters, o.tokens, o.y, o.state);
}
}
+ int{requires(O o){o.layer.step(o.ctx, o.parameters, o.tokens, o.y, o.state);
}
}
+ int{requires(O o){o.layer.backward(o.ctx, o.parameters, o.tape, o.x, o.gradients);
}
}
;
}

}  // namespace ssm::laws
