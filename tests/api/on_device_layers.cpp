// SPDX-License-Identifier: Apache-2.0
// The same from C++.
#include "on_device_layers.c"
