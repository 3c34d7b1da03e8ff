/* SPDX-License-Identifier: Apache-2.0 */
/* The library from C: text from a language model, and a layer with its gradients on the program's
   own memory. Arguments: a model folder, a prompt. */
#include <ssm/api.h>
#include <stdio.h>
#include <stdlib.h>

// [generate in c]
static int print(void* user, const char* text, size_t bytes) {
  fwrite(text, 1, bytes, user);
  return 0;  // anything else ends the text
}
static ssm_code continue_text(const char* folder, const char* prompt, size_t bytes) {
  ssm_model* model = NULL;
  ssm_code code = ssm_model_open(folder, "{\"threads\": 2}", &model);
  if (code == SSM_OK)
    code = ssm_model_generate_text(model, prompt, bytes, "{\"temperature\": 0.8, \"tokens\": 60}",
                                   NULL, print, stdout);
  ssm_model_free(model);
  return code;
}
// [/generate in c]

static int run_layer(void) {
  enum { length = 100, channels = 16, most = 32 };
  static float x[length * channels], y[length * channels], dx[length * channels];
  for (int i = 0; i < length * channels; ++i) x[i] = (float)(i % 7) - 3.0F;

  // [layer in c]
  ssm_layer* layer = NULL;
  if (ssm_layer_create("{\"layer\": \"h3\", \"channels\": 16, \"state\": 8}", &layer) != SSM_OK)
    return 1;
  // Parameters and their gradients: tensors of the program's own.
  const int count = ssm_layer_parameter_count(layer);  // 17
  ssm_tensor tensors[2 * most];
  const ssm_tensor *parameters[most], *gradients[most];
  for (int i = 0; i < count; ++i) {
    parameters[i] = &tensors[i];
    gradients[i] = &tensors[most + i];
    for (int which = 0; which < 2; ++which) {
      ssm_tensor* tensor = &tensors[which * most + i];
      if (ssm_layer_parameter(layer, i, tensor) != SSM_OK) return 1;
      size_t elements = 1;
      for (int axis = 0; axis < tensor->ndim; ++axis) elements *= (size_t)tensor->shape[axis];
      tensor->data = calloc(elements, sizeof(float));
    }
  }
  ssm_code code = ssm_layer_initialize(layer, 1, parameters, count);

  // Forward and backward: DLPack tensors over x, y and dx.
  int64_t shape[] = {1, length, channels};
  const ssm_tensor in = {x, {1, 0}, 3, {2, 32, 1}, shape, NULL, 0};
  const ssm_tensor out = {y, {1, 0}, 3, {2, 32, 1}, shape, NULL, 0};
  const ssm_tensor back = {dx, {1, 0}, 3, {2, 32, 1}, shape, NULL, 0};
  ssm_tape* tape = NULL;
  if (code == SSM_OK) code = ssm_tape_create(layer, &tape);
  if (code == SSM_OK)
    code = ssm_layer_forward(layer, parameters, count, &in, &out, NULL, NULL, NULL, tape);
  if (code == SSM_OK)  // the gradient of ½·Σ y²
    code = ssm_layer_backward(layer, parameters, count, tape, &out, &back, gradients, NULL, NULL);
  if (code != SSM_OK) fprintf(stderr, "%s\n", ssm_last_error());
  // [/layer in c]

  printf("y[0] = %g, dx[0] = %g\n", (double)y[0], (double)dx[0]);
  for (int i = 0; i < count; ++i) {
    printf("gradient of %s: %g, …\n", ssm_layer_parameter_name(layer, i),
           (double)*(const float*)gradients[i]->data);
    free(parameters[i]->data);
    free(gradients[i]->data);
  }
  ssm_tape_free(tape);
  ssm_layer_free(layer);
  return code == SSM_OK ? 0 : 1;
}

static int run_primitive(void) {
  enum { length = 50, channels = 4, width = 3 };
  static float numbers[length * channels], filters[channels * width], filtered[length * channels];
  for (int i = 0; i < length * channels; ++i) numbers[i] = (float)(i % 7) - 3.0F;
  for (int i = 0; i < channels * width; ++i) filters[i] = (float)(i % 3);
  int64_t sequence[] = {1, length, channels}, taps[] = {channels, width};
  const ssm_tensor x = {numbers, {1, 0}, 3, {2, 32, 1}, sequence, NULL, 0};
  const ssm_tensor weight = {filters, {1, 0}, 2, {2, 32, 1}, taps, NULL, 0};
  const ssm_tensor y = {filtered, {1, 0}, 3, {2, 32, 1}, sequence, NULL, 0};
  // [five lines of c]
  ssm_primitive* filter = NULL;
  ssm_code code = ssm_primitive_create("{\"primitive\": \"short_convolution\"}", &filter);
  const ssm_tensor* operands[] = {&x, &weight, NULL, NULL, NULL, &y};  // as ssm_primitive_kinds()
  if (code == SSM_OK) code = ssm_primitive_forward(filter, operands, 6, NULL, NULL);
  if (code != SSM_OK) fprintf(stderr, "%s\n", ssm_last_error());
  // [/five lines of c]
  ssm_primitive_free(filter);
  return code != SSM_OK;
}

int main(int count, char** arguments) {
  if (count < 3) return 2;
  size_t bytes = 0;
  while (arguments[2][bytes] != '\0') ++bytes;
  if (continue_text(arguments[1], arguments[2], bytes) != SSM_OK) {
    fprintf(stderr, "%s\n", ssm_last_error());
    return 1;
  }
  printf("\n");
  return run_primitive() || run_layer();
}
