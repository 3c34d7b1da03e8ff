// SPDX-License-Identifier: Apache-2.0
// What a language model expects, and how well it predicts a text:  05_loss FOLDER TEXT
// [loss]
#include <algorithm>
#include <iostream>
#include <ssm/io/byte_tokens.hpp>
#include <ssm/language_model.hpp>
#include <ssm/language_model/score_text.hpp>

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const auto model = ssm::open_language_model(argv[1]);
  const ssm::ByteTokens text(argv[2]);
  const ssm::TextLoss loss = model.evaluate(text);
  std::cout << ssm::bits_per_byte(loss) << " bits per byte, perplexity " << ssm::perplexity(loss)
            << " over " << loss.tokens << " tokens\n";

  // The same in overlapping windows, and what the model thought of each token.
  double worst = 0;
  const auto strided = ssm::ScoringProtocol::strided(256, 128);
  const auto on_token = [&](const ssm::ScoredToken& scored) {
    worst = std::min(worst, scored.log_probability);
  };
  std::cout << "perplexity "
            << ssm::perplexity(ssm::score_text(model, text, strided, {.on_token = on_token}))
            << " in windows, the greatest surprise " << -worst << " nats\n";

  const auto tokens = model.tokenizer().encode("to the ");
  const auto logits = model.logits(tokens);  // [length, padded vocabulary]
  const float* next = &logits(logits.extent(0) - 1, 0);
  const auto likeliest = std::max_element(next, next + model.facts().vocabulary) - next;
  std::cout << "the likeliest byte is '" << static_cast<char>(likeliest) << "'\n";
}
// [/loss]
