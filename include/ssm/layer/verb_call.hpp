// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <type_traits>

#include "ssm/core/context.hpp"
#include "ssm/core/elementwise.hpp"  // copy
#include "ssm/layer/operand.hpp"
#include "ssm/layer/operand_layout.hpp"
#include "ssm/layer/runs_on.hpp"
#include "ssm/layer/tape.hpp"
#include "ssm/op/rearrange.hpp"

namespace ssm::detail {

/// How a verb of layer L, with parameters P on backend B, calls what the layer has written: which
/// operands it takes, and which it copies on the way. Operands of all types become views first, so
/// that `evaluate` and `differentiate` are instantiated once.
template <class L, class B, class P>
class VerbCall {
  using T = typename P::Scalar;
  using Space = typename B::Space;
  using Tape = TapeOf<P>;
  using Read = View<const T, 3, Space>;
  using Written = View<T, 3, Space>;
  using Input = InputOf<L, T, Space>;
  using Options = SequenceOptions<StateOf<P>>;

 public:
  /// Whether the backend runs the layer. This and the next ones say why not by a static_assert.
  static constexpr bool runs() {
    constexpr bool is_near = std::is_same_v<typename P::Space, Space>;
    static_assert(is_near, "the parameters lie in other memory than the context's backend");
    if constexpr (is_near) {
      constexpr bool has_primitives = RunsOn<L, B, T>;
      static_assert(has_primitives, "this layer needs primitives that the backend lacks");
      return has_primitives;
    } else {
      return false;
    }
  }
  template <VerbOperand name, Positions positions, class X>
  static constexpr bool takes() {
    return is_operand<name, L, T, Space, positions, std::remove_reference_t<X>>();
  }
  template <Positions positions, class X, class Y>
  static constexpr bool evaluates() {
    if constexpr (runs() && takes<VerbOperand::x, positions, X>() &&
                  takes<VerbOperand::y, positions, Y>()) {
      constexpr Index in = ReadsTokens<L> ? dyn : static_width<std::remove_reference_t<X>>();
      constexpr Index out = static_width<std::remove_reference_t<Y>>();
      if constexpr (in != dyn || out != dyn)
        static_assert(has_widths<in, out>, "x or y has another width than the layer");
      return true;
    } else {
      return false;
    }
  }
  template <class Given>
  static constexpr bool has_tape() {
    constexpr bool fits = std::is_same_v<std::remove_const_t<Given>, Tape>;
    static_assert(
        fits,
        "the tape is not this layer's in the scalar and memory of the parameters: make it "
        "by layer.make_tape(parameters)");
    return fits;
  }
  template <class Given>
  static constexpr bool has_state() {
    constexpr bool fits = std::is_same_v<Given, StateOf<P>>;
    static_assert(
        fits,
        "the state is not this layer's in the scalar and memory of the parameters: make it "
        "by layer.initial_state<T>(ctx, sequences)");
    return fits;
  }
  template <class Given>
  static constexpr bool has_gradients() {
    constexpr bool fits = std::is_same_v<Given, GradientsOf<P>>;
    static_assert(fits,
                  "gradients must be of the type of the parameters, of parameters in a half type "
                  "in float (ssm::GradientsOf), and not const");
    return fits;
  }

  /// x as [B, L, D], or tokens as [B, L].
  template <Positions positions, class X>
  static Input input(X& x) {
    constexpr bool is_step = positions == Positions::one;
    constexpr int rank = ReadsTokens<L> ? 2 : 3;
    const auto view = operand_view < is_step || ReadsTokens < L >> (x);
    if constexpr (is_step)
      return as_one_position<rank>(view);
    else
      return as_batch<rank>(view);
  }
  /// y, dy or dx as [B, L, D].
  template <Positions positions = Positions::many, class Y>
  static auto sequences(Y& y) {
    constexpr bool is_step = positions == Positions::one;
    const auto view = operand_view<is_step>(y);
    if constexpr (is_step)
      return as_one_position<3>(view);
    else
      return as_batch<3>(view);
  }

  static void run(Context<B>& ctx, const L& layer, const P& parameters, const Input& x,
                  const Written& y, Tape* tape, const Options& options,
                  Positions positions = Positions::many) {
    if constexpr (!ReadsTokens<L>) {
      require_operand<L>("x", x, {x.extent(0), x.extent(1), input_width(layer)}, positions);
      require_operand<L>("y", y, {x.extent(0), x.extent(1), output_width(layer)}, positions);
      require_distinct("y", y, "x", x);
    }
    auto frame = ctx.workspace().frame();
    const Written written = lies_well(y) ? y : frame.template tensor<T>(y.extents());
    const Input read = tape == nullptr ? laid_out(ctx, frame, x) : kept(ctx, frame, x, *tape);
    layer.evaluate(ctx, parameters, read, written, tape, options);
    if (written.data() != y.data()) copy_layout(ctx, written, y);
  }

