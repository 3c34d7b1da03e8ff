// SPDX-License-Identifier: Apache-2.0
// Tokens a second of a published size with fresh weights, one sequence and eight side by side, by
// fp32, bf16, f16 and int8 weights, beside the floors: the weights read once from memory, and
// multiplied once for each sequence, at the rates that this machine reads and multiplies at just
// now. All take turns, so that what else it does meets all.
//   cpu_decode [PRESET [THREADS [ROUNDS [results.json]]]]    h3-125m, 1, 9
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "floors.hpp"
#include "ssm/language_model.hpp"

namespace {

using namespace ssm;

/// Steps of one form of a model from a state that has read some tokens.
class Decoding {
 public:
  Decoding(const AnyLanguageModel& model, const char* weights, Index sequences, double size)
      : name(weights),
        rows(sequences),
        bytes(size),
        model_(model),
        state_(model.initial_state(sequences)),
        tokens_({sequences}),
        logits_({sequences, model.facts().padded_vocabulary}) {
    for (Index b = 0; b < rows; ++b) tokens_(b) = static_cast<Token>(b * 97 + 1);
    for (int i = 0; i < 3; ++i) step();
  }
  /// Seconds of the best of three steps.
  double measure() {
    double best = 1e9;
    for (int i = 0; i < 3; ++i) best = std::min(best, bench::seconds_of([&] { step(); }));
    return best;
  }

  std::string name;
  Index rows;
  double bytes;                           // of the weights
  std::vector<double> rates{}, shares{};  // the shares of the read rate
  std::vector<double> products{};         // of the rate of multiplications

 private:
  void step() { model_.step(tokens_, logits_, state_); }

  const AnyLanguageModel& model_;
  LanguageModelState state_;
  DynamicTensor<Token, 1> tokens_;
  DynamicTensor<float, 2> logits_;
};

struct Spread {
  double low, median, high;  // quartiles
};
Spread spread_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const auto at = [&](double part) {
    return values[static_cast<std::size_t>(part * static_cast<double>(values.size() - 1) + 0.5)];
  };
  return {at(0.25), at(0.5), at(0.75)};
}
std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown";
}
std::string json_of(const char* name, const Spread& spread) {
  char text[160];
  std::snprintf(text, sizeof(text), "\"%s\": {\"median\": %.4g, \"quartiles\": [%.4g, %.4g]}", name,
                spread.median, spread.low, spread.high);
  return text;
}

}  // namespace

int main(int count, char** arguments) {
  const std::string preset = count > 1 ? arguments[1] : "h3-125m";
  const int threads = count > 2 ? std::atoi(arguments[2]) : 1;
  const int rounds = count > 3 ? std::atoi(arguments[3]) : 9;
  const auto open = [&] {
    return fresh_language_model({.preset = preset, .seed = Seed{1}},
                                {.backend = "cpu", .threads = threads});
  };
  struct Form {
    const char* name;
    WeightForm form;
    double bytes;  // of a weight
    AnyLanguageModel model;
  };
  std::vector<Form> forms;
  forms.push_back({"fp32", WeightForm::full, 4, open()});
  forms.push_back({"bf16", WeightForm::bf16, 2, open()});
  forms.push_back({"f16", WeightForm::f16, 2, open()});
  forms.push_back({"int8", WeightForm::int8, 1, open()});
  for (Form& form : forms) form.model.keep_weights_in(form.form);
  const Index count_of_parameters = forms[0].model.facts().parameters;
  const auto parameters = static_cast<double>(count_of_parameters);
  std::vector<Decoding> all;
  for (const Index rows : {1, 8})
    for (const Form& form : forms)
      all.emplace_back(form.model, form.name, rows, form.bytes * parameters);
  std::vector<double> read_rates, fused_rates;
  constexpr double lanes = cpu::lane_count<float, xsimd::default_arch>;
  std::vector<std::vector<double>> gains(forms.size());
  for (int round = 0; round < rounds; ++round) {
    read_rates.push_back(bench::read_rate(threads));
    fused_rates.push_back(lanes * bench::fused_rate<float>(threads));
    for (Decoding& one : all) {
      const double seconds = one.measure();
      one.rates.push_back(static_cast<double>(one.rows) / seconds);
      one.shares.push_back(one.bytes / read_rates.back() / seconds);
      one.products.push_back(static_cast<double>(one.rows) * parameters / fused_rates.back() /
                             seconds);
    }
    for (std::size_t i = 0; i < forms.size(); ++i)
      gains[i].push_back(all[i + forms.size()].rates.back() / all[i].rates.back());
  }
  std::printf(
      "%s, %.0f million parameters, %d threads; memory is read at %.1f GB/s, %.1f G numbers are "
      "multiplied and added a second\n",
      preset.c_str(), parameters * 1e-6, threads, spread_of(read_rates).median * 1e-9,
      spread_of(fused_rates).median * 1e-9);
  std::string rows;
  for (const Decoding& one : all) {
    const Spread rate = spread_of(one.rates), share = spread_of(one.shares);
    const Spread product = spread_of(one.products);
    std::printf(
        "%s, %td sequences: %7.1f tokens/s (%.1f to %.1f), %3.0f %% of the read rate, %3.0f %% of "
        "the rate of multiplications\n",
        one.name.c_str(), one.rows, rate.median, rate.low, rate.high, 100 * share.median,
        100 * product.median);
    rows += (rows.empty() ? "" : ",") + std::string("\n  {\"weights\": \"") + one.name +
            "\", \"sequences\": " + std::to_string(one.rows) + ", " +
            json_of("tokens_per_second", rate) + ", " + json_of("floor_by_time", share) + ", " +
            json_of("multiplication_floor_by_time", product) + "}";
  }
  std::printf("eight sequences give as many times the tokens of one:");
  std::string gain_members;
  for (std::size_t i = 0; i < forms.size(); ++i) {
    const Spread gain = spread_of(gains[i]);
    std::printf(" %.1f in %s%s", gain.median, forms[i].name, i + 1 < forms.size() ? "," : "\n");
    const std::string member = "eight_by_one_" + std::string(forms[i].name);
    if (i > 0) gain_members += ",\n ";
    gain_members += json_of(member.c_str(), gain);
  }
  if (count <= 4) return 0;
  std::ofstream out(arguments[4]);
  out << "{\n \"model\": \"" << preset << "\", \"parameters\": " << count_of_parameters
      << ",\n \"cpu\": \"" << processor_name() << "\", \"threads\": " << threads
      << ",\n \"compiler\": \"" << __VERSION__ << "\", \"flags\": \"" SSM_BENCH_FLAGS
      << "\",\n \"rounds\": " << rounds << ", "
      << json_of("read_bytes_per_second", spread_of(read_rates)) << ", "
      << json_of("multiplications_per_second", spread_of(fused_rates)) << ",\n \"rows\": [" << rows
      << "],\n " << gain_members << "\n}\n";
  return out.flush() ? 0 : 1;
}
