// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "ssm/core/communicator.hpp"
#include "ssm/core/random.hpp"  // Seed
#include "ssm/core/scalar.hpp"  // Token
#include "ssm/core/sequence_cut.hpp"
#include "ssm/train/adamw.hpp"

namespace ssm {

struct LanguageModelTrainerConfig {
  Index batch = 16;        // windows that go through the model together
  Index accumulation = 1;  // batches whose gradients make one update
  Index carry = 1;  // windows through which the state is carried; 1: each begins without a past
  Seed seed{};      // of the model's dropout
  AdamWConfig optimizer{};
  /// Of logits, in the scalar of sequences, that are held at once. Where a batch has more, their
  /// loss is taken a part of the positions at a time.
  Index logit_bytes = Index{1} << 29;
  /// The last token of every document, where documents are kept apart; none: one text.
  std::optional<Token> document_end{};
  /// What makes an update together: each rank takes its part of the rows and of their windows; null
  /// is this process alone. It must outlive the trainer.
  Communicator* ranks = nullptr;
  Index sequence_parallel = 1;  // ranks that share every window, each a stretch of it
  /// How primitives run where windows are shared: &primitives_across_ranks<B>()
  /// (parallel/primitives_across_ranks.hpp). It must outlive the trainer.
  const AcrossRanks* across_ranks = nullptr;
  bool shards_optimizer = false;  // each rank keeps the moments of its part of the parameters
  bool recompute = false;  // run blocks forward once more instead of keeping what they computed
};

}  // namespace ssm
