// SPDX-License-Identifier: Apache-2.0
// Opens a language model of any family from a folder and streams text:  01_generate FOLDER PROMPT
//                                                                       [BACKEND]
// [generate]
#include <iostream>
#include <ssm/language_model.hpp>

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const auto model = ssm::open_language_model(argv[1], {.backend = argc > 3 ? argv[3] : "cpu"});
  for (const std::string& text : model.generate(argv[2], {.temperature = 0.8, .tokens = 100}))
    std::cout << text << std::flush;
  std::cout << std::endl;
}
// [/generate]
