// SPDX-License-Identifier: Apache-2.0
#pragma once

// The version of the library.
#define SSM_VERSION_MAJOR 0
#define SSM_VERSION_MINOR 1
#define SSM_VERSION_PATCH 0
