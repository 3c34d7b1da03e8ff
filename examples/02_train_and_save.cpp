// SPDX-License-Identifier: Apache-2.0
// Trains a small language model on a text, saves it, opens it again and goes on:  02_train_and_save
//                                                                                 TEXT FOLDER
// [train and save]
#include <filesystem>
#include <iostream>
#include <ssm/io/byte_tokens.hpp>
#include <ssm/language_model.hpp>

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const std::filesystem::path folder = argv[2];
  std::filesystem::create_directories(folder);
  const ssm::ByteTokens text(argv[1]);
  const ssm::LanguageModelTrainerConfig training{.batch = 8, .optimizer = {.rate = 3e-3}};
  const ssm::TextStreams streams(text, 64, training.batch, ssm::Seed{1});

  auto model = ssm::fresh_language_model(
      {.family = "mamba", .options = {{"layers", "2"}, {"width", "32"}}, .seed = ssm::Seed{7}});
  const double before = model.evaluate(text).mean();
  model.start_training(training);
  for (int update = 0; update < 30; ++update) model.update(streams, 3e-3);
  model.save(folder);

  auto again = ssm::open_language_model(folder);
  again.resume_training(folder, training);
  for (int update = 0; update < 30; ++update) again.update(streams, 3e-3);
  again.save(folder);
  const double after = again.evaluate(text).mean();
  std::cout << before << " nats per byte, then " << after << std::endl;
  return after < before ? 0 : 1;
}
// [/train and save]
