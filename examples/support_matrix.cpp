// SPDX-License-Identifier: Apache-2.0
// Prints docs/support_matrix.md from the concepts themselves.
#include <cstdio>
#include <ssm/backend/cpu.hpp>
#include <ssm/backend/reference.hpp>
#include <ssm/layer/dense_mamba.hpp>
#include <ssm/layer/gated_state_space.hpp>
#include <ssm/layer/gau_retention.hpp>
#include <ssm/layer/retention.hpp>
#include <ssm/ssm.hpp>
#include <string>

namespace {

using ssm::Cpu;
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
};

void print(const char* heading, std::initializer_list<Row> rows) {
  std::printf("\n| %s | Reference | Cpu |\n| --- | --- | --- |\n", heading);
  for (const Row& row : rows)
    std::printf("| %s | %s | %s |\n", row.name, row.reference ? "yes" : "no",
                row.cpu ? "yes" : "no");
}

template <class L>
Row layer(const char* name) {
  return {name, RunsOn<L, Reference>, RunsOn<L, Cpu>};
}

}  // namespace

int main() {
  std::printf(
      "# Support matrix\n\n"
      "Written by `support_matrix` from the concepts of the code; a test compares. Every row holds "
      "in float and double,\n"
      "forward and backward; layers also in prefill and step, with states in and out, and on "
      "packed sequences.\n");
  print(
      "primitive",
      {{"causal_convolution", ssm::HasCausalConvolution<Reference>, ssm::HasCausalConvolution<Cpu>},
       {"diagonal_kernel", ssm::HasDiagonalKernel<Reference>, ssm::HasDiagonalKernel<Cpu>},
       {"diagonal_parameters", ssm::HasDiagonalParameters<Reference>,
        ssm::HasDiagonalParameters<Cpu>},
       {"diagonal_scan", ssm::HasDiagonalScan<Reference>, ssm::HasDiagonalScan<Cpu>},
       {"shift_convolution", ssm::HasShiftConvolution<Reference>, ssm::HasShiftConvolution<Cpu>},
       {"short_convolution", ssm::HasShortConvolution<Reference>, ssm::HasShortConvolution<Cpu>},
       {"selective_scan", ssm::HasSelectiveScan<Reference>, ssm::HasSelectiveScan<Cpu>},
       {"h3_mixer", ssm::HasH3Mixer<Reference>, ssm::HasH3Mixer<Cpu>},
       {"attention, rotary", ssm::HasAttention<Reference>, ssm::HasAttention<Cpu>},
       {"decayed_attention, decayed_score_norm, retention_scale",
        ssm::HasDecayedAttention<Reference>, ssm::HasDecayedAttention<Cpu>},
       {"pair_rotation, advance_position", ssm::HasPairRotation<Reference>,
        ssm::HasPairRotation<Cpu>},
       {"matmul", ssm::HasMatmul<Reference>, ssm::HasMatmul<Cpu>},
       {"normalization", ssm::HasNormalization<Reference>, ssm::HasNormalization<Cpu>},
       {"activation", ssm::HasActivation<Reference>, ssm::HasActivation<Cpu>},
       {"embedding", ssm::HasEmbedding<Reference>, ssm::HasEmbedding<Cpu>},
       {"cross_entropy", ssm::HasCrossEntropy<Reference>, ssm::HasCrossEntropy<Cpu>},
       {"dropout", ssm::HasDropout<Reference>, ssm::HasDropout<Cpu>},
       {"rearrange, add, fill", ssm::HasRearrange<Reference>, ssm::HasRearrange<Cpu>},
       {"adamw_update, sum_of_squares", ssm::HasOptimizerUpdate<Reference>,
        ssm::HasOptimizerUpdate<Cpu>},
       {"sample", ssm::HasSample<Reference>, ssm::HasSample<Cpu>}});
  print("layer",
        {layer<ssm::DiagonalSsm<ssm::DiagonalSsmConfig{.channels = 8}>>("DiagonalSsm, scan"),
         layer<ssm::DiagonalSsm<ssm::DiagonalSsmConfig{
             .channels = 8, .form = ssm::DiagonalForm::convolution}>>("DiagonalSsm, convolution"),
         layer<ssm::ShiftSsm<ssm::ShiftSsmConfig{.channels = 8}>>("ShiftSsm"),
         layer<ssm::H3<ssm::H3Config{.channels = 8}>>("H3"),
         layer<ssm::CausalAttention<ssm::CausalAttentionConfig{.channels = 8, .heads = 2}>>(
             "CausalAttention (no state with packed sequences)"),
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
