// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "ssm/laws/layer_on.hpp"
#include "ssm/layer/runs_on.hpp"
#include "support/backends.hpp"
#include "support/check_subject.hpp"

namespace ssm::laws {

#ifdef SSM_TEST_ACROSS_RANKS
/// How primitives run across ranks, on Reference and Cpu in every scalar that they compute in:
/// compiled once (laws/across_ranks.cpp).
const AcrossRanks& host_across_ranks();
#endif
/// For the law of ranks: on Reference and Cpu in double and in half types. What crosses is the same
/// elsewhere.
template <class B, class T>
const AcrossRanks* across_ranks_for() {
#ifdef SSM_TEST_ACROSS_RANKS
  constexpr bool is_host = std::is_same_v<B, Reference> || std::is_same_v<B, Cpu>;
  if constexpr (is_host && !std::is_same_v<T, float>) return &host_across_ranks();
#endif
  return nullptr;
}

/// Every law for one layer on one backend in one scalar, held against Reference in double.
template <class B, class T, class L>
void check_layer_in(const L& layer, const char* backend) {
  LayerOn<L, B, T> subject(layer, backend);
  LayerOn<L, Reference, double> reference(layer, "oracle");
  check_subject(subject, reference, across_ranks_for<B, T>());
}

/// Every law for one layer on every backend under test that it runs on, in float and in double; on
/// the CUDA backend's loops in float, as they are the same in both.
template <class L>
void check_layer(const L& layer) {
  for_each_backend([&]<class B>(const char* backend) {
    if constexpr (RunsOn<L, B>) {
      check_layer_in<B, float>(layer, backend);
      if constexpr (std::is_same_v<B, Reference> || has_threads<B>)
        check_layer_in<B, double>(layer, backend);
    }
  });
}

/// The same with sequences in both half types. On the CUDA backend's loops
/// cuda/half_layers_test.cpp does that.
template <class L>
void check_layer_in_half_types(const L& layer) {
  for_each_backend([&]<class B>(const char* backend) {
    if constexpr (RunsOn<L, B>) {
      if constexpr (std::is_same_v<B, Reference> || has_threads<B>) {
        check_layer_in<B, BFloat16>(layer, backend);
        check_layer_in<B, Float16>(layer, backend);
      }
    }
  });
}

/// The same for other sizes and options of a layer that is checked so already: on Reference in
/// double and on Cpu in float, which is what takes less time to compile; on Cpu, whose vectors
/// differ, in both.
template <class L>
void check_variant(const L& layer) {
  for_each_backend([&]<class B>(const char* backend) {
    if constexpr (RunsOn<L, B>) {
      if constexpr (!std::is_same_v<B, Reference>) check_layer_in<B, float>(layer, backend);
      if constexpr (std::is_same_v<B, Reference> || has_vectors<B>)
        check_layer_in<B, double>(layer, backend);
    }
  });
}

/// Every law for what is made of layers: its own code is the same on every backend and in both
/// scalars. On Reference in double, where the gradients are held against differences, and in float
/// on the others.
template <class L>
void check_model(const L& model) {
  for_each_backend([&]<class B>(const char* backend) {
    using T = std::conditional_t<std::is_same_v<B, Reference>, double, float>;
    if constexpr (RunsOn<L, B>) check_layer_in<B, T>(model, backend);
  });
}

/// The laws about blocking, threads and memory, on the backends under test that have any: not on
/// the oracle, nor on loops.
template <class L>
void check_laws_at_scale(const L& layer) {
  const auto check_in = [&]<class B, class T>(const char* backend, T) {
    LayerOn<L, B, T> subject(layer, backend);
    LayerOn<L, Reference, double> reference(layer, "oracle");
    check_subject_at_scale(subject, reference);
  };
  for_each_backend([&]<class B>(const char* backend) {
    if constexpr (has_threads<B> && RunsOn<L, B>) {
      check_in.template operator()<B>(backend, float());
      check_in.template operator()<B>(backend, double());
    }
  });
}

}  // namespace ssm::laws
