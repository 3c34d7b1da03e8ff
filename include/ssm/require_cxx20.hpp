// SPDX-License-Identifier: Apache-2.0
#pragma once

// One sentence in place of a thousand errors: compilers go on after #error, and stop at an #include
// that does not exist.
#if __cplusplus < 202002L && !(defined(_MSVC_LANG) && _MSVC_LANG >= 202002L)
#error ssm needs C++20: compile with -std=c++20 or later
#include "ssm needs C++20: compile with -std=c++20 or later"
#endif
#if !defined(__cpp_exceptions) && !defined(_CPPUNWIND)
#error ssm reports errors as exceptions: compile without -fno-exceptions
#include "ssm reports errors as exceptions: compile without -fno-exceptions"
#endif
