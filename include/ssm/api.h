/* SPDX-License-Identifier: Apache-2.0 */
/* The library ssm::api (libssm_api): language models and layers for programs in C and in every
   language that calls C. Nothing of C++ crosses it.

   Errors    A function that can fail returns an ssm_code; ssm_last_error() says in a sentence what
             was wrong. What a failed call would have made is NULL, and what it was given stays as
             it was, but for the memory it was to write to.
   Objects   ssm_X_free(NULL) does nothing. One object is for one thread at a time; different
             objects, ssm_model_session among them, run beside each other. A state keeps what it
             needs of its model, a tape and a state of a layer must not outlive the layer.
   Options   JSON objects; NULL is {}. A field that does not exist is refused by name.
   Tensors   ssm_tensor is DLTensor of DLPack 0.2 and later, byte for byte. Memory is the caller's,
             and nothing is kept of it beyond a call unless a function says so. A tensor that cannot
             be taken is refused by name: wrong type, device, extents, or strides.
   Names     New functions may be added; these stay as they are while SSM_API_VERSION is the same. */
#ifndef SSM_API_H
#define SSM_API_H

#include <stddef.h>
#include <stdint.h>

#define SSM_API_VERSION 0

#if defined(_WIN32)
#define SSM_API
#else
#define SSM_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ssm_code {
  SSM_OK = 0,
  SSM_ARGUMENT = 1, /* a value outside its range, an unknown name, a missing operand */
  SSM_SHAPE = 2,    /* extents that do not fit */
  SSM_TENSOR = 3,   /* a tensor whose type, device or strides are not taken */
  SSM_FILE = 4,     /* a file that is missing, damaged, or of something else */
  SSM_MEMORY = 5,
  SSM_BACKEND = 6, /* a library underneath refused */
  SSM_OTHER = 7
} ssm_code;

/* ---- DLPack ---------------------------------------------------------------------------------- */

typedef struct ssm_device {
  int32_t type; /* 1: host memory, 3: page-locked host memory; 2, 13: CUDA */
  int32_t id;
} ssm_device;
typedef struct ssm_scalar {
  uint8_t code; /* 0: signed integer, 2: floating point, 4: bfloat */
  uint8_t bits;
  uint16_t lanes; /* 1 */
} ssm_scalar;
typedef struct ssm_tensor {
  void* data;
  ssm_device device;
  int32_t ndim;
  ssm_scalar type;
  int64_t* shape;
  int64_t* strides;     /* in elements; NULL: row-major without gaps */
  uint64_t byte_offset; /* of the first element from data */
} ssm_tensor;

/* ---- Library --------------------------------------------------------------------------------- */

/* 10000 · major + 100 · minor + patch of the library that was loaded. */
SSM_API int ssm_version(void);
/* What was wrong in the last call of this thread that failed; "" before the first. */
SSM_API const char* ssm_last_error(void);
/* Gives back what a function returned by `char**` or `int32_t**`. */
SSM_API void ssm_free(void* memory);

/* Memory of a CUDA device for states, tapes and scratch, in place of cudaMalloc's; NULL where there
   is none. It may be used in order with the stream, NULL for the legacy default stream. What was
   queued with memory that is given back may still run. */
typedef void* (*ssm_device_allocate)(void* user, size_t bytes, int32_t device, void* stream);
typedef void (*ssm_device_free)(void* user, void* memory);
/* For all threads, from here on; NULL: cudaMalloc again. What an allocator that is replaced has
   given is not given back any more. */
SSM_API ssm_code ssm_set_device_allocator(ssm_device_allocate allocate, ssm_device_free free,
                                          void* user);

/* ---- Language models ------------------------------------------------------------------------- */

typedef struct ssm_model ssm_model;
typedef struct ssm_state ssm_state;

/* Opens a folder with config.json and weights, or a training run.
   options   {"backend": "cpu", "threads": 0, "numbers": "float", "weights": "full", "device": 0,
              "map_files": true}
             threads 0: as many as the process may use; numbers, of sequences: float, on a GPU also
             bf16, weights with them; weights: full, bf16, f16, int8 */
SSM_API ssm_code ssm_model_open(const char* path, const char* options, ssm_model** model);
SSM_API void ssm_model_free(ssm_model* model);
/* Another model over the same weights, for another thread. */
SSM_API ssm_code ssm_model_session(const ssm_model* model, int threads, ssm_model** session);
/* JSON, the model's until it is freed: family, backend, numbers, threads, vocabulary,
   padded_vocabulary, end_tokens, positions, has_attention, parameters, weight_bytes. */
