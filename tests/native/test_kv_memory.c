/* The cache's memory as on a device that has no addresses to set aside: every layer takes the way of a GPU's.
 *
 *     test_kv_memory MODEL TOKENS N_LAYERS
 *
 * TOKENS is a file of int32. Evaluates ever more of them in a session that grows, each time the last one once more by
 * itself, and writes its logits as float32 to stdout; to stderr, for each, the bytes that the cache has. Before the
 * first three, growing fails after N_LAYERS have got a larger buffer. */
#include "commandr.h"
#include "ggml-backend.h"

#include "ggml-alloc.h"

#include <stdio.h>

/* kv-memory.c below finds no CPU. */
static ggml_backend_dev_t no_device(void) {
    return NULL;
}

static int64_t allocations_left = INT64_MAX;

static ggml_backend_buffer_t allocate(struct ggml_context * ctx, ggml_backend_buffer_type_t buft) {
    return allocations_left-- > 0 ? ggml_backend_alloc_ctx_tensors_from_buft(ctx, buft) : NULL;
}

#define commandr_device_cpu                      no_device
#define ggml_backend_alloc_ctx_tensors_from_buft allocate
#include "devices.h"
#include "kv-memory.c"
#undef commandr_device_cpu
#undef ggml_backend_alloc_ctx_tensors_from_buft

enum { MAX_TOKENS = 4096 };

static int64_t cache_bytes(const commandr_session * session) {
    commandr_memory_info info;
    int64_t              size = 0;
    for (int64_t i = 0; commandr_session_memory(session, i, &info) == COMMANDR_OK; i++) {
        size += strcmp(info.what, "kv") == 0 ? info.size : 0;
    }
    return size;
}

static commandr_status eval(commandr_session * session, const int32_t * tokens, int64_t n) {
    const commandr_eval_item item = { .tokens = tokens, .n_tokens = n, .n_outputs = 1 };
    return commandr_session_eval(session, &item, 1, COMMANDR_OUTPUT_LOGITS);
}

static int evaluate(commandr_session * session, const int32_t * tokens, int64_t n, size_t n_vocab, int n_layers) {
    for (int64_t i = 100; i <= n; i += i / 2) {
        if (eval(session, tokens, i) != COMMANDR_OK || eval(session, tokens, i) != COMMANDR_OK) {
            fprintf(stderr, "%s\n", commandr_last_error());
            return 1;
        }
        allocations_left = n_layers;
        if (i < 300 &&
            (eval(session, tokens, n) != COMMANDR_ERROR_MEMORY || commandr_session_seq_length(session, 0) != i)) {
            fprintf(stderr, "growing did not fail as it was to\n");
            return 1;
        }
        allocations_left = INT64_MAX;
        if (eval(session, tokens, i) != COMMANDR_OK ||
            fwrite(commandr_session_logits(session, 0, 0), sizeof(float), n_vocab, stdout) != n_vocab) {
            return 1;
        }
        fprintf(stderr, "%lld\n", (long long) cache_bytes(session));
    }
    return 0;
}

int main(int argc, char ** argv) {
    static int32_t     tokens[MAX_TOKENS];
    commandr_model *   model   = NULL;
    commandr_session * session = NULL;
    FILE *             file    = argc == 4 ? fopen(argv[2], "rb") : NULL;
    if (!file) {
        return 2;
    }
    const size_t n = fread(tokens, sizeof(int32_t), MAX_TOKENS, file);
    fclose(file);
    commandr_session_params params = commandr_session_default_params();
    params.n_ctx                   = 2 * MAX_TOKENS;
    params.n_ubatch                = 64;
    params.n_threads               = 2;
    if (commandr_model_load(argv[1], commandr_model_default_params(), &model) != COMMANDR_OK ||
        commandr_session_init(model, params, &session) != COMMANDR_OK) {
        fprintf(stderr, "%s\n", commandr_last_error());
        return 1;
    }
    const int status =
        evaluate(session, tokens, (int64_t) n, (size_t) commandr_model_hparams(model)->n_vocab, atoi(argv[3]));
    commandr_session_free(session);
    commandr_model_free(model);
    return status;
}
