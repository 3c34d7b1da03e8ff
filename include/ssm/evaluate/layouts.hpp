// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/evaluate/text.hpp"
#include "ssm/io/item_fields.hpp"

// Entries of the data sets as they are published, in the layout of their authors and in that of the
// Hugging Face hub, as entries with plain fields: see EvaluationTask::prepare.
namespace ssm::layouts {

using Entries = std::vector<ItemFields>;

namespace detail {

using namespace ssm::detail;
using Fields = nlohmann::json;

inline Entries one(const ItemFields& entry, Fields fields) {
  Entries entries;
  entries.emplace_back(entry.place(), std::move(fields));
  return entries;
}
/// Choices with letters, of which one is named: {"text": […], "label": […]} or a list of objects.
inline Fields lettered(const ItemFields& entry, const ItemFields& holder) {
  std::vector<std::string> texts, labels;
  if (holder.is_object("choices")) {
    texts = holder.object("choices").texts("text");
    labels = holder.object("choices").texts("label");
  } else {
    for (const ItemFields& choice : holder.objects("choices")) {
      texts.push_back(choice.text("text"));
      labels.push_back(choice.text("label"));
    }
  }
  const std::string key(left_stripped(entry.text("answerKey")));
  const auto found = std::find(labels.begin(), labels.end(), key);
  if (texts.size() != labels.size() || found == labels.end())
    entry.refuse("answerKey",
                 "says '" + printable(key) + "', which is none of the choices' labels");
  return {{"options", texts}, {"label", found - labels.begin()}};
}
/// Places of one text in another, of characters; the last one is inside too.
inline std::string_view span_of(const ItemFields& span, std::string_view text) {
  const Index count = character_count(text);
  const Index begin = span.whole_number("start", 0, count);
  return characters(text, begin, span.whole_number("end", begin, count) + 1);
}
inline std::vector<std::string> sorted(std::vector<std::string> texts) {
  const std::set<std::string> different(texts.begin(), texts.end());
  return {different.begin(), different.end()};
}

}  // namespace detail

/// premise, question "cause" or "effect", choice1, choice2, label: as two halves of a sentence.
inline Entries copa(const ItemFields& entry) {
  const std::string question = entry.word("question");
  if (question != "cause" && question != "effect")
    entry.refuse("question", "must be \"cause\" or \"effect\"");
  const std::string premise(detail::stripped(entry.text("premise")));
  const Index length = detail::character_count(premise);
  return detail::one(
      entry, {{"sentence", detail::characters(premise, 0, std::max<Index>(0, length - 1))},
              {"therefore", question == "cause" ? "because" : "therefore"},
              {"so", question == "cause" ? "because" : "so"},
              {"options", std::vector<std::string>{detail::begun_lower(entry.text("choice1")),
                                                   detail::begun_lower(entry.text("choice2"))}},
              {"option1", entry.text("choice1")},
              {"option2", entry.text("choice2")},
              {"label", entry.whole_number("label", 0, 1)}});
}

/// paragraph, question, answer, label; or a passage with all of its questions.
inline Entries multirc(const ItemFields& entry) {
  Entries entries;
  const auto add = [&](const std::string& paragraph, const std::string& question,
                       const ItemFields& answer, const std::string& text,
                       const std::string& group) {
    entries.emplace_back(entry.place(),
                         detail::Fields{{"paragraph", paragraph},
                                        {"question", question},
                                        {"answer", text},
                                        {"label", answer.whole_number("label", 0, 1)},
                                        {"group", group}});
  };
  if (!entry.is_object("passage")) {
    const ItemFields place = entry.object("idx");
    add(entry.text("paragraph"), entry.text("question"), entry, entry.text("answer"),
        place.word("paragraph") + "." + place.word("question"));
    return entries;
  }
  const ItemFields passage = entry.object("passage");
  for (const ItemFields& question : passage.objects("questions"))
    for (const ItemFields& answer : question.objects("answers"))
      add(passage.text("text"), question.text("question"), answer, answer.text("text"),
          entry.word("idx") + "." + question.word("idx"));
  return entries;
}

/// passage, query, entities, answers as texts; or places of them in the passage, and several
/// queries.
inline Entries record(const ItemFields& entry) {
  constexpr std::string_view placeholder = "@placeholder", highlight = "\n@highlight\n";
  Entries entries;
  const auto add = [&](const ItemFields& holder, const std::string& passage,
                       const std::vector<std::string>& entities,
                       const std::vector<std::string>& answers) {
    const std::string query = holder.text("query");
    const std::size_t at = query.find(placeholder);
    if (at == std::string::npos) holder.refuse("query", "has no @placeholder");
    std::vector<std::string> parts = detail::split(detail::stripped(passage), highlight);
    std::string listed = parts.front() + "\n\n";
    for (std::size_t i = 1; i < parts.size(); ++i) listed += "  - " + parts[i] + ".\n";
    std::string plain = detail::replaced(passage, "@highlight", "");
    plain = detail::replaced(detail::stripped(plain), "\n\n", ". ");
    const std::vector<std::string> options = detail::sorted(entities);
    const std::vector<std::string> right = detail::sorted(answers);
    // Several may be right; an example shows the first one.
    const auto shown = std::find(options.begin(), options.end(), right.front());
    entries.emplace_back(
        entry.place(),
        detail::Fields{{"listed", listed},
                       {"passage", plain},
                       {"before", query.substr(0, at)},
                       {"after", query.substr(at + placeholder.size())},
                       {"options", options},
                       {"answers", right},
                       {"label", shown == options.end() ? 0 : shown - options.begin()}});
  };
  if (!entry.is_object("passage")) {
    add(entry, entry.text("passage"), entry.texts("entities"), entry.texts("answers"));
    return entries;
  }
  const ItemFields passage = entry.object("passage");
  const std::string text = passage.text("text");
  std::vector<std::string> entities;
  for (const ItemFields& span : passage.objects("entities"))
    entities.emplace_back(detail::span_of(span, text));
  if (entities.empty()) passage.refuse("entities", "is empty");
  for (const ItemFields& question : entry.objects("qas")) {
    std::vector<std::string> answers;
    for (const ItemFields& answer : question.objects("answers"))
      answers.push_back(answer.text("text"));
    if (answers.empty()) question.refuse("answers", "is empty");
    add(question, text, entities, answers);
  }
  return entries;
}

/// sentence1, sentence2, word, start1, end1, label.
inline Entries wic(const ItemFields& entry) {
  detail::Fields fields = entry.json();
  const std::string sentence = entry.text("sentence1");
  const Index count = detail::character_count(sentence);
  const Index begin = entry.whole_number("start1", 0, count);
  fields["written"] = detail::characters(sentence, begin, entry.whole_number("end1", begin, count));
  return detail::one(entry, std::move(fields));
}

/// text, span1_text, span2_text, span2_index, label, the spans perhaps under `target`.
inline Entries wsc(const ItemFields& entry) {
  const ItemFields spans = entry.is_object("target") ? entry.object("target") : entry;
  const std::string text = entry.text("text");
  const std::string pronoun = spans.text("span2_text"), noun = spans.text("span1_text");
  const std::vector<std::string> words = detail::words(text);
  const auto index = static_cast<std::size_t>(
      spans.whole_number("span2_index", 0, static_cast<Index>(words.size())));
  const std::string before =
      detail::joined({words.begin(), words.begin() + static_cast<std::ptrdiff_t>(index)}, " ");
  const Index behind = detail::character_count(before) + detail::character_count(pronoun) + 1;
  const std::string starred = detail::detokenized(
      before + " *" + pronoun + "*" +
      std::string(detail::characters(text, behind, detail::character_count(text))));
  // The same with quotation marks, by words.
  std::vector<std::string> parts = detail::split(text, " ");
  const std::size_t begin = std::min(index, parts.size());
  const std::size_t end = std::min(begin + detail::words(pronoun).size(), parts.size());
  parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(begin),
              parts.begin() + static_cast<std::ptrdiff_t>(end));
  parts.insert(parts.begin() + static_cast<std::ptrdiff_t>(begin), "\"" + pronoun + "\"");
  std::string quoted = detail::joined(parts, " ");
  while (quoted.starts_with('.')) quoted.erase(0, 1);
  while (quoted.ends_with('.')) quoted.pop_back();
  return detail::one(entry, {{"starred", starred},
                             {"quoted", std::string(detail::stripped(quoted)) + "."},
                             {"pronoun", pronoun},
                             {"noun", noun},
                             {"label", entry.word("label")}});
}

