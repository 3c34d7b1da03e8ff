// SPDX-License-Identifier: Apache-2.0
// Language models: functions of ssm/api.h over ssm::AnyLanguageModel.
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "guarded.hpp"
#include "options.hpp"
#include "ssm/io/detokenizer.hpp"
#include "ssm/language_model.hpp"
#include "tensor.hpp"

struct ssm_model {
  ssm_model(ssm::AnyLanguageModel opened, std::shared_ptr<const char> same_weights)
      : model(std::make_shared<ssm::AnyLanguageModel>(std::move(opened))),
        weights(std::move(same_weights)),
        facts(facts_text()) {}

  std::shared_ptr<ssm::AnyLanguageModel> model;  // states keep it
  std::shared_ptr<const char> weights;           // sessions share it, others do not
  std::string facts;

 private:
  std::string facts_text() const {
    const ssm::LanguageModelFacts& all = model->facts();
    return nlohmann::ordered_json{{"family", all.family},
                                  {"backend", all.backend},
                                  {"numbers", all.numbers},
                                  {"threads", all.threads},
                                  {"vocabulary", all.vocabulary},
                                  {"padded_vocabulary", all.padded_vocabulary},
                                  {"end_tokens", all.end_tokens},
                                  {"positions", all.positions},
                                  {"has_attention", all.has_attention},
                                  {"parameters", all.parameters},
                                  {"weight_bytes", all.weight_bytes}}
        .dump();
  }
};

struct ssm_state {
  std::shared_ptr<ssm::AnyLanguageModel> model;
  std::shared_ptr<const char> weights;
  ssm::LanguageModelState state;
};

namespace ssm::api {
namespace {

BackendOptions backend_options(const char* text) {
  return read_options(text, "options of ssm_model_open",
                      {"backend", "threads", "numbers", "weights", "device", "map_files"},
                      [](const JsonObject& json) {
                        return BackendOptions{
                            .backend = json.text("backend", "cpu"),
                            .threads = static_cast<int>(json.integer_or("threads", 0, 0, 1024)),
                            .device = static_cast<int>(json.integer_or("device", 0, 0, 1024)),
                            .numbers = json.text("numbers", "float"),
                            .weights = word_option<WeightForm>(json, "weights", "full",
                                                               {{"full", WeightForm::full},
                                                                {"bf16", WeightForm::bf16},
                                                                {"f16", WeightForm::f16},
                                                                {"int8", WeightForm::int8}}),
                            .map_files = json.boolean("map_files", true)};
                      });
}

GenerateOptions generate_options(const char* text, const AnyLanguageModel& model) {
  constexpr double most = std::numeric_limits<double>::max();
  return read_options(text, "options of ssm_model_generate",
                      {"temperature", "top_k", "top_p", "min_p", "tokens", "seed", "stop"},
                      [&](const JsonObject& json) {
                        GenerateOptions options{
                            .temperature = json.number("temperature", 1, 0, most),
                            .top_k = static_cast<Index>(json.integer_or("top_k", 0, 0)),
                            .top_p = json.number("top_p", 1, 0, 1),
                            .min_p = json.number("min_p", 0, 0, 1),
                            .tokens = static_cast<Index>(json.integer_or("tokens", dyn, 0)),
                            .seed = Seed{static_cast<std::uint64_t>(json.integer_or(
                                "seed", 0, 0, std::numeric_limits<std::int64_t>::max()))},
                            .stop = model.facts().end_tokens};
                        if (json.has("stop")) {
                          options.stop.clear();
                          for (const std::int64_t token : json.integers("stop", 0))
                            options.stop.push_back(static_cast<Token>(token));
                        }
                        return options;
                      });
}

/// Memory that ssm_free gives back, with a zero byte behind what is copied into it.
template <class T>
T* given_away(const void* from, std::size_t count) {
  auto* const memory = static_cast<char*>(std::malloc(count * sizeof(T) + 1));
  if (memory == nullptr) throw OutOfMemory(count * sizeof(T), "host memory");
  if (count > 0) std::memcpy(memory, from, count * sizeof(T));
  memory[count * sizeof(T)] = '\0';
  return reinterpret_cast<T*>(memory);
}

std::span<const Token> tokens_of(const std::int32_t* tokens, std::size_t count) {
  if (count > 0) static_cast<void>(required(tokens, "tokens"));
  return {tokens, count};
}

std::string_view text_of(const char* text, std::size_t bytes, const char* name) {
  if (bytes > 0) static_cast<void>(required(text, name));
  return {text, bytes};
}

template <class T, int rank>
View<T, rank> dense_view(const ssm_tensor* tensor, const char* name) {
  const auto view = view_of_tensor<T, rank>(tensor, name);
  if (!view.is_contiguous())
    throw TensorError(std::string(name) + " is strided, must lie in rows without gaps");
  return view;
}

LanguageModelState& state_of(const ssm_model& model, ssm_state* state) {
  ssm_state& given = required(state, "state");
  if (given.weights != model.weights) throw ArgumentError("state is one of another model");
  return given.state;
}

/// Another state of the same model.
ssm_state* beside(const ssm_state& other, LanguageModelState state) {
  return new ssm_state{other.model, other.weights, std::move(state)};
}

}  // namespace
}  // namespace ssm::api

