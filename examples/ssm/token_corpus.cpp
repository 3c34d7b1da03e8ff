// SPDX-License-Identifier: Apache-2.0
#include "token_corpus.hpp"

#include <array>
#include <chrono>
#include <cstdint>
#include <span>
#include <system_error>

#include "progress.hpp"
#include "ssm/io/end_of_text.hpp"
#include "ssm/io/input.hpp"
#include "ssm/io/npy_tokens.hpp"
#include "status_line.hpp"
#include "stop_signal.hpp"

namespace ssm::cli {
namespace {

using Clock = std::chrono::steady_clock;

void require_other_file(const std::filesystem::path& out, const std::filesystem::path& input) {
  std::error_code error;
  if (std::filesystem::equivalent(out, input, error))
    throw ArgumentError(out.string() + " would be overwritten, and tokens are made from it");
}

/// Bytes of all files of which the size is known before they are read; 0: of one it is not.
std::uint64_t size_of(const std::vector<std::filesystem::path>& files) {
  std::uint64_t sum = 0;
  for (const std::filesystem::path& file : files) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(file, error)) return 0;
    sum += std::filesystem::file_size(file, error);
    if (error) return 0;
  }
  return sum;
}

class CorpusProgress {
 public:
  CorpusProgress(StatusLine& status, std::uint64_t total) : status_(status), total_(total) {}

  void show(std::uint64_t bytes, Index tokens) {
    if (!status_.is_due()) return;
    const double seconds = std::chrono::duration<double>(Clock::now() - begin_).count();
    const double rate = static_cast<double>(bytes) / seconds;
    std::string line = quantity_text(static_cast<double>(bytes)) + "B";
    if (total_ > 0) line += " of " + quantity_text(static_cast<double>(total_)) + "B";
    line += "  " + quantity_text(static_cast<double>(tokens)) + " tokens  " + quantity_text(rate) +
            "B/s";
    if (total_ > bytes)
      line += "  ETA " + duration_text(static_cast<double>(total_ - bytes) / rate);
    status_.show(line);
  }
  std::string duration() const {
    return duration_text(std::chrono::duration<double>(Clock::now() - begin_).count());
  }

 private:
  StatusLine& status_;
  std::uint64_t total_;
  Clock::time_point begin_ = Clock::now();
};

}  // namespace

Token end_token(const Tokenizer& tokenizer, const std::string& text) {
  const auto token = text.empty() ? end_of_text(tokenizer) : special_token(tokenizer, text);
  if (!token)
    throw ArgumentError(text.empty() ? "the tokenizer has none of the usual special tokens for the "
                                       "end of a document: --end names one"
                                     : "the tokenizer has no special token '" +
                                           detail::printable(text) + "'");
  return *token;
}

void write_corpus(const Tokenizer& tokenizer, const CorpusRequest& request) {
  for (const auto& file : request.files) require_other_file(request.out, file);
  for (const auto& file : tokenizer.files()) require_other_file(request.out, file);
  const Token end = request.has_no_end ? Token{0} : end_token(tokenizer, request.end);

  StatusLine status(request.quiet);
  CorpusProgress progress(status, size_of(request.files));
  const StopSignal stop;
  NpyTokenWriter writer(request.out, tokenizer.vocabulary());
  DocumentTokens documents(tokenizer, request.form);
  Index ended = 0;
  std::uint64_t bytes = 0;  // of the files before
  documents.on_tokens = [&](std::span<const Token> tokens) { writer.write(tokens); };
  documents.on_end = [&] {
    ++ended;
    if (!request.has_no_end) writer.write(std::array{end});
  };
  documents.on_progress = [&](std::uint64_t read) {
    progress.show(bytes + read, writer.size());
    return !stop.is_received();
  };
  for (const std::filesystem::path& path : request.files) {
    const FileReader file = open_input(path);
    if (!documents.read(file))
      throw ArgumentError("interrupted: " + request.out.string() + " is not written");
    bytes += file.size();
  }
  if (writer.size() == 0) throw ArgumentError("there is no text to make tokens of");
  writer.finish();
  status.say(std::to_string(writer.size()) + " tokens of " + std::to_string(ended) +
             (ended == 1 ? " document, " : " documents, ") + std::string(writer.dtype()) + ", in " +
             request.out.string() + "; " + progress.duration());
  if (!request.has_no_end)
    status.say("behind each document: token " + std::to_string(end) + ", " +
               std::string(tokenizer.bytes(end)));
}

}  // namespace ssm::cli
