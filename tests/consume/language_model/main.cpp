// SPDX-License-Identifier: Apache-2.0
#include <iostream>
#include <ssm/language_model.hpp>
#include <string>
#include <vector>

int main() {
  const auto model = ssm::open_language_model(FOLDER, {.backend = "reference"});
  const auto logits = model.logits(std::vector<ssm::Token>{3, 1, 4});
  std::cout << model.facts().family << ", " << logits.extent(0) << " positions\n";
  const std::vector<std::string> backends = ssm::language_model_backends();
  return model.facts().family == "mamba" && backends == std::vector<std::string>{"reference"} ? 0 : 1;
}
