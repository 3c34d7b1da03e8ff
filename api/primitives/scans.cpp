// SPDX-License-Identifier: Apache-2.0
// Primitives that carry a state from position to position.
#include "../layer_fields.hpp"
#include "../primitive_on.hpp"

namespace ssm::api::primitives {
namespace {

struct SelectiveScanOn {
  template <class T, class Space>
  using Call = SelectiveScan<T, Space>;
  template <class T, class Space>
  using Gradient = SelectiveScanBackward<T, Space>;
  static constexpr bool takes_half = true;
  static void set(const JsonObject& options, auto& call) {
    call.dt_softplus = options.boolean("dt_softplus", false);
  }
  static void forward(auto& ctx, const auto& a) { selective_scan(ctx, a); }
  static void backward(auto& ctx, const auto& g) { selective_scan_backward(ctx, g); }
};

struct SsdScanOn {
  template <class T, class Space>
  using Call = SsdScan<T, Space>;
  template <class T, class Space>
  using Gradient = SsdScanBackward<T, Space>;
  static constexpr bool takes_half = true;
  static void set(const JsonObject& options, auto& call) {
    call.dt_softplus = options.boolean("dt_softplus", false);
    call.dt_min = options.number("dt_min", call.dt_min, -any_number, any_number);
    call.dt_max = options.number("dt_max", call.dt_max, -any_number, any_number);
  }
  static void forward(auto& ctx, const auto& a) { ssd_scan(ctx, a); }
  static void backward(auto& ctx, const auto& g) { ssd_scan_backward(ctx, g); }
};

struct DiagonalScanOn {
  template <class T, class Space>
  using Call = DiagonalScan<T, Space>;
  template <class T, class Space>
  using Gradient = DiagonalScanBackward<T, Space>;
  static constexpr bool takes_half = true;
  static void set(const JsonObject& options, auto& call) {
    call.discretization = discretization_of(options, "bilinear");
  }
  static void forward(auto& ctx, const auto& a) { diagonal_scan(ctx, a); }
  static void backward(auto& ctx, const auto& g) { diagonal_scan_backward(ctx, g); }
};

struct DiagonalKernelOn {
  template <class T, class Space>
  using Call = DiagonalKernel<T, Space>;
  template <class T, class Space>
  using Gradient = DiagonalKernelBackward<T, Space>;
  static constexpr bool takes_half = false;
  static void set(const JsonObject& options, auto& call) {
    call.discretization = discretization_of(options, "bilinear");
  }
  static void forward(auto& ctx, const auto& a) { diagonal_kernel(ctx, a); }
  static void backward(auto& ctx, const auto& g) { diagonal_kernel_backward(ctx, g); }
};

struct H3MixerOn {
  template <class T, class Space>
  using Call = H3Mixer<T, Space>;
  template <class T, class Space>
  using Gradient = H3MixerBackward<T, Space>;
  static constexpr bool takes_half = true;
  static void set(const JsonObject& options, auto& call) {
    call.discretization = discretization_of(options, "bilinear");
  }
  static void forward(auto& ctx, const auto& a) { h3_mixer(ctx, a); }
  static void backward(auto& ctx, const auto& g) { h3_mixer_backward(ctx, g); }
};

}  // namespace

const PrimitiveKind selective_scan_kind{"selective_scan", "| dt_softplus",
                                        operands_of<SelectiveScanOn>,
                                        make_primitive<SelectiveScanOn>};
const PrimitiveKind ssd_scan_kind{"ssd_scan", "| dt_softplus dt_min dt_max", operands_of<SsdScanOn>,
                                  make_primitive<SsdScanOn>};
const PrimitiveKind diagonal_scan_kind{"diagonal_scan", "| discretization",
                                       operands_of<DiagonalScanOn>, make_primitive<DiagonalScanOn>};
const PrimitiveKind diagonal_kernel_kind{"diagonal_kernel", "| discretization",
                                         operands_of<DiagonalKernelOn>,
                                         make_primitive<DiagonalKernelOn>};
const PrimitiveKind h3_mixer_kind{"h3_mixer", "| discretization", operands_of<H3MixerOn>,
                                  make_primitive<H3MixerOn>};

}  // namespace ssm::api::primitives
