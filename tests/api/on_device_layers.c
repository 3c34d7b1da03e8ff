/* SPDX-License-Identifier: Apache-2.0 */
/* Layers and language models through the C interface on a GPU, beside the same on the CPU: the caller's
   memory, stream and allocator. Compiled as C and as C++. Arguments: a folder to write to, folders of models. Exits with 77
   without a GPU. */
#include <cuda_runtime_api.h>
#include <math.h>

#include "model_checks.h"

enum { batch = 2, length = 37, channels = 16, most_parameters = 32, most_logits = 1 << 16 };

#define REQUIRE_CUDA(call)                                                          \
  do {                                                                              \
    const cudaError_t code = (call);                                                \
    if (code != cudaSuccess) {                                                      \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(code)); \
      exit(1);                                                                      \
    }                                                                               \
  } while (0)

static cudaStream_t stream;

static size_t elements(const ssm_tensor* tensor) {
  size_t count = 1;
  for (int axis = 0; axis < tensor->ndim; ++axis) count *= (size_t)tensor->shape[axis];
  return count;
}
static size_t bytes_of(const ssm_tensor* tensor) {
  return elements(tensor) * (tensor->type.bits / 8U);
}
/* Zeros, on a device or on the host. */
static void give_memory(ssm_tensor* tensor, int is_on_device) {
  const size_t bytes = bytes_of(tensor) > 0 ? bytes_of(tensor) : 1;
  tensor->device.type = is_on_device ? 2 : 1;
  if (!is_on_device) {
    tensor->data = calloc(bytes, 1);
    return;
  }
  REQUIRE_CUDA(cudaMalloc(&tensor->data, bytes));
  REQUIRE_CUDA(cudaMemsetAsync(tensor->data, 0, bytes, stream));
}
static void take_memory(ssm_tensor* tensor) {
  if (tensor->device.type == 2)
    REQUIRE_CUDA(cudaFree(tensor->data));
  else
    free(tensor->data);
}
static void copy(const ssm_tensor* to, const ssm_tensor* from) {
  REQUIRE_CUDA(cudaMemcpyAsync(to->data, from->data, bytes_of(from), cudaMemcpyDefault, stream));
  REQUIRE_CUDA(cudaStreamSynchronize(stream));
}
static double number(const ssm_tensor* tensor, size_t index) {
  return tensor->type.bits == 64 ? ((const double*)tensor->data)[index]
                                 : (double)((const float*)tensor->data)[index];
}

/* The largest difference, beside the largest number, of a tensor on a device and one on the host. */
static double difference(const ssm_tensor* there, const ssm_tensor* here) {
  ssm_tensor copied = *there;
  double worst = 0, scale = 1;
  give_memory(&copied, 0);
  copy(&copied, there);
  for (size_t i = 0; i < elements(here); ++i) {
    const double a = number(&copied, i), b = number(here, i);
    if (!(fabs(a - b) <= worst)) worst = fabs(a - b);
    if (fabs(b) > scale) scale = fabs(b);
  }
  take_memory(&copied);
  return worst / scale;
}

/* A layer with what a training step and a stream of positions read and write. */
struct side {
  ssm_layer* layer;
  int count, is_on_device;
  int64_t shape[3], row[2];
  ssm_tensor tensors[2][most_parameters];
  const ssm_tensor *parameters[most_parameters], *gradients[most_parameters];
  ssm_tensor x, y, dy, dx, streamed;
};

static void make_side(struct side* all, const char* kind, const char* scalar, int is_on_device) {
  char config[256];
  snprintf(config, sizeof config,
           "{\"layer\": %s, \"channels\": %d, \"scalar\": \"%s\", \"backend\": \"%s\"}", kind,
           (int)channels, scalar, is_on_device ? "cuda" : "cpu");
  memset(all, 0, sizeof *all);
  all->is_on_device = is_on_device;
  REQUIRE_OK(ssm_layer_create(config, &all->layer));
  if (is_on_device) REQUIRE_OK(ssm_layer_set_stream(all->layer, stream));
  all->count = ssm_layer_parameter_count(all->layer);
  if (all->count > most_parameters) exit(1);
  for (int i = 0; i < all->count; ++i) {
    all->parameters[i] = &all->tensors[0][i];
    all->gradients[i] = &all->tensors[1][i];
    for (int which = 0; which < 2; ++which) {
      REQUIRE_OK(ssm_layer_parameter(all->layer, i, &all->tensors[which][i]));
      give_memory(&all->tensors[which][i], is_on_device);
    }
  }
  REQUIRE_OK(ssm_layer_initialize(all->layer, 3, all->parameters, all->count));
  all->shape[0] = batch;
  all->shape[1] = length;
  all->shape[2] = channels;
  ssm_tensor sequence;
  memset(&sequence, 0, sizeof sequence);
  sequence.ndim = 3;
  sequence.type = all->tensors[0][0].type;
  sequence.shape = all->shape;
  all->x = all->y = all->dy = all->dx = all->streamed = sequence;
  ssm_tensor* const made[] = {&all->x, &all->y, &all->dy, &all->dx, &all->streamed};
  for (int i = 0; i < 5; ++i) give_memory(made[i], is_on_device);
}
static void free_side(struct side* all) {
  ssm_tensor* const made[] = {&all->x, &all->y, &all->dy, &all->dx, &all->streamed};
  for (int i = 0; i < 5; ++i) take_memory(made[i]);
  for (int i = 0; i < all->count; ++i)
    for (int which = 0; which < 2; ++which) take_memory(&all->tensors[which][i]);
  ssm_layer_free(all->layer);
}

