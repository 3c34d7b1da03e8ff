// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace ssm {

/// What a call does with the numbers that are already where it writes.
enum class WriteMode { overwrite, accumulate };

}  // namespace ssm
