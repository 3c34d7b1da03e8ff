// SPDX-License-Identifier: Apache-2.0
// Checks the CUDA convolution primitives against double, times them, and writes the table as JSON.
//   flashconv check | small [bf16 | f16 | float [diagonal | convolution | mixer]]
//   flashconv bench [results.json] | growth [results.json] | profile
// small: a case or two of every kernel or of some, for tools that slow it down; profile: two large
// calls, for a profiler.
#include <fstream>

#include "flashconv_convolution.cuh"
#include "flashconv_diagonal.cuh"
#include "flashconv_mixer.cuh"
#include "kernel/small_problem.cuh"

namespace {

using namespace bench;
using ssm::BFloat16;
using ssm::Float16;

int checked = 0, failures = 0;

template <class T>
constexpr const char* type_name() {
  return sizeof(T) == 4 ? "fp32" : std::is_same_v<T, BFloat16> ? "bf16" : "fp16";
}
template <class T>
constexpr double tolerance() {
  return sizeof(T) == 4 ? 1e-5 : std::is_same_v<T, BFloat16> ? 4e-3 : 1e-3;
}

double report(const std::string& what, const std::map<std::string, double>& errors,
              double tolerance) {
  double worst = 0;
  std::string list;
  bool good = true;
  for (const auto& [name, e] : errors) {
    char text[64];
    std::snprintf(text, sizeof text, " %s %.1e%s", name.c_str(), e, e <= tolerance ? "" : "!");
    list += text;
    good = good && e <= tolerance;
    worst = std::isnan(e) ? NAN : std::max(worst, e);
  }
  ++checked;
  if (!good) ++failures;
  std::printf("%s %s:%s\n", good ? "ok  " : "FAIL", what.c_str(), list.c_str());
  std::fflush(stdout);
  return worst;
}

/// Channels to compare: all of few numbers, some of many channels.
std::vector<int> sample(int channels, int batch, int length) {
  std::vector<int> out;
  const bool few = channels <= 64 || 1.0 * channels * batch * length < (1 << 21);
  const int step = few ? 1 : channels / 16;
  for (int d = 0; d < channels; d += step) out.push_back(d);
  return out;
}

template <class T>
void check_diagonal(const DiagonalCase& c, unsigned seed, double allowance = 1) {
  DiagonalProblem<T> p(c, seed);
  p.run_forward(nullptr);
  p.run_backward(nullptr);
  check(cudaDeviceSynchronize(), "diagonal_scan");
  constexpr const char* gate_names[] = {"", " gate in", " gate out", " gates"};
  char name[200];
  std::snprintf(name, sizeof name, "diagonal %s B%d D%d L%d N%d%s%s%s%s", type_name<T>(), c.batch,
                c.channels, c.length, 2 * c.modes, gate_names[int(c.gates)],
                c.states ? " states" : "", c.bilinear ? "" : " zoh",
                c.segments.empty() ? "" : " packed");
  report(name, diagonal_errors(p, sample(c.channels, c.batch, c.length), true),
         allowance * tolerance<T>());
}

/// Sequences of more positions together than 16-bit calls compute in float.
int many_sequences(int length) { return 1 + ssm::cuda::device::kFewPositions / length; }

template <class T>
void check_diagonal_cases() {
  unsigned seed = 100;
  for (const int length : {1, 63, 65, 1000, 8191}) {
    check_diagonal<T>({3, 7, length, 32, Gates::none, false}, seed += 10);
    check_diagonal<T>({2, 7, length, 32, Gates::both, true, false}, seed += 10);
  }
  for (const int channels : {1, 2, 16, 31, 32, 64})
    for (const int modes : {1, 8, 32})
      for (const int length : {1, 65, 1000})
        check_diagonal<T>({2, channels, length, modes, Gates::both, true}, seed += 10);
  for (const Gates gates : {Gates::in, Gates::out})
    for (const int length : {1, 63, 65, 1000, 8191})
      check_diagonal<T>({many_sequences(length), 769, length, 8, gates, length < 1000}, seed += 10);
  for (const int length : {8, 1000, 2048, 4104})
    for (const bool states : {false, true})
      check_diagonal<T>({many_sequences(length), 769, length, 32, Gates::none, states, !states},
                        seed += 10);
  check_diagonal<T>({1, 1, 64, 1, Gates::none, true}, seed += 10);
  check_diagonal<T>({1, 1, 2049, 8, Gates::both, true}, seed += 10);
  check_diagonal<T>({5, 769, 1000, 8, Gates::none, true, true, false}, seed += 10);
  check_diagonal<T>({40, 7, 4096, 32, Gates::both, false, true, false}, seed += 10);
  check_diagonal<T>({1, 1, 100003, 32, Gates::none, true}, seed += 10);
  check_diagonal<T>({1, 7, 3000, 32, Gates::both, true, true, true, {0, 1, 1, 64, 1000, 3000}},
                    seed += 10);
  check_diagonal<T>({1, 3, 20000, 32, Gates::none, true, false, true, {0, 8, 8200, 8200, 20000}},
                    seed += 10);
  // Many sequences of a channel, one, an odd number: blocks have parts of channels.
  check_diagonal<T>({200, 65, 1000, 32, Gates::none, true}, seed += 10);
  check_diagonal<T>({1, 300, 2048, 32, Gates::none, true}, seed += 10);
  check_diagonal<T>({7, 133, 6000, 20, Gates::none, false}, seed += 10);
  check_diagonal<T>({3, 128, 6144, 20, Gates::none, true}, seed += 10);
}

template <class T>
void check_convolution(const ConvolutionCase& c, unsigned seed, double allowance = 1) {
  ConvolutionProblem<T> p(c, seed);
  p.run_forward(nullptr);
  p.run_backward(nullptr);
  check(cudaDeviceSynchronize(), "causal_convolution");
  char name[200];
  std::snprintf(name, sizeof name, "%s %s B%d D%d L%d K%d%s", c.shift ? "shift" : "convolution",
                type_name<T>(), c.batch, c.channels, c.length, c.taps, c.gates ? " gates" : "");
  report(name, convolution_errors(p, sample(c.channels, c.batch, c.length)),
         allowance * tolerance<T>());
}

template <class T>
void check_convolution_cases() {
  unsigned seed = 9000;
  for (const int length : {1, 63, 65, 1000, 1025, 2048, 4096, 8191, 8192}) {
    check_convolution<T>({3, 7, length, length, false}, seed += 10);
    check_convolution<T>({2, 7, length, length, true}, seed += 10);
  }
  check_convolution<T>({1, 1, 1000, 64, true}, seed += 10);
  check_convolution<T>({5, 769, 1000, 2000, false}, seed += 10);
  for (const int length : {8193, 16384, 20001, 32768}) {
    check_convolution<T>({1, 7, length, length, false}, seed += 10);
    check_convolution<T>({3, 7, length, length, true}, seed += 10);
  }
  check_convolution<T>({2, 3, 32000, 17000, true}, seed += 10);
  check_convolution<T>({2, 3, 31999, 5, false}, seed += 10);
  check_convolution<T>({1, 3, 32769, 32769, true}, seed += 10);
  check_convolution<T>({3, 3, 100003, 100003, false}, seed += 10);
  check_convolution<T>({2, 3, 65536, 9000, true}, seed += 10);
  if constexpr (std::is_same_v<T, BFloat16>) {  // every number of rows
    check_convolution<T>({3, 4, 200001, 200001, true}, seed += 10);
    check_convolution<T>({1, 4, 400003, 1000, false}, seed += 10);
    check_convolution<T>({2, 4, 1000000, 1000000, true}, seed += 10);
  }
  for (const int channels : {1, 7, 32, 769})
    for (const int length : {1, 63, 65, 1000})
      for (const bool gates : {false, true})
        check_convolution<T>(
            {channels < 769 ? 3 : many_sequences(length), channels, length, 64, gates, true},
            seed += 10);
  check_convolution<T>({2, 7, 100003, 5, true, true}, seed += 10);
}

/// A number so small that few others can be divided by it.
template <class T>
T tiny() {
  if constexpr (sizeof(T) == 4)
    return 1e-38f;
  else
    return T::from_bits(0x0001);
}

struct MixerCase {
  int batch = 1, channels = 1, length = 1, modes = 32, taps = 64;
  bool taped = true, small_values = false;  // some of v is zero or near the smallest numbers
};

template <class T>
void check_mixer(const MixerCase& c, unsigned seed, double allowance = 1) {
  MixerProblem<T> p(c.batch, c.channels, c.length, c.modes, c.taps, seed);
  if (c.small_values) {
    std::vector<T> v = p.v.read();
    for (std::size_t i = 0; i < v.size(); ++i)
      if (i % 7 < 2) v[i] = {};
    for (std::size_t i = 4; i < v.size(); i += 7) v[i] = tiny<T>();
    p.v.write(v);
  }
  p.run_forward(nullptr, c.taped);
  p.run_backward(nullptr, c.taped);
  check(cudaDeviceSynchronize(), "h3_mixer");
  char name[200];
  std::snprintf(name, sizeof name, "mixer %s B%d D%d L%d N%d taps %d%s%s", type_name<T>(), c.batch,
                c.channels, c.length, 2 * c.modes, c.taps, c.taped ? "" : " no tape",
                c.small_values ? " small values" : "");
  report(name, mixer_errors(p, sample(c.channels, c.batch, c.length)), allowance * tolerance<T>());
}

template <class T>
void check_mixer_cases() {
  unsigned seed = 5000;
  const auto one = [&](int batch, int channels, int length, int modes, int taps) {
    check_mixer<T>({batch, channels, length, modes, taps}, seed += 10);
  };
  for (const int length : {1, 63, 65, 1000, 8191, 8192}) one(3, 7, length, 32, 64);
  one(1, 1, 100003, 32, 64);
  one(2, 769, 1000, 8, 4);
  one(2, 7, 2048, 1, 64);
  check_mixer<T>({2, 769, 1000, 8, 64, true, true}, seed += 10);
  check_mixer<T>({2, 769, 4000, 32, 64, false, true}, seed += 10);
  for (const int modes : {1, 8, 32})
    for (const int length : {1, 63, 65, 1000})
      for (const int batch : {1, many_sequences(length)}) one(batch, 769, length, modes, 64);
  // Few channels and few positions: little averages out in the gradients of the parameters.
  for (const int channels : {1, 2, 16, 31, 32, 64})
    for (const int modes : {1, 8, 32})
      for (const int length : {1, 65, 1000}) one(2, channels, length, modes, 64);
}

/// The kernels of every class of lengths once or twice, at sizes that leave ragged ends in batch,
/// channels and positions. Just more channels and positions than few, that 16-bit kernels run:
/// gradients of so few numbers may have twice the bound's error.
template <class T>
void check_small_cases(const std::string& kind) {
  constexpr int channels = sizeof(T) == 2 ? ssm::cuda::device::kFewChannels + 1 : 3;
  if (kind.empty() || kind == "diagonal") {
    unsigned seed = 20000;
    check_diagonal<T>({3, channels, 400, 32, Gates::both, true}, seed += 10, 2);
    check_diagonal<T>({1, channels, 5000, 8, Gates::both, true, false, false}, seed += 10, 2);
    check_diagonal<T>({1, channels, 1100, 1, Gates::none, true, true, true, {0, 1, 1, 64, 1100}},
                      seed += 10, 2);
    check_diagonal<T>({1, channels, 1100, 8, Gates::in}, seed += 10, 2);
    for (const int length : {2048, 2056})
      check_diagonal<T>({3, 264, length, 8, Gates::none, true}, seed += 10, 2);
    check_diagonal<T>({1, channels, 1100, 8, Gates::out}, seed += 10, 2);
  }
  if (kind.empty() || kind == "convolution") {
    unsigned seed = 20060;
    for (const int length : {65, 1000, 2048, 4096, 8191, 16384, 20001}) {
      check_convolution<T>({5, 3, length, length, true}, seed += 10);
      check_convolution<T>({1, 3, length, 64, false}, seed += 10);
    }
    check_convolution<T>({3, 3, 33000, 9000, true}, seed += 10);
    check_convolution<T>({3, channels, 400, 64, true, true}, seed += 10, 2);
    check_convolution<T>({1, channels, 1100, 3, false, true}, seed += 10, 2);
  }
  if (kind.empty() || kind == "mixer") {
    unsigned seed = 20230;
    check_mixer<T>({3, channels, 400, 32, 64}, seed += 10, 2);
    check_mixer<T>({1, channels, 1100, 8, 4, false}, seed += 10, 2);
    check_mixer<T>({1, channels, 5000, 32, 64, true, true}, seed += 10, 2);
  }
}

struct Row {
  std::string work, shape, pass, dtype;
  double ms, floor_ms, rel_l2;
  std::string peer;
  double peer_ms;
};

std::vector<Row> rows;

template <class T>
void bench_diagonal(int batch, int length, const char* peer, double forward_peer, double both_peer,
                    double bandwidth, cudaStream_t stream) {
  constexpr int channels = 768;
  const DiagonalCase c{batch, channels, length, 32};
  std::vector<DiagonalProblem<T>> sets;
  for (unsigned i = 0; i < 2; ++i) sets.emplace_back(c, 1000 * i + 7);
  const double bytes = double(batch) * channels * length * sizeof(T);
  char shape[64];
  std::snprintf(shape, sizeof shape, "%dx%dx%d", batch, channels, length);
  sets[0].run_forward(stream);
  sets[0].run_backward(stream);
  check(cudaStreamSynchronize(stream), "diagonal_scan");
  const std::vector<int> list = sample(channels, batch, length);
  const auto errors = diagonal_errors(sets[0], list, true);
  const double worst = report(std::string("diagonal ") + shape, errors, tolerance<T>());
  const double forward = median_ms(20, stream, [&](int i) {
    auto call = sets[i % 2].forward();
    call.checkpoints = nullptr;
    ssm::cuda::diagonal_scan(call, sets[i % 2].workspace.data(), stream);
  });
  const double both = median_ms(20, stream, [&](int i) {
    sets[i % 2].run_forward(stream);
    sets[i % 2].run_backward(stream);
  });
  rows.push_back({"ssm", shape, "fwd", type_name<T>(), forward, 2 * bytes / bandwidth,
                  errors.at("y"), peer, forward_peer});
  rows.push_back({"ssm", shape, "fwd+bwd", type_name<T>(), both, 5 * bytes / bandwidth, worst, peer,
                  both_peer});
  std::printf("ssm %s fwd %.3f fwd+bwd %.3f ms\n", shape, forward, both);
}

template <class T>
void bench_convolution(int batch, int length, bool gates, const char* peer, double forward_peer,
                       double both_peer, double bandwidth, cudaStream_t stream) {
  constexpr int channels = 768;
  std::vector<ConvolutionProblem<T>> sets;
  for (unsigned i = 0; i < 2; ++i)
    sets.emplace_back(ConvolutionCase{batch, channels, length, length, gates}, 1000 * i + 7);
  const double bytes = double(batch) * channels * length * sizeof(T),
               taps = 4.0 * channels * length;
  char shape[64];
  std::snprintf(shape, sizeof shape, "%dx%dx%d", batch, channels, length);
  const char* const work = gates ? "gated" : "arbitrary";
  sets[0].run_forward(stream);
  sets[0].run_backward(stream);
  check(cudaStreamSynchronize(stream), "causal_convolution");
  const auto errors = convolution_errors(sets[0], sample(channels, batch, length));
  const double worst = report(std::string(work) + " " + shape, errors, tolerance<T>());
  const double forward = median_ms(20, stream, [&](int i) { sets[i % 2].run_forward(stream); });
  rows.push_back({work, shape, "fwd", type_name<T>(), forward,
                  ((gates ? 4 : 2) * bytes + taps) / bandwidth, errors.at("y"), peer,
                  forward_peer});
  const double both = median_ms(20, stream, [&](int i) {
    sets[i % 2].run_forward(stream);
    sets[i % 2].run_backward(stream);
  });
  rows.push_back({work, shape, "fwd+bwd", type_name<T>(), both,
                  ((gates ? 11 : 5) * bytes + 3 * taps) / bandwidth, worst, peer, both_peer});
  std::printf("%s %s fwd %.3f fwd+bwd %.3f ms\n", work, shape, forward, both);
}

template <class T>
void bench_mixer(int batch, int length, double forward_peer, double both_peer, double bandwidth,
                 cudaStream_t stream) {
  constexpr int channels = 768;
  std::vector<MixerProblem<T>> sets;
  for (unsigned i = 0; i < 2; ++i) sets.emplace_back(batch, channels, length, 32, 64, 1000 * i + 7);
  const double bytes = double(batch) * channels * length * sizeof(T);
  char shape[64];
  std::snprintf(shape, sizeof shape, "%dx%dx%d", batch, channels, length);
  sets[0].run_forward(stream);
  sets[0].run_backward(stream);
  check(cudaStreamSynchronize(stream), "h3_mixer");
  const auto errors = mixer_errors(sets[0], sample(channels, batch, length));
  const double worst = report(std::string("mixer ") + shape, errors, tolerance<T>());
  const double forward =
      median_ms(20, stream, [&](int i) { sets[i % 2].run_forward(stream, false); });
  const double both = median_ms(20, stream, [&](int i) {
    sets[i % 2].run_forward(stream);
    sets[i % 2].run_backward(stream);
  });
  const char* const peer = "H3 FlashConv, two kernels";
  rows.push_back({"mixer", shape, "fwd", type_name<T>(), forward, 4 * bytes / bandwidth,
                  errors.at("y"), peer, forward_peer});
  rows.push_back({"mixer", shape, "fwd+bwd", type_name<T>(), both, 11 * bytes / bandwidth, worst,
                  peer, both_peer});
  std::printf("mixer %s fwd %.3f fwd+bwd %.3f ms\n", shape, forward, both);
}

/// One length of the growth of cost with it: forward, batch 2, no check.
template <class T>
void bench_growth(int length, double bandwidth, cudaStream_t stream) {
  constexpr int batch = 2, channels = 768;
  const double bytes = double(batch) * channels * length * sizeof(T);
  char shape[64];
  std::snprintf(shape, sizeof shape, "%dx%dx%d", batch, channels, length);
  {
    DiagonalProblem<T> p({batch, channels, length, 32}, 7);
    const double ms = median_ms(20, stream, [&](int) {
      auto call = p.forward();
      call.checkpoints = nullptr;
      ssm::cuda::diagonal_scan(call, p.workspace.data(), stream);
    });
    rows.push_back({"ssm", shape, "fwd", type_name<T>(), ms, 2 * bytes / bandwidth, 0, "", 0});
  }
  ConvolutionProblem<T> p({batch, channels, length, length, false}, 7);
  const double ms = median_ms(20, stream, [&](int) { p.run_forward(stream); });
  rows.push_back({"arbitrary", shape, "fwd", type_name<T>(), ms,
                  (2 * bytes + 4.0 * channels * length) / bandwidth, 0, "", 0});
}

void print_rows(const char* path, double bandwidth, const char* device) {
  std::printf("\n%s, copy %.0f GB/s\n%-10s %-14s %-8s %-5s %8s %8s %7s %9s %9s  %s\n", device,
              bandwidth * 1e-6, "work", "shape", "pass", "dtype", "ms", "floor", "%copy", "rel_l2",
              "peer ms", "peer");
  for (const Row& r : rows)
    std::printf("%-10s %-14s %-8s %-5s %8.3f %8.3f %6.1f%% %9.1e %9.3f  %s\n", r.work.c_str(),
                r.shape.c_str(), r.pass.c_str(), r.dtype.c_str(), r.ms, r.floor_ms,
                100 * r.floor_ms / r.ms, r.rel_l2, r.peer_ms, r.peer.c_str());
  if (path == nullptr) return;
  std::ofstream out(path);
  out << "[\n";
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Row& r = rows[i];
    char line[400];
    int used = std::snprintf(
        line, sizeof line,
        "  {\"work\": \"%s\", \"shape\": \"%s\", \"pass\": \"%s\", \"dtype\": \"%s\", "
        "\"ms\": %.4f, \"floor_ms\": %.4f",
        r.work.c_str(), r.shape.c_str(), r.pass.c_str(), r.dtype.c_str(), r.ms, r.floor_ms);
    if (!r.peer.empty())  // compared with double, and with a peer
      used += std::snprintf(line + used, sizeof line - used,
                            ", \"rel_l2\": %.3e, \"peer\": \"%s\", \"peer_ms\": %.3f", r.rel_l2,
                            r.peer.c_str(), r.peer_ms);
    std::snprintf(line + used, sizeof line - used, "}%s\n", i + 1 < rows.size() ? "," : "");
    out << line;
  }
  out << "]\n";
}

}  // namespace

