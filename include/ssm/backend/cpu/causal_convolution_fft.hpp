// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "ssm/backend/cpu/causal_convolution_cut.hpp"
#include "ssm/backend/cpu/causal_convolution_spectra.hpp"
#include "ssm/backend/cpu/parallel.hpp"
#include "ssm/backend/cpu/positions.hpp"
#include "ssm/backend/cpu/transpose.hpp"
#include "ssm/core/workspace.hpp"
#include "ssm/op/causal_convolution.hpp"

namespace ssm::cpu {

/// CausalConvolution in the frequency domain, a register of channels at a time. Blocks of positions
/// and parts of the kernel are transformed; a block of outputs is the sum of products of their
/// spectra. The kernel's spectra serve all sequences of a unit of work; gates are applied on the
/// way in and out, the skip is added to the first term.
///   y_i       = Re F⁻¹ Σ_j K_j·(U_{i−j} − i·U_{i−j−1})
///   du_i      = Re F⁻¹ Σ_j conj(K_j)·V_{i+j}
///   dkernel_j = Re F⁻¹ Σ_i conj(U_i)·V_{i+j}
///   V_i       = G_i + i·G_{i+1}
/// with the transforms U of gate_in·x and G of gate_out·dy: modulo Xⁿ = i a shift by a block is a
/// multiplication by i.
template <class T, class Arch, class Fft>
class CausalConvolutionFft {
 public:
  using Forward = ssm::CausalConvolution<T, HostSpace>;
  using Backward = ssm::CausalConvolutionBackward<T, HostSpace>;

  template <class Ctx>
  static void run(Ctx& ctx, const Forward& a) {
    if (a.x.size() == 0) return;
    const Threads threads = ctx.resources().threads();
    const Shape shape(a, lanes, threads, 2 * threads);
    const Plan& plan = ctx.resources().template plan<Plan>(shape.cut.block);
    auto frame = ctx.workspace().frame();
    const auto memory = Memory::take(frame, shape, plan, 1, 1);
    for_each_unit(shape, [&](Index group, Index, Range sequences, int worker) {
      const Unit unit({.forward = a}, shape, plan, group, worker, memory);
      unit.transform_kernel();
      for (Index row = sequences.begin; row < sequences.end; ++row)
        unit.forward(sequence_at(row, a.x.extent(1), a.segments));
    });
  }

  template <class Ctx>
  static void run_backward(Ctx& ctx, const Backward& g) {
    const Forward& a = g.forward;
    if (a.x.size() == 0) return;
    constexpr Index wanted_units =
        32;  // not the number of threads: so the sums do not depend on it
    const Shape shape(a, lanes, ctx.resources().threads(), wanted_units);
    const Plan& plan = ctx.resources().template plan<Plan>(shape.cut.block);
    auto frame = ctx.workspace().frame();
    const bool sums_wanted = g.dkernel || g.dskip;
    const auto memory = Memory::take(frame, shape, plan, 2, sums_wanted ? 2 : 1);
    const auto sums =
        frame.template tensor<T>(sums_wanted ? shape.shares : 0, shape.groups, shape.terms, lanes);
    for_each_unit(shape, [&](Index group, Index share, Range sequences, int worker) {
      const Unit unit(g, shape, plan, group, worker, memory);
      unit.transform_kernel();
      if (sums_wanted) unit.clear_kernel_gradient();
      for (Index row = sequences.begin; row < sequences.end; ++row)
        unit.backward(sequence_at(row, a.x.extent(1), a.segments));
      if (sums_wanted) unit.restore_kernel_gradient(&sums(share, group, 0, 0));
    });
    if (sums_wanted) add_kernel_gradients(ctx.resources().threads(), g, shape, sums);
  }

 private:
  using Plan = typename Fft::template Plan<T, Arch>;
  using Register = Batch<T, Arch>;
  using Spectra = ConvolutionSpectra<T, Plan>;
  using Shape = ConvolutionShape;
  static constexpr Index lanes = lane_count<T, Arch>;

  /// body(group, share, range of sequences, worker)
  template <class F>
  static void for_each_unit(const Shape& shape, F&& body) {
    parallel(shape.unit_threads, shape.groups * shape.shares, 1, [&](Range range, int worker) {
      for (Index i = range.begin; i < range.end; ++i) {
        const Index share = i % shape.shares;
        body(i / shape.shares, share,
             Range{shape.sequences * share / shape.shares,
                   shape.sequences * (share + 1) / shape.shares},
             worker);
      }
    });
  }

