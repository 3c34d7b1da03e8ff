// SPDX-License-Identifier: Apache-2.0
#pragma once

// The version of the library, which `#if SSM_VERSION >= 10203` asks for 1.2.3 or later.
#define SSM_VERSION_MAJOR 0
#define SSM_VERSION_MINOR 1
#define SSM_VERSION_PATCH 0
#define SSM_VERSION (10000 * SSM_VERSION_MAJOR + 100 * SSM_VERSION_MINOR + SSM_VERSION_PATCH)
#define SSM_VERSION_STRING "0.1.0"
