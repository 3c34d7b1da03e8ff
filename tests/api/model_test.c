/* SPDX-License-Identifier: Apache-2.0 */
/* Language models through the C interface. Arguments: a model folder, a folder to write to, and
   where there is one the folder of a model whose tokens are bytes. */
#include "model_checks.h"

struct text {
  size_t bytes;
  char all[1024];
};
static int append(void* user, const char* piece, size_t bytes) {
  struct text* text = user;
  CHECK(piece[bytes] == '\0');
  memcpy(text->all + text->bytes, piece, bytes);
  text->bytes += bytes;
  return 0;
}

static void text_is_tokens(const char* path) {
  static const char prompt[] =
      "Gr\xc3\xbc\xc3\x9f"
      "e, the license";
  const char* options = "{\"temperature\": 0, \"tokens\": 20, \"stop\": []}";
  ssm_model* model = NULL;
  REQUIRE_OK(ssm_model_open(path, "{\"threads\": 1}", &model));
  int32_t* tokens = NULL;
  size_t count = 0;
  REQUIRE_OK(ssm_model_encode(model, prompt, sizeof prompt - 1, &tokens, &count));
  CHECK(count == sizeof prompt - 1);
  char* text = NULL;
  size_t bytes = 0;
  REQUIRE_OK(ssm_model_decode(model, tokens, count, &text, &bytes));
  CHECK(bytes == sizeof prompt - 1 && strcmp(text, prompt) == 0);
  ssm_free(text);

  struct text pieces = {0, {0}};
  struct collected generated = {0, 0, {0}};
  REQUIRE_OK(
      ssm_model_generate_text(model, prompt, sizeof prompt - 1, options, NULL, append, &pieces));
  REQUIRE_OK(ssm_model_generate(model, tokens, count, options, NULL, collect, &generated));
  REQUIRE_OK(ssm_model_decode(model, generated.tokens, (size_t)generated.count, &text, &bytes));
  CHECK(bytes > 0 && bytes == pieces.bytes && memcmp(text, pieces.all, bytes) == 0);
  ssm_free(text);
  ssm_free(tokens);
  ssm_model_free(model);
}

static void mistakes_are_named(ssm_model* model, const char* path) {
  ssm_model* none = model;
  CHECK_FAILS(ssm_model_open("/no/such/folder", NULL, &none), SSM_FILE, "/no/such/folder");
  CHECK(none == NULL);
  CHECK_FAILS(ssm_model_open(NULL, NULL, &none), SSM_ARGUMENT, "path");
  CHECK_FAILS(ssm_model_open(path, NULL, NULL), SSM_ARGUMENT, "model");
  CHECK_FAILS(ssm_model_open(path, "{\"backend\": \"abacus\"}", &none), SSM_ARGUMENT, "abacus");
  CHECK_FAILS(ssm_model_open(path, "{\"treads\": 2}", &none), SSM_ARGUMENT, "treads");
  CHECK_FAILS(ssm_model_open(path, "{\"threads\": ", &none), SSM_ARGUMENT, "ssm_model_open");
  CHECK_FAILS(ssm_model_open(path, "{\"weights\": \"int3\"}", &none), SSM_ARGUMENT, "int8");
  CHECK_FAILS(ssm_model_open(path, "{\"numbers\": \"bf16\"}", &none), SSM_ARGUMENT,
              "no numbers of type 'bf16' on cpu; there is float");
  CHECK_FAILS(ssm_model_generate(model, NULL, 1, NULL, NULL, collect, NULL), SSM_ARGUMENT,
              "tokens");
  CHECK_FAILS(ssm_model_generate(model, NULL, 0, NULL, NULL, collect, NULL), SSM_ARGUMENT,
              "prompt is empty");
  CHECK_FAILS(ssm_model_generate(NULL, NULL, 0, NULL, NULL, collect, NULL), SSM_ARGUMENT, "model");
  const int32_t far[] = {1 << 20};
  CHECK_FAILS(ssm_model_generate(model, far, 1, NULL, NULL, collect, NULL), SSM_ARGUMENT,
              "1048576");

  int32_t tokens[4] = {1, 2, 3, 4};
  float logits[4 * most_vocabulary];
  int64_t tokens_shape[] = {1, 4}, logits_shape[] = {1, 4, ssm_model_padded_vocabulary(model)};
  int64_t strides[] = {8, 2};
  ssm_tensor x = tokens_of(tokens, 2, tokens_shape), y = logits_of(logits, 3, logits_shape);
  ssm_tensor wrong = x;
  wrong.type.bits = 64;
  CHECK_FAILS(ssm_model_logits(model, &wrong, &y), SSM_TENSOR, "tokens is of int64");
  wrong = x;
  wrong.device.type = 2;
  CHECK_FAILS(ssm_model_logits(model, &wrong, &y), SSM_TENSOR, "CUDA");
  wrong = x;
  wrong.strides = strides;
  CHECK_FAILS(ssm_model_logits(model, &wrong, &y), SSM_TENSOR, "tokens is strided");
  wrong = x;
  wrong.ndim = 1;
  CHECK_FAILS(ssm_model_logits(model, &wrong, &y), SSM_SHAPE, "tokens must have 2 axes");
  CHECK_FAILS(ssm_model_logits(model, &x, NULL), SSM_ARGUMENT, "logits is missing");
  logits_shape[2] -= 1;
  CHECK_FAILS(ssm_model_logits(model, &x, &y), SSM_SHAPE, "logits");

  ssm_model* another = NULL;
  ssm_state* state = NULL;
  REQUIRE_OK(ssm_model_open(path, "{\"backend\": \"reference\"}", &another));
  REQUIRE_OK(ssm_state_create(another, 1, &state));
  CHECK_FAILS(ssm_model_step(model, &x, &y, state), SSM_ARGUMENT, "another model");
  ssm_model_free(another); /* the state keeps what it needs */
  CHECK(ssm_state_position(state, 0) == 0);
  ssm_state_free(state);
  CHECK_FAILS(ssm_state_create(model, -1, &state), SSM_ARGUMENT, "-1");
}

int main(int count, char** arguments) {
  if (count < 3) return 2;
  CHECK(ssm_version() >= 100);
  CHECK(strcmp(ssm_last_error(), "") == 0);
  ssm_model *model = NULL, *session = NULL;
  REQUIRE_OK(ssm_model_open(arguments[1], "{\"threads\": 2}", &model));
  CHECK(strstr(ssm_model_facts(model), "\"family\":\"mamba\"") != NULL);
  CHECK(strstr(ssm_model_facts(model), "\"threads\":2") != NULL);
  CHECK(ssm_model_padded_vocabulary(model) <= most_vocabulary);
  char *fingerprint = NULL, *same = NULL;
  REQUIRE_OK(ssm_model_fingerprint(model, &fingerprint));
  CHECK(strlen(fingerprint) == 16);

  steps_equal_logits(model);
  states_go_through_files(model, arguments[2]);
  greedy_text_is_the_likeliest(model);
  mistakes_are_named(model, arguments[1]);
  if (count > 3) text_is_tokens(arguments[3]);

  REQUIRE_OK(ssm_model_session(model, 1, &session));
  REQUIRE_OK(ssm_model_fingerprint(session, &same));
  CHECK(strcmp(same, fingerprint) == 0);
  ssm_model_free(model); /* sessions live on */
  steps_equal_logits(session);
  ssm_model_free(session);
  ssm_model_free(NULL);
  ssm_free(same);
  ssm_free(fingerprint);
  if (failures == 0) printf("models: all hold\n");
  return failures != 0;
}
