// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <span>

#include "ssm/layer/norm.hpp"
#include "ssm/op/rearrange.hpp"

namespace ssm {

struct HiddenFusionConfig {
  Index channels = dyn;
  bool normalize = true;  // RMS normalization of the sum
};
/// The sizes and choices of a HiddenFusion that are given at run time.
struct HiddenFusionOptions {
  Index channels = dyn;
  std::optional<double> eps{};  // of the normalization, 1e-6 if left out
};

/// Joins a layer's hidden state with what it selected from earlier layers.
///   y = h + Σ_i dense_i,  then y = RMS(y) · weight where `normalize`
/// h, y, dense_i   [B, L, channels]   contiguous
/// weight          [channels]
/// Cost    O(B·L·channels·sources)
/// Source  He et al. 2024 (DenseSSM) §3.3; the published DenseRetNet normalizes the sum
template <HiddenFusionConfig Config>
class HiddenFusion {
  static constexpr Index width = Config.channels;
  using Scale = Norm<NormConfig{.kind = NormalizationKind::rms, .channels = width}>;

 public:
  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<HiddenFusion, T, Space> {
    typename Scale::template Parameters<T, Space> norm;  // empty unless normalized
  };
  template <class T, class Space = HostSpace>
  struct Tape {
    DynamicTensor<T, 3, Space> sum;
    typename Scale::template Tape<T, Space> norm;
  };
  template <class B, class T>
  using Sources = std::span<const View<const T, 3, typename B::Space>>;

  /// All sizes in the type.
  HiddenFusion() requires(width != dyn) : HiddenFusion(HiddenFusionOptions{}) {}
  /// Sizes that are `dyn` in the type, and eps, come from here.
  /// Throws  ArgumentError  for what contradicts the type, as eps does where nothing is normalized
  explicit HiddenFusion(HiddenFusionOptions options)
      : norm_({.channels = resolve_extent(width, options.channels, "channels"),
               .eps = options.eps.value_or(1e-6)}) {
    if (!Config.normalize && options.eps)
      throw ArgumentError("HiddenFusion: eps is given, but nothing is normalized");
  }

  template <class B, class T>
  static constexpr bool runs_on = (HasRearrange<B, T> &&
                                   (!Config.normalize || RunsOn<Scale, B, T>));

  Index channels() const { return norm_.channels(); }

  /// y may be the same memory as h. Throws ShapeError if an extent differs.
  template <class B, class T>
    requires RunsOn<HiddenFusion, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, width> h, std::type_identity_t<Sources<B, T>> dense,
                Output<B, T, dyn, dyn, width> y,
                NonDeduced<Tape<T, typename B::Space>>* tape) const {
    using Space = typename B::Space;
    require_extents("hidden_fusion", "h", h, {dyn, dyn, channels()});
    require_extents("hidden_fusion", "y", y, h.extents().to_array());
    const OptionalTape saved(tape);
    View<T, 3, Space> sum = y;
    if (Config.normalize && tape != nullptr) sum = saved.kept(&Tape<T, Space>::sum, h.extents());
    View<const T, 3, Space> so_far = h;
    if (dense.empty()) add_to<T>(ctx, so_far, {}, sum);
    for (const auto& source : dense) {
      require_extents("hidden_fusion", "dense", source, h.extents().to_array());
      add_to<T>(ctx, so_far, source, sum);
      so_far = sum;
    }
    if constexpr (Config.normalize)
      norm_.evaluate(ctx, p.norm, sum, y, saved.part(&Tape<T, Space>::norm));
  }

  /// dsum is the gradient of h and of every dense_i alike; overwritten, may be the same memory as
  /// dy without normalization.
  template <class B, class T>
    requires RunsOn<HiddenFusion, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, width> dy,
                     Output<B, T, dyn, dyn, width> dsum,
                     Parameters<Wide<T>, typename B::Space>& gradients) const {
    if constexpr (Config.normalize)
      norm_.differentiate(ctx, p.norm, tape.norm, dy, dsum, gradients.norm);
    else
      add_to<T>(ctx, dy, {}, dsum);
  }

  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    if constexpr (Config.normalize) p.norm = norm_.template zero_parameters<T>(ctx);
    return p;
  }

  template <class T>
  [[gnu::cold]] void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    norm_.fill_parameters(p.norm, seed);
  }

  static void for_each_parameter(auto&& visit, auto&... p) {
    if constexpr (Config.normalize) Scale::for_each_parameter(visit, p.norm...);
  }

 private:
  template <class T, class B>
  static void add_to(Context<B>& ctx, std::type_identity_t<View<const T, 3, typename B::Space>> a,
                     std::type_identity_t<View<const T, 3, typename B::Space>> b,
                     std::type_identity_t<View<T, 3, typename B::Space>> y) {
    add(ctx, Add<T, typename B::Space>{.a = a.flatten(),
                                       .b = b ? b.flatten() : View<const T, 1, typename B::Space>(),
                                       .y = y.flatten()});
  }

  Scale norm_;
};

}  // namespace ssm