/* Forward and backward, and once more as a chunk and steps behind it. */
static void run_side(struct side* all) {
  ssm_tape* tape = NULL;
  ssm_layer_state* state = NULL;
  REQUIRE_OK(ssm_tape_create(all->layer, &tape));
  REQUIRE_OK(ssm_layer_forward(all->layer, all->parameters, all->count, &all->x, &all->y, NULL,
                               NULL, NULL, tape));
  REQUIRE_OK(ssm_layer_backward(all->layer, all->parameters, all->count, tape, &all->dy, &all->dx,
                                all->gradients, NULL, NULL));
  REQUIRE_OK(ssm_layer_state_create(all->layer, batch, &state));
  /* All but three positions, then those: views of x and streamed. */
  int64_t strides[] = {length * channels, channels, 1},
          chunk_shape[] = {batch, length - 3, channels};
  int64_t step_shape[] = {batch, channels}, step_strides[] = {length * channels, 1};
  ssm_tensor in = all->x, out = all->streamed;
  in.shape = out.shape = chunk_shape;
  in.strides = out.strides = strides;
  REQUIRE_OK(ssm_layer_prefill(all->layer, all->parameters, all->count, &in, &out, state));
  in.ndim = out.ndim = 2;
  in.shape = out.shape = step_shape;
  in.strides = out.strides = step_strides;
  for (int t = length - 3; t < length; ++t) {
    in.byte_offset = out.byte_offset = (uint64_t)(t * channels) * (in.type.bits / 8U);
    REQUIRE_OK(ssm_layer_step(all->layer, all->parameters, all->count, &in, &out, state));
  }
  if (all->is_on_device) REQUIRE_CUDA(cudaStreamSynchronize(stream));
  ssm_layer_state_free(state);
  ssm_tape_free(tape);
}

static void fill(ssm_tensor* tensor, unsigned seed) {
  for (size_t i = 0; i < elements(tensor); ++i) {
    seed = seed * 1664525U + 1013904223U;
    const double value = (double)(seed >> 8) / 8388608.0 - 1.0;
    if (tensor->type.bits == 64)
      ((double*)tensor->data)[i] = value;
    else
      ((float*)tensor->data)[i] = (float)value;
  }
}

static void check_near(const char* kind, const char* scalar, const char* what, double found,
                       double tolerance) {
  if (!(found <= tolerance)) {
    fprintf(stderr, "%s in %s: %s differs by %g\n", kind, scalar, what, found);
    ++failures;
  }
}

static void layer_equals_the_cpu(const char* kind, const char* scalar, double tolerance) {
  static struct side here, there;
  make_side(&here, kind, scalar, 0);
  make_side(&there, kind, scalar, 1);
  fill(&here.x, 1);
  fill(&here.dy, 2);
  copy(&there.x, &here.x);
  copy(&there.dy, &here.dy);
  run_side(&here);
  run_side(&there);
  check_near(kind, scalar, "y", difference(&there.y, &here.y), tolerance);
  check_near(kind, scalar, "dx", difference(&there.dx, &here.dx), tolerance);
  check_near(kind, scalar, "y in parts", difference(&there.streamed, &here.y), tolerance);
  for (int i = 0; i < here.count; ++i)
    check_near(kind, scalar, ssm_layer_parameter_name(here.layer, i),
               difference(there.gradients[i], here.gradients[i]), tolerance);
  check_near(kind, scalar, "nothing was computed: y", difference(&there.y, &here.dx) > 0 ? 0 : 1,
             0);
  free_side(&here);
  free_side(&there);
}

/* A program's allocator, which counts. */
static struct { int taken, given_back, was_on_stream; } counted;
static void* take(void* user, size_t bytes, int32_t device, void* on) {
  void* memory = NULL;
  ++counted.taken;
  counted.was_on_stream += user == &counted && device == 0 && on == stream;
  return cudaMallocAsync(&memory, bytes, stream) == cudaSuccess ? memory : NULL;
}
static void give_back(void* user, void* memory) {
  counted.given_back += user == &counted;
  REQUIRE_CUDA(cudaFreeAsync(memory, stream));
}
static void memory_is_the_programs(const char* kind) {
  REQUIRE_OK(ssm_set_device_allocator(take, give_back, &counted));
  layer_equals_the_cpu(kind, "float32", 1e-4);
  CHECK(counted.taken > 5 && counted.given_back > 5);
  CHECK(counted.was_on_stream > 5);
  REQUIRE_OK(ssm_set_device_allocator(NULL, NULL, NULL));
  const int taken = counted.taken;
  layer_equals_the_cpu(kind, "float32", 1e-4);
  CHECK(counted.taken == taken);
}

