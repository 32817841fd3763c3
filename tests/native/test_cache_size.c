/* The context that fits in so much free memory: test_cache_size MODEL FREE_BYTES USE_MMAP prints it. */
#include "commandr.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static int64_t free_bytes;

static int64_t state_free(void) {
    return free_bytes;
}

#define commandr_host_memory_available state_free
#include "cache-size.c"

int main(int argc, char ** argv) {
    commandr_model *   model   = NULL;
    commandr_session * session = NULL;
    if (argc != 4) {
        return 2;
    }
    free_bytes                           = atoll(argv[2]);
    commandr_model_params   model_params = commandr_model_default_params();
    commandr_session_params params       = commandr_session_default_params();
    model_params.repack                  = false;
    model_params.use_mmap                = atoi(argv[3]) != 0;
    params.n_ctx                         = -1;
    params.flash_attn                    = 1;
    if (commandr_model_load(argv[1], model_params, &model) != COMMANDR_OK ||
        commandr_session_init(model, params, &session) != COMMANDR_OK) {
        fprintf(stderr, "%s\n", commandr_last_error());
        return 1;
    }
    printf("%lld\n", (long long) commandr_session_n_ctx(session));
    commandr_session_free(session);
    commandr_model_free(model);
    return 0;
}