/// activity_label, ctx_a, ctx_b, endings, label.
inline Entries hellaswag(const ItemFields& entry) {
  const auto cleaned = [](std::string_view text) {
    std::string result = detail::replaced(detail::stripped(text), " [title]", ". ");
    for (std::size_t begin = 0; (begin = result.find('[', begin)) != std::string::npos;) {
      const std::size_t end = result.find_first_of("]\n", begin);  // on one line
      if (end == std::string::npos || result[end] == '\n')
        ++begin;
      else
        result.erase(begin, end - begin + 1);
    }
    return detail::replaced(result, "  ", " ");
  };
  std::vector<std::string> endings;
  for (const std::string& ending : entry.texts("endings")) endings.push_back(cleaned(ending));
  return detail::one(
      entry, {{"query", cleaned(entry.text("activity_label") + ": " + entry.text("ctx_a") + " " +
                                detail::capitalized(entry.text("ctx_b")))},
              {"options", endings},
              {"label", entry.word("label")}});
}

/// text, pronoun, pronoun_loc, options, label.
inline Entries winograd(const ItemFields& entry) {
  const std::string text = detail::replaced(entry.text("text"), "  ", " ");
  const std::string pronoun = entry.text("pronoun");
  const Index count = detail::character_count(text);
  const Index at = entry.whole_number("pronoun_loc", 0, count);
  const std::string owner = detail::lower(pronoun);
  const auto is_in = [](std::string_view word, std::initializer_list<std::string_view> all) {
    return std::find(all.begin(), all.end(), word) != all.end();
  };
  const bool is_possessive = is_in(owner, {"my", "his", "her", "our", "their"});
  // As Python counts: what is before the first character is at the end.
  const Index before = at >= 2 ? at - 2 : count + at - 2;
  const bool begins_sentence = detail::characters(text, before, before + 1) == ".";
  std::vector<std::string> options;
  for (std::string option : entry.texts("options")) {
    if (is_possessive) option += "'s";
    const std::vector<std::string> words = detail::words(option);
    if (!begins_sentence && !words.empty() &&
        is_in(words.front(),
              {"A", "An", "The", "She", "He", "It", "They", "My", "His", "Her", "Their"}))
      option = detail::replaced(option, words.front(), detail::lower(words.front()));
    options.push_back(option);
  }
  return detail::one(
      entry, {{"before", detail::characters(text, 0, at)},
              {"after", detail::characters(text, at + detail::character_count(pronoun), count)},
              {"options", options},
              {"label", entry.word("label")}});
}