/* To a state, between two, and back. */
static void states_are_copied(const char* kind) {
  struct side all;
  ssm_layer_state* states[2] = {NULL, NULL};
  ssm_tensor own[2], given, found;
  make_side(&all, kind, "float32", 1);
  for (int i = 0; i < 2; ++i) REQUIRE_OK(ssm_layer_state_create(all.layer, batch, &states[i]));
  for (int i = 0; i < ssm_layer_state_count(states[0]); ++i) {
    for (int which = 0; which < 2; ++which)
      REQUIRE_OK(ssm_layer_state_tensor(states[which], i, NULL, &own[which]));
    given = found = own[0];
    give_memory(&given, 0);
    give_memory(&found, 0);
    fill(&given, 7);
    REQUIRE_OK(ssm_layer_copy(all.layer, &given, &own[0]));
    REQUIRE_OK(ssm_layer_copy(all.layer, &own[0], &own[1]));
    REQUIRE_OK(ssm_layer_copy(all.layer, &own[1], &found));
    CHECK(memcmp(found.data, given.data, bytes_of(&given)) == 0);
    take_memory(&given);
    take_memory(&found);
  }
  for (int i = 0; i < 2; ++i) ssm_layer_state_free(states[i]);
  free_side(&all);
}

/* Logits and text of a model on one backend. */
static void run_model(const char* folder, const char* options, const ssm_tensor* logits,
                      struct collected* text) {
  int32_t tokens[] = {1, 5, 2, 7, 3, 9, 4, 8};
  int64_t shape[] = {1, 8};
  const ssm_tensor prompt = tokens_of(tokens, 2, shape);
  ssm_model* model = NULL;
  REQUIRE_OK(ssm_model_open(folder, options, &model));
  logits->shape[2] = ssm_model_padded_vocabulary(model);
  if (8 * logits->shape[2] > most_logits) exit(1);
  REQUIRE_OK(ssm_model_logits(model, &prompt, logits));
  REQUIRE_OK(ssm_model_generate(
      model, tokens, 8, "{\"temperature\": 0, \"tokens\": 32, \"stop\": []}", NULL, collect, text));
  ssm_model_free(model);
}

/* Steps, copies of states and states in files, on a device. */
static void model_goes_on_from_states(const char* folder, const char* written) {
  ssm_model *model = NULL, *session = NULL;
  REQUIRE_OK(ssm_model_open(folder, "{\"backend\": \"cuda\"}", &model));
  if (ssm_model_padded_vocabulary(model) > most_vocabulary) exit(1);
  steps_equal_logits(model);
  states_go_through_files(model, written);
  greedy_text_is_the_likeliest(model);
  REQUIRE_OK(ssm_model_session(model, 1, &session));
  ssm_model_free(model);
  steps_equal_logits(session);
  ssm_model_free(session);
}

static void model_equals_the_cpu(const char* folder) {
  static float here[most_logits], there[most_logits], half[most_logits];
  static struct collected texts[3];
  int64_t shape[] = {1, 8, 0};
  ssm_tensor all[3];
  float* const memory[] = {here, there, half};
  const char* const options[] = {"{\"threads\": 1}", "{\"backend\": \"cuda\"}",
                                 "{\"backend\": \"cuda\", \"numbers\": \"bf16\"}"};
  memset(texts, 0, sizeof texts);
  for (int i = 0; i < 3; ++i) {
    all[i] = logits_of(memory[i], 3, shape);
    run_model(folder, options[i], &all[i], &texts[i]);
    CHECK(texts[i].count == 32);
  }
  check_near(folder, "float", "logits", difference(&all[1], &all[0]), 1e-4);
  check_near(folder, "bf16", "logits", difference(&all[2], &all[0]), 5e-2);
  CHECK(memcmp(&texts[0], &texts[1], sizeof texts[0]) == 0);
}

int main(int count, char** arguments) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    printf("skipped: there is no CUDA device\n");
    return 77;
  }
  REQUIRE_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  const char* const kinds[] = {"\"h3\", \"state\": 8, \"head_dim\": 4", "\"mamba\", \"state\": 8"};
  for (int kind = 0; kind < 2; ++kind) {
    layer_equals_the_cpu(kinds[kind], "float64", 1e-10);
    layer_equals_the_cpu(kinds[kind], "float32", 1e-4);
    states_are_copied(kinds[kind]);
    memory_is_the_programs(kinds[kind]);
  }
  for (int i = 2; i < count; ++i) {
    model_equals_the_cpu(arguments[i]);
    model_goes_on_from_states(arguments[i], arguments[1]);
  }
  REQUIRE_CUDA(cudaStreamDestroy(stream));
  if (failures == 0)
    printf("2 layers and %d models on a GPU: all hold\n", count > 2 ? count - 2 : 0);
  return failures != 0;
}
