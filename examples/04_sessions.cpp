// SPDX-License-Identifier: Apache-2.0
// Several sessions in threads over one set of weights:  04_sessions FOLDER
// [sessions]
#include <iostream>
#include <ssm/language_model.hpp>
#include <thread>
#include <vector>

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  const auto model = ssm::open_language_model(argv[1]);
  const std::vector<std::string> prompts{"You", "may", "not", "use"};
  std::vector<std::string> texts(prompts.size());
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < prompts.size(); ++i)
    threads.emplace_back([&, i] {
      const auto session = model.session();  // threads and workspace of its own
      for (const std::string& text : session.generate(prompts[i], {.tokens = 60})) texts[i] += text;
    });
  for (std::thread& thread : threads) thread.join();
  for (std::size_t i = 0; i < prompts.size(); ++i) std::cout << prompts[i] << texts[i] << "\n\n";
}
// [/sessions]
