#include "kv-cache.h"

#include "error.h"
#include "kernels/attention-tile.h"
#include "log.h"
#include "workers.h"

#include <stdlib.h>
#include <string.h>

#define PAD   256
#define BLOCK COMMANDR_BLOCK_CELLS

int64_t commandr_kv_pad(int64_t n_cells) {
    return (n_cells + PAD - 1) / PAD * PAD;
}

int64_t commandr_kv_window_size(int64_t n_swa, int64_t n_seq_max, int64_t n_ubatch) {
    return commandr_kv_pad(n_seq_max * (n_swa + COMMANDR_WINDOW_SLACK) + n_ubatch);
}

/* The context of the device that layer's rows go to, opened when it is not there yet. NULL when out of memory. */
static struct ggml_context * device_ctx(commandr_kv_cache * cache, ggml_backend_dev_t * devs, ggml_backend_dev_t dev) {
    for (int32_t i = 0; i < cache->n_buffers; i++) {
        if (devs[i] == dev) {
            return cache->ctxs[i];
        }
    }
    const size_t          size = 2 * (size_t) cache->n_layer * ggml_tensor_overhead();
    struct ggml_context * ctx  = ggml_init((struct ggml_init_params) { size, NULL, true });
    if (ctx) {
        devs[cache->n_buffers]          = dev;
        cache->ctxs[cache->n_buffers++] = ctx;
    }
    return ctx;
}

static commandr_status allocate(commandr_kv_cache * cache, const commandr_model * model, bool window,
                                enum ggml_type type_k, enum ggml_type type_v, ggml_backend_dev_t * devs) {
    const commandr_hparams * hp        = &model->hparams;
    const int64_t            n_embd_kv = hp->n_head_kv * hp->head_dim;
    for (int64_t il = 0; il < hp->n_layer; il++) {
        if (model->layers[il].has_window != window) {
            continue;
        }
        struct ggml_context * ctx = device_ctx(cache, devs, model->layers[il].dev);
        if (!ctx) {
            return commandr_fail(COMMANDR_ERROR_MEMORY, "out of memory for the KV cache");
        }
        cache->k[il] = ggml_new_tensor_2d(ctx, type_k, n_embd_kv, cache->size);
        cache->v[il] = ggml_new_tensor_2d(ctx, type_v, n_embd_kv, cache->size);
        ggml_format_name(cache->k[il], "cache_k.%lld", (long long) il);
        ggml_format_name(cache->v[il], "cache_v.%lld", (long long) il);
    }
    for (int32_t i = 0; i < cache->n_buffers; i++) {
        commandr_log_clear_error();
        ggml_backend_buffer_type_t buft = ggml_backend_dev_buffer_type(devs[i]);
        const size_t               size = ggml_backend_alloc_ctx_tensors_from_buft_size(cache->ctxs[i], buft);
        cache->buffers[i]               = ggml_backend_alloc_ctx_tensors_from_buft(cache->ctxs[i], buft);
        if (!cache->buffers[i]) {
            return commandr_fail(COMMANDR_ERROR_MEMORY,
                                 "%.2f GiB for the KV cache of %lld cells cannot be allocated on %s: %s",
                                 (double) size / (1 << 30), (long long) cache->size, ggml_backend_dev_name(devs[i]),
                                 commandr_log_first_error());
        }
        /* Rows nobody has written are multiplied by a weight of 0; they must be numbers for that. */
        ggml_backend_buffer_clear(cache->buffers[i], 0);
    }
    return COMMANDR_OK;
}

commandr_status commandr_kv_cache_init(commandr_kv_cache * cache, const commandr_model * model, bool window,
                                       int64_t size, enum ggml_type type_k, enum ggml_type type_v) {
    memset(cache, 0, sizeof(*cache));
    const size_t n_layer      = (size_t) model->hparams.n_layer;
    const size_t max_devs     = (size_t) model->n_devs + 1;
    cache->size               = size;
    cache->n_window           = window ? model->hparams.n_swa : 0;
    cache->n_layer            = model->hparams.n_layer;
    cache->k                  = calloc(n_layer, sizeof(*cache->k));
    cache->v                  = calloc(n_layer, sizeof(*cache->v));
    cache->ctxs               = calloc(max_devs, sizeof(*cache->ctxs));
    cache->buffers            = calloc(max_devs, sizeof(*cache->buffers));
    ggml_backend_dev_t * devs = calloc(max_devs, sizeof(*devs));

    commandr_status status = COMMANDR_OK;
    if (!cache->k || !cache->v || !cache->ctxs || !cache->buffers || !devs) {
        status = commandr_fail(COMMANDR_ERROR_MEMORY, "out of memory for the KV cache");
    }
    if (status == COMMANDR_OK) {
        status = allocate(cache, model, window, type_k, type_v, devs); /* the large part first: it is what may fail */
    }
    if (status == COMMANDR_OK) {
        cache->pos  = malloc((size_t) size * sizeof(*cache->pos));
        cache->seqs = calloc((size_t) size, sizeof(*cache->seqs));
        if (!cache->pos || !cache->seqs) {
            status = commandr_fail(COMMANDR_ERROR_MEMORY, "out of memory for the KV cache");
        }
    }
    for (int64_t c = 0; c < size && status == COMMANDR_OK; c++) {
        cache->pos[c] = -1;
    }
    for (int32_t i = 0; i < COMMANDR_MAX_SEQS; i++) {
        cache->last[i] = -1;
    }
    free(devs);
    if (status != COMMANDR_OK) {
        commandr_kv_cache_free(cache);
    }
    return status;
}

