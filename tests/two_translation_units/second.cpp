// SPDX-License-Identifier: Apache-2.0
#include "every_public_header.hpp"

int main() {}
