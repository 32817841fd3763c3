#include "model.h"

#include "devices.h"
#include "error.h"
#include "kernels/level.h"
#include "worker-guard.h"
#include "workers.h"

#include <stdlib.h>
#include <string.h>

commandr_model_params commandr_model_default_params(void) {
    return (commandr_model_params) {
        .n_gpu_layers       = 0,
        .main_device        = -1,
        .tensor_split       = NULL,
        .n_tensor_split     = 0,
        .n_threads          = 0,
        .use_mmap           = true,
        .repack             = true,
        .cache_packed       = false,
        .workers            = NULL,
        .progress           = NULL,
        .progress_user_data = NULL,
    };
}

commandr_status commandr_model_load(const char * path, commandr_model_params params, commandr_model ** out) {
    if (!path || !out) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "commandr_model_load: path and out must not be NULL");
    }
    commandr_devices_init();
    /* Before anything is mapped: finding out about AMX takes a child process. */
    const commandr_status level = commandr_level_choose();
    if (level != COMMANDR_OK) {
        return level;
    }
    commandr_model * model = calloc(1, sizeof(*model));
    if (!model) {
        return commandr_fail(COMMANDR_ERROR_MEMORY, "%s: out of memory", path);
    }
    atomic_init(&model->n_refs, 1);
    atomic_init(&model->lost, false);
    commandr_status status = commandr_gguf_open(path, &model->gguf);
    if (status == COMMANDR_OK) {
        status = commandr_gguf_hparams(model->gguf, &model->hparams);
    }
    if (params.workers) {
        commandr_guard_take_turns();
    }
    if (status == COMMANDR_OK) {
        commandr_guard guard;
        if (COMMANDR_GUARD_BEGIN(guard)) {
            status = commandr_weights_load(model, &params);
            /* Before another thread may ask the workers, which answer to nobody else now. */
            if (status == COMMANDR_OK) {
                commandr_workers_use(model->devs, model->n_devs, 1);
                model->uses_workers = true;
            }
            commandr_guard_end(&guard);
        } else {
            status = commandr_model_lost(model);
        }
    }
    if (status != COMMANDR_OK) {
        commandr_model_free(model);
        return status;
    }
    *out = model;
    return COMMANDR_OK;
}

void commandr_model_retain(commandr_model * model) {
    atomic_fetch_add(&model->n_refs, 1);
}

void commandr_model_free(commandr_model * model) {
    if (!model || atomic_fetch_sub(&model->n_refs, 1) > 1) {
        return;
    }
    commandr_weights_free(model->weights);
    if (model->uses_workers) {
        commandr_workers_use(model->devs, model->n_devs, -1);
    }
    commandr_gguf_free(model->gguf);
    free(model->layers);
    free(model);
}

const commandr_hparams * commandr_model_hparams(const commandr_model * model) {
    return &model->hparams;
}

const commandr_gguf * commandr_model_gguf(const commandr_model * model) {
    return model->gguf;
}

commandr_status commandr_model_memory(const commandr_model * model, int64_t index, commandr_memory_info * info) {
    return commandr_weights_memory(model->weights, index, info);
}

commandr_status commandr_model_lost(commandr_model * model) {
    atomic_store(&model->lost, true);
    return commandr_workers_lost(model->devs, model->n_devs);
}

commandr_status commandr_model_check(const commandr_model * model) {
    return atomic_load(&model->lost)
               ? commandr_fail(COMMANDR_ERROR_BACKEND, "%s: a worker was lost: close the model and load it again",
                               model->gguf->path)
               : COMMANDR_OK;
}

commandr_status commandr_model_set_tensor(commandr_model * model, const char * name, const void * data, int64_t size) {
    if (!name || !data) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "commandr_model_set_tensor: name and data must not be NULL");
    }
    commandr_guard  guard;
    commandr_status status = commandr_model_check(model);
    if (status == COMMANDR_OK && COMMANDR_GUARD_BEGIN(guard)) {
        status = commandr_weights_set(model->weights, name, data, size);
        commandr_guard_end(&guard);
    } else if (status == COMMANDR_OK) {
        status = commandr_model_lost(model);
    }
    return status;
}
