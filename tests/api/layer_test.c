/* SPDX-License-Identifier: Apache-2.0 */
/* Layers through the C interface, in double: gradients against central differences, steps against
   whole sequences, and what is refused. */
#include <math.h>

#include "checks.h"

enum { batch = 2, length = 7, most_parameters = 96 };

/* A layer with memory for its parameters and their gradients, which the program owns. */
struct owned {
  ssm_layer* layer;
  int count;
  int64_t channels;
  double* values[most_parameters];
  double* sums[most_parameters];
  ssm_tensor tensors[2][most_parameters];
  const ssm_tensor* parameters[most_parameters];
  const ssm_tensor* gradients[most_parameters];
};

static int64_t elements(const ssm_tensor* tensor) {
  int64_t product = 1;
  for (int axis = 0; axis < tensor->ndim; ++axis) product *= tensor->shape[axis];
  return product;
}
static ssm_tensor tensor_of(double* data, int ndim, int64_t* shape) {
  ssm_tensor tensor = {data, {1, 0}, ndim, {2, 64, 1}, shape, NULL, 0};
  return tensor;
}
/* Numbers that look random, from −1 to 1. */
static void fill(double* data, int64_t count, unsigned seed) {
  for (int64_t i = 0; i < count; ++i) {
    seed = seed * 1664525U + 1013904223U;
    data[i] = (double)(seed >> 8) / 8388608.0 - 1.0;
  }
}
static double dot(const double* a, const double* b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

static struct owned made(const char* config, int64_t channels) {
  struct owned all = {0};
  REQUIRE_OK(ssm_layer_create(config, &all.layer));
  all.count = ssm_layer_parameter_count(all.layer);
  all.channels = channels;
  if (all.count > most_parameters) exit(1);
  for (int i = 0; i < all.count; ++i) {
    for (int which = 0; which < 2; ++which) {
      REQUIRE_OK(ssm_layer_parameter(all.layer, i, &all.tensors[which][i]));
      const size_t count = (size_t)elements(&all.tensors[which][i]);
      all.tensors[which][i].data = calloc(count > 0 ? count : 1, sizeof(double));
    }
    CHECK(strlen(ssm_layer_parameter_name(all.layer, i)) > 0);
    all.values[i] = all.tensors[0][i].data;
    all.sums[i] = all.tensors[1][i].data;
  }
  CHECK(ssm_layer_parameter_name(all.layer, all.count) == NULL);
  return all;
}
static void set_up(struct owned* all) {
  for (int i = 0; i < all->count; ++i) {
    all->parameters[i] = &all->tensors[0][i];
    all->gradients[i] = &all->tensors[1][i];
  }
  REQUIRE_OK(ssm_layer_initialize(all->layer, 5, all->parameters, all->count));
}
static void give_back(struct owned* all) {
  for (int i = 0; i < all->count; ++i) {
    free(all->values[i]);
    free(all->sums[i]);
  }
  ssm_layer_free(all->layer);
}

static double weighted_sum(struct owned* all, const ssm_tensor* x, double* y, ssm_tensor* yt,
                           const double* weights) {
  REQUIRE_OK(
      ssm_layer_forward(all->layer, all->parameters, all->count, x, yt, NULL, NULL, NULL, NULL));
  return dot(y, weights, elements(yt));
}

/* d(weights · y)/dx and d/d(some of each parameter) equal central differences. */
static void gradients_equal_differences(struct owned* all) {
  const int64_t size = batch * length * all->channels;
  double *x = malloc((size_t)size * sizeof(double)), *y = malloc((size_t)size * sizeof(double)),
         *dy = malloc((size_t)size * sizeof(double)), *dx = malloc((size_t)size * sizeof(double));
  fill(x, size, 1);
  fill(dy, size, 2);
  int64_t shape[] = {batch, length, all->channels};
  ssm_tensor xt = tensor_of(x, 3, shape), yt = tensor_of(y, 3, shape),
             dyt = tensor_of(dy, 3, shape), dxt = tensor_of(dx, 3, shape);
  ssm_tape* tape = NULL;
  REQUIRE_OK(ssm_tape_create(all->layer, &tape));
  CHECK_FAILS(ssm_layer_backward(all->layer, all->parameters, all->count, tape, &dyt, &dxt,
                                 all->gradients, NULL, NULL),
              SSM_ARGUMENT, "tape is of no call");
  REQUIRE_OK(
      ssm_layer_forward(all->layer, all->parameters, all->count, &xt, &yt, NULL, NULL, NULL, tape));
  REQUIRE_OK(ssm_layer_backward(all->layer, all->parameters, all->count, tape, &dyt, &dxt,
                                all->gradients, NULL, NULL));
  const double h = 1e-5;
  for (int64_t i = 0; i < size; i += 5) {
    const double kept = x[i];
    x[i] = kept + h;
    const double above = weighted_sum(all, &xt, y, &yt, dy);
    x[i] = kept - h;
    const double below = weighted_sum(all, &xt, y, &yt, dy);
    x[i] = kept;
    CHECK(fabs((above - below) / (2 * h) - dx[i]) < 1e-6 * (1 + fabs(dx[i])));
  }
  for (int p = 0; p < all->count; ++p)
    for (int64_t i = 0; i < elements(all->parameters[p]); i += 7) {
      const double kept = all->values[p][i];
      all->values[p][i] = kept + h;
      const double above = weighted_sum(all, &xt, y, &yt, dy);
      all->values[p][i] = kept - h;
      const double below = weighted_sum(all, &xt, y, &yt, dy);
      all->values[p][i] = kept;
      const double difference = (above - below) / (2 * h);
      if (!(fabs(difference - all->sums[p][i]) < 1e-5 * (1 + fabs(difference)))) {
        fprintf(stderr, "%s[%d]: gradient %g, difference %g\n",
                ssm_layer_parameter_name(all->layer, p), (int)i, all->sums[p][i], difference);
        ++failures;
      }
    }
  ssm_tape_free(tape);
  free(x);
  free(y);
  free(dy);
  free(dx);
}

/* A chunk, then single positions out of strided memory, with a state that the program owns. */
static void steps_equal_forward(struct owned* all) {
  const int64_t d = all->channels, size = batch * length * d;
  double *x = malloc((size_t)size * sizeof(double)), *y = malloc((size_t)size * sizeof(double)),
         *z = calloc((size_t)size, sizeof(double));
  fill(x, size, 3);
  int64_t shape[] = {batch, length, d}, chunk[] = {batch, 3, d}, row[] = {batch, d};
  int64_t strides[] = {length * d, d, 1}, row_strides[] = {length * d, 1};
  ssm_tensor xt = tensor_of(x, 3, shape), yt = tensor_of(y, 3, shape);
  REQUIRE_OK(
      ssm_layer_forward(all->layer, all->parameters, all->count, &xt, &yt, NULL, NULL, NULL, NULL));
  ssm_layer_state *state = NULL, *copy = NULL;
  REQUIRE_OK(ssm_layer_state_create(all->layer, batch, &state));
  const int tensors = ssm_layer_state_count(state);
  CHECK(tensors > 0);
  void* memory[64] = {NULL};
  for (int i = 0; i < tensors && i < 64; ++i) {
    const char* name = NULL;
    ssm_tensor tensor;
    REQUIRE_OK(ssm_layer_state_tensor(state, i, &name, &tensor));
    CHECK(strlen(name) > 0);
    if (elements(&tensor) == 0) continue; /* a cache grows in memory of its own */
    memory[i] = calloc((size_t)elements(&tensor), tensor.type.bits / 8U);
    tensor.data = memory[i];
    REQUIRE_OK(ssm_layer_state_borrow(state, i, &tensor));
  }
  xt = tensor_of(x, 3, chunk);
  yt = tensor_of(z, 3, chunk);
  xt.strides = yt.strides = strides;
  REQUIRE_OK(ssm_layer_prefill(all->layer, all->parameters, all->count, &xt, &yt, state));
  REQUIRE_OK(ssm_layer_state_copy(state, &copy));
  for (int t = 3; t < length; ++t) {
    xt = tensor_of(x, 2, row);
    yt = tensor_of(z, 2, row);
    xt.strides = yt.strides = row_strides;
    xt.byte_offset = yt.byte_offset = (uint64_t)(t * d) * sizeof(double);
    REQUIRE_OK(ssm_layer_step(all->layer, all->parameters, all->count, &xt, &yt,
                              t % 2 == 0 ? state : copy));
    if (t % 2 != 0) { /* the two take turns */
      ssm_layer_state_free(state);
      REQUIRE_OK(ssm_layer_state_copy(copy, &state));
    } else {
      ssm_layer_state_free(copy);
      REQUIRE_OK(ssm_layer_state_copy(state, &copy));
    }
  }
  for (int64_t i = 0; i < size; ++i) CHECK(fabs(y[i] - z[i]) < 1e-9 * (1 + fabs(y[i])));
  ssm_layer_state_free(copy);
  ssm_layer_state_free(state);
  for (int i = 0; i < 64; ++i) free(memory[i]);
  free(x);
  free(y);
  free(z);
}

/* The gradient of an initial state joins two halves of a sequence. */
static void gradients_pass_through_states(struct owned* all) {
  const int64_t d = all->channels, half = 3 * d, size = 6 * d;
  double *x = malloc((size_t)size * sizeof(double)), *y = malloc((size_t)size * sizeof(double)),
         *dy = malloc((size_t)size * sizeof(double)), *dx = malloc((size_t)size * sizeof(double)),
         *parts = malloc((size_t)size * sizeof(double));
  fill(x, size, 4);
  fill(dy, size, 5);
  int64_t whole_shape[] = {6, d}, half_shape[] = {3, d};
  ssm_tensor xt = tensor_of(x, 2, whole_shape), yt = tensor_of(y, 2, whole_shape),
             dyt = tensor_of(dy, 2, whole_shape), dxt = tensor_of(dx, 2, whole_shape);
  ssm_tape *first = NULL, *second = NULL;
  ssm_layer_state *between = NULL, *gradient = NULL;
  REQUIRE_OK(ssm_tape_create(all->layer, &first));
  REQUIRE_OK(ssm_tape_create(all->layer, &second));
  REQUIRE_OK(ssm_layer_state_create(all->layer, 1, &between));
  REQUIRE_OK(ssm_layer_state_create(all->layer, 1, &gradient));
  REQUIRE_OK(ssm_layer_forward(all->layer, all->parameters, all->count, &xt, &yt, NULL, NULL, NULL,
                               first));
  REQUIRE_OK(ssm_layer_backward(all->layer, all->parameters, all->count, first, &dyt, &dxt,
                                all->gradients, NULL, NULL));
  ssm_tensor x1 = tensor_of(x, 2, half_shape), x2 = tensor_of(x + half, 2, half_shape);
  ssm_tensor y1 = tensor_of(y, 2, half_shape), dy1 = tensor_of(dy, 2, half_shape),
             dy2 = tensor_of(dy + half, 2, half_shape);
  ssm_tensor dx1 = tensor_of(parts, 2, half_shape), dx2 = tensor_of(parts + half, 2, half_shape);
  REQUIRE_OK(ssm_layer_forward(all->layer, all->parameters, all->count, &x1, &y1, NULL, NULL,
                               between, first));
  REQUIRE_OK(ssm_layer_forward(all->layer, all->parameters, all->count, &x2, &y1, NULL, between,
                               NULL, second));
  REQUIRE_OK(ssm_layer_backward(all->layer, all->parameters, all->count, second, &dy2, &dx2,
                                all->gradients, NULL, gradient));
  REQUIRE_OK(ssm_layer_backward(all->layer, all->parameters, all->count, first, &dy1, &dx1,
                                all->gradients, gradient, NULL));
  for (int64_t i = 0; i < size; ++i) CHECK(fabs(dx[i] - parts[i]) < 1e-9 * (1 + fabs(dx[i])));
  ssm_layer_state_free(gradient);
  ssm_layer_state_free(between);
  ssm_tape_free(second);
  ssm_tape_free(first);
  free(x);
  free(y);
  free(dy);
  free(dx);
  free(parts);
}

static void mistakes_are_named(struct owned* all) {
  ssm_layer* none = NULL;
  CHECK_FAILS(ssm_layer_create("{\"layer\": \"h5\"}", &none), SSM_ARGUMENT, "h3");
  CHECK_FAILS(ssm_layer_create("{\"layer\": \"h3\"}", &none), SSM_ARGUMENT, "channels");
  CHECK_FAILS(ssm_layer_create("{\"layer\": \"h3\", \"channels\": 4, \"stat\": 4}", &none),
              SSM_ARGUMENT, "stat");
  CHECK_FAILS(ssm_layer_create("{\"layer\": \"h3\", \"channels\": 5, \"head_dim\": 2}", &none),
              SSM_ARGUMENT, "head_dim");
  CHECK_FAILS(ssm_layer_create("[1]", &none), SSM_ARGUMENT, "object");
  CHECK(none == NULL);
  CHECK_FAILS(ssm_layer_set_threads(all->layer, 0), SSM_ARGUMENT, "threads");

  double x[2 * 3 * 64] = {0}, y[2 * 3 * 64];
  int64_t shape[] = {2, 3, all->channels}, zero[] = {3 * all->channels, 0, 1};
  int64_t wide[] = {2, 3, all->channels + 1};
  ssm_tensor xt = tensor_of(x, 3, shape), yt = tensor_of(y, 3, shape), wrong = xt;
  const ssm_tensor* parameters[most_parameters];
  memcpy(parameters, all->parameters, sizeof parameters);
  const int n = all->count;
  ssm_layer* const layer = all->layer;
#define FORWARD(count, x, y) \
  ssm_layer_forward(layer, parameters, count, x, y, NULL, NULL, NULL, NULL)
  CHECK_FAILS(FORWARD(n - 1, &xt, &yt), SSM_ARGUMENT, "parameters");
  CHECK_FAILS(FORWARD(n, NULL, &yt), SSM_ARGUMENT, "x is missing");
  wrong.type.bits = 32;
  CHECK_FAILS(FORWARD(n, &wrong, &yt), SSM_TENSOR, "x is of float32, must be of float64");
  wrong = xt;
  wrong.device.type = 2;
  CHECK_FAILS(FORWARD(n, &wrong, &yt), SSM_TENSOR, "x lies on a CUDA device");
  wrong = xt;
  wrong.shape = wide;
  CHECK_FAILS(FORWARD(n, &wrong, &yt), SSM_SHAPE, "x must be");
  wrong = yt;
  wrong.strides = zero;
  CHECK_FAILS(FORWARD(n, &xt, &wrong), SSM_TENSOR, "y has the stride 0");
  wrong = xt;
  wrong.byte_offset = 3;
  CHECK_FAILS(FORWARD(n, &wrong, &yt), SSM_TENSOR, "x begins");
  CHECK_FAILS(FORWARD(n, &xt, &xt), SSM_ARGUMENT, "y");
  ssm_tensor part = *parameters[0];
  int64_t part_shape[8];
  for (int axis = 0; axis < part.ndim; ++axis) part_shape[axis] = part.shape[axis] + 1;
  part.shape = part_shape;
  parameters[0] = &part;
  CHECK_FAILS(FORWARD(n, &xt, &yt), SSM_SHAPE, ssm_layer_parameter_name(layer, 0));
  parameters[0] = all->parameters[0];

  struct owned other =
      made("{\"layer\": \"h3\", \"channels\": 4, \"state\": 2, \"scalar\": \"float64\"}", 4);
  set_up(&other);
  ssm_tape* tape = NULL;
  ssm_layer_state* state = NULL;
  REQUIRE_OK(ssm_tape_create(other.layer, &tape));
  REQUIRE_OK(ssm_layer_state_create(other.layer, 2, &state));
  CHECK_FAILS(ssm_layer_forward(layer, parameters, n, &xt, &yt, NULL, NULL, NULL, tape),
              SSM_ARGUMENT, "tape is one of another layer");
  CHECK_FAILS(ssm_layer_prefill(layer, parameters, n, &xt, &yt, state), SSM_ARGUMENT,
              "state is one of another layer");
  CHECK_FAILS(ssm_layer_prefill(layer, parameters, n, &xt, &yt, NULL), SSM_ARGUMENT,
              "state is missing");
  ssm_layer_state_free(state);
  ssm_tape_free(tape);
  give_back(&other);
}

/* A primitive by its C functions: a short filter against its formula, its gradient against that of
   the formula, a sequence in two pieces, mistakes. */
static void primitives_equal_formulas(const char* backend) {
  enum { channels = 3, width = 3 };
  char config[256];
  snprintf(config, sizeof config,
           "{\"primitive\": \"short_convolution\", \"scalar\": \"float64\", \"backend\": \"%s\"}",
           backend);
  ssm_primitive* filter = NULL;
  REQUIRE_OK(ssm_primitive_create(config, &filter));
  int x_at = -1, weight_at = -1, first_at = -1, last_at = -1, y_at = -1, count = 0;
  for (const char* name; (name = ssm_primitive_operand_name(filter, count)) != NULL; ++count) {
    if (strcmp(name, "x") == 0) x_at = count;
    if (strcmp(name, "weight") == 0) weight_at = count;
    if (strcmp(name, "initial_state") == 0) first_at = count;
    if (strcmp(name, "final_state") == 0) last_at = count;
    if (strcmp(name, "y") == 0) y_at = count;
  }
  CHECK(x_at >= 0 && weight_at >= 0 && first_at >= 0 && last_at >= 0 && y_at >= 0 && count == 6);
  double x[batch * length * channels], y[batch * length * channels], z[batch * length * channels],
      weight[channels * width], state[batch * channels * width], dx[batch * length * channels],
      dweight[channels * width] = {0};
  fill(x, batch * length * channels, 1);
  fill(weight, channels * width, 2);
  int64_t shape[] = {batch, length, channels}, filters[] = {channels, width},
          states[] = {batch, channels, width};
  ssm_tensor xt = tensor_of(x, 3, shape), yt = tensor_of(y, 3, shape),
             wt = tensor_of(weight, 2, filters), st = tensor_of(state, 3, states),
             dxt = tensor_of(dx, 3, shape), dwt = tensor_of(dweight, 2, filters);
  const ssm_tensor *operands[8] = {NULL}, *gradients[8] = {NULL};
  operands[x_at] = &xt;
  operands[weight_at] = &wt;
  operands[y_at] = &yt;
  REQUIRE_OK(ssm_primitive_forward(filter, operands, count, NULL, NULL));
  double expected_dx[batch * length * channels] = {0}, expected_dweight[channels * width] = {0};
  for (int b = 0; b < batch; ++b)
    for (int t = 0; t < length; ++t)
      for (int d = 0; d < channels; ++d) {
        const int at = (b * length + t) * channels + d;
        double sum = 0;
        for (int w = 0; w < width; ++w) {
          const int from = t - width + 1 + w;
          if (from < 0) continue;
          const int source = (b * length + from) * channels + d;
          sum += weight[d * width + w] * x[source];
          expected_dx[source] += weight[d * width + w] * y[at]; /* of the half sum of y squared */
          expected_dweight[d * width + w] += x[source] * y[at];
        }
        CHECK(fabs(sum - y[at]) < 1e-12);
      }
  gradients[y_at] = &yt;
  gradients[x_at] = &dxt;
  gradients[weight_at] = &dwt;
  REQUIRE_OK(ssm_primitive_backward(filter, operands, gradients, count, NULL, NULL));
  for (int i = 0; i < batch * length * channels; ++i) CHECK(fabs(dx[i] - expected_dx[i]) < 1e-12);
  for (int i = 0; i < channels * width; ++i) CHECK(fabs(dweight[i] - expected_dweight[i]) < 1e-12);

  int64_t strides[] = {length * channels, channels, 1}, begin[] = {batch, 2, channels},
          rest[] = {batch, length - 2, channels};
  ssm_tensor piece = tensor_of(x, 3, begin), out = tensor_of(z, 3, begin);
  piece.strides = out.strides = strides;
  operands[x_at] = &piece;
  operands[y_at] = &out;
  operands[last_at] = &st;
  REQUIRE_OK(ssm_primitive_forward(filter, operands, count, NULL, NULL));
  piece.shape = out.shape = rest;
  piece.byte_offset = out.byte_offset = sizeof(double) * 2 * channels;
  operands[first_at] = &st; /* the same memory as the final state */
  REQUIRE_OK(ssm_primitive_forward(filter, operands, count, NULL, NULL));
  for (int i = 0; i < batch * length * channels; ++i) CHECK(fabs(y[i] - z[i]) < 1e-12);

  CHECK_FAILS(ssm_primitive_forward(filter, operands, count - 1, NULL, NULL), SSM_ARGUMENT,
              "has 6 operands, got 5");
  CHECK_FAILS(ssm_primitive_forward(filter, NULL, count, NULL, NULL), SSM_ARGUMENT, "operands");
  operands[y_at] = &piece;
  CHECK_FAILS(ssm_primitive_forward(filter, operands, count, NULL, NULL), SSM_ARGUMENT,
              "y is written and begins at the same element as x");
  operands[y_at] = NULL;
  CHECK_FAILS(ssm_primitive_forward(filter, operands, count, NULL, NULL), SSM_SHAPE, "y");
  ssm_primitive_free(filter);
  CHECK_FAILS(ssm_primitive_create("{\"primitive\": \"scan\"}", &filter), SSM_ARGUMENT,
              "selective_scan");
  CHECK(filter == NULL);
  CHECK(strstr(ssm_primitive_kinds(), "\"dt_bias\"") != NULL);
}

/* A copy is of one scalar and of the same extents, without gaps. */
static void tensors_are_copied(void) {
  ssm_layer* layer = NULL;
  REQUIRE_OK(ssm_layer_create("{\"layer\": \"s4d\", \"channels\": 2}", &layer));
  double from[6] = {1, 2, 3, 4, 5, 6}, to[6] = {0};
  int64_t shape[] = {2, 3}, turned[] = {3, 2}, strides[] = {1, 2};
  const ssm_tensor read = tensor_of(from, 2, shape);
  ssm_tensor written = tensor_of(to, 2, shape);
  REQUIRE_OK(ssm_layer_copy(layer, &read, &written));
  CHECK(memcmp(from, to, sizeof to) == 0);
  written.strides = strides;
  CHECK_FAILS(ssm_layer_copy(layer, &read, &written), SSM_TENSOR, "to is strided");
  written = tensor_of(to, 2, turned);
  CHECK_FAILS(ssm_layer_copy(layer, &read, &written), SSM_SHAPE, "other extents");
  written = tensor_of(to, 2, shape);
  written.type.bits = 32;
  CHECK_FAILS(ssm_layer_copy(layer, &read, &written), SSM_TENSOR, "to is of float32");
  written.type = read.type;
  written.device.type = 2;
  CHECK_FAILS(ssm_layer_copy(layer, &read, &written), SSM_TENSOR, "host memory");
  CHECK_FAILS(ssm_layer_copy(layer, NULL, &written), SSM_ARGUMENT, "from is missing");
  ssm_layer_free(layer);
}

/* A library without CUDA says so; streams mean nothing on the host. */
static void devices_are_named(void) {
  ssm_layer* layer = NULL;
  REQUIRE_OK(ssm_layer_create("{\"layer\": \"s4d\", \"channels\": 2}", &layer));
  CHECK(ssm_layer_set_stream(layer, &layer) == SSM_OK);
  ssm_layer_free(layer);
  CHECK_FAILS(ssm_layer_set_stream(NULL, NULL), SSM_ARGUMENT, "layer is missing");
  if (ssm_set_device_allocator(NULL, NULL, NULL) == SSM_OK) return;
  CHECK(strstr(ssm_last_error(), "without SSM_BUILD_CUDA") != NULL);
  CHECK_FAILS(
      ssm_layer_create("{\"layer\": \"s4d\", \"channels\": 2, \"backend\": \"cuda\"}", &layer),
      SSM_ARGUMENT, "without SSM_BUILD_CUDA");
}

int main(void) {
  devices_are_named();
  tensors_are_copied();
  primitives_equal_formulas("cpu");
  primitives_equal_formulas("reference");
  static const struct {
    const char* sizes;
    int64_t channels;
    int has_caches; /* whose gradients have other extents than an empty state */
  } cases[] = {
      {"\"layer\": \"s4d\", \"channels\": 6, \"state\": 4", 6, 0},
      {"\"layer\": \"h3\", \"channels\": 6, \"state\": 4, \"head_dim\": 2", 6, 0},
      {"\"layer\": \"mamba\", \"channels\": 6, \"state\": 3", 6, 0},
      {"\"layer\": \"mamba2\", \"channels\": 6, \"head_dim\": 3, \"state\": 3, \"bias\": true", 6,
       0},
      {"\"layer\": \"retention\", \"channels\": 8, \"value_dim\": 12, \"heads\": 2", 8, 0},
      {"\"layer\": \"dense_mamba\", \"channels\": 6, \"state\": 3, \"blocks\": 3, \"sources\": 2",
       6, 0},
      {"\"layer\": \"dense_retnet\", \"channels\": 8, \"query_key_dim\": 8, \"value_dim\": 12, "
       "\"heads\": 2, \"k_hidden\": 2, \"v_hidden\": 3, \"blocks\": 2, \"sources\": 1",
       8, 0},
      {"\"layer\": \"attention\", \"channels\": 8, \"heads\": 2, \"rotary_dim\": 4", 8, 1},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; ++i)
    for (int on_cpu = 0; on_cpu < 2; ++on_cpu) {
      char config[512];
      snprintf(config, sizeof config,
               "{%s, \"scalar\": \"float64\", \"backend\": \"%s\", \"threads\": 2}", cases[i].sizes,
               on_cpu ? "cpu" : "reference");
      const int before = failures;
      struct owned all = made(config, cases[i].channels);
      set_up(&all);
      gradients_equal_differences(&all);
      steps_equal_forward(&all);
      if (!cases[i].has_caches) gradients_pass_through_states(&all);
      mistakes_are_named(&all);
      give_back(&all);
      if (failures > before) fprintf(stderr, "in %s\n", config);
    }
  CHECK(strstr(ssm_layer_kinds(), "\"mamba2\"") != NULL);
  if (failures == 0) printf("layers: all hold\n");
  return failures != 0;
}
