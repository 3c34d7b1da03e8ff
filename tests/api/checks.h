/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SSM_TESTS_API_CHECKS_H
#define SSM_TESTS_API_CHECKS_H

#include <ssm/api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures = 0;

#define CHECK(holds)                                                            \
  do {                                                                          \
    if (!(holds)) {                                                             \
      fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #holds); \
      ++failures;                                                               \
    }                                                                           \
  } while (0)

/* What has to work for the rest to make sense. */
#define REQUIRE_OK(call)                                                    \
  do {                                                                      \
    if ((call) != SSM_OK) {                                                 \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, ssm_last_error()); \
      exit(1);                                                              \
    }                                                                       \
  } while (0)

/* The call fails with this code, and the sentence has these words. */
#define CHECK_FAILS(call, code, words)                                                          \
  do {                                                                                          \
    CHECK((call) == (code));                                                                    \
    if (strstr(ssm_last_error(), words) == NULL) {                                              \
      fprintf(stderr, "%s:%d: '%s' lacks '%s'\n", __FILE__, __LINE__, ssm_last_error(), words); \
      ++failures;                                                                               \
    }                                                                                           \
  } while (0)

#endif
