// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "ssm/core/elementwise.hpp"
#include "ssm/op/cascaded_scan.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {

struct CascadedSizes {
  Index sources = 2;
  Index batch = 3;
  Index length = 7;
  Index channels = 2;
  Index states = 3;
  bool initial = true;
  Segments segments{};
};

/// One call with all its memory, and all its gradients.
template <class T = double>
struct CascadedCall {
  using Wide = DynamicTensor<T, 3>;
  struct Source {
    Wide u, dt, B;
    DynamicTensor<T, 2> A;
    DynamicTensor<T, 3> initial_state;
    ScanInputs<T, HostSpace> views(bool with_initial_state) {
      ScanInputs<T, HostSpace> all{.u = u, .dt = dt, .B = B, .A = A};
      if (with_initial_state) all.initial_state = initial_state;
      return all;
    }
  };

  explicit CascadedCall(const CascadedSizes& n)
      : sizes(n),
        rows(sequence_count(n.batch, n.segments)),
        A(negative("A", n)),
        gate(wide("gate", n)),
        dt(positive(wide("delta", n))),
        C(narrow("C", n)),
        y(wide("y", n)),
        dy(wide("dy", n)),
        dgate(wide("dgate", n)),
        ddt(wide("ddelta", n)),
        dC(narrow("dC", n)),
        initial_state(state("initial", n)),
        final_state(nan_tensor<T>(rows, n.channels, n.states)),
        dfinal(state("dfinal", n)),
        dinitial(nan_tensor<T>(rows, n.channels, n.states)),
        dA(random_tensor<T>("dA", n.channels, n.states)) {
    for (Index i = 0; i < n.sources; ++i) {
      const std::string name = "source " + std::to_string(i) + " ";
      sources.push_back({.u = wide(name + "u", n),
                         .dt = positive(wide(name + "delta", n)),
                         .B = narrow(name + "B", n),
                         .A = negative(name + "A", n),
                         .initial_state = state(name + "initial", n)});
      gradients.push_back({.u = wide(name + "du", n),
                           .dt = wide(name + "ddelta", n),
                           .B = narrow(name + "dB", n),
                           .A = random_tensor<T>(name + "dA", n.channels, n.states),
                           .initial_state = state(name + "dinitial", n)});
    }
    for (std::size_t i = 0; i < sources.size(); ++i) {
      source_views.push_back(sources[i].views(n.initial));
      gradient_views.push_back(gradients[i].views(true));
    }
  }

  ssm::CascadedScan<T, HostSpace> operands() {
    ssm::CascadedScan<T, HostSpace> a{.sources = source_views,
                                      .dt = dt,
                                      .A = A,
                                      .C = C,
                                      .segments = sizes.segments,
                                      .final_state = final_state,
                                      .y = y};
    if (sizes.sources > 0) a.gate = gate;
    if (sizes.initial) a.initial_state = initial_state;
    return a;
  }
  ssm::CascadedScanBackward<T, HostSpace> backward() {
    ssm::CascadedScanBackward<T, HostSpace> g{.forward = operands(),
                                              .dy = dy,
                                              .dfinal_state = dfinal,
                                              .dsources = gradient_views,
                                              .ddt = ddt,
                                              .dA = dA,
                                              .dC = dC,
                                              .dinitial_state = dinitial};
    if (sizes.sources > 0) g.dgate = dgate;
    return g;
  }
  template <class Ctx>
  void run(Ctx& ctx) {
    cascaded_scan(ctx, operands());
  }
  template <class Ctx>
  void run_backward(Ctx& ctx) {
    cascaded_scan_backward(ctx, backward());
  }

  static Wide wide(const std::string& name, const CascadedSizes& n) {
    return random_tensor<T>(name, n.batch, n.length, n.channels);
  }
  static Wide narrow(const std::string& name, const CascadedSizes& n) {
    return random_tensor<T>(name, n.batch, n.length, n.states);
  }
  static DynamicTensor<T, 3> state(const std::string& name, const CascadedSizes& n) {
    return random_tensor<T>(name, sequence_count(n.batch, n.segments), n.channels, n.states);
  }
  static Wide positive(Wide tensor) {
    for_each_element([](T& e) { e = std::abs(e); }, tensor);
    return tensor;
  }
  static DynamicTensor<T, 2> negative(const std::string& name, const CascadedSizes& n) {
    auto tensor = random_tensor<T>(name, n.channels, n.states);
    for_each_element([](T& e) { e = -std::exp(e); }, tensor);
    return tensor;
  }

  CascadedSizes sizes;
  Index rows;
  DynamicTensor<T, 2> A;
  Wide gate, dt, C, y, dy, dgate, ddt, dC;
  DynamicTensor<T, 3> initial_state, final_state, dfinal, dinitial;
  DynamicTensor<T, 2> dA;
  std::vector<Source> sources, gradients;
  std::vector<ScanInputs<T, HostSpace>> source_views, gradient_views;
};

}  // namespace ssm::test
