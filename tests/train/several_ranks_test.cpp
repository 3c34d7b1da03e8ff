// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/backend/reference.hpp"
#include "ssm/parallel/cut_sequences.hpp"
#include "ssm/parallel/in_process.hpp"
#include "ssm/parallel/launched_rank.hpp"
#include "ssm/train/language_model_trainer.hpp"
#include "ssm/train/losses.hpp"
#include "ssm/train/optimizer_shard.hpp"
#include "ssm/train/text_streams.hpp"
#include "ssm/train/trainer.hpp"
#include "support/tiny_model.hpp"

namespace ssm::test {
namespace {

using P = H3LanguageModel::Parameters<double>;
using namespace std::chrono_literals;

std::string reason_of(const auto& run) {
  try {
    run();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("ranks add, send, receive, broadcast and split") {
  for (const int size : {1, 2, 3, 4}) {
    std::vector<std::vector<float>> sums(static_cast<std::size_t>(size));
    InProcess::run(size, [&](Communicator& ranks) {
      REQUIRE(ranks.size() == size);
      std::vector<float> sum(7);
      for (std::size_t i = 0; i < sum.size(); ++i)
        sum[i] = 0.1F * static_cast<float>(i + 1) * static_cast<float>(ranks.rank() + 1);
      ranks.sum(std::span(sum));
      sums[static_cast<std::size_t>(ranks.rank())] = sum;

      const int next = (ranks.rank() + 1) % size, before = (ranks.rank() + size - 1) % size;
      for (int i = 0; i < 3; ++i) {  // messages arrive in the order in which they were sent
        const int sent = 10 * ranks.rank() + i;
        int received = -1;
        ranks.exchange(std::as_bytes(std::span(&sent, 1)), next,
                       std::as_writable_bytes(std::span(&received, 1)), before);
        CHECK(received == 10 * before + i);
      }
      double told = ranks.rank();
      ranks.broadcast(std::as_writable_bytes(std::span(&told, 1)), size - 1);
      CHECK(told == size - 1);

      const auto part = ranks.split(ranks.rank() % 2);
      CHECK(part->size() == (size + 1 - ranks.rank() % 2) / 2);
      CHECK(part->rank() == ranks.rank() / 2);
      double own = ranks.rank();
      part->sum(std::span(&own, 1));
      double expected = 0;
      for (int rank = ranks.rank() % 2; rank < size; rank += 2) expected += rank;
      CHECK(own == expected);
    });
    for (const auto& sum : sums) CHECK(sum == sums.front());
    CHECK(sums.front()[6] == doctest::Approx(0.7 * size * (size + 1) / 2));
  }
}

TEST_CASE("a rank that ends, or is silent, ends the others' calls") {
  const auto sum = [](Communicator& ranks) {
    double x = 1;
    ranks.sum(std::span(&x, 1));
  };
  std::array<std::string, 3> reasons;
  CHECK(reason_of([&] {
          InProcess::run(3, [&](Communicator& ranks) {
            if (ranks.rank() == 1) throw std::runtime_error("the disk is full");
            reasons[static_cast<std::size_t>(ranks.rank())] = reason_of([&] {
              const auto part = ranks.split(ranks.rank() / 2);
              sum(ranks);
            });
          });
        }) == "the disk is full");
  CHECK(reasons[0] == "rank 1 of 3 has ended: the disk is full");
  CHECK(reasons[2] == reasons[0]);
  CHECK(reason_of([&] {
          InProcess::run(
              2, [&](Communicator& ranks) { ranks.rank() == 0 ? sum(ranks) : void(); }, 20ms);
        }) == "rank 0 of 2: nothing has come from some other rank for 0 seconds");
  CHECK(reason_of([&] {
          InProcess::run(2, [&](Communicator& ranks) {
            std::array<std::byte, 3> bytes{};
            if (ranks.rank() == 0) ranks.send(bytes, 1);
            if (ranks.rank() == 1) ranks.receive(std::span(bytes).first(2), 0);
          });
        }) == "rank 0 of 2 sent 3 bytes where rank 1 of 2 expects 2");
}

TEST_CASE("a launcher's environment says the rank") {
  std::map<std::string, const char*> environment;
  const auto rank = [&] {
    return launched_rank([&](const char* name) {
      const auto found = environment.find(name);
      return found == environment.end() ? nullptr : found->second;
    });
  };
  CHECK(!rank());
  environment = {{"RANK", "2"}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "1"}};
  REQUIRE(rank());
  CHECK(rank()->rank == 2);
  CHECK(rank()->size == 4);
  CHECK(rank()->local == 1);
  CHECK(rank()->launcher == "torchrun");
  environment = {{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}};  // a batch script, not a step
  CHECK(!rank());
  environment["SLURM_STEP_NUM_TASKS"] = "8";
  CHECK(rank()->launcher == "srun");
  environment = {{"OMPI_COMM_WORLD_RANK", "4"}, {"OMPI_COMM_WORLD_SIZE", "4"}};
  CHECK(reason_of(rank) ==
        "the environment has OMPI_COMM_WORLD_RANK=4, which is no rank or number of processes");
}

/// Counts what a rank sends.
class Counting final : public Communicator {
 public:
  explicit Counting(Communicator& ranks) : ranks_(ranks) {}
  int rank() const override { return ranks_.rank(); }
  int size() const override { return ranks_.size(); }
  void sum(std::span<float> elements) override { ranks_.sum(elements); }
  void sum(std::span<double> elements) override { ranks_.sum(elements); }
  void exchange(std::span<const std::byte> sent, int to, std::span<std::byte> received,
                int from) override {
    if (to >= 0) bytes += sent.size();
    ranks_.exchange(sent, to, received, from);
  }
  void broadcast(std::span<std::byte> told, int root) override { ranks_.broadcast(told, root); }
  std::unique_ptr<Communicator> split(int color) override { return ranks_.split(color); }

  std::size_t bytes = 0;

 private:
  Communicator& ranks_;
};

TEST_CASE("what a scan sends grows with the logarithm of the ranks, not with the length") {
  constexpr Index batch = 2, channels = 3, states = 5;
  for (const auto& [size, rounds] : {std::pair(2, 0), std::pair(4, 2), std::pair(6, 3)})
    for (const Index length : {12, 120}) {
      std::size_t sent = 0;
      InProcess::run(size, [&, size = size](Communicator& ranks) {
        Counting counting(ranks);
        const Stretch here = stretch_of(length, ranks.rank(), size);
        Context<Reference> ctx;
        DynamicTensor<double, 3> u({batch, here.length(), channels});
        DynamicTensor<double, 3> B({batch, here.length(), states});
        DynamicTensor<double, 3> y(u.extents());
        DynamicTensor<double, 2> A({channels, states});
        const CutSequences<Reference, double> cut(ctx, {.ranks = &counting, .begin = here.begin});
        selective_scan(
            ctx, SelectiveScan<double, HostSpace>{.u = u, .dt = u, .A = A, .B = B, .C = B, .y = y});
        if (ranks.rank() == 0) sent = counting.bytes;
      });
      const std::size_t state = batch * channels * states * sizeof(double);
      const std::size_t sources = batch * sizeof(std::int64_t), count = sizeof(std::uint64_t);
      const auto each = static_cast<std::size_t>(rounds);
      CHECK(sent == each * (2 * state + sources + count) + state + sources + count);
    }
}

TEST_CASE("a primitive that is not known across ranks is refused by its name") {
  const PrimitivesAcrossRanks none;
  InProcess::run(2, [&](Communicator& ranks) {
    Context<Reference> ctx;
    DynamicTensor<double, 3> u({1, 2, 3}), B({1, 2, 4}), y(u.extents());
    DynamicTensor<double, 2> A({3, 4});
    const SelectiveScan<double, HostSpace> call{.u = u, .dt = u, .A = A, .B = B, .C = B, .y = y};
    CHECK(reason_of([&] {
            const SequenceCutScope<Reference> cut(ctx, {.ranks = &ranks, .across_ranks = &none});
            selective_scan(ctx, call);
          }) ==
          "selective_scan: does not run on sequences that lie across ranks, or not on this backend "
          "in this scalar");
    CHECK(reason_of([&] { const SequenceCutScope<Reference> cut(ctx, {.ranks = &ranks}); }) ==
          "sequences that lie across ranks need a SequenceCut with across_ranks: CutSequences has "
          "it, and primitives_across_ranks<B>() is it");

    // What a program adds is what runs; a call that says no is the backend's.
    static int calls = 0;  // of the first rank
    auto mine = PrimitivesAcrossRanks().add<Reference, double>();
    mine.add_call<Reference, SelectiveScan<double, HostSpace>>(
        [](Context<Reference>&, const SelectiveScan<double, HostSpace>&) { return ++calls > 1; });
    if (ranks.rank() == 0) {
      const SequenceCutScope<Reference> cut(ctx, {.ranks = &ranks, .across_ranks = &mine});
      y(0, 1, 0) = 7;
      selective_scan(ctx, call);  // of zeros
      CHECK(y(0, 1, 0) == 0);
      y(0, 1, 0) = 7;
      selective_scan(ctx, call);
      CHECK(y(0, 1, 0) == 7);
      CHECK(calls == 2);
    }
  });
  CHECK(reason_of([] {
          InProcess::run(2, [](Communicator& ranks) {
            Context<Reference> ctx;
            const Model<P> model = tiny_model();
            LanguageModelTrainer<P>(ctx, model.layer, model.parameters,
                                    {.batch = 1, .ranks = &ranks, .sequence_parallel = 2});
          });
        }) ==
        "training: windows that ranks share need across_ranks, as primitives_across_ranks<B>()");
}

/// A few updates of a small model, on ranks that are threads.
struct Training {
  LanguageModelTrainerConfig config;
  Index length = 9;
  int updates = 3;

  struct Result {
    std::vector<double> losses, norms;
    P parameters, gradients;
  };
  Result on(int ranks, Index sequence_parallel = 1) const {
    std::optional<Result> result;
    InProcess::run(ranks, [&](Communicator& communicator) {
      Result own = run(&communicator, sequence_parallel);
      CHECK(own.losses == run(&communicator, sequence_parallel).losses);  // the same bits again
      if (communicator.rank() == ranks - 1) result = std::move(own);
    });
    return *std::move(result);
  }
  Result run(Communicator* ranks, Index sequence_parallel) const {
    std::vector<Token> text;
    for (std::size_t i = 0; i < 150; ++i) text.push_back(static_cast<Token>(i * i % 11 % 7));
    Context<Reference> ctx;
    Model<P> model = tiny_model();
    const TextStreams streams(text, length, config.batch * config.accumulation, Seed{2});
    LanguageModelTrainerConfig own = config;
    own.ranks = ranks;
    own.sequence_parallel = sequence_parallel;
    own.across_ranks = &primitives_across_ranks<Reference, double>();
    LanguageModelTrainer<P> trainer(ctx, model.layer, model.parameters, own);
    Result result;
    for (int i = 0; i < updates; ++i) {
      std::array<double, 2> beside{1.0, 2.0 * i};
      const TrainingStep step =
          trainer.update(ctx, model.layer, model.parameters, streams, 0.01, beside);
      const int size = ranks == nullptr ? 1 : ranks->size();
      CHECK(beside == std::array<double, 2>{1.0 * size, 2.0 * i * size});
      result.losses.push_back(step.loss);
      result.norms.push_back(step.gradient_norm);
    }
    result.parameters = std::move(model.parameters);
    result.gradients = copy_of(trainer.gradients(), model.layer);
    return result;
  }
};

void check_same(const Training::Result& actual, const Training::Result& expected) {
  for (std::size_t i = 0; i < expected.losses.size(); ++i) {
    CHECK(std::abs(actual.losses[i] - expected.losses[i]) <= 1e-12);
    CHECK(std::abs(actual.norms[i] - expected.norms[i]) <= 1e-12);
  }
  CHECK(distance(actual.gradients, expected.gradients) <= 1e-12);
  CHECK(distance(actual.parameters, expected.parameters) <= 1e-9);  // AdamW divides by gradients
}

TEST_CASE("ranks that share rows and windows make the updates of one") {
  for (const auto document_end : {std::optional<Token>(), std::optional<Token>(2)}) {
    const Training training{
        .config = {.batch = 5, .accumulation = 2, .carry = 2, .document_end = document_end}};
    const Training::Result whole = training.run(nullptr, 1);
    CHECK(whole.losses.back() != whole.losses.front());
    check_same(training.on(2), whole);
    check_same(training.on(3), whole);
    check_same(training.on(3, 3), whole);
    check_same(training.on(4, 2), whole);
  }
}

TEST_CASE("ranks that share windows and run blocks once more make the same updates, bit for bit") {
  for (const auto document_end : {std::optional<Token>(), std::optional<Token>(2)}) {
    Training training{
        .config = {.batch = 3, .accumulation = 2, .carry = 2, .document_end = document_end}};
    for (const auto& [ranks, shared] : {std::pair(2, 2), std::pair(3, 3), std::pair(4, 2)}) {
      training.config.recompute = false;
      const Training::Result kept = training.on(ranks, shared);
      training.config.recompute = true;
      const Training::Result again = training.on(ranks, shared);
      CHECK(again.losses == kept.losses);
      CHECK(distance(again.gradients, kept.gradients) == 0);
      CHECK(distance(again.parameters, kept.parameters) == 0);
    }
  }
}

TEST_CASE("ranks that share the moments of the optimizer make the same updates, bit for bit") {
  Training training{.config = {.batch = 4, .accumulation = 2, .optimizer = {.clip_norm = 0.5}}};
  for (const auto& [ranks, shared] : {std::pair(2, 1), std::pair(3, 1), std::pair(4, 2)}) {
    training.config.shards_optimizer = false;
    const Training::Result whole = training.on(ranks, shared);
    training.config.shards_optimizer = true;
    const Training::Result parts = training.on(ranks, shared);
    CHECK(parts.losses == whole.losses);
    CHECK(distance(parts.parameters, whole.parameters) == 0);
  }
}

TEST_CASE("moments of all ranks are put together at the first one, and taken apart again") {
  const Model<P> model = tiny_model();
  InProcess::run(3, [&](Communicator& ranks) {
    Context<Reference> ctx;
    P first = copy_of(model.parameters, model.layer), second = copy_of(first, model.layer);
    second.embedding.data()[0] = 7;
    OptimizerShard<P> shard(ranks, first);
    Index own = 0;
    for (std::size_t i = 0; i < 3; ++i) own += shard.own(i).length();
    double all = static_cast<double>(own);
    ranks.sum(std::span(&all, 1));
    CHECK(all > 0);
    shard.take(first, second);
    P first_again = model.layer.zero_parameters<double>(ctx);
    P second_again = copy_of(first_again, model.layer);
    shard.gather(&first_again, &second_again);
    if (ranks.rank() > 0) return;
    CHECK(distance(first_again, first) == 0);
    CHECK(distance(second_again, second) == 0);
  });
}

TEST_CASE("windows shorter than there are ranks leave some of them without positions") {
  const Training training{
      .config = {.batch = 2, .carry = 3, .document_end = Token{2}}, .length = 3, .updates = 4};
  check_same(training.on(4, 4), training.run(nullptr, 1));
}

TEST_CASE("ranks that cannot share a batch or a window say so") {
  const Training training{.config = {.batch = 2}};
  CHECK(reason_of([&] { training.on(3); }) ==
        "training: a batch of 2 rows cannot be shared by 3 groups of ranks");
  CHECK(reason_of([&] { training.on(4, 3); }) ==
        "training: windows cannot be shared by 3 of 4 ranks: the one must divide the other");
}

TEST_CASE("states of all rows are put together at the first rank, and taken apart again") {
  using L = H3LanguageModel;
  const Model<P> model = tiny_model();
  for (const auto& [size, shared] : {std::pair(3, 1), std::pair(4, 2)})
    InProcess::run(size, [&, shared = shared](Communicator& communicator) {
      const TrainingRanks ranks(&communicator, shared, 5);
      Context<Reference> ctx;
      auto all = model.layer.initial_state<double>(ctx, 5);
      double next = 1;
      L::for_each_state(
          [&](const std::string&, auto& tensor) {
            for (Index i = 0; i < tensor.size(); ++i)
              tensor.data()[i] = static_cast<std::remove_cvref_t<decltype(*tensor.data())>>(next++);
          },
          all);
      auto own = model.layer.initial_state<double>(ctx, ranks.rows(5).length());
      auto gathered = model.layer.initial_state<double>(ctx, 5);
      take_rows<L>(ranks, 5, all, own);
      gather_state<L>(ranks, 5, own, gathered);
      if (!ranks.is_first()) return;
      L::for_each_state(
          [](const std::string&, const auto& a, const auto& b) {
            CHECK(std::memcmp(a.data(), b.data(),
                              static_cast<std::size_t>(a.size()) * sizeof(*a.data())) == 0);
          },
          all, gathered);
    });
}

TEST_CASE("a trainer of any loss takes the mean of what the ranks' parts give") {
  constexpr Index length = 6;
  DynamicTensor<Token, 2> tokens({4, length});
  for (Index i = 0; i < tokens.size(); ++i) tokens.data()[i] = static_cast<Token>(i * i % 7);
  const auto update = [&](Communicator* ranks) {
    Context<Reference> ctx;
    Model<P> model = tiny_model();
    Trainer trainer(ctx, model, {.rate = 1e-2});
    if (ranks != nullptr) trainer.share(*ranks);
    const Index rows = ranks == nullptr ? 4 : 4 / ranks->size();
    const Index first = ranks == nullptr ? 0 : rows * ranks->rank();
    const DynamicTensor<double, 3> target({rows, length, model.layer.padded_vocabulary()});
    return trainer
        .update(tokens.view().slice(0, first, first + rows),
                [&](auto y, auto dy) { return mean_squared_error(ctx, y, target, dy); })
        .gradient_norm;
  };
  const double whole = update(nullptr);
  for (const int size : {2, 4})
    InProcess::run(size,
                   [&](Communicator& ranks) { CHECK(std::abs(update(&ranks) - whole) <= 1e-12); });
}

}  // namespace
}  // namespace ssm::test