int main(int count, char** arguments) {
  const std::string mode = count > 1 ? arguments[1] : "check";
  if (ssm::cuda::device_count() == 0) {
    std::printf("skipped: no CUDA device\n");
    return 0;
  }
  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  if (mode == "check") {
    check_mixer_cases<BFloat16>();
    check_mixer_cases<float>();
    check_mixer_cases<Float16>();
    check_convolution_cases<BFloat16>();
    check_convolution_cases<float>();
    check_convolution_cases<Float16>();
    check_diagonal_cases<float>();
    check_diagonal_cases<BFloat16>();
    check_diagonal_cases<Float16>();
  } else if (mode == "small") {
    const std::string numbers = count > 2 ? arguments[2] : "";
    const std::string kind = count > 3 ? arguments[3] : "";
    if (numbers.empty() || numbers == "bf16") check_small_cases<BFloat16>(kind);
    if (numbers.empty() || numbers == "f16") check_small_cases<Float16>(kind);
    if (numbers.empty() || numbers == "float") check_small_cases<float>(kind);
    if (checked == 0) {
      std::fprintf(stderr, "flashconv: small has no cases '%s %s'\n", numbers.c_str(),
                   kind.c_str());
      return 2;
    }
  } else if (mode == "profile") {
    MixerProblem<BFloat16> p(32, 768, 8192, 32, 64, 7);
    p.run_forward(stream);
    p.run_backward(stream);
    ConvolutionProblem<BFloat16> q({2, 768, 262144, 262144}, 7);
    q.run_forward(stream);
    check(cudaStreamSynchronize(stream), "diagonal_scan");
  } else if (mode == "growth") {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
    const double bandwidth = copy_bandwidth(stream);
    for (int length = 1024; length <= (1 << 20); length *= 2)
      bench_growth<BFloat16>(length, bandwidth, stream);
    print_rows(count > 2 ? arguments[2] : nullptr, bandwidth, properties.name);
  } else if (mode == "bench") {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
    const double bandwidth = copy_bandwidth(stream);
    bench_diagonal<BFloat16>(64, 4096, "H3 FlashConv", 1.969, 7.426, bandwidth, stream);
    bench_diagonal<BFloat16>(32, 8192, "H3 FlashConv", 2.538, 8.710, bandwidth, stream);
    bench_diagonal<BFloat16>(8, 32768, "FlashFFTConv fp16", 9.456, 23.090, bandwidth, stream);
    bench_diagonal<BFloat16>(2, 262144, "torch.fft", 33.087, 86.253, bandwidth, stream);
    const char* const h3 = "H3 FlashConv";
    bench_convolution<BFloat16>(64, 1024, false, h3, 0.389, 1.414, bandwidth, stream);
    bench_convolution<BFloat16>(64, 4096, false, h3, 1.969, 7.426, bandwidth, stream);
    bench_convolution<BFloat16>(32, 8192, false, h3, 2.538, 8.710, bandwidth, stream);
    bench_convolution<BFloat16>(32, 8192, true, h3, 2.741, 11.648, bandwidth, stream);
    bench_convolution<BFloat16>(16, 16384, false, "FlashFFTConv fp16", 5.253, 20.487, bandwidth,
                                stream);
    bench_convolution<BFloat16>(8, 32768, false, "FlashFFTConv fp16", 9.456, 23.090, bandwidth,
                                stream);
    bench_convolution<BFloat16>(2, 262144, false, "torch.fft", 33.087, 86.253, bandwidth, stream);
    bench_mixer<BFloat16>(32, 8192, 5.3, 20.0, bandwidth, stream);
    print_rows(count > 2 ? arguments[2] : nullptr, bandwidth, properties.name);
  } else {
    std::fprintf(stderr, "flashconv: '%s' is none of check, small, bench, growth, profile\n",
                 mode.c_str());
    return 2;
  }
  std::printf("%d failures\n", failures);
  return failures != 0;
}
