// SPDX-License-Identifier: Apache-2.0
// Both macros: the precompiled header has seen doctest's declarations already.
#define DOCTEST_CONFIG_IMPLEMENT
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
