// SPDX-License-Identifier: Apache-2.0
// Primitives of the CUDA backend as a layer calls them: milliseconds of the forward call and of its
// gradient, beside what a copy of the operands' bytes takes on this device.
//   cuda_primitives [results.json [PRIMITIVE[:SHAPE]...]]      rows that begin so; else all
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "ssm/backend/cuda.hpp"
#include "ssm/core/fill_random.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/core/transfer.hpp"

namespace {

using namespace ssm;
using cuda::CudaSpace;

/// The extents of a call by letter.
using Sizes = std::map<char, Index>;
/// The range of an operand's numbers where normal ones make no sense: uniform between the two.
using Ranges = std::map<std::string_view, std::pair<double, double>>;

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Times {
  double median, least, most;  // milliseconds
};

/// Of a call that queues work: nine times as many calls as take 10 ms.
Times milliseconds(Context<Cuda>& ctx, const std::function<void()>& call) {
  const auto seconds_of = [&](int calls) {
    ctx.resources().synchronize();
    const double start = seconds_now();
    for (int i = 0; i < calls; ++i) call();
    ctx.resources().synchronize();
    return seconds_now() - start;
  };
  for (int i = 0; i < 3; ++i) call();
  const int calls = std::clamp(static_cast<int>(0.01 / seconds_of(2) * 2), 1, 200);
  std::array<double, 9> times{};
  for (double& time : times) time = 1e3 * seconds_of(calls) / calls;
  std::ranges::sort(times);
  return {times[4], times.front(), times.back()};
}

/// A call and its gradient with memory on the device for every operand that the primitive
/// describes, but those left out. Numbers are random.
template <class Op, class Gradient>
class DeviceCall {
 public:
  DeviceCall(const Sizes& sizes, const std::vector<std::string_view>& absent,
             const Ranges& ranges) {
    Op::for_each_operand([&]<class V, class P>(const Operand& what, V Op::*member, P partner) {
      const std::string_view name = what.name;
      if (std::ranges::find(absent, name) != absent.end()) return;
      if (what.role != Role::again) forward.*member = make<V>(what, sizes, ranges);
      if constexpr (!std::is_same_v<P, std::nullptr_t>) {
        using G = std::remove_cvref_t<decltype(gradient.*partner)>;
        if (what.role != Role::again) {
          gradient.*partner = make<G>(what, sizes, {});
        } else if constexpr (std::is_assignable_v<G&, const V&>) {
          gradient.*partner = forward.*member;
        }
      }
    });
  }
  const Gradient& backward() {
    gradient.forward = forward;
    return gradient;
  }

  Op forward{};
  Gradient gradient{};

 private:
  template <class V>
  V make(const Operand& what, const Sizes& sizes, const Ranges& ranges) {
    using Value = std::remove_const_t<typename V::Value>;
    std::array<Index, std::size_t{V::rank()}> extents{};
    for (std::size_t axis = 0; axis < extents.size(); ++axis) {
      const char letter = what.letters[axis];
      extents[axis] = letter <= '9' ? letter - '0' : sizes.at(letter);
    }
    const DynamicExtents<V::rank()> shape =
        std::apply([](auto... n) { return DynamicExtents<V::rank()>(n...); }, extents);
    auto memory = std::make_shared<DynamicTensor<Value, V::rank(), CudaSpace>>(shape);
    const auto range = ranges.find(what.name);
    fill(*memory, range == ranges.end() ? nullptr : &range->second);
    const View<Value, V::rank(), CudaSpace> view = memory->view();
    memory_.push_back(std::move(memory));
    return V(view);
  }
  /// A few thousand numbers, repeated.
  template <class Tensor>
  static void fill(Tensor& tensor, const std::pair<double, double>* range) {
    using Value = std::remove_cvref_t<decltype(*tensor.data())>;
    DynamicTensor<float, 1> some({1 << 14});
    if (range != nullptr)
      fill_uniform(some, Seed{1}, range->first, range->second);
    else
      fill_normal(some, Seed{1});
    std::vector<Value> host(static_cast<std::size_t>(tensor.size()));
    for (std::size_t i = 0; i < host.size(); ++i)
      host[i] = scalar_cast<Value>(some(static_cast<Index>((i * 7 + i / 1000) % 16384)));
    CudaSpace::copy(tensor.data(), host.data(), host.size() * sizeof(Value));
  }

