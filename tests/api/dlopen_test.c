/* SPDX-License-Identifier: Apache-2.0 */
/* The library loaded at run time, before and after fork. Arguments: the library, a model folder. */
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "checks.h"

static int count_tokens(void* user, int32_t token) {
  (void)token;
  ++*(int*)user;
  return 0;
}

int main(int count, char** arguments) {
  if (count < 3) return 2;
  void* library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
#define FUNCTION(name)                          \
  __typeof__(name)* p_##name = NULL;            \
  *(void**)(&p_##name) = dlsym(library, #name); \
  if (p_##name == NULL) return 1
  FUNCTION(ssm_version);
  FUNCTION(ssm_last_error);
  FUNCTION(ssm_model_open);
  FUNCTION(ssm_model_free);
  FUNCTION(ssm_model_generate);
  /* nothing else is exported */
  CHECK(
      dlsym(library,
            "_ZN3ssm19open_language_modelERKNSt10filesystem7__cxx114pathERKNS_14BackendOptionsE") ==
      NULL);
  CHECK(p_ssm_version() == SSM_EXPECTED_VERSION);

  ssm_model* model = NULL;
  CHECK(p_ssm_model_open("", NULL, &model) != SSM_OK);
  CHECK(strlen(p_ssm_last_error()) > 0);
  if (p_ssm_model_open(arguments[2], "{\"threads\": 2}", &model) != SSM_OK) {
    fprintf(stderr, "%s\n", p_ssm_last_error());
    return 1;
  }
  const int32_t prompt[300] = {3, 1, 2};
  const char* options = "{\"temperature\": 0, \"tokens\": 5, \"stop\": []}";
  int tokens = 0;
  CHECK(p_ssm_model_generate(model, prompt, 300, options, NULL, count_tokens, &tokens) == SSM_OK);
  CHECK(tokens == 5);
  const pid_t child = fork();
  if (child == 0) { /* the threads of the parent are not there */
    alarm(60);
    tokens = 0;
    const ssm_code code =
        p_ssm_model_generate(model, prompt, 300, options, NULL, count_tokens, &tokens);
    _exit(code == SSM_OK && tokens == 5 ? 0 : 1);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  p_ssm_model_free(model);
  CHECK(dlclose(library) == 0);
  if (failures == 0) printf("loaded at run time: all holds\n");
  return failures != 0;
}
