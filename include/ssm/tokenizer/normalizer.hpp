// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/tokenizer/unicode.hpp"

namespace ssm::detail {

/// One thing that happens to a text before it is cut into pieces.
struct NormalizerStep {
  enum class Kind { form, prepend, replace };
  Kind kind = Kind::form;
  NormalForm form = NormalForm::nfc;
  std::string pattern = {};  // of `replace`: what is replaced
  std::string content = {};  // by this; or of `prepend`: what is put in front
};

/// The steps one after another; keeps its memory between calls.
class TextNormalizer {
 public:
  void add(NormalizerStep step) { steps_.push_back(std::move(step)); }
  bool is_empty() const { return steps_.empty(); }

  /// Valid until the next call, and as long as the text.
  std::string_view operator()(std::string_view text) {
    std::size_t used = 0;
    for (const NormalizerStep& step : steps_) {
      std::string& out = buffers_[used];
      out.clear();
      apply(step, text, out);
      text = out;
      used = 1 - used;
    }
    return text;
  }

 private:
  void apply(const NormalizerStep& step, std::string_view text, std::string& out) {
    switch (step.kind) {
      case NormalizerStep::Kind::form:
        return unicode_.append(step.form, text, out);
      case NormalizerStep::Kind::prepend:
        if (!text.empty()) out += step.content;
        out += text;
        return;
      case NormalizerStep::Kind::replace:
        for (std::size_t begin = 0;;) {
          const std::size_t at = text.find(step.pattern, begin);
          out += text.substr(begin, at == text.npos ? at : at - begin);
          if (at == text.npos) return;
          out += step.content;
          begin = at + step.pattern.size();
        }
    }
  }

  std::vector<NormalizerStep> steps_;
  UnicodeNormalizer unicode_;
  std::string buffers_[2];
};

}  // namespace ssm::detail
