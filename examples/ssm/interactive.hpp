// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/language_model/completion_options.hpp"
#include "ssm/language_model/transcript.hpp"

namespace ssm::cli {

/// Reads a line, puts it behind the text, continues the text, and so on until the lines end. Lines
/// that begin with / are orders: /help lists them. An interrupt ends the answer, not the program.
void run_interactively(const AnyLanguageModel& model, Transcript& transcript,
                       const CompletionOptions& options);

}  // namespace ssm::cli
