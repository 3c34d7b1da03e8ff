// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "ssm/evaluate/layouts.hpp"
#include "ssm/evaluate/task.hpp"

namespace ssm {
namespace detail {

/// What H3's evaluation on SuperGLUE has in common; "-generate" of a task lets the model write.
inline EvaluationTask h3_task(EvaluationTask task) {
  task.style = ScoringStyle::separate;
  task.has_fixed_examples = true;
  task.data = task.name;
  task.name += "-h3";
  return task;
}
inline EvaluationTask generated(EvaluationTask task) {
  const bool is_boolq = task.name == "boolq-h3", is_multirc = task.name == "multirc-h3";
  task.tokens = is_boolq ? 10 : is_multirc ? 8 : 30;
  task.stop.clear();
  if (is_boolq) task.stop = {"\n\n"};
  if (is_multirc) task.stop = {"\n"};
  task.answers_alone = is_boolq || is_multirc;
  if (task.name == "rte-h3") task.otherwise = 1;
  if (task.name == "cb-h3") task.otherwise = 2;
  task.name += "-generate";
  task.about += ", written";
  task.kind = TaskKind::generation;
  for (std::string& metric : task.metrics)
    if (metric == "acc_tokens") metric = "acc";
  return task;
}

inline std::vector<EvaluationTask> superglue_h3() {
  const std::vector<std::string> truth{"false", "true"}, no_yes{"no", "yes"};
  const std::vector<std::string> by_tokens{"acc_tokens"};
  return {
      h3_task({.name = "boolq",
               .about = "BoolQ, prompts of H3",
               .instruction = "Answer the question.\n\n",
               .prompt = "Context: {{passage}}\nQuestion: {{question}}?\nAnswer:",
               .choices = no_yes,
               .answer = "label",
               .answers = truth,
               .metrics = by_tokens}),
      h3_task({.name = "cb",
               .about = "CommitmentBank, prompts of H3",
               .prompt = "{{premise}}\nQuestion: {{hypothesis}}. True, False, or Neither?",
               .choices = {"true", "false", "neither"},
               .separator = "\n\n\n",
               .answer = "label",
               .answers = {"entailment", "contradiction", "neutral"},
               .metrics = by_tokens}),
      h3_task({.name = "copa",
               .about = "COPA, prompts of H3",
               .instruction = "Pick the more likely continuation to the following sentence.\n\n\n",
               .prompt = "Context: {{sentence}} {{so}}",
               .choices = {"{{option1}}", "{{option2}}"},
               .answer = "label",
               .prepare = layouts::copa,
               .metrics = by_tokens}),
      h3_task(
          {.name = "multirc",
           .about = "MultiRC, prompts of H3",
           .instruction = "Answer if the possible answer is a correct answer to the question.\n\n",
           .prompt = "Passage: {{paragraph}}\nQuestion: Based on the previous passage, "
                     "{{question}}\nIs \"{{answer}}\" a correct answer?\nAnswer:",
           .choices = no_yes,
           .answer = "label",
           .group = "group",
           .prepare = layouts::multirc,
           .metrics = {"f1a", "acc_tokens", "exact_questions"}}),
      h3_task({.name = "record",
               .about = "ReCoRD, prompts of H3",
               .prompt = "Context: {{passage}}\n\nAnswer: {{before}}",
               .choice = "{{option}}{{after}}",
               .separator = "\n\n----\n\n",
               .options = "options",
               .answer = "label",
               .references = "answers",
               .prepare = layouts::record,
               .metrics = {"em", "f1"}}),
      h3_task({.name = "rte",
               .about = "RTE, prompts of H3",
               .prompt = "{{premise}}\nQuestion: {{hypothesis}} True or False?",
               .choices = {"true", "false"},
               .separator = "\n\n\n",
               .answer = "label",
               .answers = {"entailment", "not_entailment"},
               .metrics = by_tokens}),
      h3_task({.name = "wic",
               .about = "Word in Context, prompts of H3",
               .prompt = "{{sentence1}}\n{{sentence2}}\nQuestion: Is the word '{{word}}' used in "
                         "the same way in the two sentences above?",
               .choices = no_yes,
               .answer = "label",
               .answers = truth,
               .metrics = by_tokens}),
      h3_task({.name = "wsc",
               .about = "Winograd schemas of SuperGLUE, prompts of H3",
               .prompt = "Passage: {{quoted}}\nQuestion: In the passage above, does the pronoun "
                         "\"{{pronoun}}\" refer to {{noun}}?\nAnswer:",
               .choices = no_yes,
               .answer = "label",
               .answers = truth,
               .prepare = layouts::wsc,
               .metrics = by_tokens}),
  };
}

inline std::vector<EvaluationTask> superglue_harness() {
  const std::vector<std::string> truth{"false", "true"}, no_yes{"no", "yes"};
  return {
      {.name = "boolq",
       .about = "yes-no questions about a passage (Clark et al. 2019)",
       .prompt = "{{passage}}\nQuestion: {{question}}?\nAnswer:",
       .choices = no_yes,
       .answer = "label",
       .answers = truth},
      {.name = "cb",
       .about = "CommitmentBank: does it follow? (de Marneffe et al. 2019)",
       .prompt = "{{premise}}\nQuestion: {{hypothesis}}. True, False, or Neither?\nAnswer:",
       .choices = {"True", "False", "Neither"},
       .answer = "label",
       .answers = {"entailment", "contradiction", "neutral"},
       .metrics = {"acc", "f1_macro"}},
      {.name = "copa",
       .about = "causes and effects (Roemmele et al. 2011)",
       .prompt = "{{sentence}} {{therefore}}",
       .choice = " {{option}}",
       .options = "options",
       .answer = "label",
       .prepare = layouts::copa},
      // lm-evaluation-harness takes the label 1, a correct answer, for the second choice, "no"; so
      // that numbers compare with its, so does this.
      {.name = "multirc",
       .about = "several right answers to a question (Khashabi et al. 2018)",
       .prompt = "{{paragraph}}\nQuestion: {{question}}\nAnswer:",
       .choices = {"{{answer}}\nIs the answer correct? yes",
                   "{{answer}}\nIs the answer correct? no"},
       .answer = "label",
       .group = "group",
       .prepare = layouts::multirc},
      {.name = "record",
       .about = "which name is left out (Zhang et al. 2018)",
       .prompt = "{{listed}}",
       .choice = "  - {{before}}{{option}}{{after}}",
       .options = "options",
       .answer = "label",
       .references = "answers",
       .prepare = layouts::record,
       .metrics = {"f1", "em"}},
      {.name = "rte",
       .about = "does it follow? (Dagan et al. 2006)",
       .prompt = "{{premise}}\nQuestion: {{hypothesis}} True or False?\nAnswer:",
       .choices = {"True", "False"},
       .answer = "label",
       .answers = {"entailment", "not_entailment"}},
      {.name = "wic",
       .about = "one sense of a word or two (Pilehvar and Camacho-Collados 2019)",
       .prompt = "Sentence 1: {{sentence1}}\nSentence 2: {{sentence2}}\nQuestion: Is the word "
                 "'{{written}}' used in the same way in the two sentences above?\nAnswer:",
       .choices = no_yes,
       .answer = "label",
       .answers = truth,
       .prepare = layouts::wic},
      {.name = "wsc",
       .about = "whom a pronoun means (Levesque et al. 2012), of SuperGLUE",
       .prompt = "Passage: {{starred}}\nQuestion: In the passage above, does the pronoun "
                 "\"*{{pronoun}}*\" refer to \"*{{noun}}*\"?\nAnswer:",
       .choices = no_yes,
       .answer = "label",
       .answers = truth,
       .prepare = layouts::wsc},
  };
}

inline std::vector<EvaluationTask> zero_shot_harness() {
  const std::vector<std::string> both{"acc", "acc_norm"};
  const EvaluationTask arc{.name = "arc_easy",
                           .about = "science questions of schools (Clark et al. 2018)",
                           .prompt = "Question: {{question}}\nAnswer:",
                           .options = "options",
                           .answer = "label",
                           .prepare = layouts::arc,
                           .metrics = both};
  EvaluationTask challenge = arc;
  challenge.name = "arc_challenge";
  challenge.about = "the harder of them";
  return {
      {.name = "hellaswag",
       .about = "how a scene goes on (Zellers et al. 2019)",
       .prompt = "{{query}}",
       .options = "options",
       .answer = "label",
       .prepare = layouts::hellaswag,
       .metrics = both},
      {.name = "piqa",
       .about = "how things are done (Bisk et al. 2020)",
       .prompt = "Question: {{goal}}\nAnswer:",
       .choices = {"{{sol1}}", "{{sol2}}"},
       .answer = "label",
       .metrics = both},
      {.name = "winograd",
       .about = "whom a pronoun means: 273 schemas (Levesque et al. 2012)",
       .prompt = "{{before}}{{option}}",
       .ending = "{{after}}",
       .options = "options",
       .answer = "label",
       .prepare = layouts::winograd},
      {.name = "winogrande",
       .about = "whom a blank means (Sakaguchi et al. 2020)",
       .prompt = "{{before}}{{option}}",
       .ending = "{{after}}",
       .options = "options",
       .answer = "answer",
       .first = 1,
       .prepare = layouts::winogrande},
      {.name = "storycloze",
       .about = "how a story ends (Mostafazadeh et al. 2016)",
       .prompt = "{{story}}",
       .options = "options",
       .answer = "answer",
       .first = 1,
       .prepare = layouts::storycloze},
      {.name = "openbookqa",
       .about = "science with common sense (Mihaylov et al. 2018)",
       .prompt = "{{question}}",
       .options = "options",
       .answer = "label",
       .prepare = layouts::openbookqa,
       .metrics = both},
      {.name = "sciq",
       .about = "science with a passage that helps (Welbl et al. 2017)",
       .prompt = "{{support}}\nQuestion: {{question}}\nAnswer:",
       .options = "options",
       .answer = "label",
       .prepare = layouts::sciq,
       .metrics = both},
      arc,
      challenge,
      {.name = "lambada",
       .about = "the last word of a passage (Paperno et al. 2016)",
       .kind = TaskKind::continuation,
       .prompt = "{{before}}",
       .continuation = "{{word}}",
       .prepare = layouts::lambada,
       .metrics = {"perplexity", "acc"}},
      {.name = "wikitext",
       .about = "whole pages (Merity et al. 2016)",
       .kind = TaskKind::text,
       .continuation = "{{text}}",
       .delimiter = "",
       .prepare = layouts::wikitext,
       .metrics = {"word_perplexity", "byte_perplexity", "bits_per_byte"}},
  };
}

}  // namespace detail

/// Every task that has a name. Prompts are those of lm-evaluation-harness, which the DenseSSM paper
/// reports; tasks "-h3" have the prompts and the scores of the H3 paper, tasks "-h3-generate" let
/// the model write its answer.
/// Source  He et al. 2024 (DenseSSM), lm-evaluation-harness; Fu et al. 2023 (H3) §5 and its
///         appendix, after the zero- and few-shot baselines of Arora et al. 2022 (AMA)
inline const std::vector<EvaluationTask>& evaluation_tasks() {
  static const std::vector<EvaluationTask> all = [] {
    std::vector<EvaluationTask> tasks = detail::superglue_harness();
    for (const EvaluationTask& task : detail::zero_shot_harness()) tasks.push_back(task);
    const std::vector<EvaluationTask> scored = detail::superglue_h3();
    tasks.insert(tasks.end(), scored.begin(), scored.end());
    for (const EvaluationTask& task : scored)
      if (task.name != "copa-h3" && task.name != "record-h3")  // whose choices are sentences
        tasks.push_back(detail::generated(task));
    return tasks;
  }();
  return all;
}

/// The task of a name.
/// Throws  ArgumentError  for a name that none has
inline const EvaluationTask& evaluation_task(std::string_view name) {
  for (const EvaluationTask& task : evaluation_tasks())
    if (task.name == name) return task;
  throw ArgumentError("there is no task '" + detail::printable(name) + "'");
}

/// Names that stand for several tasks.
struct TaskGroup {
  std::string_view name;
  std::vector<std::string> tasks;
};
/// The groups that there are.
inline const std::vector<TaskGroup>& task_groups() {
  static const std::vector<TaskGroup> all{
      {"superglue", {"boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc"}},
      {"superglue-h3",
       {"wsc-h3", "wic-h3", "rte-h3", "cb-h3", "multirc-h3", "record-h3", "boolq-h3", "copa-h3"}},
      {"superglue-h3-generate",
       {"wsc-h3-generate", "wic-h3-generate", "rte-h3-generate", "cb-h3-generate",
        "multirc-h3-generate", "boolq-h3-generate"}},
      {"densessm",
       {"wikitext", "lambada", "arc_challenge", "arc_easy", "boolq", "copa", "hellaswag", "piqa",
        "winogrande", "winograd", "storycloze", "openbookqa", "sciq"}}};
  return all;
}

}  // namespace ssm
