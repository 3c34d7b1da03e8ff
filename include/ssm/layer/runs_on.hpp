// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace ssm {

/// Whether a layer's verbs, forward, backward, prefill and step, compile for backend B in scalar T: whether the backend has the
/// primitives that the layer calls. A layer says so by  template <class B, class T> static constexpr bool runs_on = …;
///   static_assert(RunsOn<Mamba<MambaConfig{.channels = 256}>, Cpu>);
template <class L, class B, class T = float>
concept RunsOn = bool{L::template runs_on<B, T>};

}  // namespace ssm