SSM_API const char* ssm_model_facts(const ssm_model* model);
/* 16 hexadecimal digits that tell these weights from others. */
SSM_API ssm_code ssm_model_fingerprint(const ssm_model* model, char** text);
/* Tokens that may occur, and how many logits a position has. */
SSM_API int64_t ssm_model_vocabulary(const ssm_model* model);
SSM_API int64_t ssm_model_padded_vocabulary(const ssm_model* model);

/* Takes the tokenizer of a file or folder in place of the one in the model's folder. */
SSM_API ssm_code ssm_model_use_tokenizer(ssm_model* model, const char* path);
/* The tokens of a text, to be given back by ssm_free. */
SSM_API ssm_code ssm_model_encode(const ssm_model* model, const char* text, size_t bytes,
                                  int32_t** tokens, size_t* count);
/* Their text in whole characters of UTF-8, with a zero byte behind it; to be given back. */
SSM_API ssm_code ssm_model_decode(const ssm_model* model, const int32_t* tokens, size_t count,
                                  char** text, size_t* bytes);

/* Logits at every position, each sequence from an empty state.
   tokens [B, L] int32    logits [B, L, padded vocabulary] float, or [B, 1, …] of the last position
   Rows of both lie without gaps, behind one another. */
SSM_API ssm_code ssm_model_logits(const ssm_model* model, const ssm_tensor* tokens,
                                  const ssm_tensor* logits);
/* The same from a state on, which is advanced. */
SSM_API ssm_code ssm_model_prefill(const ssm_model* model, const ssm_tensor* tokens,
                                   const ssm_tensor* logits, ssm_state* state);
/* One token of each sequence.    tokens [B]    logits [B, padded vocabulary] */
SSM_API ssm_code ssm_model_step(const ssm_model* model, const ssm_tensor* tokens,
                                const ssm_tensor* logits, ssm_state* state);
/* How well the model predicts tokens: the sum of −ln p of all but the first, and how many.
   options   {"context": 0, "chunk": 1024, "streams": 1}    context 0: the state is never reset */
SSM_API ssm_code ssm_model_loss(const ssm_model* model, const int32_t* tokens, size_t count,
                                const char* options, double* nats, int64_t* predicted);

/* Receives a token; anything but 0 ends the text there. */
typedef int (*ssm_token_callback)(void* user, int32_t token);
/* Receives a piece of text, whole characters of UTF-8; `text` ends in a zero byte. */
typedef int (*ssm_text_callback)(void* user, const char* text, size_t bytes);
/* Continues a prompt.
   options   {"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0, "tokens": no end, "seed": 0,
              "stop": the model's end tokens}    temperature 0: always the likeliest token
   state     of one sequence, which the text goes on from and which has read all of it afterwards;
             NULL: a fresh one */
SSM_API ssm_code ssm_model_generate(const ssm_model* model, const int32_t* prompt, size_t count,
                                    const char* options, ssm_state* state,
                                    ssm_token_callback callback, void* user);
SSM_API ssm_code ssm_model_generate_text(const ssm_model* model, const char* prompt, size_t bytes,
                                         const char* options, ssm_state* state,
                                         ssm_text_callback callback, void* user);

/* What sequences of tokens have left behind in a model. */
SSM_API ssm_code ssm_state_create(const ssm_model* model, int64_t sequences, ssm_state** state);
SSM_API void ssm_state_free(ssm_state* state);
SSM_API ssm_code ssm_state_copy(const ssm_state* state, ssm_state** copy);
/* One sequence as a state of its own, and over one sequence of another state. */
SSM_API ssm_code ssm_state_row(const ssm_state* state, int64_t sequence, ssm_state** row);
SSM_API ssm_code ssm_state_copy_row(const ssm_state* from, int64_t from_sequence, ssm_state* to,
                                    int64_t to_sequence);
/* A safetensors file, which names the weights; `load` refuses the state of others. */
SSM_API ssm_code ssm_state_save(const ssm_state* state, const char* path);
SSM_API ssm_code ssm_state_load(ssm_state* state, const char* path);
SSM_API int64_t ssm_state_sequences(const ssm_state* state);
/* How many tokens a sequence has read; -1 for one that is not there. */
SSM_API int64_t ssm_state_position(const ssm_state* state, int64_t sequence);
SSM_API uint64_t ssm_state_bytes(const ssm_state* state);

/* ---- Layers ---------------------------------------------------------------------------------- */

typedef struct ssm_layer ssm_layer;
typedef struct ssm_tape ssm_tape;
typedef struct ssm_layer_state ssm_layer_state;

