// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "ssm/evaluate/dataset.hpp"
#include "ssm/evaluate/evaluate_task.hpp"
#include "ssm/evaluate/task_file.hpp"
#include "ssm/evaluate/tasks.hpp"
#include "support/temporary_folder.hpp"

namespace ssm::test {
namespace {

using Tokens = std::vector<Token>;

const std::filesystem::path data = std::filesystem::path(SSM_TEST_DATA) / "evaluate";

AnyLanguageModel fresh(const std::string& family) {
  return fresh_language_model(
      {.family = family, .options = {{"layers", "2"}, {"width", "16"}}, .seed = Seed{3}},
      {.threads = 2});
}
std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}
/// One item of a task from one line.
EvaluationItem item_from(const std::string& task, const std::string& line) {
  const TemporaryFolder folder;
  write_text(folder / "items.jsonl", line);
  return read_items(evaluation_task(task), folder / "items.jsonl").front();
}

/// Contexts that begin alike, choices that begin alike, and the same ones twice.
std::vector<ContinuationRequest> requests() {
  const Tokens head{5, 1, 9, 9, 2, 7, 3, 3, 8, 1, 4, 4};
  std::vector<ContinuationRequest> all;
  for (const Tokens& middle : std::vector<Tokens>{{}, {6}, {6, 2, 5}, {1, 1, 1, 1, 1, 1, 1}})
    for (const Tokens& choice : std::vector<Tokens>{{3}, {4}, {3, 5, 7}, {3, 5, 2, 2}, {8, 8}}) {
      Tokens context = head;
      context.insert(context.end(), middle.begin(), middle.end());
      all.push_back({.context = context, .continuation = choice});
    }
  all.push_back(all[3]);
  all.push_back({.context = {2}, .continuation = {1, 2, 3}});
  return all;
}

TEST_CASE("continuations score as each does alone, and what they share is read once") {
  const std::vector<ContinuationRequest> all = requests();
  std::set<Tokens> read;  // every beginning of a text
  for (const ContinuationRequest& request : all) {
    Tokens text = request.context;
    text.insert(text.end(), request.continuation.begin(), request.continuation.end());
    for (text.pop_back(); !text.empty(); text.pop_back()) read.insert(text);
  }
  for (const char* family : {"h3", "mamba", "retnet", "gpt2"}) {
    const AnyLanguageModel model = fresh(family);
    CAPTURE(family);
    for (const Index batch : {1, 3, 0})
      for (const Index positions : {0, 2}) {
        CAPTURE(batch);
        CAPTURE(positions);
        Index tokens = 0, last_done = 0;
        ContinuationOptions options{.batch = batch, .positions = positions};
        options.on_progress = [&](Index done, Index) {
          CHECK(done >= last_done);
          last_done = done;
          return true;
        };
        const auto scores = score_continuations(model, all, options, &tokens);
        CHECK(tokens == static_cast<Index>(read.size()));
        CHECK(last_done == static_cast<Index>(all.size()));
        for (std::size_t i = 0; i < all.size(); ++i) {
          CAPTURE(i);
          Tokens text = all[i].context;
          text.insert(text.end(), all[i].continuation.begin(), all[i].continuation.end());
          const DynamicTensor<float, 2> logits = model.logits(text);
          double expected = 0;
          bool is_greedy = true;
          for (std::size_t t = all[i].context.size(); t < text.size(); ++t) {
            const auto width = static_cast<std::size_t>(logits.extent(1));
            const std::span<const float> row(logits.data() + (t - 1) * width, width);
            expected += row[static_cast<std::size_t>(text[t])] - detail::log_sum(row);
            is_greedy =
                is_greedy && std::max_element(row.begin(), row.end()) - row.begin() == text[t];
          }
          CHECK(scores[i].log_probability == doctest::Approx(expected).epsilon(1e-5));
          CHECK(scores[i].tokens == static_cast<Index>(all[i].continuation.size()));
          CHECK(scores[i].is_greedy == is_greedy);
        }
      }
  }
  const AnyLanguageModel model = fresh("mamba");
  CHECK(message_of([&] {
          score_continuations(model, {{{}, {1}}});
        }).find("context is empty") != std::string::npos);
  CHECK(message_of([&] {
          score_continuations(model, {{{1}, {999}}});
        }).find("999") != std::string::npos);
}

/// What a task makes of an item: prompts, choices and the answer.
std::vector<std::string> texts_of(const EvaluationTask& task, const EvaluationItem& item) {
  const detail::TaskTexts texts(task, item);
  std::vector<std::string> all;
  for (std::size_t k = 0; k < std::max<std::size_t>(1, texts.choice_count()); ++k) {
    all.push_back(texts.prompt(texts.has_prompts_by_choice() ? k : 0));
    all.push_back(texts.continuation(k));
  }
  all.push_back(std::to_string(item.answer));
  all.insert(all.end(), item.references.begin(), item.references.end());
  return all;
}

TEST_CASE("the authors' layouts of data sets give the items that the hub's give") {
  const std::map<std::string, std::string> files{{"boolq", "BoolQ/val.jsonl"},
                                                 {"cb", "CB/val.jsonl"},
                                                 {"copa", "COPA/val.jsonl"},
                                                 {"multirc", "MultiRC/val.jsonl"},
                                                 {"record", "ReCoRD/val.jsonl"},
                                                 {"rte", "RTE/val.jsonl"},
                                                 {"wic", "WiC/val.jsonl"},
                                                 {"wsc", "WSC/val.jsonl"},
                                                 {"hellaswag", "HellaSwag/val.jsonl"},
                                                 {"piqa", "PIQA/dev.jsonl"},
                                                 {"storycloze", "StoryCloze/val.csv"},
                                                 {"openbookqa", "OpenBookQA/test.jsonl"},
                                                 {"arc_easy", "ARC-Easy/test.jsonl"},
                                                 {"arc_challenge", "ARC-Challenge/test.jsonl"},
                                                 {"sciq", "SciQ/test.jsonl"}};
  for (const EvaluationTask& task : evaluation_tasks()) {
    CAPTURE(task.name);
    const auto hub = read_items(task, data / (task.data_name() + ".jsonl"));
    CHECK(hub.size() >= 3);
    std::set<Index> answers;
    for (const EvaluationItem& item : hub) answers.insert(item.answer);
    if (task.kind == TaskKind::choices && task.name != "sciq") CHECK(answers.size() > 1);
    const auto file = files.find(task.data_name());
    if (file == files.end()) continue;
    const auto authors = read_items(task, data / "authors" / file->second);
    REQUIRE(authors.size() == hub.size());
    std::map<std::string, std::string> groups;
    for (std::size_t i = 0; i < hub.size(); ++i) {
      CHECK(texts_of(task, authors[i]) == texts_of(task, hub[i]));
      CHECK(groups.emplace(authors[i].group, hub[i].group).first->second == hub[i].group);
    }
  }
}

TEST_CASE("prompts are those that are published") {
  const auto prompt = [](const std::string& task, std::size_t i) {
    const EvaluationTask& of = evaluation_task(task);
    const auto items = read_items(of, data / (of.data_name() + ".jsonl"));
    return texts_of(of, items[i]);
  };
  CHECK(prompt("copa", 1) ==
        std::vector<std::string>{"The rain stopped therefore", "  the street went under water.",
                                 "The rain stopped therefore", "  they folded the umbrella.", "1"});
  CHECK(prompt("winogrande", 0) ==
        std::vector<std::string>{
            "The ladder was taller than the wall, so the ladder", " had to be shortened.",
            "The ladder was taller than the wall, so the wall", " had to be shortened.", "0"});
  CHECK(prompt("wsc", 2).front() ==
        "Passage: Anna didn't thank Berta, although *she* had carried the bags.\nQuestion: In the "
        "passage above, does the pronoun \"*she*\" refer to \"*Berta*\"?\nAnswer:");
  CHECK(prompt("wsc-h3", 0).front() ==
        "Passage: The jug did not fit on the shelf because \"it\" was too tall.\nQuestion: In the "
        "passage above, does the pronoun \"it\" refer to The jug?\nAnswer:");
  CHECK(prompt("hellaswag", 2).front() == "Fishing: Two men sit in a boat. One of them");
  CHECK(prompt("record-h3", 0)[1] == " Essen\u00e9 at the opening.");
  CHECK(prompt("lambada", 0)[1] == " lamp");
  CHECK(detail::wikitext_page(" = A = \n \n ( b ) \" c \" 1 @,@ 000 , d 's = = E = = \n") ==
        " = A =\n\n(b) \"c\" 1,000, d's == E ==\n");
}

TEST_CASE("examples are drawn as Python draws them, and never the item itself") {
  CHECK(PythonRandom(1234).sample(10, 3) == std::vector<std::size_t>{7, 1, 0});
  CHECK(PythonRandom(3).sample(1000, 4) == std::vector<std::size_t>{243, 606, 557, 133});
  const AnyLanguageModel model = fresh("mamba");
  for (const char* name : {"piqa", "piqa.train"}) {
    CAPTURE(name);
    const EvaluationTask& task = evaluation_task("piqa");
    const auto items = read_items(task, data / "piqa.jsonl");
    const auto examples = read_items(task, data / (std::string(name) + ".jsonl"));
    EvaluationOptions options{.shots = 2, .keeps_prompts = true};
    if (std::string(name) != "piqa") options.examples = examples;
    const EvaluationResult result = evaluate_task(model, task, items, options);
    for (std::size_t i = 0; i < items.size(); ++i) {
      std::vector<std::string> shown = detail::split(result.items[i].prompt, "\n\n");
      REQUIRE(shown.size() == 3);
      CHECK(shown[2] == detail::TaskTexts(task, items[i]).prompt());
      for (std::size_t k = 0; k < 2; ++k)
        CHECK(std::count_if(examples.begin(), examples.end(), [&](const EvaluationItem& item) {
                const bool is_own = item.fields == items[i].fields;
                return detail::TaskTexts(task, item).example() == shown[k] + "\n\n" && !is_own;
              }) == 1);
      CHECK(shown[0] != shown[1]);
    }
  }
  const EvaluationTask& balanced = evaluation_task("boolq-h3");
  const auto items = read_items(balanced, data / "boolq.jsonl");
  const auto train = read_items(balanced, data / "boolq.train.jsonl");
  const EvaluationResult result =
      evaluate_task(model, balanced, items,
                    {.shots = 4, .examples = train, .longest = 4096, .keeps_prompts = true});
  const std::vector<std::string> said = detail::split(result.items[0].prompt, "\nAnswer: ");
  REQUIRE(said.size() == 5);
  CHECK(std::count_if(said.begin(), said.end(),
                      [](const std::string& text) { return text.starts_with("yes"); }) == 2);
  // The examples are the same for all, and read once.
  Index alone = 0;
  for (const ItemScore& item : result.items)
    alone += static_cast<Index>(item.prompt.size()) + 4 + 3 - 2;
  CHECK(result.tokens < alone / 2);
}

TEST_CASE("metrics are counted as they are defined") {
  const auto scored = [](std::vector<double> values, std::vector<Index> tokens = {}) {
    ItemScore score;
    for (std::size_t k = 0; k < values.size(); ++k)
      score.choices.push_back(
          {.log_probability = values[k], .tokens = tokens.empty() ? 1 : tokens[k]});
    score.predicted = detail::largest(values);
    return score;
  };
  EvaluationTask task{
      .name = "t", .prompt = "p", .choices = {"na\u00efve", "a long answer"}, .answer = "label"};
  std::vector<EvaluationItem> items(4);
  const std::vector<Index> answers{0, 1, 1, 1};
  for (std::size_t i = 0; i < 4; ++i) items[i].answer = answers[i];
  items[3].group = "other";
  const std::vector<ItemScore> scores{scored({-1, -2}, {1, 4}), scored({-1, -2}, {1, 4}),
                                      scored({-3, -2}, {4, 1}), scored({-5, -9}, {2, 9})};
  const detail::MetricCounter counter(task, items, scores);
  CHECK(counter.value("acc").value == 0.5);
  CHECK(counter.value("acc").error == doctest::Approx(std::sqrt(1.0 / 3) / 2));
  CHECK(counter.value("acc_norm").value == 0.75);   // by 5 and 13 characters
  CHECK(counter.value("acc_bytes").value == 0.75);  // by 6 and 13
  CHECK(counter.value("acc_tokens").value == 0.5);
  CHECK(counter.value("f1_macro").value == doctest::Approx((2.0 / 4 + 2.0 / 4) / 2));
  CHECK(counter.value("f1a").value == doctest::Approx(2.0 * 1 * (1.0 / 3) / (1 + 1.0 / 3)));
  CHECK(counter.value("exact_questions").value == 0);
  CHECK(answer_f1("The quick, brown fox", "a brown  dog") ==
        doctest::Approx(2.0 * (1.0 / 3) * 0.5 / (1.0 / 3 + 0.5)));
  CHECK(answer_f1("the", "An") == 1);
  CHECK(is_same_answer("The Na\u00cfVE.", "na\u00efve"));
  CHECK_FALSE(is_same_answer("one", "two"));
  EvaluationTask last{.name = "l", .kind = TaskKind::continuation, .continuation = "c"};
  std::vector<ItemScore> words{scored({-1}), scored({-2}), scored({-3}), scored({-2})};
  words[1].choices[0].is_greedy = false;
  const detail::MetricCounter counted(last, items, words);
  CHECK(counted.value("perplexity").value == doctest::Approx(std::exp(2.0)));
  CHECK(counted.value("perplexity").error ==
        doctest::Approx(std::exp(2.0) * std::sqrt(2.0 / 3) / 2));
  CHECK(counted.value("acc").value == 0.75);
}

TEST_CASE("a model that writes is read by its words, and continues what all prompts share") {
  const AnyLanguageModel model = fresh("h3");
  const EvaluationTask task{.name = "w",
                            .kind = TaskKind::generation,
                            .prompt = "{{q}}",
                            .references = "a",
                            .tokens = 9,
                            .stop = {},
                            .metrics = {"exact_match"}};
  std::vector<EvaluationItem> items(3);
  for (std::size_t i = 0; i < 3; ++i) {
    const std::string prompt = "the same beginning " + std::string(i + 1, 'x');
    items[i].fields["q"] = prompt;
    for (const std::string& piece : model.generate(prompt, {.temperature = 0, .tokens = 9}))
      items[i].references.resize(1), items[i].references[0] += piece;
  }
  items[2].references[0] += "?";
  const EvaluationResult result = evaluate_task(model, task, items, {.batch = 2});
  CHECK(result.metrics[0].value == doctest::Approx(2.0 / 3));
  CHECK(result.tokens == 20 - 1 + 1 + 2 + 3 + 27);  // the head, the rest of each, and what came

  // What is written is taken apart by words.
  const EvaluationTask& rte = evaluation_task("rte-h3-generate");
  const EvaluationTask& wic = evaluation_task("wic-h3-generate");
  CHECK(evaluation_task("boolq-h3-generate").answers_alone);
  const auto said = [&](const EvaluationTask& of, const std::string& text) {
    return detail::written_choice(of, items[0], text);
  };
  CHECK(said(rte, "\nNothing here\nIt is: True, it is.") == 0);
  CHECK(said(rte, "true or false") == 1);
  CHECK(said(rte, "untrue") == 1);
  CHECK(said(wic, "yes and no") == -1);
  CHECK(said(wic, "No.\nyes") == 0);
  CHECK(said(evaluation_task("boolq-h3-generate"), " Yes\n") == 1);
  CHECK(said(evaluation_task("boolq-h3-generate"), "yes it is") == -1);
}

TEST_CASE("a bad item is refused in one sentence with file, line and field") {
  const auto complaint = [](const std::string& task, const std::string& line) {
    const std::string message = message_of([&] { item_from(task, "\n" + line); });
    CHECK(message.find("items.jsonl, line 2") != std::string::npos);
    CHECK(message.find('\n') == std::string::npos);
    return message;
  };
  const auto says = [&](const std::string& task, const std::string& line, const char* words) {
    CAPTURE(line);
    const std::string message = complaint(task, line);
    CAPTURE(message);
    CHECK(message.find(words) != std::string::npos);
  };
  says("boolq", R"({"passage": "p", "question": "q"})", "'label' is missing");
  says("boolq", R"({"passage": "p", "question": "q", "label": 2})", "'label' says '2'");
  says("boolq", R"({"passage": "p", "question": "q", "label": "yes yes"})", "'label' says");
  says("boolq", R"({"passage": ["p"], "question": "q", "label": 1})", "'passage'");
  says("boolq", R"(1)", "no JSON object");
  CHECK(message_of([] { item_from("boolq", "[3]"); }).find("items.jsonl, entry 1") !=
        std::string::npos);
  says("boolq", R"({"passage": )", "is not JSON");
  says("copa", R"({"premise": "p", "question": "why", "choice1": "a", "choice2": "b", "label": 0})",
       "'question' must be");
  says("wic", R"({"sentence1": "ab", "start1": 0, "end1": 9, "label": 0})", "'end1' must be");
  says("wic", R"({"sentence1": "ab", "start1": 9223372036854775807, "end1": 9, "label": 0})",
       "'start1' must be");
  says("wsc",
       R"({"text": "a b", "span1_text": "a", "span2_text": "b", "span2_index": -1, "label": 0})",
       "'span2_index' must be");
  says("record", R"({"passage": "p", "query": "q", "entities": ["e"], "answers": ["e"]})",
       "'query' has no @placeholder");
  says("record", R"({"passage": {"text": "é", "entities": [{"start": 0, "end": 7}]}, "qas": []})",
       "'passage.entities[0].end' must be");
  says("multirc",
       R"({"passage": {"text": "t", "questions": [{"question": "q", "idx": 0, "answers": 3}]}})",
       "'passage.questions[0].answers' must be a list");
  says("arc_easy",
       R"({"question": "q", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "B"})",
       "'answerKey' says 'B'");
  says("winogrande", R"({"sentence": "no blank", "option1": "a", "option2": "b", "answer": "1"})",
       "'sentence' has no _");
  says("winogrande", R"({"sentence": "a _ b", "option1": "a", "option2": "b", "answer": ""})",
       "'answer' says ''");
  says("hellaswag",
       R"({"activity_label": "a", "ctx_a": "b", "ctx_b": "", "endings": [], "label": 0})",
       "'endings' must be a list");
  says("lambada", R"({"text": "word"})", "'text' has one word");
  says("wikitext", R"({"page": ""})", "nothing to predict");
  CHECK(complaint("piqa", std::string("{\"goal\": \"\0\"}", 13)).find("zero byte") !=
        std::string::npos);

  const TemporaryFolder folder;
  write_text(folder / "empty.jsonl", "\n");
  CHECK(message_of([&] {
          read_items(evaluation_task("rte"), folder / "empty.jsonl");
        }).find("has no items") != std::string::npos);
  write_text(folder / "t.csv", "a,b\n1,2,3\n");
  CHECK(message_of([&] {
          read_items(evaluation_task("storycloze"), folder / "t.csv");
        }).find("line 2: has 3 columns") != std::string::npos);
  write_text(folder / "dev.jsonl", R"({"goal": "g", "sol1": "a", "sol2": "b"})");
  write_text(folder / "dev-labels.lst", "0\n1\n");
  CHECK(message_of([&] {
          read_items(evaluation_task("piqa"), folder / "dev.jsonl");
        }).find("has 1 entries, its file of labels 2 lines") != std::string::npos);
}

TEST_CASE("a task of one's own is a JSON file, and a contradiction in it is named") {
  const TemporaryFolder folder;
  const auto task_of = [&](const std::string& text) {
    write_text(folder / "colors.json", text);
    return read_task(folder / "colors.json");
  };
  const EvaluationTask task = task_of(
      R"({"prompt": "Q: {{ q }}\nA:", "options": "names", "answer": "right", "first": 1, "metrics": ["acc", "acc_norm"]})");
  CHECK(task.name == "colors");
  write_text(folder / "items.jsonl", R"({"q": "sky?", "names": ["blue", "red"], "right": 2})");
  const auto items = read_items(task, folder / "items.jsonl");
  CHECK(texts_of(task, items[0]) ==
        std::vector<std::string>{"Q: sky?\nA:", " blue", "Q: sky?\nA:", " red", "1"});
  const AnyLanguageModel model = fresh("mamba");
  const EvaluationResult result = evaluate_task(model, task, items);
  CHECK(result.metrics.size() == 2);
  const auto says = [&](const std::string& text, const char* words) {
    const std::string message = message_of([&] { task_of(text); });
    CAPTURE(message);
    CHECK(message.find(words) != std::string::npos);
  };
  says(R"({"prompt": "p"})", "neither choices nor options");
  says(R"({"prompt": "p", "choices": ["a", "b"]})", "which field has the answer");
  says(R"({"prompt": "p", "choices": ["a", 1], "answer": "l"})", "'choices' must be a list");
  says(R"({"prompt": "p", "choices": ["a", "b"], "answer": "l", "metrics": ["bleu"]})",
       "cannot count 'bleu'");
  says(R"({"kind": "sums", "prompt": "p"})", "'kind' must be one of choices");
  says(R"({"prompts": "p"})", "'prompts' is not supported");
  write_text(folder / "items.jsonl", R"({"names": ["blue", "red"], "right": 2})");
  CHECK(message_of([&] { read_items(task, folder / "items.jsonl"); }).find("no field 'q'") !=
        std::string::npos);
  CHECK(message_of([&] {
          evaluate_task(model, task, items, {.shots = 1});
        }).find("1 examples of 0") != std::string::npos);
}

}  // namespace
}  // namespace ssm::test
