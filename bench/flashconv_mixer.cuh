// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ssm/backend/cuda/h3_mixer.hpp>

#include "flashconv_convolution.cuh"
#include "flashconv_diagonal.cuh"

namespace bench {

/// One problem of h3_mixer: q, k and v beside a diagonal problem's parameters. `taped`: the forward
/// call leaves a tape that the backward call starts from.
template <class T>
struct MixerProblem {
  MixerProblem(int batch, int channels, int length, int modes, int taps, unsigned seed)
      : diagonal(DiagonalCase{.batch = 1, .channels = channels, .length = 1, .modes = modes}, seed),
        batch(batch),
        channels(channels),
        length(length),
        taps(taps) {
    const std::size_t size = std::size_t(batch) * channels * length;
    q = normal<T>(size, seed + 11), k = normal<T>(size, seed + 12), v = normal<T>(size, seed + 13);
    dy = normal<T>(size, seed + 14);
    y = Buffer<T>(size), dq = Buffer<T>(size), dk = Buffer<T>(size), dv = Buffer<T>(size);
    kernel = normal<float>(std::size_t(channels) * taps, seed + 15, 1.f / std::sqrt(float(taps)));
    skip = normal<float>(channels, seed + 16);
    dkernel = DiagonalProblem<T>::zeros(kernel.size()), dskip = DiagonalProblem<T>::zeros(channels);
    tape = Buffer<char>(ssm::cuda::h3_mixer_tape<T>(forward(false)));
    workspace =
        Buffer<char>(std::max({ssm::cuda::h3_mixer_workspace<T>(forward(true)),
                               ssm::cuda::h3_mixer_backward_workspace<T>(backward(true)),
                               ssm::cuda::h3_mixer_backward_workspace<T>(backward(false))}));
  }
  template <class U>
  Sequences<U> view(const Buffer<T>& buffer) const {
    return {buffer.data(), std::int64_t(channels) * length, length};
  }
  ssm::cuda::H3Mixer<T> forward(bool taped) const {
    return {batch,
            channels,
            length,
            taps,
            diagonal.c.modes,
            view<const T>(q),
            view<const T>(k),
            view<const T>(v),
            kernel.data(),
            skip.data(),
            diagonal.parameters(),
            view<T>(y),
            taped ? tape.data() : nullptr};
  }
  ssm::cuda::H3MixerBackward<T> backward(bool taped) const {
    const auto d = diagonal.backward();
    return {forward(taped), view<const T>(dy),
            view<T>(dq),    view<T>(dk),
            view<T>(dv),    dkernel.data(),
            dskip.data(),   d.ddt,
            d.da,           d.db,
            d.dc,           d.dskip};
  }
  void run_forward(cudaStream_t stream, bool taped = true) {
    ssm::cuda::h3_mixer(forward(taped), workspace.data(), stream);
  }
  void run_backward(cudaStream_t stream, bool taped = true) {
    ssm::cuda::h3_mixer_backward(backward(taped), workspace.data(), stream);
  }

  DiagonalProblem<T> diagonal;
  int batch, channels, length, taps;
  Buffer<T> q, k, v, dy, y, dq, dk, dv;
  Buffer<float> kernel, skip, dkernel, dskip;
  Buffer<char> workspace, tape;
};

/// Relative errors of every output and gradient against double, over the channels listed.
template <class T>
std::map<std::string, double> mixer_errors(const MixerProblem<T>& p,
                                           const std::vector<int>& channels) {
  const Contents q(p.q), k(p.k), v(p.v), dy(p.dy), y(p.y), dq(p.dq), dk(p.dk), dv(p.dv);
  const Contents kernels(p.kernel), skips(p.skip), dkernels(p.dkernel), dskips(p.dskip);
  const DiagonalProblem<T>& diagonal = p.diagonal;
  const Contents da(diagonal.da), db(diagonal.db), dc(diagonal.dc), ddts(diagonal.ddt);
  const Contents diagonal_dskips(diagonal.dskip);
  std::vector<std::map<std::string, RelativeError>> errors(channels.size());
  parallel_for(int(channels.size()), [&](int i) {
    const int d = channels[i];
    auto& error = errors[i];
    const auto compare = [&](const char* name, const std::vector<double>& out,
                             const std::vector<double>& want) { error[name].add(out, want); };
    reference::ConvolutionGradient shift;
    reference::ModelGradient model;
    const std::vector<double> kernel = kernels(std::size_t(d) * p.taps, p.taps);
    const double skip = skips(d, 1)[0];
    for (int b = 0; b < p.batch; ++b) {
      const std::size_t first = (std::size_t(b) * p.channels + d) * p.length;
      reference::Sequence keys{k(first, p.length), {}, v(first, p.length), {}, {}, {}};
      reference::ConvolutionGradient unused;
      reference::Sequence inner{reference::convolution(kernel, skip, keys, false, unused).y,
                                {},
                                q(first, p.length),
                                dy(first, p.length),
                                {},
                                {}};
      const auto outer = reference::diagonal_scan(diagonal.models[d], inner, true, model);
      keys.dy = outer.dx;
      const auto want = reference::convolution(kernel, skip, keys, true, shift);
      compare("y", y(first, p.length), outer.y);
      compare("dq", dq(first, p.length), outer.dgate_out);
      compare("dk", dk(first, p.length), want.dx);
      compare("dv", dv(first, p.length), want.dgate_out);
    }
    compare("dtaps", dkernels(std::size_t(d) * p.taps, p.taps), shift.kernel);
    compare("dshift_skip", dskips(d, 1), {shift.skip});
    const auto numbers = [&](const Contents<float>& gradient) {
      return gradient(2 * std::size_t(d) * diagonal.c.modes, 2 * diagonal.c.modes);
    };
    const auto flat = [](const std::vector<reference::Complex>& v) {
      std::vector<double> out;
      for (const auto& z : v) out.insert(out.end(), {z.real(), z.imag()});
      return out;
    };
    compare("da", numbers(da), flat(model.a));
    compare("db", numbers(db), flat(model.b));
    compare("dc", numbers(dc), flat(model.c));
    compare("ddt", ddts(d, 1), {model.step});
    compare("dskip", diagonal_dskips(d, 1), {model.skip});
  });
  return combined(errors);
}

}  // namespace bench
