// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <span>
#include <utility>
#include <vector>

#include "ssm/layer/dense_fusion.hpp"
#include "ssm/layer/dropout.hpp"
#include "ssm/layer/initial_state.hpp"
#include "ssm/layer/layer.hpp"
#include "ssm/model/fixed_string.hpp"
#include "ssm/model/recompute.hpp"
#include "ssm/op/rearrange.hpp"

namespace ssm {

/// A layer that reads what earlier layers of its kind computed at the same positions, beside its
/// input:
///   L::Hidden<T, Space>       views of what later layers read of it, or of its gradient
///   L::KeptHidden<T, Space>   the tensors behind them, for a tape
///   layer.hidden_buffer<T>(ctx, frame, kept | nullptr, HiddenShape)
///   L::for_each_hidden(visit, hidden)                       visit(view), those that are there
///   layer.evaluate(…, options, sources, hidden)             sources oldest first; fills hidden
///   layer.differentiate(…, ends, sources, hidden, dsources, dhidden)
///                                                           adds to dsources, reads dhidden
template <class L>
concept DenseConnectable = requires(typename L::template Hidden<float, HostSpace> hidden,
                                    typename L::template KeptHidden<float, HostSpace> kept) {
  L::for_each_hidden([](const auto&) {}, hidden);
};

struct DenseStackConfig {
  Index sources = 1;   // m: how many earlier layers a layer reads
  double dropout = 0;  // training only: of what a layer adds
};

/// Pre-norm residual blocks of one densely connected layer.
///   h ← h + layer_l(norm_l(h); hidden_{l−m} … hidden_{l−1})
/// with hidden_l what layer l computed before any fusion.
/// x, y    [B, L, D]   y must not overlap x
/// state   of the layers
/// Tensors of block i are named "layers.i." before `norm_name` and `inner_name` and the parts' own
/// names.
/// With `tape.recompute` the tape holds what blocks read and their hidden states, and `backward`
/// runs each forward once more: Recompute.
/// Source  He et al. 2024 (DenseSSM) §3
template <class NormLayer, class Inner, FixedString norm_name = "norm",
          FixedString inner_name = "mixer">
class DenseStack : public LayerVerbs<DenseStack<NormLayer, Inner, norm_name, inner_name>> {
  static constexpr std::size_t max_sources = 8;

 public:
  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<DenseStack, T, Space> {
    /// What a block learns: its norm and its layer.
    struct Block {
      typename NormLayer::template Parameters<T, Space> norm;
      typename Inner::template Parameters<T, Space> inner;
    };
    std::vector<Block> blocks;
  };
  template <class T, class Space = HostSpace>
  struct State {
    std::vector<typename Inner::template State<T, Space>> blocks;
  };
  /// What a block computes on the way to its output.
  template <class T, class Space>
  struct Computed {
    typename NormLayer::template Tape<T, Space> norm;
    DynamicTensor<T, 3, Space> normed;
    typename Inner::template Tape<T, Space> inner;
  };
  template <class T, class Space = HostSpace>
  struct Tape : InputTape<T, Space>, Recompute<DenseStack, Computed<T, Space>, T, Space> {
    /// What a block keeps for `backward`, its hidden state among it.
    struct Block {
      DynamicTensor<T, 3, Space> input;  // the first block's is the caller's
      Computed<T, Space> computed;
      typename Inner::template KeptHidden<T, Space> kept;
      typename Inner::template Hidden<T, Space> hidden;
      LayerDropout::Tape dropout;
    };
    std::vector<Block> blocks;
    HiddenShape shape;
  };

  /// Throws  ArgumentError  without blocks, for layers of another width than the norm, for a
  ///                        negative number of sources and for more than 8, and for a dropout that
  ///                        is not in [0, 1)
  DenseStack(DenseStackConfig config, NormLayer norm, std::vector<Inner> layers)
      : sources_(config.sources),
        dropout_("DenseStack", config.dropout),
        norm_(std::move(norm)),
        layers_(std::move(layers)) {
    if (layers_.empty()) throw ArgumentError("DenseStack: a model needs at least one block");
    for (const Inner& layer : layers_)
      if (layer.channels() != norm_.channels())
        throw ArgumentError(message({"DenseStack: a layer takes ", layer.channels(),
                                     " channels, the norm gives ", norm_.channels()}));
    if (sources_ < 0 || sources_ > static_cast<Index>(max_sources))
      throw ArgumentError(message(
          {"DenseStack: a layer can read 0 to ", max_sources, " earlier ones, not ", sources_}));
  }

  Index channels() const { return norm_.channels(); }
  Index block_count() const { return static_cast<Index>(layers_.size()); }
  Index sources() const { return sources_; }
  const std::vector<Inner>& layers() const { return layers_; }

  template <class B, class T>
  static constexpr bool runs_on = (RunsOn<NormLayer, B, T> && RunsOn<Inner, B, T> &&
                                   HasRearrange<B, T> && DenseConnectable<Inner>);

