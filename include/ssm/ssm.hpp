// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/require_cxx20.hpp"

// Everything that needs no backend and no file format; add a backend header beside it, and headers
// of ssm/io/ for files.
#include "ssm/version.hpp"

// Tensors and what can be done to them without a backend.
#include "ssm/core/compare.hpp"
#include "ssm/core/dlpack.hpp"
#include "ssm/core/elementwise.hpp"
#include "ssm/core/fill_random.hpp"
#include "ssm/core/no_memory.hpp"
#include "ssm/core/overrides.hpp"
#include "ssm/core/print.hpp"
#include "ssm/core/reduction.hpp"
#include "ssm/core/scalar.hpp"
#include "ssm/core/tensor.hpp"

// Formulas of the discretization; the other primitives, ssm/op/, come with the layers that are made
// of them.
#include "ssm/op/discretize.hpp"

// Layers.
#include "ssm/layer/attention.hpp"
#include "ssm/layer/copy_state_row.hpp"
#include "ssm/layer/dense_mamba.hpp"
#include "ssm/layer/diagonal_ssm.hpp"
#include "ssm/layer/feed_forward.hpp"
#include "ssm/layer/gated_state_space.hpp"
#include "ssm/layer/gau_retention.hpp"
#include "ssm/layer/glu_readout.hpp"
#include "ssm/layer/h3.hpp"
#include "ssm/layer/hidden_fusion.hpp"
#include "ssm/layer/linear.hpp"
#include "ssm/layer/mamba.hpp"
#include "ssm/layer/mamba2.hpp"
#include "ssm/layer/mean_pool.hpp"
#include "ssm/layer/norm.hpp"
#include "ssm/layer/retention.hpp"
#include "ssm/layer/s4d.hpp"
#include "ssm/layer/selective_transition.hpp"
#include "ssm/layer/shift_ssm.hpp"

// Models: what combines layers, and language models.
#include "ssm/model/bidirectional.hpp"
#include "ssm/model/blocks.hpp"
#include "ssm/model/chain.hpp"
#include "ssm/model/dense_retnet_language_model.hpp"
#include "ssm/model/dense_stack.hpp"
#include "ssm/model/embedded.hpp"
#include "ssm/model/generate.hpp"
#include "ssm/model/gpt2_language_model.hpp"
#include "ssm/model/h3_language_model.hpp"
#include "ssm/model/last_position.hpp"
#include "ssm/model/mamba2_language_model.hpp"
#include "ssm/model/mamba_language_model.hpp"
#include "ssm/model/one_of.hpp"
#include "ssm/model/post_norm.hpp"
#include "ssm/model/recorded_steps.hpp"
#include "ssm/model/residual.hpp"
#include "ssm/model/retnet_language_model.hpp"
#include "ssm/model/sequence_classifier.hpp"
#include "ssm/model/sequential.hpp"
#include "ssm/model/stack.hpp"

// Training.
#include "ssm/train/accuracy.hpp"
#include "ssm/train/adamw.hpp"
#include "ssm/train/evaluation.hpp"
#include "ssm/train/language_model_trainer.hpp"
#include "ssm/train/losses.hpp"
#include "ssm/train/schedule.hpp"
#include "ssm/train/scoring_protocol.hpp"
#include "ssm/train/shuffled_windows.hpp"
#include "ssm/train/synthetic_tasks.hpp"
#include "ssm/train/text_loss.hpp"
#include "ssm/train/text_streams.hpp"
#include "ssm/train/trainer.hpp"