  /// What a worker needs: spectra of the blocks of one or two operands and of the kernel, with its
  /// gradient or without.
  struct Memory {
    template <class Frame>
    static Memory take(Frame& frame, const Shape& shape, const Plan& plan, Index operands,
                       Index kernels) {
      const Index size = Spectra::padded_size(plan);
      return {frame.template tensor<T>(shape.unit_threads, operands, shape.cut.blocks, size),
              frame.template tensor<T>(shape.unit_threads, kernels, shape.cut.parts, size)};
    }
    View<T, 4> operands;
    View<T, 4> kernels;
  };

  class Unit {
   public:
    Unit(const Backward& g, const Shape& shape, const Plan& plan, Index group, int worker,
         const Memory& memory)
        : g_(g),
          shape_(shape),
          plan_(plan),
          channel_(group * lanes),
          count_(std::min(lanes, shape.channels - channel_)),
          worker_(worker),
          input_(plan, memory.operands.select(0, worker).select(0, 0)),
          gradient_(plan,
                    memory.operands.select(0, worker).select(0, memory.operands.extent(1) - 1)),
          kernel_(plan, memory.kernels.select(0, worker).select(0, 0)),
          kernel_gradient_(
              plan, memory.kernels.select(0, worker).select(0, memory.kernels.extent(1) - 1)) {}

    void transform_kernel() const {
      for_each_range(
          shape_.cut.parts, shape_.terms, 0, [&](Index part, Index first, Index count, int worker) {
            plan_.forward(kernel_.at(part), count, worker,
                          [&](Index j, Index n, T* to) { stage_kernel(first + j, n, to); });
          });
    }

    void forward(Sequence s) const {
      const Forward& a = g_.forward;
      transform(input_, s, {of(s, a.x), of(s, a.gate_in)});
      for_each_quad(s, [&](Index quad, Index blocks) {
        input_.subtract_turned_previous(quad, blocks);
        input_.filter(quad, blocks, kernel_, shape_.cut.parts);
      });
      restore(input_, s, {of(s, a.y), of(s, a.gate_out)}, none());
    }

    void clear_kernel_gradient() const { kernel_gradient_.clear(shape_.cut.parts); }

    void backward(Sequence s) const {
      const Forward& a = g_.forward;
      const bool with_sums = g_.dkernel || g_.dskip;
      const bool with_input_gradient = g_.dx || g_.dgate_in;
      if (with_sums || g_.dgate_out) transform(input_, s, {of(s, a.x), of(s, a.gate_in)});
      if (with_sums || with_input_gradient)
        transform(gradient_, s, {of(s, g_.dy), of(s, a.gate_out)});
      for_each_quad(s, [&](Index quad, Index blocks) {
        if (with_sums || with_input_gradient) gradient_.add_turned_next(quad, blocks);
        if (with_sums)
          kernel_gradient_.add_correlation(quad, shape_.cut.parts, gradient_, input_, blocks);
        if (with_input_gradient) gradient_.filter_backward(quad, blocks, kernel_, shape_.cut.parts);
        if (!g_.dgate_out) return;
        input_.subtract_turned_previous(quad, blocks);
        input_.filter(quad, blocks, kernel_, shape_.cut.parts);
      });
      if (with_input_gradient)
        restore(gradient_, s, {of(s, g_.dx), of(s, a.gate_in)}, {of(s, g_.dgate_in), of(s, a.x)});
      if (g_.dgate_out) restore(input_, s, {of(s, g_.dgate_out), of(s, g_.dy)}, none());
    }

    void restore_kernel_gradient(T* to) const {
      for_each_range(shape_.cut.parts, shape_.terms, 0,
                     [&](Index part, Index first, Index count, int worker) {
                       plan_.inverse(kernel_gradient_.at(part), count, worker,
                                     [&](Index j, Index n, const T* from) {
                                       std::copy_n(from, n * lanes, to + (first + j) * lanes);
                                     });
                     });
    }

   private:
    using Operand = Positions<const T, Arch>;
    using Result = Positions<T, Arch>;
    /// What is transformed: an operand, times another where that is given.
    struct Source {
      Operand operand, factor;
    };
    /// Where a result goes, if anywhere, times a factor where that is given.
    struct Target {
      Result result;
      Operand factor;
    };
    Target none() const { return {Result({}, 0, 0, 0), Operand({}, 0, 0, 0)}; }

    template <class U>
    Positions<U, Arch> of(Sequence s, const View<U, 3>& view) const {
      return Positions<U, Arch>(view, s.batch, channel_, count_);
    }