/// sentence with "_", option1, option2, answer "1" or "2".
inline Entries winogrande(const ItemFields& entry) {
  const std::string sentence = entry.text("sentence");
  const std::size_t at = sentence.find('_');
  if (at == std::string::npos) entry.refuse("sentence", "has no _");
  return detail::one(
      entry, {{"before", sentence.substr(0, at)},
              {"after", detail::stripped(std::string_view(sentence).substr(at + 1))},
              {"options", std::vector<std::string>{entry.text("option1"), entry.text("option2")}},
              {"answer", entry.word("answer")}});
}

/// Four sentences and two endings, under the names of the hub or of the published table.
inline Entries storycloze(const ItemFields& entry) {
  const bool is_table = entry.has("InputSentence1");
  std::vector<std::string> sentences;
  for (const char* number : {"1", "2", "3", "4"})
    sentences.push_back(
        entry.text(std::string(is_table ? "InputSentence" : "input_sentence_") + number));
  const auto ending = [&](const std::string& number) {
    return entry.text((is_table ? "RandomFifthSentenceQuiz" : "sentence_quiz") + number);
  };
  return detail::one(
      entry, {{"story", detail::joined(sentences, " ")},
              {"options", std::vector<std::string>{ending("1"), ending("2")}},
              {"answer", entry.word(is_table ? "AnswerRightEnding" : "answer_right_ending")}});
}

/// question_stem, or question with a stem; choices with letters; answerKey.
inline Entries openbookqa(const ItemFields& entry) {
  const bool is_flat = !entry.is_object("question");
  const ItemFields holder = is_flat ? entry : entry.object("question");
  detail::Fields fields = detail::lettered(entry, holder);
  fields["question"] = holder.text(is_flat ? "question_stem" : "stem");
  return detail::one(entry, std::move(fields));
}

/// question, or question with a stem; choices with letters; answerKey.
inline Entries arc(const ItemFields& entry) {
  const bool is_flat = !entry.is_object("question");
  const ItemFields holder = is_flat ? entry : entry.object("question");
  detail::Fields fields = detail::lettered(entry, holder);
  fields["question"] = holder.text(is_flat ? "question" : "stem");
  return detail::one(entry, std::move(fields));
}

/// support, question, three distractors, correct_answer.
inline Entries sciq(const ItemFields& entry) {
  return detail::one(
      entry, {{"support", detail::left_stripped(entry.text("support"))},
              {"question", entry.text("question")},
              {"options",
               std::vector<std::string>{entry.text("distractor1"), entry.text("distractor2"),
                                        entry.text("distractor3"), entry.text("correct_answer")}},
              {"label", 3}});
}

/// text, whose last word is asked for.
inline Entries lambada(const ItemFields& entry) {
  const std::string text = entry.text("text");
  const std::size_t at = text.rfind(' ');
  if (at == std::string::npos) entry.refuse("text", "has one word");
  return detail::one(entry, {{"before", text.substr(0, at)}, {"word", text.substr(at + 1)}});
}

/// page, as it was tokenized.
inline Entries wikitext(const ItemFields& entry) {
  const std::string page = entry.text("page");
  return detail::one(entry, {{"text", detail::wikitext_page(page)}, {"original", page}});
}

}  // namespace ssm::layouts
