// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <complex>
#include <vector>

namespace reference {

using Complex = std::complex<double>;

/// One channel's diagonal state-space model, in double.
struct Model {
  bool bilinear = true;
  double step = 0, skip = 0;
  std::vector<Complex> a, b, c;
};

/// One sequence of a channel; empty gates are ones, empty states and output gradients are zero.
struct Sequence {
  std::vector<double> x, gate_in, gate_out, dy;
  std::vector<Complex> initial, dfinal;
};

struct SequenceResult {
  std::vector<double> y, dx, dgate_in, dgate_out;
  std::vector<Complex> final, dinitial;
};

struct ModelGradient {
  double step = 0, skip = 0;
  std::vector<Complex> a, b, c;
};

/// The recurrence and its adjoint, position by position; adds to `gradient`.
inline SequenceResult diagonal_scan(const Model& model, const Sequence& in, bool backward,
                                    ModelGradient& gradient) {
  const std::size_t modes = model.a.size(), length = in.x.size();
  std::vector<Complex> a(modes), gain(modes);
  for (std::size_t n = 0; n < modes; ++n) {
    const Complex z = model.step * model.a[n];
    a[n] = model.bilinear ? (1.0 + z / 2.0) / (1.0 - z / 2.0) : std::exp(z);
    gain[n] = model.bilinear ? model.step / (1.0 - z / 2.0) : (std::exp(z) - 1.0) / model.a[n];
  }
  const auto one = [](const std::vector<double>& v, std::size_t t) {
    return v.empty() ? 1.0 : v[t];
  };
  SequenceResult out;
  out.y.resize(length);
  std::vector<Complex> states((backward ? length + 1 : 1) * modes), state(modes);
  for (std::size_t n = 0; n < modes; ++n) state[n] = in.initial.empty() ? Complex{} : in.initial[n];
  if (backward) std::copy(state.begin(), state.end(), states.begin());
  std::vector<double> sum(backward ? length : 0);
  for (std::size_t t = 0; t < length; ++t) {
    const double u = in.x[t] * one(in.gate_in, t);
    double s = model.skip * u;
    for (std::size_t n = 0; n < modes; ++n) {
      state[n] = a[n] * state[n] + gain[n] * model.b[n] * u;
      s += 2.0 * (model.c[n].real() * state[n].real() - model.c[n].imag() * state[n].imag());
    }
    out.y[t] = s * one(in.gate_out, t);
    if (backward) {
      sum[t] = s;
      std::copy(state.begin(), state.end(), states.begin() + (t + 1) * modes);
    }
  }
  out.final = state;
  if (!backward) return out;

  out.dx.resize(length), out.dgate_in.resize(length), out.dgate_out.resize(length);
  std::vector<Complex> da(modes), db(modes), adjoint(modes);
  for (std::size_t n = 0; n < modes; ++n) adjoint[n] = in.dfinal.empty() ? Complex{} : in.dfinal[n];
  if (gradient.a.empty())
    gradient.a.resize(modes), gradient.b.resize(modes), gradient.c.resize(modes);
  for (std::size_t t = length; t-- > 0;) {
    const double u = in.x[t] * one(in.gate_in, t), ds = in.dy[t] * one(in.gate_out, t);
    out.dgate_out[t] = in.dy[t] * sum[t];
    double du = model.skip * ds;
    gradient.skip += ds * u;
    for (std::size_t n = 0; n < modes; ++n) {
      adjoint[n] += 2.0 * ds * std::conj(model.c[n]);
      gradient.c[n] += 2.0 * ds * std::conj(states[(t + 1) * modes + n]);
      const Complex b = gain[n] * model.b[n];
      du += b.real() * adjoint[n].real() + b.imag() * adjoint[n].imag();
      db[n] += u * adjoint[n];
      da[n] += std::conj(states[t * modes + n]) * adjoint[n];
      adjoint[n] *= std::conj(a[n]);
    }
    out.dx[t] = du * one(in.gate_in, t);
    out.dgate_in[t] = du * in.x[t];
  }
  out.dinitial = adjoint;
  for (std::size_t n = 0; n < modes; ++n) {
    const Complex z = model.step * model.a[n], w = 1.0 / (1.0 - z / 2.0), e = std::exp(z);
    const Complex da_dz = model.bilinear ? w * w : e;
    // gain = step · φ(z)
    const Complex phi = gain[n] / model.step;
    const Complex slope = model.bilinear ? w * w / 2.0 : (e - phi) / z;
    const Complex dz =
        da[n] * std::conj(da_dz) + db[n] * std::conj(model.b[n] * model.step * slope);
    gradient.a[n] += model.step * dz;
    gradient.b[n] += db[n] * std::conj(gain[n]);
    gradient.step +=
        (db[n] * std::conj(model.b[n] * phi)).real() + (dz * std::conj(model.a[n])).real();
  }
  return out;
}

/// y[t] = gate_out[t] · (Σ_s kernel[s]·u[t−s] + skip·u[t]), u = gate_in · x, and its adjoint.
struct ConvolutionResult {
  std::vector<double> y, dx, dgate_in, dgate_out;
};
struct ConvolutionGradient {
  double skip = 0;
  std::vector<double> kernel;
};

void transform(std::vector<Complex>& v, bool inverse);

inline ConvolutionResult convolution(const std::vector<double>& kernel, double skip,
                                     const Sequence& in, bool backward,
                                     ConvolutionGradient& gradient) {
  const std::size_t length = in.x.size();
  std::size_t size = 1;
  while (size < length + kernel.size()) size *= 2;
  const auto one = [](const std::vector<double>& v, std::size_t t) {
    return v.empty() ? 1.0 : v[t];
  };
  std::vector<Complex> k(size), u(size), s(size), d(size);
  for (std::size_t t = 0; t < kernel.size(); ++t) k[t] = kernel[t];
  for (std::size_t t = 0; t < length; ++t) u[t] = in.x[t] * one(in.gate_in, t);
  for (std::size_t t = 0; backward && t < length; ++t) d[t] = in.dy[t] * one(in.gate_out, t);
  const std::vector<Complex> time = u, dtime = d;
  transform(k, false), transform(u, false);
  for (std::size_t i = 0; i < size; ++i) s[i] = u[i] * k[i];
  transform(s, true);
  ConvolutionResult out;
  out.y.resize(length);
  for (std::size_t t = 0; t < length; ++t)
    out.y[t] = (s[t].real() + skip * time[t].real()) * one(in.gate_out, t);
  if (!backward) return out;
  transform(d, false);
  std::vector<Complex> dk(size);
  for (std::size_t i = 0; i < size; ++i) dk[i] = d[i] * std::conj(u[i]), d[i] *= std::conj(k[i]);
  transform(dk, true), transform(d, true);
  gradient.kernel.resize(kernel.size());
  for (std::size_t t = 0; t < kernel.size(); ++t) gradient.kernel[t] += dk[t].real();
  out.dx.resize(length), out.dgate_in.resize(length), out.dgate_out.resize(length);
  for (std::size_t t = 0; t < length; ++t) {
    const double du = d[t].real() + skip * dtime[t].real();
    out.dx[t] = du * one(in.gate_in, t);
    out.dgate_in[t] = du * in.x[t];
    out.dgate_out[t] = in.dy[t] * (s[t].real() + skip * time[t].real());
    gradient.skip += dtime[t].real() * time[t].real();
  }
  return out;
}

/// Radix-2 transform of a power-of-two length, in place; the inverse divides by the length.
inline void transform(std::vector<Complex>& v, bool inverse) {
  const std::size_t n = v.size();
  for (std::size_t i = 1, j = 0; i < n; ++i) {
    std::size_t bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) std::swap(v[i], v[j]);
  }
  std::vector<Complex> root(n / 2 + 1);
  for (std::size_t i = 0; i < n / 2; ++i)
    root[i] = std::polar(1.0, (inverse ? 2 : -2) * M_PI * double(i) / double(n));
  for (std::size_t half = 1; half < n; half *= 2)
    for (std::size_t i = 0; i < n; i += 2 * half)
      for (std::size_t j = 0; j < half; ++j) {
        const Complex w = root[j * (n / (2 * half))], a = v[i + j], b = v[i + j + half];
        const Complex p{b.real() * w.real() - b.imag() * w.imag(),
                        b.real() * w.imag() + b.imag() * w.real()};
        v[i + j] = a + p, v[i + j + half] = a - p;
      }
  if (inverse)
    for (Complex& x : v) x /= double(n);
}

}  // namespace reference
