// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <map>
#include <random>
#include <ssm/backend/cuda/diagonal_scan.hpp>

#include "flashconv_device.cuh"
#include "flashconv_reference.hpp"

namespace bench {

using ssm::cuda::Sequences;

enum class Gates { none, in, out, both };

/// One problem of diagonal_scan: sizes and which of the optional arguments are there.
struct DiagonalCase {
  int batch = 1, channels = 1, length = 1, modes = 32;
  Gates gates = Gates::none;
  bool states = false, keep_checkpoints = true;
  bool bilinear = true;
  std::vector<int> segments = {};
};

/// All tensors of a problem on the device, random; results are poisoned.
template <class T>
struct DiagonalProblem {
  explicit DiagonalProblem(const DiagonalCase& c, unsigned seed) : c(c) {
    const std::size_t size = std::size_t(c.batch) * c.channels * c.length;
    shape = {c.batch, c.channels, c.modes, c.length};
    if (!c.segments.empty()) {
      segments = Buffer<int>(c.segments.size());
      segments.write(c.segments);
      shape.segments = segments.data();
      shape.segment_count = int(c.segments.size()) - 1;
    }
    const std::size_t states = std::size_t(shape.sequences()) * c.channels * c.modes;
    x = normal<T>(size, seed + 1), dy = normal<T>(size, seed + 2);
    y = Buffer<T>(size), dx = Buffer<T>(size);
    if (c.gates == Gates::in || c.gates == Gates::both)
      gate_in = normal<T>(size, seed + 3), dgate_in = Buffer<T>(size);
    if (c.gates == Gates::out || c.gates == Gates::both)
      gate_out = normal<T>(size, seed + 4), dgate_out = Buffer<T>(size);
    if (c.states) {
      initial = normal<float>(2 * states, seed + 5), dfinal = normal<float>(2 * states, seed + 6);
      final = Buffer<float>(2 * states), dinitial = Buffer<float>(2 * states);
    }
    std::mt19937 random(seed);
    std::uniform_real_distribution<double> uniform(0, 1);
    std::normal_distribution<double> gauss(0, 1);
    models.resize(c.channels);
    std::vector<float> hstep, ha, hb, hc, hskip;
    for (reference::Model& m : models) {
      const auto real = [](double v) { return double(float(v)); };
      m.bilinear = c.bilinear;
      m.step = real(std::exp(std::log(1e-3) + std::log(100.0) * uniform(random)));
      m.skip = real(gauss(random));
      for (int n = 0; n < c.modes; ++n) {
        m.a.push_back(
            {real(-0.5 * (0.5 + uniform(random))), real(M_PI * n * (0.9 + 0.2 * uniform(random)))});
        m.b.push_back({real(1 + 0.2 * gauss(random)), real(0.2 * gauss(random))});
        m.c.push_back({real(gauss(random) * std::sqrt(0.5)), real(gauss(random) * std::sqrt(0.5))});
        ha.insert(ha.end(), {float(m.a[n].real()), float(m.a[n].imag())});
        hb.insert(hb.end(), {float(m.b[n].real()), float(m.b[n].imag())});
        hc.insert(hc.end(), {float(m.c[n].real()), float(m.c[n].imag())});
      }
      hstep.push_back(float(m.step)), hskip.push_back(float(m.skip));
    }
    const auto upload = [](Buffer<float>& to, const std::vector<float>& from) {
      to = Buffer<float>(from.size());
      to.write(from);
    };
    upload(step, hstep), upload(a, ha), upload(b, hb), upload(this->c_, hc), upload(skip, hskip);
    ddt = zeros(hstep.size()), da = zeros(ha.size()), db = zeros(hb.size()), dc = zeros(hc.size());
    dskip = zeros(hskip.size());
    if (c.keep_checkpoints)
      checkpoints = Buffer<float>(2 * ssm::cuda::diagonal_scan_checkpoint_count<T>(shape));
    workspace = Buffer<char>(std::max(ssm::cuda::diagonal_scan_workspace<T>(shape),
                                      ssm::cuda::diagonal_scan_backward_workspace<T>(backward())));
  }

