// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <type_traits>
#include <vector>

#include "ssm/backend/cuda.hpp"
#include "ssm/backend/reference.hpp"
#include "ssm/laws/layer_on.hpp"
#include "ssm/layer/attention.hpp"
#include "ssm/layer/feed_forward.hpp"
#include "ssm/layer/h3.hpp"
#include "ssm/layer/linear.hpp"
#include "ssm/layer/mamba.hpp"
#include "ssm/layer/s4d.hpp"
#include "support/check_subject.hpp"
#include "tensor_cores_on_host.hpp"

using namespace ssm;

namespace {

/// Every law on the kernels of Choice, held against Reference in double.
template <class T, class Choice, class L>
void obeys_every_law(const L& layer) {
  laws::LayerOn<L, BasicCuda<HostSpace, Choice>, T> subject(layer, "cuda");
  laws::LayerOn<L, Reference, double> reference(layer, "oracle");
  laws::check_subject(subject, reference);
}

template <class T, class L>
void obeys_every_law_on_both_kernels(const L& layer) {
  obeys_every_law<T, cuda::GeneralKernels>(layer);
  cuda::pretend_tensor_core_kernels(true);
  obeys_every_law<T, cuda::TensorCoreKernels>(layer);
  cuda::pretend_tensor_core_kernels(false);
}

/// Both on a device. As loops of the host, which take long, one with each half type: what differs
/// between the two does not depend on the type.
template <class T>
std::vector<Index> sizes(Index one, Index other) {
#ifdef SSM_TEST_ON_DEVICE
  return {one, other};
#else
  return {std::is_same_v<T, BFloat16> ? one : other};
#endif
}

}  // namespace

TEST_CASE_TEMPLATE("H3 in half types, with heads of one channel and of two", T, BFloat16, Float16) {
  for (const Index head_dim : sizes<T>(1, 2))
    obeys_every_law_on_both_kernels<T>(H3<H3Config{.state = dyn, .head_dim = dyn}>(
        {.channels = 4, .state = 4, .head_dim = head_dim}));
}

TEST_CASE_TEMPLATE("FeedForward in half types, with hidden values in whole packs and not", T,
                   BFloat16, Float16) {
  for (const Index hidden : {16, 5})
    obeys_every_law<T, cuda::Automatic>(
        FeedForward<FeedForwardConfig{}>({.channels = 5, .hidden = hidden}));
}

TEST_CASE_TEMPLATE("S4D and Linear in half types", T, BFloat16, Float16) {
  obeys_every_law_on_both_kernels<T>(S4D<S4DConfig{.channels = 5, .state = 4}>());
  obeys_every_law_on_both_kernels<T>(Linear<LinearConfig{.inputs = 5, .outputs = 7}>());
}

TEST_CASE_TEMPLATE("attention in half types, in heads that have tiles and that do not", T, BFloat16,
                   Float16) {
  for (const Index head : sizes<T>(4, 8))
    obeys_every_law_on_both_kernels<T>(CausalAttention<CausalAttentionConfig{}>(
        {.channels = 2 * head, .heads = 2, .rotary_dim = 2}));
}

TEST_CASE_TEMPLATE("Mamba in half types", T, BFloat16, Float16) {
  obeys_every_law<T, cuda::GeneralKernels>(
      Mamba<MambaConfig{.channels = 3, .state = 4, .dt_rank = 2, .bias = true}>(
          {.dt_min = 0.05, .dt_max = 0.5}));
}
