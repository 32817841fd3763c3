/* Logits of a model whose long products go through AMX, emulated where the processor lacks it.
 *
 *     test_amx_model MODEL TOKENS amx|plain
 *
 * TOKENS is a file of int32. Writes the logits of all tokens as float32 to stdout, and to stderr how many tile products
 * were emulated. Linked with --wrap=commandr_amx_available. */
#include "commandr.h"
#include "encoders/encoders.h"
#include "tile_emulation.h"

#include <stdio.h>
#include <string.h>

enum { MAX_TOKENS = 256 };

static bool use_amx;

bool __wrap_commandr_amx_available(void);
bool __real_commandr_amx_available(void);

bool __wrap_commandr_amx_available(void) {
    __real_commandr_amx_available(); /* the permission, where there is AMX */
    return use_amx;
}

/* Nothing is quantized here. */
commandr_encoder commandr_encoder_find(enum ggml_type type) {
    (void) type;
    return NULL;
}

static int evaluate(commandr_model * model, const int32_t * tokens, int64_t n) {
    commandr_session *      session = NULL;
    commandr_session_params params  = commandr_session_default_params();
    params.n_ctx                    = MAX_TOKENS;
    params.n_ubatch                 = 40;
    params.n_threads                = 2;
    const commandr_eval_item item   = { .tokens = tokens, .n_tokens = n, .n_outputs = n };
    if (commandr_session_init(model, params, &session) != COMMANDR_OK ||
        commandr_session_eval(session, &item, 1, COMMANDR_OUTPUT_LOGITS) != COMMANDR_OK) {
        fprintf(stderr, "%s\n", commandr_last_error());
        return 1;
    }
    const size_t n_logits = (size_t) (n * commandr_model_hparams(model)->n_vocab);
    const bool   written  = fwrite(commandr_session_logits(session, 0, 0), sizeof(float), n_logits, stdout) == n_logits;
    commandr_session_free(session);
    fprintf(stderr, "%lld", (long long) tile_emulated.products);
    return written ? 0 : 1;
}

int main(int argc, char ** argv) {
    int32_t          tokens[MAX_TOKENS];
    commandr_model * model = NULL;
    FILE *           file  = argc == 4 ? fopen(argv[2], "rb") : NULL;
    if (!file) {
        return 2;
    }
    const size_t n = fread(tokens, sizeof(int32_t), MAX_TOKENS, file);
    fclose(file);
    use_amx = strcmp(argv[3], "amx") == 0;
    tile_emulation_start();
    if (commandr_model_load(argv[1], commandr_model_default_params(), &model) != COMMANDR_OK) {
        fprintf(stderr, "%s\n", commandr_last_error());
        return 1;
    }
    const int status = evaluate(model, tokens, (int64_t) n);
    commandr_model_free(model);
    return status;
}
