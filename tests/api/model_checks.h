/* SPDX-License-Identifier: Apache-2.0 */
/* What holds of every language model of the C interface, on any backend. Compiled as C and as C++. */
#ifndef SSM_TESTS_API_MODEL_CHECKS_H
#define SSM_TESTS_API_MODEL_CHECKS_H

#include <math.h>

#include "checks.h"

enum { read_length = 9, most_vocabulary = 512 };

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
  struct collected* all = (struct collected*)user;
  all->tokens[all->count++] = token;
  return all->count == all->most;
}

static void steps_equal_logits(const ssm_model* model) {
  const int64_t vocabulary = ssm_model_padded_vocabulary(model);
  int32_t tokens[read_length] = {7, 1, 4, 2, 9, 3, 11, 5, 8};
  float whole[read_length * most_vocabulary], one[most_vocabulary];
  int64_t tokens_shape[] = {1, read_length}, logits_shape[] = {1, read_length, vocabulary};
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
  for (int t = 4; t < read_length; ++t) {
    x = tokens_of(tokens + t, 1, step_shape);
    y = logits_of(one, 2, row_shape);
    REQUIRE_OK(ssm_model_step(model, &x, &y, state));
    CHECK(largest_difference(one, whole + t * vocabulary, vocabulary) < 1e-4F);
  }
  CHECK(ssm_state_position(state, 0) == read_length);
  CHECK(ssm_state_position(copy, 0) == 4);
  CHECK_FAILS(ssm_state_copy_row(copy, 3, state, 0), SSM_SHAPE, "3");
  REQUIRE_OK(ssm_state_copy_row(copy, 0, state, 0));
  CHECK(ssm_state_position(state, 0) == 4);

  /* −ln p of all tokens but the first, from the logits */
  double expected = 0;
  for (int t = 0; t + 1 < read_length; ++t) {
    double sum = 0;
    for (int64_t v = 0; v < vocabulary; ++v) sum += exp(whole[t * vocabulary + v]);
    expected += log(sum) - whole[t * vocabulary + tokens[t + 1]];
  }
  double nats = 0;
  int64_t predicted = 0;
  REQUIRE_OK(ssm_model_loss(model, tokens, read_length, NULL, &nats, &predicted));
  CHECK(predicted == read_length - 1);
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

#endif