  template <class B, class T>
    requires RunsOn<DenseStack, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, dyn> x, Output<B, T, dyn, dyn, dyn> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options = {}) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    const std::size_t count = layers_.size();
    const HiddenShape shape{.batch = x.extent(0),
                            .length = x.extent(1),
                            .sequences = sequence_count(x.extent(0), options.segments),
                            .has_initial_state = options.initial_state != nullptr};
    if (tape != nullptr) {
      tape->blocks.resize(count);
      tape->shape = shape;
    }
    if (options.final_state != nullptr) options.final_state->blocks.resize(count);
    if (tape != nullptr && tape->recompute) tape->begin(ctx, x, options);
    Ring<T, Space> ring;
    if (tape == nullptr)
      for (std::size_t i = 0; i < std::min(count, ring_size()); ++i)
        ring[i] = layers_[i].template hidden_buffer<T>(ctx, frame, nullptr, shape);
    auto mixed = frame.template tensor<T>(x.extents());
    View<T, 3, Space> normed;
    if (tape == nullptr) normed = frame.template tensor<T>(x.extents());
    // Without a tape one buffer is enough: a block adds to what it read.
    View<T, 3, Space> running = tape == nullptr ? View<T, 3, Space>(y) : View<T, 3, Space>{};
    View<const T, 3, Space> current = x;
    for (std::size_t i = 0; i < count; ++i) {
      auto* block = tape != nullptr ? &tape->blocks[i] : nullptr;
      auto* computed = tape != nullptr ? &computed_of(*tape, i) : nullptr;
      if (block != nullptr) {
        block->hidden = layers_[i].template hidden_buffer<T>(ctx, frame, &block->kept, shape);
        if (i + 1 < count) tape->blocks[i + 1].input.resize(x.extents());
        running = i + 1 < count ? tape->blocks[i + 1].input.view() : View<T, 3, Space>(y);
      }
      const auto [sources, hidden] = connections<T, Space>(tape, ring, i);
      evaluate_block<B, T>(ctx, p.blocks[i], i, current, normed, mixed, computed,
                           options.part(
                               [i](auto& state) -> auto& { return state.blocks[i]; }, i),
                           sources.span(), hidden);
      dropout_.evaluate(ctx, mixed, block ? &block->dropout : nullptr,
                        detail::fork(options.dropout, i));
      add(ctx, Add<T, Space>{.a = current.flatten(), .b = mixed.flatten(), .y = running.flatten()});
      current = running;
    }
  }

  template <class B, class T>
    requires RunsOn<DenseStack, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, dyn> dy,
                     Output<B, T, dyn, dyn, dyn> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    using Space = typename B::Space;
    using Hidden = typename Inner::template Hidden<T, Space>;
    auto frame = ctx.workspace().frame();
    const std::size_t count = layers_.size();
    if (ends.initial_state != nullptr) ends.initial_state->blocks.resize(count);
    // The gradient of a layer's hidden tensors gathers while the layers that read it are passed.
    // That of an initial state may be wanted although the state was zero, and not there.
    HiddenShape shape = tape.shape;
    if (ends.initial_state != nullptr) shape.has_initial_state = true;
    Ring<T, Space> ring;
    for (std::size_t i = 0; i < std::min(count, ring_size()); ++i) {
      ring[i] = layers_[i].template hidden_buffer<T>(ctx, frame, nullptr, shape);
      clear(ctx, ring[i]);
    }
    const View<T, 3, Space> running(dx);
    if (running.data() != dy.data())
      add(ctx, Add<T, Space>{.a = dy.flatten(), .y = running.flatten()});
    auto dnormed = frame.template tensor<T>(dy.extents());
    for (std::size_t i = count; i-- > 0;) {
      const auto& block = tape.blocks[i];
      const std::size_t first = first_source(i);
      Sources<Hidden> sources, dsources;
      for (std::size_t source = first; source < i; ++source) {
        sources.push(tape.blocks[source].hidden);
        dsources.push(ring[source % ring_size()]);
      }
      const Hidden& dhidden = ring[i % ring_size()];
      auto part = ctx.workspace().frame();
      if (tape.recompute && !tape.holds(i))
        evaluate_block<B, T>(ctx, p.blocks[i], i, i == 0 ? tape.x : block.input.view(), {},
                             part.template tensor<T>(dy.extents()), &tape.use(i),
                             tape.again().part(
                                 [i](auto& state) -> auto& { return state.blocks[i]; }, i),
                             sources.span(), block.hidden);
      const auto& computed = computed_of(tape, i);
      const auto dmixed = dropout_.template differentiated<T>(ctx, part, block.dropout, running);
      layers_[i].differentiate(ctx, p.blocks[i].inner, computed.inner, dmixed, dnormed,
                               gradients.blocks[i].inner,
                               ends.part([i](auto& state) -> auto& { return state.blocks[i]; }),
                               sources.span(), block.hidden, dsources.span(), dhidden);
      if (i >= ring_size()) clear(ctx, dhidden);  // it is layer i − ring_size()'s from here on
      norm_.differentiate(ctx, p.blocks[i].norm, computed.norm, dnormed, running,
                          gradients.blocks[i].norm, {}, WriteMode::accumulate);
    }
  }

  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const Context<B>& ctx, Index sequences,
                                            Index reserve = 0) const {
    State<T, typename B::Space> state;
    for (const Inner& layer : layers_)
      state.blocks.push_back(initial_state_of<T>(layer, ctx, sequences, reserve));
    return state;
  }
  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    for (const Inner& layer : layers_)
      p.blocks.push_back({.norm = norm_.template zero_parameters<T>(ctx),
                          .inner = layer.template zero_parameters<T>(ctx)});
    return p;
  }
  template <class T>
  [[gnu::cold]] void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      norm_.fill_parameters(p.blocks[i].norm, seed.fork(i).fork("norm"));
      layers_[i].fill_parameters(p.blocks[i].inner, seed.fork(i).fork("inner"));
    }
  }

  /// Parameters to be filled take the number of blocks of the first.
  static void for_each_parameter(auto&& visit, auto& p, auto&... more) {
    (match_block_count(p.blocks.size(), more), ...);
    for (std::size_t i = 0; i < p.blocks.size(); ++i) {
      const auto named = scoped("layers." + std::to_string(i), visit);
      NormLayer::for_each_parameter(scoped(norm_name.text(), named), p.blocks[i].norm,
                                    more.blocks[i].norm...);
      Inner::for_each_parameter(scoped(inner_name.text(), named), p.blocks[i].inner,
                                more.blocks[i].inner...);
    }
  }
  /// States to be filled take the length of the first.
  static void for_each_state(auto&& visit, auto& state, auto&... more) {
    (match_block_count(state.blocks.size(), more), ...);
    for (std::size_t i = 0; i < state.blocks.size(); ++i) {
      const auto named = [&](const std::string& name, auto&... tensors) {
        visit("layers." + std::to_string(i) + "." + name, tensors...);
      };
      Inner::for_each_state(named, state.blocks[i], more.blocks[i]...);
    }
  }

 private:
  /// That of block i: its own, or what all of them use in turn.
  static auto& computed_of(auto& tape, std::size_t i) {
    return tape.recompute ? tape.use(i) : tape.blocks[i].computed;
  }

  /// mixed = layer_i(norm_i(x)); `normed` is there where nothing is kept.
  template <class B, class T, class Weights, class State, class Hidden>
  void evaluate_block(Context<B>& ctx, const Weights& p, std::size_t i,
                      const View<const T, 3, typename B::Space>& x,
                      View<T, 3, typename B::Space> normed,
                      const View<T, 3, typename B::Space>& mixed,
                      Computed<T, typename B::Space>* computed,
                      const SequenceOptions<State>& options, std::span<const Hidden> sources,
                      const Hidden& hidden) const {
    if (computed != nullptr) {
      computed->normed.resize(x.extents());
      normed = computed->normed;
    }
    norm_.evaluate(ctx, p.norm, x, normed, computed ? &computed->norm : nullptr);
    layers_[i].evaluate(ctx, p.inner, normed, mixed, computed ? &computed->inner : nullptr, options,
                        sources, hidden);
  }

  /// Hidden tensors of the layers that are still read, by layer number modulo their number.
  template <class T, class Space>
  using Ring = std::array<typename Inner::template Hidden<T, Space>, max_sources + 1>;

  /// The sources of one layer, the oldest first.
  template <class Hidden>
  struct Sources {
    std::array<Hidden, max_sources> all{};
    std::size_t count = 0;
    void push(const Hidden& hidden) { all[count++] = hidden; }
    std::span<const Hidden> span() const { return {all.data(), count}; }
  };

  std::size_t ring_size() const { return static_cast<std::size_t>(sources_) + 1; }
  std::size_t first_source(std::size_t i) const {
    return i - std::min(i, static_cast<std::size_t>(sources_));
  }

  /// What layer i reads, and where it leaves what later layers read.
  template <class T, class Space>
  auto connections(const Tape<T, Space>* tape, const Ring<T, Space>& ring, std::size_t i) const {
    using Hidden = typename Inner::template Hidden<T, Space>;
    const auto hidden = [&](std::size_t layer) {
      return tape != nullptr ? tape->blocks[layer].hidden : ring[layer % ring_size()];
    };
    Sources<Hidden> sources;
    for (std::size_t source = first_source(i); source < i; ++source) sources.push(hidden(source));
    return std::pair(sources, hidden(i));
  }

  template <class B, class Hidden>
  static void clear(Context<B>& ctx, const Hidden& hidden) {
    Inner::for_each_hidden(
        [&](const auto& view) {
          using View = std::remove_cvref_t<decltype(view)>;
          fill(ctx, Fill<typename View::Value, typename B::Space>{.y = view.flatten()});
        },
        hidden);
  }

  static void match_block_count(std::size_t count, auto& state) {
    if constexpr (!std::is_const_v<std::remove_reference_t<decltype(state)>>)
      state.blocks.resize(count);
  }

  Index sources_;
  LayerDropout dropout_;
  NormLayer norm_;
  std::vector<Inner> layers_;
};

}  // namespace ssm