/* Makes a layer.
   config   {"layer": "h3", "channels": 64, "state": 64, "head_dim": 8,
             "scalar": "float32", "backend": "cpu", "threads": 1}
            layer: what ssm_layer_kinds lists; sizes as there; scalar: float32, float64;
            backend: cpu, reference; cuda in a library that was built with SSM_BUILD_CUDA, whose
            tensors all lie on one device; threads: of the host, 1 where left out
   Sequences of a layer in float32 may also be of bfloat16 or float16, all of a call alike: they are
   read into float32, and y and dx are rounded to nearest. */
SSM_API ssm_code ssm_layer_create(const char* config, ssm_layer** layer);
SSM_API void ssm_layer_free(ssm_layer* layer);
/* JSON: what kinds of layers there are, and the fields of each. */
SSM_API const char* ssm_layer_kinds(void);
/* JSON, the layer's: layer, scalar, backend, channels; parameters with name, shape, role and
   whether their weight may decay; state with name, shape of one sequence and scalar. */
SSM_API const char* ssm_layer_facts(const ssm_layer* layer);
SSM_API ssm_code ssm_layer_set_threads(ssm_layer* layer, int threads);
/* Of the backend cuda: the cudaStream_t that calls are queued on, of the tensors' device; NULL, as at
   first, for the legacy default stream. Layers share scratch memory by thread and stream; a state
   that was used on another stream is waited for. */
SSM_API ssm_code ssm_layer_set_stream(ssm_layer* layer, void* stream);

/* Parameters are tensors of the caller's, contiguous, in this order and with these names, which are
   those of published checkpoints. */
SSM_API int ssm_layer_parameter_count(const ssm_layer* layer);
/* NULL for an index that is not there. */
SSM_API const char* ssm_layer_parameter_name(const ssm_layer* layer, int index);
/* A tensor without memory: extents and scalar, the layer's. */
SSM_API ssm_code ssm_layer_parameter(const ssm_layer* layer, int index, ssm_tensor* description);
/* Writes the published initialization: the same numbers for any backend and number of threads. */
SSM_API ssm_code ssm_layer_initialize(ssm_layer* layer, uint64_t seed,
                                      const ssm_tensor* const* parameters, int count);

/* Whole sequences.
   x, y           [B, L, channels] or [L, channels], any strides; y is overwritten and must not
                  overlap x
   segments       int64 [S+1], where packed sequences begin and end, B = 1; or NULL
   initial_state  or NULL: zero    final_state   or NULL: not wanted
   tape           or NULL: without gradients. With it x and the parameters must stay where and as
                  they are until ssm_layer_backward */
SSM_API ssm_code ssm_layer_forward(ssm_layer* layer, const ssm_tensor* const* parameters, int count,
                                   const ssm_tensor* x, const ssm_tensor* y,
                                   const ssm_tensor* segments, const ssm_layer_state* initial_state,
                                   ssm_layer_state* final_state, ssm_tape* tape);
/* The gradients of what the tape is of: dx is overwritten, gradients are added to.
   dfinal_state   or NULL: zero    dinitial_state   or NULL: not wanted; overwritten */
SSM_API ssm_code ssm_layer_backward(ssm_layer* layer, const ssm_tensor* const* parameters,
                                    int count, const ssm_tape* tape, const ssm_tensor* dy,
                                    const ssm_tensor* dx, const ssm_tensor* const* gradients,
                                    const ssm_layer_state* dfinal_state,
                                    ssm_layer_state* dinitial_state);
/* A chunk of any length from a state on, which is advanced. */
SSM_API ssm_code ssm_layer_prefill(ssm_layer* layer, const ssm_tensor* const* parameters, int count,
                                   const ssm_tensor* x, const ssm_tensor* y,
                                   ssm_layer_state* state);
/* One position.    x, y [B, channels] or [channels] */
SSM_API ssm_code ssm_layer_step(ssm_layer* layer, const ssm_tensor* const* parameters, int count,
                                const ssm_tensor* x, const ssm_tensor* y, ssm_layer_state* state);

SSM_API ssm_code ssm_tape_create(const ssm_layer* layer, ssm_tape** tape);
SSM_API void ssm_tape_free(ssm_tape* tape);

/* Zeros for so many sequences; on the calling thread's current device of the backend cuda, where
   attention's positions are on the host. */
SSM_API ssm_code ssm_layer_state_create(const ssm_layer* layer, int64_t sequences,
                                        ssm_layer_state** state);
