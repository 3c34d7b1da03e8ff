// SPDX-License-Identifier: Apache-2.0
#pragma once

// Before a loop whose arrays are to stay in registers; C++ compilers do not know the pragma.
#ifdef __CUDACC__
#define SSM_UNROLL _Pragma("unroll")
#else
#define SSM_UNROLL
#endif