using namespace ssm::api;

ssm_code ssm_model_open(const char* path, const char* options, ssm_model** model) {
  return guarded([&] {
    required(model, "model") = nullptr;
    *model =
        new ssm_model(ssm::open_language_model(&required(path, "path"), backend_options(options)),
                      std::make_shared<const char>('\0'));
  });
}
void ssm_model_free(ssm_model* model) { delete model; }
ssm_code ssm_model_session(const ssm_model* model, int threads, ssm_model** session) {
  return guarded([&] {
    required(session, "session") = nullptr;
    *session = new ssm_model(required(model, "model").model->session(threads), model->weights);
  });
}
const char* ssm_model_facts(const ssm_model* model) {
  return model == nullptr ? nullptr : model->facts.c_str();
}
ssm_code ssm_model_fingerprint(const ssm_model* model, char** text) {
  return guarded([&] {
    required(text, "text") = nullptr;
    const std::string digits = required(model, "model").model->fingerprint();
    *text = given_away<char>(digits.data(), digits.size());
  });
}
int64_t ssm_model_vocabulary(const ssm_model* model) {
  return model == nullptr ? 0 : model->model->facts().vocabulary;
}
int64_t ssm_model_padded_vocabulary(const ssm_model* model) {
  return model == nullptr ? 0 : model->model->facts().padded_vocabulary;
}

ssm_code ssm_model_use_tokenizer(ssm_model* model, const char* path) {
  return guarded([&] {
    required(model, "model").model->use_tokenizer(ssm::load_tokenizer(&required(path, "path")));
  });
}
ssm_code ssm_model_encode(const ssm_model* model, const char* text, size_t bytes, int32_t** tokens,
                          size_t* count) {
  return guarded([&] {
    required(tokens, "tokens") = nullptr;
    required(count, "count") = 0;
    const std::vector<ssm::Token> all =
        required(model, "model").model->encode(text_of(text, bytes, "text"));
    *tokens = given_away<int32_t>(all.data(), all.size());
    *count = all.size();
  });
}
ssm_code ssm_model_decode(const ssm_model* model, const int32_t* tokens, size_t count, char** text,
                          size_t* bytes) {
  return guarded([&] {
    required(text, "text") = nullptr;
    required(bytes, "bytes") = 0;
    ssm::Detokenizer pieces(required(model, "model").model->tokenizer());
    std::string all;
    for (const ssm::Token token : tokens_of(tokens, count)) all += pieces.push(token);
    all += pieces.finish();
    *text = given_away<char>(all.data(), all.size());
    *bytes = all.size();
  });
}

ssm_code ssm_model_logits(const ssm_model* model, const ssm_tensor* tokens,
                          const ssm_tensor* logits) {
  return guarded([&] {
    required(model, "model")
        .model->logits(dense_view<const ssm::Token, 2>(tokens, "tokens"),
                       dense_view<float, 3>(logits, "logits"));
  });
}
ssm_code ssm_model_prefill(const ssm_model* model, const ssm_tensor* tokens,
                           const ssm_tensor* logits, ssm_state* state) {
  return guarded([&] {
    auto& given = state_of(required(model, "model"), state);
    model->model->prefill(dense_view<const ssm::Token, 2>(tokens, "tokens"),
                          dense_view<float, 3>(logits, "logits"), given);
  });
}
ssm_code ssm_model_step(const ssm_model* model, const ssm_tensor* tokens, const ssm_tensor* logits,
                        ssm_state* state) {
  return guarded([&] {
    auto& given = state_of(required(model, "model"), state);
    model->model->step(dense_view<const ssm::Token, 1>(tokens, "tokens"),
                       dense_view<float, 2>(logits, "logits"), given);
  });
}
ssm_code ssm_model_loss(const ssm_model* model, const int32_t* tokens, size_t count,
                        const char* options, double* nats, int64_t* predicted) {
  return guarded([&] {
    required(nats, "nats") = 0;
    required(predicted, "predicted") = 0;
    const auto read =
        read_options(options, "options of ssm_model_loss", {"context", "chunk", "streams"},
                     [](const ssm::JsonObject& json) {
                       return ssm::TextLossOptions{
                           .context = static_cast<ssm::Index>(json.integer_or("context", 0, 0)),
                           .chunk = static_cast<ssm::Index>(json.integer_or("chunk", 1024, 1)),
                           .streams = static_cast<ssm::Index>(json.integer_or("streams", 1, 1))};
                     });
    const ssm::TextLoss loss = required(model, "model").model->loss(tokens_of(tokens, count), read);
    *nats = loss.nats;
    *predicted = loss.tokens;
  });
}

