// SPDX-License-Identifier: Apache-2.0
#pragma once

// Everything that needs no backend and no file format; add a backend header beside it.
#include "ssm/core/compare.hpp"
#include "ssm/core/elementwise.hpp"
#include "ssm/core/fill_random.hpp"
#include "ssm/core/print.hpp"
#include "ssm/core/reduction.hpp"
#include "ssm/core/scalar.hpp"
#include "ssm/model/blocks.hpp"
#include "ssm/model/generate.hpp"
#include "ssm/model/h3_language_model.hpp"
#include "ssm/train/adamw.hpp"
#include "ssm/train/language_model_trainer.hpp"
#include "ssm/train/schedule.hpp"
#include "ssm/train/text_loss.hpp"