SSM_API void ssm_layer_state_free(ssm_layer_state* state);
SSM_API ssm_code ssm_layer_state_copy(const ssm_layer_state* state, ssm_layer_state** copy);
SSM_API int ssm_layer_state_count(const ssm_layer_state* state);
/* A tensor of a state, which may be read and written; valid until the state is used next.
   name   may be NULL */
SSM_API ssm_code ssm_layer_state_tensor(ssm_layer_state* state, int index, const char** name,
                                        ssm_tensor* tensor);
/* From here on this tensor of the state is the caller's memory, with what is in it. A cache, whose
   first axis grows, cannot grow there. Memory may have any extent on an axis that is empty: of a
   cache, or of a state of no sequences. */
SSM_API ssm_code ssm_layer_state_borrow(ssm_layer_state* state, int index,
                                        const ssm_tensor* memory);
/* Copies a tensor to one of the same scalar and extents, both without gaps, each on the host or on the
   layer's device, in order with the layer's calls. Memory of the host has been read, or written,
   when this returns; nothing else is waited for. */
SSM_API ssm_code ssm_layer_copy(ssm_layer* layer, const ssm_tensor* from, const ssm_tensor* to);

/* ---- Primitives ------------------------------------------------------------------------------ */

typedef struct ssm_primitive ssm_primitive;

/* Makes one of the functions that layers are made of. It holds nothing of its calls: several threads
   may call one at the same time. Calls of one thread share its scratch memory.
   config   {"primitive": "selective_scan", "dt_softplus": true,
             "scalar": "float32", "backend": "cpu", "threads": 1}
            primitive: what ssm_primitive_kinds lists, options as there
            scalar: of sequences: float32, float64, bfloat16, float16
            backend: cpu, reference; cuda in a library that was built with SSM_BUILD_CUDA, for
            operands on one device */
SSM_API ssm_code ssm_primitive_create(const char* config, ssm_primitive** primitive);
SSM_API void ssm_primitive_free(ssm_primitive* primitive);
/* JSON by name of primitive: options, and operands in their order, each with
   name
   axes       a letter for each; the same letter is the same extent in all operands of a call, S is
              the number of sequences: B, or that of the segments
   role       input, parameter, initial_state: read; output, final_state: overwritten
   scalar     sequence: as configured; wide: float32 where sequences are of a half type, else the
              same; int64
   optional   whether it may be left out
   gradient   none, optional, or required: whether it has one, and whether a call of the gradient may
              leave it out
   The formulas are in the headers ssm/op/NAME.hpp. */
SSM_API const char* ssm_primitive_kinds(void);
/* NULL for an index that is not there. */
SSM_API const char* ssm_primitive_operand_name(const ssm_primitive* primitive, int index);
/* operands   in their order, any strides; NULL for one that is left out. What is written must not
              overlap anything else, but a final state may be its initial state.
   segments   int64 [S+1] in host memory, where packed sequences begin and end, B = 1; or NULL
   stream     of the backend cuda: a cudaStream_t of the operands' device, or NULL for the legacy
              default stream; the call is queued on it. Without meaning elsewhere */
SSM_API ssm_code ssm_primitive_forward(const ssm_primitive* primitive,
                                       const ssm_tensor* const* operands, int count,
                                       const ssm_tensor* segments, void* stream);
/* operands    as in the forward call; those that it only wrote may be left out, but for y and
               log_sum of attention
   gradients   one for each operand, or NULL: of an output or a final state it is read, where left
               out of a final state it is zero; of an input or an initial state it is overwritten, of
               a parameter added to */
SSM_API ssm_code ssm_primitive_backward(const ssm_primitive* primitive,
                                        const ssm_tensor* const* operands,
                                        const ssm_tensor* const* gradients, int count,
                                        const ssm_tensor* segments, void* stream);

/* ---- XLA ------------------------------------------------------------------------------------- */

/* A layer as a function of XLA's foreign function interface (version 0 of its API), for JAX and
   other programs over XLA: takes an XLA_FFI_CallFrame*, returns an XLA_FFI_Error* or NULL. Any
   thread may call it. For CUDA where the layer's backend is cuda, on XLA's stream.
   attributes   config as of ssm_layer_create; verb
   forward      parameters, x [, initial states]                     y [, final states]
   backward     parameters, x, dy [, initial states]                 gradients, dx [, of initial states]
   backward_from_final
                parameters, x, dy, of final states [, initial states]   likewise
   The backward verbs run the layer forward once more. States are in the order of ssm_layer_facts;
   int64 ones may be int32. */
SSM_API void* ssm_xla_call(void* call_frame);

#ifdef __cplusplus
}
#endif

#endif /* SSM_API_H */