void commandr_kv_cache_free(commandr_kv_cache * cache) {
    for (int32_t i = 0; i < cache->n_buffers; i++) {
        commandr_buffer_free(cache->buffers[i]);
        ggml_free(cache->ctxs[i]);
    }
    free(cache->pos);
    free(cache->seqs);
    free(cache->k);
    free(cache->v);
    free(cache->ctxs);
    free(cache->buffers);
    memset(cache, 0, sizeof(*cache));
}

/* Past seeing: no token to come of any sequence in the cell sees it, not even after a short rollback. */
static bool expired(const commandr_kv_cache * cache, int64_t cell, const int64_t * next_pos) {
    const int64_t last = cache->pos[cell] + cache->n_window + COMMANDR_WINDOW_SLACK;
    for (uint64_t left = cache->seqs[cell]; left; left &= left - 1) {
        int32_t seq_id = 0;
        while (!(left >> seq_id & 1)) {
            seq_id++;
        }
        if (last > next_pos[seq_id]) {
            return false;
        }
    }
    return true;
}

static bool is_free(const commandr_kv_cache * cache, int64_t cell, const int64_t * next_pos) {
    (void) next_pos;
    return cache->seqs[cell] == 0;
}

/* Free, or worth nothing to anybody. */
static bool is_usable(const commandr_kv_cache * cache, int64_t cell, const int64_t * next_pos) {
    return cache->seqs[cell] == 0 || (cache->n_window > 0 && expired(cache, cell, next_pos));
}

/* The first cell of the first block whose cells all are; -1 when there is none. */
static int64_t find_block(const commandr_kv_cache * cache, const int64_t * next_pos,
                          bool (*is)(const commandr_kv_cache *, int64_t, const int64_t *)) {
    for (int64_t first = 0; first < cache->size; first += BLOCK) { /* low ones first: graphs reach up to n_seen */
        int64_t cell = first;
        while (cell < first + BLOCK && cell < cache->size && is(cache, cell, next_pos)) {
            cell++;
        }
        if (cell == first + BLOCK || cell == cache->size) {
            return first;
        }
    }
    return -1;
}

static int64_t find_cell(const commandr_kv_cache * cache, const int64_t * next_pos, int32_t seq_id) {
    const int64_t next = cache->last[seq_id] + 1;
    if (next % BLOCK != 0 && next < cache->size && is_usable(cache, next, next_pos)) {
        return next;
    }
    int64_t block = find_block(cache, next_pos, is_free);
    if (block < 0 && cache->n_window > 0) {
        block = find_block(cache, next_pos, is_usable);
    }
    if (block >= 0) {
        return block;
    }
    for (int64_t cell = 0; cell < cache->size; cell++) {
        if (is_usable(cache, cell, next_pos)) {
            return cell;
        }
    }
    return -1;
}

int64_t commandr_kv_cache_take(commandr_kv_cache * cache, const int64_t * next_pos, int32_t seq_id, int64_t pos) {
    const int64_t cell = find_cell(cache, next_pos, seq_id);
    if (cell < 0) {
        return -1;
    }
    cache->n_used += cache->seqs[cell] == 0;
    cache->seqs[cell]   = (uint64_t) 1 << seq_id;
    cache->pos[cell]    = pos;
    cache->last[seq_id] = cell;
    cache->n_seen       = cell + 1 > cache->n_seen ? cell + 1 : cache->n_seen;
    return cell;
}

void commandr_kv_cache_seq_rm(commandr_kv_cache * cache, int32_t seq_id, int64_t pos) {
    const uint64_t bit    = (uint64_t) 1 << seq_id;
    int64_t        n_seen = 0;
    int64_t        last   = -1;
    for (int64_t c = 0; c < cache->n_seen; c++) {
        if ((cache->seqs[c] & bit) && cache->pos[c] >= pos) {
            cache->seqs[c] &= ~bit;
            if (cache->seqs[c] == 0) {
                cache->pos[c] = -1;
                cache->n_used--;
            }
        } else if ((cache->seqs[c] & bit) && (last < 0 || cache->pos[c] > cache->pos[last])) {
            last = c;
        }
        n_seen = cache->seqs[c] ? c + 1 : n_seen;
    }
    cache->n_seen       = n_seen;
    cache->last[seq_id] = last;
}

void commandr_kv_cache_seq_cp(commandr_kv_cache * cache, int32_t src, int32_t dst) {
    for (int64_t c = 0; c < cache->n_seen; c++) {
        cache->seqs[c] |= (cache->seqs[c] >> src & 1) << dst;
    }
    cache->last[dst] = cache->last[src];
}

/* Whether the sequence's positions first..end-1 all have cells. */
static bool holds(const commandr_kv_cache * cache, int32_t seq_id, int64_t first, int64_t end) {
    int64_t count = 0;
    for (int64_t c = 0; c < cache->n_seen; c++) {
        count += (cache->seqs[c] >> seq_id & 1) && cache->pos[c] >= first && cache->pos[c] < end;
    }
    return count == end - first;
}

static int64_t at_least_0(int64_t x) {
    return x > 0 ? x : 0;
}

bool commandr_kv_cache_complete(const commandr_kv_cache * cache, int32_t seq_id, int64_t n_keep) {
    return holds(cache, seq_id, cache->n_window ? at_least_0(n_keep - cache->n_window + 1) : 0, n_keep);
}

int64_t commandr_kv_cache_first(const commandr_kv_cache * cache, int32_t seq_id, int64_t length) {
    if (cache->n_window == 0) {
        return 0;
    }
    const int64_t seen  = at_least_0(length - cache->n_window + 1);
    const int64_t slack = at_least_0(seen - COMMANDR_WINDOW_SLACK);
    return holds(cache, seq_id, slack, length) ? slack : seen;
}