ssm_code ssm_model_generate(const ssm_model* model, const int32_t* prompt, size_t count,
                            const char* options, ssm_state* state, ssm_token_callback callback,
                            void* user) {
  return guarded([&] {
    const ssm::AnyLanguageModel& any = *required(model, "model").model;
    if (callback == nullptr) throw ssm::ArgumentError("callback is missing");
    const ssm::GenerateOptions read = generate_options(options, any);
    const auto tokens = tokens_of(prompt, count);
    for (const ssm::Token token : state == nullptr
                                      ? any.generate(tokens, read)
                                      : any.generate(tokens, read, state_of(*model, state)))
      if (callback(user, token) != 0) return;
  });
}
ssm_code ssm_model_generate_text(const ssm_model* model, const char* prompt, size_t bytes,
                                 const char* options, ssm_state* state, ssm_text_callback callback,
                                 void* user) {
  return guarded([&] {
    const ssm::AnyLanguageModel& any = *required(model, "model").model;
    if (callback == nullptr) throw ssm::ArgumentError("callback is missing");
    const ssm::GenerateOptions read = generate_options(options, any);
    const std::string_view text = text_of(prompt, bytes, "prompt");
    for (const std::string& piece : state == nullptr
                                        ? any.generate(text, read)
                                        : any.generate(text, read, state_of(*model, state)))
      if (callback(user, piece.c_str(), piece.size()) != 0) return;
  });
}

ssm_code ssm_state_create(const ssm_model* model, int64_t sequences, ssm_state** state) {
  return guarded([&] {
    required(state, "state") = nullptr;
    const auto& any = required(model, "model").model;
    if (sequences < 0 || sequences > ssm::JsonObject::largest)
      throw ssm::ArgumentError(ssm::message({"a state cannot be of ", sequences, " sequences"}));
    *state = new ssm_state{any, model->weights, any->initial_state(sequences)};
  });
}
void ssm_state_free(ssm_state* state) { delete state; }
ssm_code ssm_state_copy(const ssm_state* state, ssm_state** copy) {
  return guarded([&] {
    required(copy, "copy") = nullptr;
    *copy = beside(required(state, "state"), state->state.copy());
  });
}
ssm_code ssm_state_row(const ssm_state* state, int64_t sequence, ssm_state** row) {
  return guarded([&] {
    required(row, "row") = nullptr;
    *row = beside(required(state, "state"), state->state.row(sequence));
  });
}
ssm_code ssm_state_copy_row(const ssm_state* from, int64_t from_sequence, ssm_state* to,
                            int64_t to_sequence) {
  return guarded([&] {
    const auto& source = required(from, "from");
    auto& target = required(to, "to");
    if (source.weights != target.weights)
      throw ssm::ArgumentError("the two states are of different models");
    source.state.copy_row(from_sequence, target.state, to_sequence);
  });
}
ssm_code ssm_state_save(const ssm_state* state, const char* path) {
  return guarded([&] { required(state, "state").state.save(&required(path, "path")); });
}
ssm_code ssm_state_load(ssm_state* state, const char* path) {
  return guarded([&] { required(state, "state").state.load(&required(path, "path")); });
}
int64_t ssm_state_sequences(const ssm_state* state) {
  return state == nullptr ? 0 : state->state.sequences();
}
int64_t ssm_state_position(const ssm_state* state, int64_t sequence) {
  int64_t position = -1;
  static_cast<void>(guarded([&] {
    const auto& given = required(state, "state").state;
    if (sequence < 0 || sequence >= given.sequences())
      throw ssm::ArgumentError(ssm::message({"the state has no sequence ", sequence}));
    position = given.position(sequence);
  }));
  return position;
}
uint64_t ssm_state_bytes(const ssm_state* state) {
  return state == nullptr ? 0 : state->state.bytes();
}
