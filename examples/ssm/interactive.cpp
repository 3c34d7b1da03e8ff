// SPDX-License-Identifier: Apache-2.0
#include "interactive.hpp"

#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "completion_output.hpp"
#include "ssm/language_model/completion.hpp"
#include "ssm/platform.hpp"
#include "stop_signal.hpp"

namespace ssm::cli {
namespace {

constexpr const char* help =
    R"(a line           is put behind the text, and the text is continued; an empty one adds nothing
/undo            takes the last turn back
/retry           takes the last answer back, and draws another one
/reset           begins anew
/save FILE       keeps the text and its state
/load FILE       goes on with what was kept
/tokens          how long the text is
/quit            ends, as the end of the input does
//…              a line that begins with /
)";

class Conversation {
 public:
  Conversation(const AnyLanguageModel& model, Transcript& transcript,
               const CompletionOptions& options)
      : model_(model), transcript_(transcript), options_(options) {}

  /// Whether another line is to be read.
  bool take(const std::string& line) {
    if (!line.starts_with('/') || line.starts_with("//")) {
      answer(line.substr(line.starts_with("//") ? 1 : 0));
      return true;
    }
    const std::size_t space = line.find(' ');
    const std::string order = line.substr(1, space == std::string::npos ? space : space - 1);
    const std::string file = space == std::string::npos ? "" : line.substr(space + 1);
    if (order == "quit") return false;
    if (order == "undo")
      undo();
    else if (order == "retry")
      retry();
    else if (order == "reset")
      reset();
    else if ((order == "save" || order == "load") && file.empty())
      throw ArgumentError("/" + order + " takes the name of a file");
    else if (order == "save")
      transcript_.save(file);
    else if (order == "load")
      load(file);
    else if (order == "tokens")
      std::cerr << transcript_.tokens().size() << " tokens" << std::endl;
    else if (order == "help")
      std::cerr << help << std::flush;
    else
      throw ArgumentError("no order is named /" + order + ", see /help");
    return true;
  }

 private:
  struct Turn {
    std::size_t begin;        // tokens before it
    std::vector<Token> line;  // what was put in
  };

  void answer(const std::string& line) {
    const auto encoded = line.empty() ? model_.encode(transcript_.tokens().empty() ? "\n" : "")
                                      : model_.encode(line + "\n");
    continue_with({encoded.begin(), encoded.end()});
  }
  void continue_with(const std::vector<Token>& line) {
    const std::size_t begin = transcript_.tokens().size();
    const StopSignal signal;
    complete(model_, {{.prompt = line, .options = options_, .transcript = &transcript_}},
             [&](const CompletionPiece& piece) {
               print(piece.text);
               return !signal.is_received();
             });
    print("\n");
    turns_.push_back({begin, line});
    ++options_.seed.value;
  }
  void undo() {
    if (turns_.empty()) throw ArgumentError("there is no turn to take back");
    roll_back_to(turns_.back().begin);
    turns_.pop_back();
  }
  void retry() {
    if (turns_.empty()) throw ArgumentError("there is no turn to draw again");
    const std::vector<Token> line = turns_.back().line;
    undo();
    continue_with(line);
  }
  void reset() {
    roll_back_to(0);
    turns_.clear();
  }
  void load(const std::string& file) {
    transcript_.load(file);
    turns_.clear();
  }
  void roll_back_to(std::size_t tokens) {
    transcript_.roll_back(static_cast<Index>(transcript_.tokens().size() - tokens));
  }

  const AnyLanguageModel& model_;
  Transcript& transcript_;
  CompletionOptions options_;
  std::vector<Turn> turns_;
};

}  // namespace

void run_interactively(const AnyLanguageModel& model, Transcript& transcript,
                       const CompletionOptions& options) {
  Conversation conversation(model, transcript, options);
  const bool is_terminal = platform::is_terminal(0);
  std::string line;
  while (true) {
    if (is_terminal) std::cerr << "> " << std::flush;
    if (!std::getline(std::cin, line)) return;
    if (line.ends_with('\r')) line.pop_back();
    try {
      if (!conversation.take(line)) return;
    } catch (const std::exception& error) {  // the text stays as it was
      std::cerr << "ssm: " << error.what() << std::endl;
      if (!std::cout) throw;
    }
  }
}

}  // namespace ssm::cli