  static Buffer<float> zeros(std::size_t size) {
    Buffer<float> out(size);
    out.write(std::vector<float>(size));
    return out;
  }
  static ssm::Complex<float>* complex(const Buffer<float>& buffer) {
    return reinterpret_cast<ssm::Complex<float>*>(buffer.data());
  }
  template <class U>
  Sequences<U> view(const Buffer<T>& buffer) const {
    return {buffer.data(), std::int64_t(c.channels) * c.length, c.length};
  }
  ssm::cuda::DiagonalScanParameters parameters() const {
    using enum ssm::Discretization;
    return {step.data(), complex(a),  complex(b),
            complex(c_), skip.data(), c.bilinear ? bilinear : zero_order_hold};
  }
  ssm::cuda::DiagonalScan<T> forward() const {
    return {shape,
            parameters(),
            view<const T>(x),
            view<const T>(gate_in),
            view<const T>(gate_out),
            complex(initial),
            view<T>(y),
            complex(final),
            complex(checkpoints)};
  }
  ssm::cuda::DiagonalScanBackward<T> backward() const {
    ssm::cuda::DiagonalScanBackward<T> call{shape,
                                            parameters(),
                                            view<const T>(x),
                                            view<const T>(gate_in),
                                            view<const T>(gate_out),
                                            complex(initial),
                                            complex(checkpoints),
                                            view<const T>(dy),
                                            complex(dfinal)};
    call.dx = view<T>(dx), call.dgate_in = view<T>(dgate_in), call.dgate_out = view<T>(dgate_out);
    call.dinitial_state = complex(dinitial);
    call.ddt = ddt.data(), call.da = complex(da), call.db = complex(db), call.dc = complex(dc);
    call.dskip = dskip.data();
    return call;
  }
  void run_forward(cudaStream_t stream) {
    ssm::cuda::diagonal_scan(forward(), workspace.data(), stream);
  }
  void run_backward(cudaStream_t stream) {
    ssm::cuda::diagonal_scan_backward(backward(), workspace.data(), stream);
  }

  DiagonalCase c;
  ssm::cuda::DiagonalScanShape shape;
  std::vector<reference::Model> models;
  Buffer<T> x, dy, y, dx, gate_in, gate_out, dgate_in, dgate_out;
  Buffer<float> initial, dfinal, final, dinitial, checkpoints;
  Buffer<float> step, a, b, c_, skip, ddt, da, db, dc, dskip;
  Buffer<int> segments;
  Buffer<char> workspace;
};

/// Relative errors of every output, state and gradient against double, over the channels listed.
template <class T>
std::map<std::string, double> diagonal_errors(const DiagonalProblem<T>& p,
                                              const std::vector<int>& channels, bool backward) {
  const DiagonalCase& c = p.c;
  const Contents x(p.x), gate_in(p.gate_in), gate_out(p.gate_out), dy(p.dy);
  const Contents y(p.y), dx(p.dx), dgate_in(p.dgate_in), dgate_out(p.dgate_out);
  const Contents initials(p.initial), finals(p.final), dinitials(p.dinitial), dfinals(p.dfinal);
  const Contents da(p.da), db(p.db), dc(p.dc), ddts(p.ddt), dskips(p.dskip);
  std::vector<int> edges = c.segments;
  if (edges.empty()) edges = {0, c.length};
  const int pieces = int(edges.size()) - 1, sequences = p.shape.sequences();
  std::vector<std::map<std::string, RelativeError>> errors(channels.size());
  parallel_for(int(channels.size()), [&](int i) {
    const int d = channels[i];
    reference::ModelGradient gradient;
    auto& error = errors[i];
    const auto complex_at = [](const Contents<float>& numbers, std::size_t first, int count) {
      const std::vector<double> raw = numbers(2 * first, 2 * count);
      std::vector<reference::Complex> out;
      for (std::size_t n = 0; n < raw.size(); n += 2) out.push_back({raw[n], raw[n + 1]});
      return out;
    };
    const auto compare = [&](const char* name, const std::vector<double>& out,
                             const std::vector<double>& want) { error[name].add(out, want); };
    const auto compare_complex = [&](const char* name, const std::vector<reference::Complex>& out,
                                     const std::vector<reference::Complex>& want) {
      for (std::size_t n = 0; n < out.size(); ++n)
        error[name].add(out[n].real(), want[n].real()),
            error[name].add(out[n].imag(), want[n].imag());
    };
    for (int s = 0; s < sequences; ++s) {
      const int item = pieces > 1 || !c.segments.empty() ? 0 : s,
                piece = c.segments.empty() ? 0 : s;
      const std::size_t first = (std::size_t(item) * c.channels + d) * c.length + edges[piece];
      const int length = edges[piece + 1] - edges[piece];
      const std::size_t state = (std::size_t(s) * c.channels + d) * c.modes;
      reference::Sequence in{x(first, length),
                             gate_in(first, length),
                             gate_out(first, length),
                             dy(first, length),
                             complex_at(initials, state, c.modes),
                             complex_at(dfinals, state, c.modes)};
      const reference::SequenceResult want =
          reference::diagonal_scan(p.models[d], in, backward, gradient);
      compare("y", y(first, length), want.y);
      compare_complex("final", complex_at(finals, state, c.modes), want.final);
      if (!backward) continue;
      compare("dx", dx(first, length), want.dx);
      compare("dgate_in", dgate_in(first, length), want.dgate_in);
      compare("dgate_out", dgate_out(first, length), want.dgate_out);
      compare_complex("dinitial", complex_at(dinitials, state, c.modes), want.dinitial);
    }
    if (!backward) return;
    const std::size_t state = std::size_t(d) * c.modes;
    compare_complex("da", complex_at(da, state, c.modes), gradient.a);
    compare_complex("db", complex_at(db, state, c.modes), gradient.b);
    compare_complex("dc", complex_at(dc, state, c.modes), gradient.c);
    compare("ddt", ddts(d, 1), {gradient.step});
    compare("dskip", dskips(d, 1), {gradient.skip});
  });
  return combined(errors);
}

}  // namespace bench