  std::vector<std::shared_ptr<void>> memory_;
};

struct Row {
  std::string primitive, shape, numbers;
  Times forward, backward, both;       // both: a forward call, its gradient, and so on
  double forward_copy, backward_copy;  // what copying the operands' bytes takes
};

class Table {
 public:
  /// wanted   beginnings of "primitive:shape"; none: every row
  Table(Context<Cuda>& ctx, std::vector<std::string> wanted)
      : ctx_(ctx), wanted_(std::move(wanted)) {
    constexpr std::size_t bytes = std::size_t{1} << 30;
    const DynamicTensor<float, 1, CudaSpace> from({bytes / 4});
    DynamicTensor<float, 1, CudaSpace> to({bytes / 4});
    const Times copy = milliseconds(ctx, [&] { ctx.copy(to.data(), from.data(), bytes); });
    bytes_a_millisecond_ = 2 * static_cast<double>(bytes) / copy.median;
    std::printf("copying: %.0f GB/s\n", bytes_a_millisecond_ / 1e6);
  }

  template <class Op>
  bool wants(const char* shape) const {
    const std::string row = std::string(Op::name) + ":" + shape;
    return wanted_.empty() ||
           std::ranges::any_of(wanted_, [&](const auto& start) { return row.starts_with(start); });
  }

  template <class Call, class Forward, class Backward>
  void add(const char* shape, Call& call, Forward forward, Backward backward) {
    const double bytes = operand_bytes(call.forward);
    double gradient_bytes = 0;
    using Op = std::remove_cvref_t<decltype(call.forward)>;
    Op::for_each_operand([&](const Operand& what, auto, auto partner) {
      if constexpr (!std::is_same_v<decltype(partner), std::nullptr_t>) {
        const auto& view = call.gradient.*partner;
        using Value = typename std::remove_cvref_t<decltype(view)>::Value;
        if (what.role != Role::again && view)
          gradient_bytes += static_cast<double>(view.size()) * sizeof(Value);
      }
    });
    Row row{Op::name,
            shape,
            std::string(scalar_name<std::remove_const_t<
                            typename std::remove_cvref_t<decltype(call.forward.y)>::Value>>()),
            milliseconds(ctx_, [&] { forward(ctx_, call.forward); }),
            {},
            {},
            bytes / bytes_a_millisecond_,
            (bytes + gradient_bytes) / bytes_a_millisecond_};
    row.backward = milliseconds(ctx_, [&] { backward(ctx_, call.backward()); });
    row.both = milliseconds(ctx_, [&] {
      forward(ctx_, call.forward);
      backward(ctx_, call.backward());
    });
    const auto share = [](double copy, const Times& of) { return 100 * copy / of.median; };
    std::printf(
        "%-19s %-24s %-5s forward %8.3f ms (%3.0f %% of copying), backward %8.3f ms (%3.0f %%), "
        "both %8.3f ms\n",
        row.primitive.c_str(), shape, row.numbers.c_str(), row.forward.median,
        share(row.forward_copy, row.forward), row.backward.median,
        share(row.backward_copy, row.backward), row.both.median);
    rows_.push_back(std::move(row));
  }

  void write(const char* path) const {
    std::ofstream out(path);
    const auto times = [&](const char* name, const Times& t) {
      out << "\"" << name << "_ms\": " << t.median << ", \"" << name << "_least_ms\": " << t.least
          << ", \"" << name << "_most_ms\": " << t.most << ", ";
    };
    out << "{\"copy_gb_a_second\": " << bytes_a_millisecond_ / 1e6 << ", \"rows\": [\n";
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      const Row& r = rows_[i];
      out << R"(  {"primitive": ")" << r.primitive << R"(", "shape": ")" << r.shape
          << R"(", "numbers": ")" << r.numbers << R"(", )";
      times("forward", r.forward);
      times("backward", r.backward);
      times("both", r.both);
      out << "\"forward_copy_ms\": " << r.forward_copy
          << ", \"backward_copy_ms\": " << r.backward_copy << "}"
          << (i + 1 < rows_.size() ? "," : "") << "\n";
    }
    out << "]}\n";
  }

 private:
  Context<Cuda>& ctx_;
  std::vector<std::string> wanted_;
  double bytes_a_millisecond_ = 0;
  std::vector<Row> rows_;
};

