// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <complex>
#include <unsupported/Eigen/FFT>
#include <vector>

#include "ssm/backend/cpu/fft_rows.hpp"

namespace ssm::cpu {

/// Complex FFTs by Eigen's bundled kissfft.
template <class T>
class EigenRows {
 public:
  EigenRows(Index length, int threads)
      : length_(length), workers_(static_cast<std::size_t>(threads)) {
    for (Worker& worker : workers_) {
      worker.fft.SetFlag(Eigen::FFT<T>::Unscaled);
      worker.copy.resize(static_cast<std::size_t>(length));
    }
  }
  void forward(T* row, int worker) const {
    Worker& mine = copied(row, worker);
    mine.fft.fwd(reinterpret_cast<std::complex<T>*>(row), mine.copy.data(), length_);
  }
  void inverse(T* row, int worker) const {
    Worker& mine = copied(row, worker);
    mine.fft.inv(reinterpret_cast<std::complex<T>*>(row), mine.copy.data(), length_);
  }

 private:
  struct Worker {  // kissfft keeps twiddles and scratch inside: one for each thread
    Eigen::FFT<T> fft;
    std::vector<std::complex<T>> copy;
  };
  Worker& copied(const T* row, int worker) const {
    Worker& mine = workers_[static_cast<std::size_t>(worker)];
    std::copy_n(reinterpret_cast<const std::complex<T>*>(row), length_, mine.copy.data());
    return mine;
  }
  Index length_;
  mutable std::vector<Worker> workers_;
};

/// Eigen's FFT as a policy: ssm::cpu::CausalConvolution<Arch, ssm::cpu::EigenFft>.
struct EigenFft {
  template <class T, class Arch>
  using Plan = RowPlan<T, Arch, EigenRows<T>>;
};

}  // namespace ssm::cpu
