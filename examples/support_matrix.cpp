// SPDX-License-Identifier: Apache-2.0
// Prints docs/support_matrix.md from the concepts themselves.
#include <cstdio>
#include <ssm/backend/cpu.hpp>
#include <ssm/backend/cuda.hpp>
#include <ssm/backend/reference.hpp>
#include <ssm/layer/dense_mamba.hpp>
#include <ssm/layer/gated_state_space.hpp>
#include <ssm/layer/gau_retention.hpp>
#include <ssm/layer/retention.hpp>
#include <ssm/ssm.hpp>
#include <string>

namespace {

using ssm::Cpu;
using ssm::Cuda;
using ssm::Reference;

/// A layer runs on a backend when its verbs' constraints hold there.
template <class L, class B>
concept RunsOn = requires(const L& layer, ssm::Context<B>& ctx,
                          const typename L::template Parameters<float, typename B::Space>& p,
                          ssm::View<const float, 3, typename B::Space> x,
                          ssm::View<float, 3, typename B::Space> y,
                          typename L::template Tape<float, typename B::Space>* tape) {
  layer.evaluate(ctx, p, x, y, tape);
};

struct Row {
  const char* name;
  bool reference;
  bool cpu;
  bool cuda;
};

void print(const char* heading, std::initializer_list<Row> rows) {
  const auto word = [](bool has) { return has ? "yes" : "no"; };
  std::printf("\n| %s | Reference | Cpu | Cuda |\n| --- | --- | --- | --- |\n", heading);
  for (const Row& row : rows)
    std::printf("| %s | %s | %s | %s |\n", row.name, word(row.reference), word(row.cpu),
                word(row.cuda));
}

/// `has` says of a backend whether its concept holds.
template <class Has>
Row primitive(const char* name, Has has) {
  return {name, has.template operator()<Reference>(), has.template operator()<Cpu>(),
          has.template operator()<Cuda>()};
}

template <class L>
Row layer(const char* name) {
  return {name, RunsOn<L, Reference>, RunsOn<L, Cpu>, RunsOn<L, Cuda>};
}

}  // namespace

int main() {
  std::printf(
      "# Support matrix\n\n"
      "Written by `support_matrix` from the concepts of the code; a test compares. Every row holds "
      "in float and double,\n"
      "forward and backward; layers also in prefill and step, with states in and out, and on "
      "packed sequences.\n");
  print("primitive",
        {primitive("causal_convolution", []<class B> { return ssm::HasCausalConvolution<B>; }),
         primitive("diagonal_kernel", []<class B> { return ssm::HasDiagonalKernel<B>; }),
         primitive("diagonal_parameters", []<class B> { return ssm::HasDiagonalParameters<B>; }),
         primitive("diagonal_scan", []<class B> { return ssm::HasDiagonalScan<B>; }),
         primitive("shift_convolution", []<class B> { return ssm::HasShiftConvolution<B>; }),
         primitive("short_convolution", []<class B> { return ssm::HasShortConvolution<B>; }),
         primitive("selective_scan", []<class B> { return ssm::HasSelectiveScan<B>; }),
         primitive("driven_scan", []<class B> { return ssm::HasDrivenScan<B>; }),
         primitive("h3_mixer", []<class B> { return ssm::HasH3Mixer<B>; }),
         primitive("attention, rotary", []<class B> { return ssm::HasAttention<B>; }),
         primitive("decayed_attention, decayed_score_norm, retention_scale",
                   []<class B> { return ssm::HasDecayedAttention<B>; }),
         primitive("pair_rotation, advance_position",
                   []<class B> { return ssm::HasPairRotation<B>; }),
         primitive("matmul", []<class B> { return ssm::HasMatmul<B>; }),
         primitive("normalization", []<class B> { return ssm::HasNormalization<B>; }),
         primitive("activation", []<class B> { return ssm::HasActivation<B>; }),
         primitive("embedding", []<class B> { return ssm::HasEmbedding<B>; }),
         primitive("cross_entropy", []<class B> { return ssm::HasCrossEntropy<B>; }),
         primitive("dropout", []<class B> { return ssm::HasDropout<B>; }),
         primitive("rearrange, add, fill", []<class B> { return ssm::HasRearrange<B>; }),
         primitive("adamw_update, sum_of_squares",
                   []<class B> { return ssm::HasOptimizerUpdate<B>; }),
         primitive("sample", []<class B> { return ssm::HasSample<B>; })});
  print("layer",
        {layer<ssm::DiagonalSsm<ssm::DiagonalSsmConfig{.channels = 8}>>("DiagonalSsm, scan"),
         layer<ssm::DiagonalSsm<ssm::DiagonalSsmConfig{
             .channels = 8, .form = ssm::DiagonalForm::convolution}>>("DiagonalSsm, convolution"),
         layer<ssm::ShiftSsm<ssm::ShiftSsmConfig{.channels = 8}>>("ShiftSsm"),
         layer<ssm::H3<ssm::H3Config{.channels = 8}>>("H3"),
         layer<ssm::CausalAttention<ssm::CausalAttentionConfig{.channels = 8, .heads = 2}>>(
             "CausalAttention"),
         layer<ssm::GatedStateSpace<ssm::GatedStateSpaceConfig{
             .channels = 8, .gate_channels = 16, .state_channels = 4}>>("GatedStateSpace"),
         layer<ssm::Mamba<ssm::MambaConfig{.channels = 8}>>("Mamba"),
         layer<ssm::DenseMamba<ssm::DenseMambaConfig{.mamba = {.channels = 8}}>>("DenseMamba"),
         layer<ssm::Retention<ssm::RetentionConfig{.channels = 8, .value_dim = 16, .heads = 2}>>(
             "Retention"),
         layer<ssm::GauRetention<ssm::GauRetentionConfig{.channels = 8,
                                                         .query_key_dim = 8,
                                                         .value_dim = 16,
                                                         .heads = 2,
                                                         .k_hidden = 2,
                                                         .v_hidden = 2}>>("GauRetention"),
         layer<ssm::SelectiveTransition<ssm::SelectiveTransitionConfig{
             .channels = 8, .hidden = 2, .width = 8}>>("SelectiveTransition"),
         layer<ssm::Linear<ssm::LinearConfig{.inputs = 8, .outputs = 8}>>("Linear"),
         layer<ssm::LayerNorm<8>>("LayerNorm"), layer<ssm::RmsNorm<8>>("RmsNorm"),
         layer<ssm::FeedForward<ssm::FeedForwardConfig{.channels = 8, .hidden = 16}>>(
             "FeedForward, GELU"),
         layer<ssm::FeedForward<ssm::FeedForwardConfig{.channels = 8,
                                                       .hidden = 16,
                                                       .activation = ssm::ActivationKind::silu,
                                                       .gated = true,
                                                       .bias = false}>>("FeedForward, SwiGLU")});
}