template <class T>
void time_attention(Table& table, const char* shape, Index batch, Index length, Index heads,
                    Index width) {
  if (!table.wants<Attention<T, CudaSpace>>(shape)) return;
  DeviceCall<Attention<T, CudaSpace>, AttentionBackward<T, CudaSpace>> call(
      {{'B', batch}, {'R', batch}, {'L', length}, {'T', length}, {'H', heads}, {'K', width}}, {},
      {});
  call.forward.scale = 1 / std::sqrt(static_cast<double>(width));
  table.add(
      shape, call, [](auto& ctx, const auto& a) { attention(ctx, a); },
      [](auto& ctx, const auto& g) { attention_backward(ctx, g); });
}

template <class T>
void time_decayed_attention(Table& table, const char* shape, Index batch, Index length, Index heads,
                            Index keys, Index values) {
  if (!table.wants<DecayedAttention<T, CudaSpace>>(shape)) return;
  DeviceCall<DecayedAttention<T, CudaSpace>, DecayedAttentionBackward<T, CudaSpace>> call(
      {{'B', batch}, {'L', length}, {'H', heads}, {'K', keys}, {'V', values}},
      {"initial_state", "final_state"}, {{"log_decay", {-0.03, -0.002}}});
  table.add(
      shape, call, [](auto& ctx, const auto& a) { decayed_attention(ctx, a); },
      [](auto& ctx, const auto& g) { decayed_attention_backward(ctx, g); });
}

template <class T>
void time_ssd_scan(Table& table, const char* shape, Index batch, Index length, Index heads) {
  if (!table.wants<SsdScan<T, CudaSpace>>(shape)) return;
  DeviceCall<SsdScan<T, CudaSpace>, SsdScanBackward<T, CudaSpace>> call(
      {{'B', batch}, {'L', length}, {'H', heads}, {'P', 64}, {'G', 1}, {'N', 128}},
      {"initial_state", "final_state"}, {{"A", {-16, -1}}, {"dt", {-3, 1}}, {"dt_bias", {-4, -2}}});
  call.forward.dt_softplus = true;
  table.add(
      shape, call, [](auto& ctx, const auto& a) { ssd_scan(ctx, a); },
      [](auto& ctx, const auto& g) { ssd_scan_backward(ctx, g); });
}

template <class T>
void time_selective_scan(Table& table, const char* shape, Index batch, Index length, Index channels,
                         Index states) {
  if (!table.wants<SelectiveScan<T, CudaSpace>>(shape)) return;
  DeviceCall<SelectiveScan<T, CudaSpace>, SelectiveScanBackward<T, CudaSpace>> call(
      {{'B', batch}, {'L', length}, {'D', channels}, {'N', states}},
      {"initial_state", "final_state", "dt_used"},
      {{"A", {-16, -1}}, {"dt", {-3, 1}}, {"dt_bias", {-4, -2}}});
  call.forward.dt_softplus = true;
  table.add(
      shape, call, [](auto& ctx, const auto& a) { selective_scan(ctx, a); },
      [](auto& ctx, const auto& g) { selective_scan_backward(ctx, g); });
}

template <class T>
void time_short_convolution(Table& table, const char* shape, Index batch, Index length,
                            Index channels) {
  if (!table.wants<ShortConvolution<T, CudaSpace>>(shape)) return;
  DeviceCall<ShortConvolution<T, CudaSpace>, ShortConvolutionBackward<T, CudaSpace>> call(
      {{'B', batch}, {'L', length}, {'D', channels}, {'W', 4}}, {"initial_state", "final_state"},
      {});
  call.forward.activation = ActivationKind::silu;
  table.add(
      shape, call, [](auto& ctx, const auto& a) { short_convolution(ctx, a); },
      [](auto& ctx, const auto& g) { short_convolution_backward(ctx, g); });
}

/// Positions are contiguous, as the kernels want them.
template <class Call>
void with_positions_contiguous(Call& call) {
  using Op = std::remove_cvref_t<decltype(call.forward)>;
  const auto turn = [](auto& x) {
    if constexpr (std::remove_cvref_t<decltype(x)>::rank() == 3) {
      if (!x) return;
      const auto n = x.extents().to_array();
      x = {x.data(), x.extents(), {n[1] * n[2], 1, n[1]}};
    }
  };
  Op::for_each_operand([&](const Operand& what, auto member, auto partner) {
    if (what.role != Role::input && what.role != Role::output) return;
    turn(call.forward.*member);
    if constexpr (!std::is_same_v<decltype(partner), std::nullptr_t>) turn(call.gradient.*partner);
  });
}

