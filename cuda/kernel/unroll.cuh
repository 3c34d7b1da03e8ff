// SPDX-License-Identifier: Apache-2.0
#pragma once

// Before a loop whose arrays are to stay in registers, and before one that is to take few of them;
// C++ compilers do not know the pragmas.
#ifdef __CUDACC__
#define SSM_UNROLL _Pragma("unroll")
#define SSM_ROLLED _Pragma("unroll 1")
#else
#define SSM_UNROLL
#define SSM_ROLLED
#endif
