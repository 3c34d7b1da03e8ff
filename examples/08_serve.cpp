// SPDX-License-Identifier: Apache-2.0
// Sessions in threads stream text from one prompt cache, and take back:  08_serve FOLDER
// [serve]
#include <iostream>
#include <mutex>
#include <ssm/language_model.hpp>
#include <ssm/language_model/completion.hpp>
#include <thread>

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  const auto model = ssm::open_language_model(argv[1]);
  const std::string cache = std::string(argv[1]) + "/prompt.safetensors";
  ssm::Transcript prompt(model);
  ssm::complete(model, {{model.tokenizer().encode("The license"), {.tokens = 0}, &prompt}});
  prompt.save(cache);  // has been read once, for all sessions and for other processes

  std::mutex out;
  std::vector<std::thread> threads;
  for (const std::string line : {" grants", " does not grant", " applies to"})
    threads.emplace_back([&, line] {
      const auto session = model.session();  // the weights are shared and const
      ssm::Transcript chat(session);
      chat.load(cache);
      const auto answer = [&](const std::string& text, ssm::Seed seed) {
        const ssm::CompletionOptions options{.seed = seed, .tokens = 60, .stop = {"\n\n"}};
        return ssm::complete(session, {{session.tokenizer().encode(text), options, &chat}},
                             [&](const ssm::CompletionPiece& piece) {
                               const std::lock_guard lock(out);
                               std::cout << line << " | " << piece.text << std::endl;
                               return std::cout.good();  // false ends the answer
                             });
      };
      const auto first = answer(line, ssm::Seed{1});
      chat.roll_back(static_cast<ssm::Index>(first[0].tokens.size()));
      answer("", ssm::Seed{2});  // another answer to the same line
    });
  for (std::thread& thread : threads) thread.join();
}
// [/serve]
