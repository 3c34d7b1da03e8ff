// SPDX-License-Identifier: Apache-2.0
// A conversation whose memory is copied, saved and loaded:  03_states FOLDER
// [states]
#include <filesystem>
#include <iostream>
#include <ssm/language_model.hpp>

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  const auto model = ssm::open_language_model(argv[1]);
  const auto say = [&](std::string_view prompt, ssm::LanguageModelState& state) {
    std::string answer;
    for (const std::string& text : model.generate(prompt, {.temperature = 0, .tokens = 40}, state))
      answer += text;
    return answer;
  };
  ssm::LanguageModelState state = model.initial_state();
  std::cout << say("You may", state) << "\n" << state.position() << " bytes were read\n";

  const auto file = std::filesystem::path(argv[1]) / "conversation.safetensors";
  state.save(file);                             // for another process
  ssm::LanguageModelState copy = state.copy();  // for another branch of the conversation
  const std::string answer = say("But not", state);
  ssm::LanguageModelState loaded = model.initial_state();
  loaded.load(file);
  return say("But not", copy) == answer && say("But not", loaded) == answer ? 0 : 1;
}
// [/states]
