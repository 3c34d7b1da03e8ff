// SPDX-License-Identifier: Apache-2.0
// ssm: trains language models on text, generates with them, measures them, and looks into their
// files.
#include <cstdio>
#include <exception>
#include <iostream>
#include <new>

#include "commands.hpp"
#include "ssm/family/options.hpp"  // OptionError
#include "ssm/version.hpp"

namespace {

constexpr const char* version = "ssm " SSM_VERSION_STRING "\nApache-2.0; FFTW is not linked";

constexpr const char* examples = R"(Examples:
  ssm train --text shakespeare.txt --out run --minutes 5
  ssm generate run --prompt "ROMEO:" --tokens 400 --temperature 0.8
  ssm perplexity run --text shakespeare.txt --held-out --json
  ssm evaluate run piqa=valid.jsonl
  ssm classify listops --out run --backend cuda --minutes 20
  ssm inspect run
  ssm logits run --tokens ids.npy --out logits.npy
  ssm convert mamba-130m converted --dtype bfloat16
  ssm tokenize --tokenizer gpt2 --json < lines.txt

Exit status: 0 success; 1 failure, with one sentence on standard error; 2 wrong usage.)";

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("State-space language models: train in parallel, generate recurrently.", "ssm");
  app.set_version_flag("--version", version);
  app.footer(examples);
  app.require_subcommand(1);
  ssm::cli::add_train_command(app);
  ssm::cli::add_generate_command(app);
  ssm::cli::add_perplexity_command(app);
  ssm::cli::add_evaluate_command(app);
  ssm::cli::add_classify_command(app);
  ssm::cli::add_inspect_command(app);
  ssm::cli::add_logits_command(app);
  ssm::cli::add_convert_command(app);
  ssm::cli::add_tokenize_command(app);
#ifdef SSM_WITH_TOKENIZER
  ssm::cli::add_tokenizer_train_command(app);
#endif
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const ssm::OptionError& error) {
    std::cerr << "ssm: " << error.what() << std::endl;
    return 2;
  } catch (const std::bad_alloc&) {
    std::cerr << "ssm: out of memory" << std::endl;
  } catch (const std::exception& error) {
    std::cerr << "ssm: " << error.what() << std::endl;
  }
  return 1;
}
