// expect: conversion from|could not convert|no viable conversion
// SPDX-License-Identifier: Apache-2.0
#include <ssm/core/extents.hpp>

const ssm::Extents<ssm::dyn, 256> wide = ssm::Extents<ssm::dyn, 192>(1);