template <class T>
void time_causal_convolution(Table& table, const char* shape, Index batch, Index length) {
  if (!table.wants<CausalConvolution<T, CudaSpace>>(shape)) return;
  DeviceCall<CausalConvolution<T, CudaSpace>, CausalConvolutionBackward<T, CudaSpace>> call(
      {{'B', batch}, {'L', length}, {'D', 768}, {'K', length}}, {"gate_in", "gate_out"}, {});
  with_positions_contiguous(call);
  table.add(
      shape, call, [](auto& ctx, const auto& a) { causal_convolution(ctx, a); },
      [](auto& ctx, const auto& g) { causal_convolution_backward(ctx, g); });
}

template <class T>
void time_diagonal_scan(Context<Cuda>& device, Table& table, const char* shape, Index batch,
                        Index length) {
  if (!table.wants<DiagonalScan<T, CudaSpace>>(shape)) return;
  DeviceCall<DiagonalScan<T, CudaSpace>, DiagonalScanBackward<T, CudaSpace>> call(
      {{'B', batch}, {'L', length}, {'D', 768}, {'R', 768}, {'P', 32}, {'Z', 2}},
      {"gate_in", "gate_out", "initial_state", "final_state"},
      {{"A", {-0.6, -0.4}}, {"dt", {0.001, 0.1}}});
  with_positions_contiguous(call);
  // As layers with a tape call it.
  DynamicTensor<Wide<T>, 1, CudaSpace> kept({kept_numbers<Cuda, T>(device, call.forward)});
  call.forward.kept = kept;
  call.gradient.kept = kept;
  table.add(
      shape, call, [](auto& ctx, const auto& a) { diagonal_scan(ctx, a); },
      [](auto& ctx, const auto& g) { diagonal_scan_backward(ctx, g); });
}

}  // namespace

int main(int count, char** arguments) {
  if (cuda::device_count() == 0) {
    std::puts("skipped: no CUDA device");
    return 0;
  }
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  Context<Cuda> ctx;
  Table table(ctx, {arguments + std::min(count, 2), arguments + count});
  time_attention<BFloat16>(table, "8x8192, 16 of 128", 8, 8192, 16, 128);
  time_attention<BFloat16>(table, "2x8192, 16 of 128", 2, 8192, 16, 128);
  time_attention<BFloat16>(table, "8x1024, 12 of 64", 8, 1024, 12, 64);
  time_decayed_attention<BFloat16>(table, "8x8192, 8 of 256, 512", 8, 8192, 8, 256, 512);
  time_decayed_attention<BFloat16>(table, "8x2048, 8 of 256, 512", 8, 2048, 8, 256, 512);
  time_decayed_attention<BFloat16>(table, "8x8192, 16 of 128, 128", 8, 8192, 16, 128, 128);
  time_ssd_scan<BFloat16>(table, "8x2048, 24 of 64, 128", 8, 2048, 24);
  time_ssd_scan<BFloat16>(table, "8x2048, 80 of 64, 128", 8, 2048, 80);
  time_selective_scan<BFloat16>(table, "8x8192x1536, 16 states", 8, 8192, 1536, 16);
  time_selective_scan<BFloat16>(table, "8x2048x1536, 16 states", 8, 2048, 1536, 16);
  time_selective_scan<float>(table, "8x2048x1536, 16 states", 8, 2048, 1536, 16);
  time_short_convolution<BFloat16>(table, "8x8192x1536, 4 taps", 8, 8192, 1536);
  time_short_convolution<BFloat16>(table, "8x1024x1536, 4 taps", 8, 1024, 1536);
  time_diagonal_scan<BFloat16>(ctx, table, "32x8192x768", 32, 8192);
  time_diagonal_scan<BFloat16>(ctx, table, "8x1024x768", 8, 1024);
  time_causal_convolution<BFloat16>(table, "32x8192x768", 32, 8192);
  time_causal_convolution<BFloat16>(table, "8x32768x768", 8, 32768);
  time_causal_convolution<BFloat16>(table, "2x262144x768", 2, 262144);
  if (count > 1) table.write(arguments[1]);
}