    /// Terms first … first + length − 1 of this unit's kernels, a channel in each lane.
    void stage_kernel(Index first, Index length, T* rows) const {
      const auto& kernel = g_.forward.kernel;
      if (kernel.stride(1) == 1) {
        rows_to_lanes<T, Arch>(&kernel(channel_, first), kernel.stride(0), count_, length, rows);
      } else {
        for (Index j = 0; j < length; ++j)
          gather<T, Arch>(&kernel(channel_, first + j), kernel.stride(0), count_)
              .store_aligned(rows + j * lanes);
      }
      if (first == 0 && g_.forward.skip)
        for (Index lane = 0; lane < count_; ++lane) rows[lane] += g_.forward.skip(channel_ + lane);
    }
    static void stage(const Source& source, Index first, Index n, T* rows) {
      for (Index j = 0; j < n; ++j) source.operand.load(first + j).store_aligned(rows + j * lanes);
      if (!source.factor) return;
      for (Index j = 0; j < n; ++j, rows += lanes)
        (Register::load_aligned(rows) * source.factor.load(first + j)).store_aligned(rows);
    }
    static void write(const Target& target, Index first, Index n, const T* rows) {
      if (!target.result) return;
      if (target.factor)
        for (Index j = 0; j < n; ++j)
          target.result.store(
              first + j, Register::load_aligned(rows + j * lanes) * target.factor.load(first + j));
      else
        for (Index j = 0; j < n; ++j)
          target.result.store(first + j, Register::load_aligned(rows + j * lanes));
    }

    /// body(index, first position, positions, worker) for every block of a sequence or part of a
    /// kernel.
    template <class F>
    void for_each_range(Index count, Index length, Index begin, F&& body) const {
      const Index block = shape_.cut.block;
      parallel(shape_.block_threads, count, 1, [&](Range range, int inner) {
        for (Index i = range.begin; i < range.end; ++i)
          body(i, begin + i * block, std::min(block, length - i * block), worker_ + inner);
      });
    }
    void transform(const Spectra& spectra, Sequence s, const Source& source) const {
      for_each_range(blocks_of(s), s.end - s.begin, s.begin,
                     [&](Index i, Index first, Index count, int worker) {
                       plan_.forward(spectra.at(i), count, worker, [&](Index j, Index n, T* to) {
                         stage(source, first + j, n, to);
                       });
                     });
    }
    void restore(const Spectra& spectra, Sequence s, const Target& target,
                 const Target& other) const {
      for_each_range(blocks_of(s), s.end - s.begin, s.begin,
                     [&](Index i, Index first, Index count, int worker) {
                       plan_.inverse(spectra.at(i), count, worker,
                                     [&](Index j, Index n, const T* from) {
                                       write(target, first + j, n, from);
                                       write(other, first + j, n, from);
                                     });
                     });
    }
    /// body(quad, blocks) for every four points of the spectra.
    template <class F>
    void for_each_quad(Sequence s, F&& body) const {
      const Index blocks = blocks_of(s);
      if (blocks == 0) return;
      parallel(shape_.block_threads, plan_.points() / Spectra::quad_points, 1,
               [&](Range range, int) {
                 for (Index quad = range.begin; quad < range.end; ++quad) body(quad, blocks);
               });
    }
    Index blocks_of(Sequence s) const {
      return (s.end - s.begin + shape_.cut.block - 1) / shape_.cut.block;
    }

    const Backward g_;  // of views: cheap to copy
    const Shape& shape_;
    const Plan& plan_;
    Index channel_, count_;
    int worker_;
    Spectra input_, gradient_, kernel_, kernel_gradient_;
  };

  static void add_kernel_gradients(const Threads& threads, const Backward& g, const Shape& shape,
                                   const View<T, 4>& sums) {
    parallel(threads, shape.groups, 1, [&](Range range, int) {
      for (Index group = range.begin; group < range.end; ++group) {
        T* total = &sums(0, group, 0, 0);
        for (Index share = 1; share < shape.shares; ++share) {
          const T* part = &sums(share, group, 0, 0);
          for (Index i = 0; i < shape.terms * lanes; i += lanes)
            (Register::load_aligned(total + i) + Register::load_aligned(part + i))
                .store_aligned(total + i);
        }
        const Index channel = group * lanes;
        const Index count = std::min(lanes, shape.channels - channel);
        if (g.dskip)
          for (Index lane = 0; lane < count; ++lane) g.dskip(channel + lane) += total[lane];
        if (!g.dkernel) continue;
        const Index stride = g.dkernel.stride(1);
        lanes_to_rows<T, Arch>(total, count, shape.terms,
                               [&](Index lane, Index term, Index width, const Register& sum) {
                                 T* to = &g.dkernel(channel + lane, term);
                                 scatter<T, Arch>(to, stride, width,
                                                  gather<T, Arch>(to, stride, width) + sum);
                               });
      }
    });
  }
};

}  // namespace ssm::cpu
