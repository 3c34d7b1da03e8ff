// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/cascaded_scan_backward.hpp"
#include "ssm/backend/cpu/cascaded_scan_block.hpp"

namespace ssm::cpu {

/// ssm::cascaded_scan: all scans together, a channel in each lane.
template <class Arch>
struct CascadedScan {
  template <class Ctx, Real T>
  static void cascaded_scan(Ctx& ctx, const ssm::CascadedScan<T, typename Ctx::Space>& a) {
    using Block = CascadedBlock<T, Arch>;
    const Threads threads = ctx.resources().threads();
    auto frame = ctx.workspace().frame();
    const CascadedModes<T, Arch> modes(frame, threads, a);
    const auto scans = static_cast<Index>(modes.scans());
    const Index size = modes.own().padded(), blocks = modes.own().blocks();
    const Index sequences = sequence_count(a.dt.extent(0), a.segments);
    const auto scratch = frame.template tensor<T>(
        threads, (scans * size + Block::scratch_size(modes.scans(), false)) * Block::lanes);
    const Index units = sequences * blocks;
    const bool worth_sharing = a.dt.size() * size * scans >= 32768;
    parallel(threads, units, worth_sharing ? 1 : units, [&](Range range, int worker) {
      for (Index i = range.begin; i < range.end; ++i) {
        T* const states = &scratch(worker, 0);
        run<T>(modes, sequence_at(i / blocks, a.dt.extent(1), a.segments), i % blocks, states,
               states + scans * size * Block::lanes);
      }
    });
  }

  template <class Ctx, Real T>
  static void cascaded_scan_backward(Ctx& ctx,
                                     const ssm::CascadedScanBackward<T, typename Ctx::Space>& g) {
    CascadedScanBackward<T, Arch>::run(ctx, g);
  }

 private:
  template <class T>
  static void run(const CascadedModes<T, Arch>& modes, Sequence s, Index index, T* states,
                  T* scratch) {
    using Block = CascadedBlock<T, Arch>;
    const auto& a = modes.operands();
    const Block block(modes, s, index, scratch);
    block.read_states(states);
    const auto y = block.positions(a.y);
    for (Index begin = s.begin; begin < s.end; begin += Block::chunk) {
      const Index length = std::min(Block::chunk, s.end - begin);
      block.load(begin, length);
      for (Index n = 0; n < modes.own().padded(); n += Block::group)
        block.template advance<false>(begin, length, n, states, states);
      for (Index t = 0; t < length; ++t) y.store(begin + t, Block::at(block.y(), t));
    }
    if (!a.final_state) return;
    const Index own = static_cast<Index>(modes.sources()) * modes.own().padded();
    Block::States::write(a.final_state, s.row, index * Block::lanes, modes.own().count(index),
                         states + own * Block::lanes);
  }
};

}  // namespace ssm::cpu
