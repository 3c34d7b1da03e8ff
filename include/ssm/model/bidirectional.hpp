// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/layer/layer.hpp"
#include "ssm/layer/widths.hpp"
#include "ssm/op/rearrange.hpp"

namespace ssm {

/// A layer twice, with weights for each direction of time: every position hears of the past and of
/// the future.
///   y = forward(x) + reversed(backward(reversed(x)))
/// It is not causal and so has no state: it trains and evaluates whole sequences, packed ones too,
/// and refuses prefill, step and states. Inside a Residual or a Sequential, the whole model does.
/// x       [B, L, inputs]
/// y       [B, L, outputs]   contiguous
/// Tensors are named "forward." and "backward." before the layer's own names.
/// Cost    the layer's twice and a sum; three copies of a sequence where the layer does not take
///         any strides
/// Throws  ArgumentError  where a state is given
template <class L>
class Bidirectional : public LayerVerbs<Bidirectional<L>> {
  static constexpr bool takes_any_strides = detail::operand_layout_of<L>() == OperandLayout::any;

 public:
  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<Bidirectional, T, Space> {
    typename L::template Parameters<T, Space> forward;
    typename L::template Parameters<T, Space> backward;
  };
  template <class, class = HostSpace>
  using State = NoState;
  template <class T, class Space = HostSpace>
  struct Tape {
    typename L::template Tape<T, Space> forward;
    typename L::template Tape<T, Space> backward;
    DynamicTensor<T, 3, Space> reversed_x;
  };

  Bidirectional() requires(std::is_default_constructible_v<L>) = default;
  /// Both directions have the sizes of `layer`.
  explicit Bidirectional(L layer) : layer_(std::move(layer)) {}

  Index inputs() const { return input_channels(layer_); }
  Index outputs() const { return output_channels(layer_); }
  /// Of a layer that leaves the width as it is.
  Index channels() const { return inputs(); }

  template <class B, class T>
  static constexpr bool runs_on = (RunsOn<L, B, T> && HasRearrange<B, T>);

  template <class B, class T>
    requires RunsOn<Bidirectional, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, dyn> x, Output<B, T, dyn, dyn, dyn> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<NoState>& options = {}) const {
    using Space = typename B::Space;
    require_no_state(options.initial_state != nullptr || options.final_state != nullptr);
    require_segments("Bidirectional", options.segments, x.extent(0), x.extent(1));
    if (ctx.sequence_cut() != nullptr)
      throw ArgumentError("Bidirectional: sequences cannot lie across ranks");
    auto frame = ctx.workspace().frame();
    using Kept = Tape<T, Space>;
    const Buffers buffers(frame, tape);
    View<const T, 3, Space> reversed_x = read_backwards(View<const T, 3, Space>(x));
    if constexpr (!takes_any_strides) {
      const auto copy = buffers.at(&Kept::reversed_x, x.extents());
      rearrange(ctx, Rearrange<T, Space>{.x = reversed_x, .y = copy});
      reversed_x = copy;
    }
    const std::vector<Index> segments = reversed(options.segments);
    const auto direction = [&](std::string_view name, Segments packing) {
      return SequenceOptions<typename L::template State<T, Space>>{
          .segments = packing, .dropout = detail::fork(options.dropout, name)};
    };
    layer_.evaluate(ctx, p.forward, x, y, buffers.part(&Kept::forward),
                    direction("forward", options.segments));
    const auto other = frame.template tensor<T>(y.extent(0), y.extent(1), y.extent(2));
    layer_.evaluate(ctx, p.backward, reversed_x, as_written(other), buffers.part(&Kept::backward),
                    direction("backward", segments));
    add_other<B, T>(ctx, frame, other, y);
  }

  template <class B, class T>
    requires RunsOn<Bidirectional, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, dyn> dy,
                     Output<B, T, dyn, dyn, dyn> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<NoState>& ends = {}) const {
    require_no_state(ends.initial_state != nullptr || ends.final_state != nullptr);
    auto frame = ctx.workspace().frame();
    using Space = typename B::Space;
    View<const T, 3, Space> reversed_dy = read_backwards(View<const T, 3, Space>(dy));
    if constexpr (!takes_any_strides) {
      const auto copy = frame.template tensor<T>(dy.extent(0), dy.extent(1), dy.extent(2));
      rearrange(ctx, Rearrange<T, Space>{.x = reversed_dy, .y = copy});
      reversed_dy = copy;
    }
    const auto other = frame.template tensor<T>(dx.extent(0), dx.extent(1), dx.extent(2));
    layer_.differentiate(ctx, p.backward, tape.backward, reversed_dy, as_written(other),
                         gradients.backward);
    layer_.differentiate(ctx, p.forward, tape.forward, dy, dx, gradients.forward);
    add_other<B, T>(ctx, frame, other, dx);
  }

  template <class T = float, class B>
  NoState initial_state(const Context<B>&, Index) const {
    return {};
  }
  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    p.forward = layer_.template zero_parameters<T>(ctx);
    p.backward = layer_.template zero_parameters<T>(ctx);
    return p;
  }
  template <class T>
  void fill_parameters(Parameters<T>& p, Seed seed) const {
    layer_.fill_parameters(p.forward, seed.fork("forward"));
    layer_.fill_parameters(p.backward, seed.fork("backward"));
  }

  static void for_each_parameter(auto&& visit, auto&... p) {
    L::for_each_parameter(scoped("forward", visit), p.forward...);
    L::for_each_parameter(scoped("backward", visit), p.backward...);
  }
  static void for_each_state(auto&&, auto&...) {}

 private:
  static void require_no_state(bool is_given) {
    if (is_given)
      throw ArgumentError(
          "Bidirectional: a layer that reads the future has no state: use forward without states, "
          "not prefill or step");
  }

  /// The offsets of the same sequences in a row that is read from its end.
  static std::vector<Index> reversed(Segments segments) {
    std::vector<Index> result(segments.rbegin(), segments.rend());
    for (Index& offset : result) offset = segments.back() - offset;
    return result;
  }

  /// Positions in the opposite order, without a copy.
  template <class T, class Space>
  static View<T, 3, Space> read_backwards(const View<T, 3, Space>& x) {
    if (x.size() == 0) return x;
    return {x.data() + (x.extent(1) - 1) * x.stride(1),
            x.extents(),
            {x.stride(0), -x.stride(1), x.stride(2)}};
  }
  /// What the second direction writes: where the layer takes any strides, it may write backwards.
  template <class T, class Space>
  static View<T, 3, Space> as_written(const View<T, 3, Space>& other) {
    return takes_any_strides ? read_backwards(other) : other;
  }
  /// Adds it, in the order of the sequence.
  template <class B, class T, class Frame>
  static void add_other(Context<B>& ctx, Frame& frame, View<T, 3, typename B::Space> other,
                        View<T, 3, typename B::Space> to) {
    if constexpr (!takes_any_strides) {
      const View<T, 3, typename B::Space> turned =
          frame.template tensor<T>(to.extent(0), to.extent(1), to.extent(2));
      rearrange(ctx, Rearrange<T, typename B::Space>{.x = read_backwards(other), .y = turned});
      other = turned;
    }
    add(ctx, Add<T, typename B::Space>{.a = to.flatten(), .b = other.flatten(), .y = to.flatten()});
  }

  L layer_;
};

}  // namespace ssm
