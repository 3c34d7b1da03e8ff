/* SPDX-License-Identifier: Apache-2.0 */
/* Language models through the C interface. Arguments: a model folder, a folder to write to, and
   where there is one the folder of a model whose tokens are bytes. */
#include <math.h>

#include "checks.h"

enum { length = 9, most_vocabulary = 512 };

static ssm_tensor tensor_of(void* data, int bits, int ndim, int64_t* shape) {
  ssm_tensor tensor = {data, {1, 0}, ndim, {(uint8_t)(bits == 32 ? 0 : 2), 32, 1}, shape, NULL, 0};
  return tensor;
}
static ssm_tensor tokens_of(int32_t* data, int ndim, int64_t* shape) {
  return tensor_of(data, 32, ndim, shape);
}
static ssm_tensor logits_of(float* data, int ndim, int64_t* shape) {
  return tensor_of(data, 0, ndim, shape);
}

static int32_t likeliest(const float* logits, int64_t vocabulary) {
  int32_t best = 0;
  for (int32_t token = 1; token < vocabulary; ++token)
    if (logits[token] > logits[best]) best = token;
  return best;
}
static float largest_difference(const float* a, const float* b, int64_t count) {
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = fmaxf(largest, fabsf(a[i] - b[i]));
  return largest;
}

struct collected {
  int count;
  int most; /* after which it is cancelled */
  int32_t tokens[64];
};
static int collect(void* user, int32_t token) {
  struct collected* all = user;
  all->tokens[all->count++] = token;
  return all->count == all->most;
}
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

static void steps_equal_logits(const ssm_model* model) {
  const int64_t vocabulary = ssm_model_padded_vocabulary(model);
  int32_t tokens[length] = {7, 1, 4, 2, 9, 3, 11, 5, 8};
  float whole[length * most_vocabulary], one[most_vocabulary];
  int64_t tokens_shape[] = {1, length}, logits_shape[] = {1, length, vocabulary};
  ssm_tensor x = tokens_of(tokens, 2, tokens_shape), y = logits_of(whole, 3, logits_shape);
  REQUIRE_OK(ssm_model_logits(model, &x, &y));

  ssm_state* state = NULL;
  REQUIRE_OK(ssm_state_create(model, 1, &state));
  CHECK(ssm_state_sequences(state) == 1);
  CHECK(ssm_state_bytes(state) > 0);
  int64_t first_shape[] = {1, 4}, last_shape[] = {1, 1, vocabulary};
  x = tokens_of(tokens, 2, first_shape);
  y = logits_of(one, 3, last_shape);
  REQUIRE_OK(ssm_model_prefill(model, &x, &y, state));
  CHECK(largest_difference(one, whole + 3 * vocabulary, vocabulary) < 1e-4F);
  CHECK(ssm_state_position(state, 0) == 4);
  CHECK(ssm_state_position(state, 1) == -1);

  ssm_state* copy = NULL;
  REQUIRE_OK(ssm_state_copy(state, &copy));
  int64_t step_shape[] = {1}, row_shape[] = {1, vocabulary};
  for (int t = 4; t < length; ++t) {
    x = tokens_of(tokens + t, 1, step_shape);
    y = logits_of(one, 2, row_shape);
    REQUIRE_OK(ssm_model_step(model, &x, &y, state));
    CHECK(largest_difference(one, whole + t * vocabulary, vocabulary) < 1e-4F);
  }
  CHECK(ssm_state_position(state, 0) == length);
  CHECK(ssm_state_position(copy, 0) == 4);
  CHECK_FAILS(ssm_state_copy_row(copy, 3, state, 0), SSM_SHAPE, "3");
  REQUIRE_OK(ssm_state_copy_row(copy, 0, state, 0));
  CHECK(ssm_state_position(state, 0) == 4);

  /* −ln p of all tokens but the first, from the logits */
  double expected = 0;
  for (int t = 0; t + 1 < length; ++t) {
    double sum = 0;
    for (int64_t v = 0; v < vocabulary; ++v) sum += exp(whole[t * vocabulary + v]);
    expected += log(sum) - whole[t * vocabulary + tokens[t + 1]];
  }
  double nats = 0;
  int64_t predicted = 0;
  REQUIRE_OK(ssm_model_loss(model, tokens, length, NULL, &nats, &predicted));
  CHECK(predicted == length - 1);
  CHECK(fabs(nats - expected) < 1e-4 * expected);
  ssm_state_free(copy);
  ssm_state_free(state);
}

static void states_go_through_files(const ssm_model* model, const char* folder) {
  char path[4096];
  snprintf(path, sizeof path, "%s/state.safetensors", folder);
  const int32_t prompt[] = {7, 1, 4, 2};
  const char* options = "{\"temperature\": 0.9, \"tokens\": 6, \"seed\": 3, \"stop\": []}";
  struct collected whole = {0, 0, {0}}, first = {0, 3, {0}}, rest = {0, 0, {0}};
  REQUIRE_OK(ssm_model_generate(model, prompt, 4, options, NULL, collect, &whole));
  CHECK(whole.count == 6);

  ssm_state *state = NULL, *other = NULL;
  REQUIRE_OK(ssm_state_create(model, 1, &state));
  REQUIRE_OK(ssm_model_generate(model, prompt, 4, options, state, collect, &first));
  CHECK(first.count == 3); /* cancelled */
  CHECK(memcmp(first.tokens, whole.tokens, 3 * sizeof(int32_t)) == 0);
  CHECK(ssm_state_position(state, 0) == 4 + 3);
  REQUIRE_OK(ssm_state_save(state, path));
  REQUIRE_OK(ssm_state_create(model, 1, &other));
  REQUIRE_OK(ssm_state_load(other, path));
  CHECK(ssm_state_position(other, 0) == 4 + 3);

  const char* greedy = "{\"temperature\": 0, \"tokens\": 4, \"stop\": []}";
  struct collected from_memory = {0, 0, {0}};
  REQUIRE_OK(ssm_model_generate(model, prompt, 1, greedy, state, collect, &from_memory));
  REQUIRE_OK(ssm_model_generate(model, prompt, 1, greedy, other, collect, &rest));
  CHECK(rest.count == 4);
  CHECK(memcmp(from_memory.tokens, rest.tokens, 4 * sizeof(int32_t)) == 0);
  snprintf(path, sizeof path, "%s/no_such_file.safetensors", folder);
  CHECK_FAILS(ssm_state_load(other, path), SSM_FILE, "no_such_file");
  ssm_state_free(other);
  ssm_state_free(state);
}

static void greedy_text_is_the_likeliest(const ssm_model* model) {
  const int64_t vocabulary = ssm_model_padded_vocabulary(model);
  const int32_t prompt[] = {7, 1, 4, 2};
  struct collected greedy = {0, 0, {0}};
  REQUIRE_OK(ssm_model_generate(model, prompt, 4,
                                "{\"temperature\": 0, \"tokens\": 5, \"stop\": []}", NULL, collect,
                                &greedy));
  CHECK(greedy.count == 5);
  int32_t all[16] = {7, 1, 4, 2};
  float one[most_vocabulary];
  for (int t = 0; t < greedy.count; ++t) {
    int64_t tokens_shape[] = {1, 4 + t}, logits_shape[] = {1, 1, vocabulary};
    ssm_tensor x = tokens_of(all, 2, tokens_shape), y = logits_of(one, 3, logits_shape);
    REQUIRE_OK(ssm_model_logits(model, &x, &y));
    all[4 + t] = likeliest(one, ssm_model_vocabulary(model));
    CHECK(all[4 + t] == greedy.tokens[t]);
  }
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
