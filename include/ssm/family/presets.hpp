// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/family/dense_retnet.hpp"
#include "ssm/family/families.hpp"
#include "ssm/family/gpt2.hpp"
#include "ssm/family/h3.hpp"
#include "ssm/family/mamba.hpp"
#include "ssm/family/mamba2.hpp"

namespace ssm {
namespace detail {

inline H3LanguageModelConfig published_h3(Index width, Index layers, std::vector<Index> attention,
                                          Index heads, Index rotary = 0) {
  return {.d_model = width,
          .n_layer = layers,
          .d_inner = 4 * width,
          .vocab_size = 50257,
          .pad_vocab_size_multiple = 8,
          .d_state = 64,
          .attn_layer_idx = std::move(attention),
          .num_heads = heads,
          .rotary_emb_dim = rotary};
}
inline MambaLanguageModelConfig published_mamba(Index width, Index layers) {
  MambaLanguageModelConfig config;
  config.d_model = width;
  config.n_layer = layers;
  config.vocab_size = 50277;
  config.pad_vocab_size_multiple = 8;
  config.d_inner = MambaLanguageModelConfig::default_d_inner(width);
  config.dt_rank = MambaLanguageModelConfig::default_dt_rank(width);
  return config;
}
inline Mamba2LanguageModelConfig published_mamba2(Index width, Index layers) {
  Mamba2LanguageModelConfig config;
  config.d_model = width;
  config.n_layer = layers;
  config.vocab_size = 50277;
  config.pad_vocab_size_multiple = 16;
  config.d_inner = Mamba2LanguageModelConfig::default_d_inner(width);
  return config;
}
inline DenseRetNetLanguageModelConfig published_dense_retnet(Index width, Index layers,
                                                             Index heads) {
  DenseRetNetLanguageModelConfig config;
  config.d_model = width;
  config.n_layer = layers;
  config.vocab_size = 32000;
  config.num_heads = heads;
  config.d_key = width / 2;
  config.d_value = 2 * width;
  config.dense_block_layers = 1;
  return config;
}
/// The files published under the name DenseMamba, which hold DenseRetNets.
inline DenseRetNetLanguageModelConfig uploaded_dense_retnet(Index width, Index layers, Index heads,
                                                            Index k_reduction, Index v_reduction) {
  auto config = published_dense_retnet(width, layers, heads);
  config.vocab_size = 32001;
  config.dense_block_layers = 2;
  config.k_select_reduction = k_reduction;
  config.v_select_reduction = v_reduction;
  return config;
}
inline MambaLanguageModelConfig published_dense_mamba(Index width) {
  auto config = published_mamba(width, 50);
  config.vocab_size = 32001;
  config.pad_vocab_size_multiple = 1;
  config.dense_block_layers = 2;
  return config;
}
inline RetNetLanguageModelConfig published_retnet(Index width, Index layers, Index heads) {
  return {.d_model = width,
          .n_layer = layers,
          .vocab_size = 32000,
          .num_heads = heads,
          .d_value = 2 * width,
          .d_inner = (4 * width / 3 + 255) / 256 * 256};
}
inline Gpt2LanguageModelConfig published_gpt2(Index width, Index layers, Index heads) {
  return {.n_embd = width, .n_layer = layers, .n_head = heads, .n_inner = 4 * width};
}

}  // namespace detail

/// Published models by name: visit.operator()<Family>(name, config) for each. Sizes alone; the
/// weights are where they were published.
/// Source  HazyResearch/H3, examples; state-spaces/mamba; WailordHe/DenseSSM and its two uploads;
///         He et al. 2024 (DenseSSM), whose Dense Mambas are described and not published; Sun et
///         al. 2023 (RetNet), in the sizes of fla-hub/retnet-1.3B-100B; Radford et
///         al. 2019 (GPT-2), as Hugging Face counts its models
template <class Visit>
void for_each_preset(Visit&& visit) {
  const auto h3 = [&](std::string_view name, const H3LanguageModelConfig& config) {
    visit.template operator()<H3Family>(name, config);
  };
  h3("h3-125m", detail::published_h3(768, 12, {6}, 12));
  h3("h3-355m", detail::published_h3(1024, 24, {8, 16}, 16));
  h3("h3-1.3b", detail::published_h3(2048, 24, {8, 16}, 16));
  h3("h3-2.7b", detail::published_h3(2560, 32, {8, 16, 24}, 20));
  h3("h3-2.7b-rotary", detail::published_h3(2560, 32, {10, 21}, 20, 64));
  struct Size {
    std::string_view name;
    Index width, layers;
  };
  for (const Size& size : {Size{"130m", 768, 24}, Size{"370m", 1024, 48}, Size{"790m", 1536, 48},
                           Size{"1.4b", 2048, 48}, Size{"2.8b", 2560, 64}})
    visit.template operator()<MambaFamily>("mamba-" + std::string(size.name),
                                           detail::published_mamba(size.width, size.layers));
  for (const Size& size : {Size{"130m", 768, 24}, Size{"370m", 1024, 48}, Size{"780m", 1536, 48},
                           Size{"1.3b", 2048, 48}, Size{"2.7b", 2560, 64}})
    visit.template operator()<Mamba2Family>("mamba2-" + std::string(size.name),
                                            detail::published_mamba2(size.width, size.layers));
  const auto dense = [&](std::string_view name, const DenseRetNetLanguageModelConfig& config) {
    visit.template operator()<DenseRetNetFamily>(name, config);
  };
  dense("dense-retnet-350m", detail::published_dense_retnet(1536, 16, 2));
  dense("dense-retnet-1.3b", detail::published_dense_retnet(2560, 25, 4));
  dense("dense-retnet-350m-hf", detail::uploaded_dense_retnet(1536, 16, 2, 8, 32));
  dense("dense-retnet-1.3b-hf", detail::uploaded_dense_retnet(2560, 25, 4, 16, 8));
  for (const Size& size : {Size{"360m", 1024, 50}, Size{"1.3b", 2048, 50}})
    visit.template operator()<DenseMambaFamily>("dense-mamba-" + std::string(size.name),
                                                detail::published_dense_mamba(size.width));
  const auto retnet = [&](std::string_view name, Index width, Index heads) {
    visit.template operator()<RetNetFamily>(name, detail::published_retnet(width, 24, heads));
  };
  retnet("retnet-1.3b", 2048, 8);
  const auto gpt2 = [&](std::string_view name, Index width, Index layers, Index heads) {
    visit.template operator()<Gpt2Family>(name, detail::published_gpt2(width, layers, heads));
  };
  gpt2("gpt2", 768, 12, 12);
  gpt2("gpt2-medium", 1024, 24, 16);
  gpt2("gpt2-large", 1280, 36, 20);
  gpt2("gpt2-xl", 1600, 48, 25);
}

/// "h3-125m, h3-355m, …"
inline std::string preset_names() {
  std::string names;
  for_each_preset([&]<class F>(std::string_view name, const typename F::Config&) {
    names += (names.empty() ? "" : ", ") + std::string(name);
  });
  return names;
}

/// visit.operator()<Family>(config) for the preset of a name.
/// Throws  ArgumentError  for a name that none has
template <class Visit>
void with_preset(std::string_view wanted, Visit&& visit) {
  bool is_found = false;
  for_each_preset([&]<class F>(std::string_view name, const typename F::Config& config) {
    if (name != wanted) return;
    is_found = true;
    visit.template operator()<F>(config);
  });
  if (!is_found)
    throw ArgumentError("no published model is named '" + std::string(wanted) + "'; there are " +
                        preset_names());
}

/// The parameters that a model of these sizes has, without making it.
template <LanguageModelFamily F>
Index parameter_count_of(const typename F::Config& config) {
  return parameter_count(F::make(config).template zero_parameters<float>(Context<ShapesOnly>()));
}

}  // namespace ssm
