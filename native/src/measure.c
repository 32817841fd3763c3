/* What a model and a session would hold, told by the code that makes them: tensors are placed, graphs are built and laid
 * out, and every buffer stays empty. */
#include "devices.h"
#include "error.h"
#include "kernels/level.h"
#include "session.h"
#include "worker-guard.h"

#include <stdlib.h>

typedef struct listing {
    commandr_memory_info * list;
    int64_t                capacity;
    int64_t                n;
} listing;

static commandr_status append(listing * to, const commandr_memory_info * info) {
    if (to->n == to->capacity) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "commandr_gguf_measure: there are more than %lld memory places",
                             (long long) to->capacity);
    }
    to->list[to->n++] = *info;
    return COMMANDR_OK;
}

static commandr_status measure_session(commandr_model * model, const commandr_session_params * params, listing * to) {
    commandr_session * session = NULL;
    commandr_status    status  = commandr_session_init(model, *params, &session);
    for (int64_t i = 0; status == COMMANDR_OK; i++) {
        commandr_memory_info info;
        if (commandr_session_memory(session, i, &info) != COMMANDR_OK) {
            break;
        }
        status = append(to, &info);
    }
    commandr_session_free(session);
    return status;
}

static commandr_status measure_model(commandr_model * model, const commandr_model_params * params, listing * to) {
    commandr_status status = commandr_gguf_hparams(model->gguf, &model->hparams);
    if (status == COMMANDR_OK) {
        status = commandr_weights_load(model, params);
    }
    for (int64_t i = 0; status == COMMANDR_OK; i++) {
        commandr_memory_info info;
        if (commandr_model_memory(model, i, &info) != COMMANDR_OK) {
            break;
        }
        status = append(to, &info);
    }
    return status;
}

commandr_status commandr_gguf_measure(const commandr_gguf * gguf, const commandr_model_params * model_params,
                                      const commandr_session_params * session_params, commandr_memory_info * to,
                                      int64_t * n) {
    if (!gguf || !model_params || !to || !n) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "commandr_gguf_measure: only session may be NULL");
    }
    commandr_devices_init();
    commandr_status  status = commandr_level_choose();
    commandr_model * model  = status == COMMANDR_OK ? calloc(1, sizeof(*model)) : NULL;
    if (!model) {
        return status != COMMANDR_OK ? status : commandr_fail(COMMANDR_ERROR_MEMORY, "%s: out of memory", gguf->path);
    }
    atomic_init(&model->n_refs, 1);
    model->is_measured = true;
    model->gguf        = (commandr_gguf *) gguf; /* read only, and taken back before the model is freed */
    listing found      = { .list = to, .capacity = *n };
    if (model_params->workers) {
        commandr_guard_take_turns();
    }
    commandr_guard guard;
    if (COMMANDR_GUARD_BEGIN(guard)) {
        status = measure_model(model, model_params, &found);
        if (status == COMMANDR_OK && session_params) {
            status = measure_session(model, session_params, &found);
        }
        commandr_guard_end(&guard);
    } else {
        status = commandr_model_lost(model);
    }
    model->gguf = NULL;
    commandr_model_free(model);
    if (status == COMMANDR_OK) {
        *n = found.n;
    }
    return status;
}
