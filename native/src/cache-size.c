#include "cache-size.h"

#include "devices.h"
#include "host-memory.h"
#include "kv-cache.h"

#include <string.h>

#define MIN_CTX 4096

commandr_cache_size commandr_cache_size_of(const commandr_hparams * hp, const commandr_session_params * p) {
    const int64_t full      = commandr_kv_pad(p->n_ctx);
    const int64_t window    = commandr_kv_window_size(hp->n_swa, p->n_seq_max, p->n_ubatch);
    const int64_t n_full    = hp->n_swa > 0 && hp->swa_period > 0 ? hp->n_layer / hp->swa_period : hp->n_layer;
    const int64_t n_embd_kv = hp->n_head_kv * hp->head_dim;
    return (commandr_cache_size) {
        .full            = full,
        .window          = window < full ? window : full,
        .n_full_layers   = n_full,
        .n_window_layers = hp->n_layer - n_full,
        .cell            = (int64_t) (ggml_row_size((enum ggml_type) p->type_k, n_embd_kv) +
                                      ggml_row_size((enum ggml_type) p->type_v, n_embd_kv)),
    };
}

/* Bytes that the caches of a session may have on a device. Weights that are used in place count as free memory in what
 * Linux says, and are not. */
static int64_t budget(const commandr_model * model, ggml_backend_dev_t dev) {
    if (dev != commandr_device_cpu()) {
        size_t free  = 0;
        size_t total = 0;
        ggml_backend_dev_memory(dev, &free, &total);
        const int64_t own    = (int64_t) free / 4 * 3;
        const int64_t shared = commandr_host_memory_available() / 3; /* the CPU may take half of it */
        return commandr_device_type(dev) == GGML_BACKEND_DEVICE_TYPE_IGPU && shared < own ? shared : own;
    }
    int64_t              free = commandr_host_memory_available();
    commandr_memory_info info;
    for (int64_t i = 0; commandr_weights_memory(model->weights, i, &info) == COMMANDR_OK; i++) {
        free -= strstr(info.what, "mapped") ? info.size : 0;
    }
    return free > 0 ? free / 2 : 0;
}

int64_t commandr_cache_fit(const commandr_model * model, const commandr_session_params * params, bool flash_attn) {
    const commandr_hparams *  hp   = &model->hparams;
    const commandr_cache_size size = commandr_cache_size_of(hp, params);
    /* Without flash attention a layer's graph holds the scores of all cells, twice. */
    const int64_t scores = flash_attn ? 0 : 2 * (int64_t) sizeof(float) * hp->n_head * params->n_ubatch;
    int64_t       n_ctx  = hp->n_ctx_train;
    for (int32_t d = 0; d <= model->n_devs; d++) {
        ggml_backend_dev_t dev      = d < model->n_devs ? model->devs[d] : commandr_device_cpu();
        int64_t            n_full   = 0;
        int64_t            n_window = 0;
        for (int64_t il = 0; il < hp->n_layer; il++) {
            n_full += model->layers[il].dev == dev && !model->layers[il].has_window;
            n_window += model->layers[il].dev == dev && model->layers[il].has_window;
        }
        if (n_full > 0) {
            const int64_t left = budget(model, dev) - n_window * size.window * size.cell;
            const int64_t fits = left > 0 ? left / (n_full * size.cell + scores) / MIN_CTX * MIN_CTX : 0;
            n_ctx              = fits < n_ctx ? fits : n_ctx;
        }
    }
    const int64_t least = hp->n_ctx_train < MIN_CTX ? hp->n_ctx_train : MIN_CTX;
    return n_ctx > least ? n_ctx : least;
}
