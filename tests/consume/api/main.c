/* SPDX-License-Identifier: Apache-2.0 */
#include <ssm/api.h>
#include <stdio.h>
#include <string.h>

int main(void) {
  ssm_layer* layer = NULL;
  if (ssm_layer_create("{\"layer\": \"mamba\", \"channels\": 8}", &layer) != SSM_OK) {
    puts(ssm_last_error());
    return 1;
  }
  const int count = ssm_layer_parameter_count(layer);
  ssm_layer_free(layer);
  return count == 9 && ssm_layer_create("{}", &layer) == SSM_ARGUMENT &&
                 strstr(ssm_last_error(), "mamba2") != NULL
             ? 0
             : 1;
}