  static void run_back(Context<B>& ctx, const L& layer, const P& parameters, const Tape& tape,
                       const Read& dy, const Written& dx, GradientsOf<P>& gradients,
                       const SequenceGradients<StateOf<P>>& ends) {
    require_operand<L>("dy", dy, {calls(tape, 0), calls(tape, 1), output_width(layer)});
    auto frame = ctx.workspace().frame();
    const Read read = laid_out(ctx, frame, dy);
    if constexpr (ReadsTokens<L>) {  // tokens have no gradient
      layer.differentiate(ctx, parameters, tape, read, gradients, ends);
    } else {
      if (dx) require_operand<L>("dx", dx, {dy.extent(0), dy.extent(1), input_width(layer)});
      require_distinct("dx", dx, "dy", dy);
      const Written written = lies_well(dx) ? dx : frame.template tensor<T>(dx.extents());
      layer.differentiate(ctx, parameters, tape, read, written, gradients, ends);
      if (written.data() != dx.data()) copy_layout(ctx, written, dx);
    }
  }

 private:
  using Keeper = InputTape<T, Space>;  // whatever names the tape has for itself
  static constexpr bool keeps_x = std::is_base_of_v<Keeper, Tape>;

  template <Index in, Index out>
  static constexpr bool has_widths = requires(
      const L& layer, Context<B>& ctx, const P& parameters,
      std::conditional_t<ReadsTokens<L>, Input, TensorView<const T, Extents<dyn, dyn, in>, Space>>
          x,
      TensorView<T, Extents<dyn, dyn, out>, Space> y, Tape* tape) {
    layer.evaluate(ctx, parameters, x, y, tape);
  };

  static Index input_width(const L& layer) {
    if constexpr (requires { layer.inputs(); })
      return layer.inputs();
    else if constexpr (requires { layer.channels(); })
      return layer.channels();
    else
      return dyn;
  }
  static Index output_width(const L& layer) {
    if constexpr (requires { layer.outputs(); })
      return layer.outputs();
    else if constexpr (!ReadsTokens<L> && requires { layer.channels(); })
      return layer.channels();
    else
      return dyn;
  }
  /// Batch or length of the forward call, or `dyn` where the tape does not know.
  static Index calls(const Tape& tape, std::size_t axis) {
    if constexpr (keeps_x)
      return static_cast<const Keeper&>(tape).sequences[axis];
    else
      return dyn;
  }
  static void require_distinct(const char* to, const Written& written, const char* from,
                               const Read& read) {
    if (written.size() > 0 && written && read.data() == written.data())
      refuse_same_memory(class_name<L>(), to, from);
  }

  template <class X>
  static bool lies_well(const View<X, 3, Space>& x) {
    return lies_as<operand_layout_of<L>()>(x);
  }
  /// Of tokens, those of a row must be adjacent.
  static bool lies_well(const View<const Token, 2, Space>& tokens) {
    return tokens.extent(1) <= 1 || tokens.stride(1) == 1;
  }

  /// x itself where it lies well, else a copy in the frame.
  template <class Frame>
  static Input laid_out(Context<B>& ctx, Frame& frame, const Input& x) {
    return copied(ctx, x,
                  [&] { return frame.template tensor<typename Input::Value>(x.extents()); });
  }
  template <class Frame>
  static Read laid_out(Context<B>& ctx, Frame& frame, const Read& x) requires ReadsTokens<L> {
    return copied(ctx, x, [&] { return frame.template tensor<T>(x.extents()); });
  }
  /// The same where `differentiate` will read it again: the copy is the tape's.
  template <class Frame>
  static Input kept(Context<B>& ctx, Frame& frame, const Input& x, Tape& tape) {
    if constexpr (keeps_x) {
      Keeper& keeper = tape;
      keeper.sequences = {x.extent(0), x.extent(1)};
      return copied(ctx, x, [&] {
        keeper.copied_x.resize(x.extents());
        return keeper.copied_x.view();
      });
    } else {
      if (!ReadsTokens<L> && !lies_well(x)) refuse_strided(class_name<L>());
      return laid_out(ctx, frame, x);  // who reads tokens keeps a copy
    }
  }
  template <class X, class Buffer>
  static X copied(Context<B>& ctx, const X& x, Buffer&& buffer) {
    if (lies_well(x)) return x;
    const auto copy = buffer();
    copy_layout(ctx, x, copy);
    return copy;
  }

  template <class X, class Y>
  static void copy_layout(Context<B>& ctx, const X& from, const Y& to) {
    if constexpr (X::rank() == 3 && HasRearrange<B, T>)
      rearrange(ctx, Rearrange<T, Space>{.x = from, .y = to});
    else if constexpr (bool{Space::host_readable})
      copy(from, to);
    else
      refuse_layout(class_name<L>());
  }
  [[noreturn, gnu::cold, gnu::noinline]] static void refuse_strided(const std::string& layer) {
    throw ArgumentError(
        message({layer,
                 ": x is strided, and the layer's tape, which is no ssm::InputTape, cannot "
                 "keep a copy; give it ssm::clone(x)"}));
  }
  [[noreturn, gnu::cold, gnu::noinline]] static void refuse_layout(const std::string& layer) {
    throw ArgumentError(
        message({layer, ": an operand is strided, and the backend has nothing to copy it by"}));
  }
};

}  // namespace ssm::detail
