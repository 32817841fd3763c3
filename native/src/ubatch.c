/* One ubatch: its graph, the graph's memory and inputs, and running it. */
#include "error.h"
#include "kernels/attention.h"
#include "log.h"
#include "session.h"
#include "threads.h"
#include "workers.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define LARGE_MASK ((int64_t) 4 << 20) /* cells */

/* How much of a cache a graph must look at: the cells in use, rounded up so that the next graphs have the same
 * shape. */
static int64_t kv_extent(const commandr_kv_cache * cache) {
    return cache->memory.n_rows > 0 ? commandr_kv_pad(cache->n_seen > 0 ? cache->n_seen : 1) : 0;
}

static commandr_status build_graph(commandr_session * s, const commandr_graph_shape * shape) {
    ggml_free(s->graph_ctx);
    s->graph_ready = false;
    s->graph_ctx   = ggml_init((struct ggml_init_params) { s->graph_memory_size, s->graph_memory, true });
    if (!s->graph_ctx) {
        return commandr_fail(COMMANDR_ERROR_MEMORY, "out of memory for a graph");
    }
    s->graph_shape = *shape;
    s->graph = commandr_graph_build(s->graph_ctx, s->model, s->caches, &s->graph_shape, s->flash_attn, s->imatrix);
    ggml_backend_sched_reset(s->backends.sched);
    /* Our own operations run here, whatever devices say: ggml's RPC takes all, and would send a function's address. */
    for (int i = 0; i < ggml_graph_n_nodes(s->graph.cgraph); i++) {
        struct ggml_tensor * node = ggml_graph_node(s->graph.cgraph, i);
        if (node->op == GGML_OP_CUSTOM) {
            ggml_backend_sched_set_tensor_backend(s->backends.sched, node, s->backends.list[s->backends.n - 1]);
        }
    }
    return COMMANDR_OK;
}

/* The graph for a shape, with its memory: the last one when the shape is the same. */
static commandr_status prepare_graph(commandr_session * s, const commandr_graph_shape * shape) {
    if (s->graph_ready && memcmp(&s->graph_shape, shape, sizeof(*shape)) == 0) {
        return COMMANDR_OK;
    }
    const commandr_status status = build_graph(s, shape);
    if (status != COMMANDR_OK) {
        return status;
    }
    commandr_log_clear_error();
    if (!ggml_backend_sched_alloc_graph(s->backends.sched, s->graph.cgraph)) {
        s->reserve_due = true;
        return commandr_fail(COMMANDR_ERROR_MEMORY, "memory for a graph of %" PRId64 " tokens cannot be allocated: %s",
                             shape->n_tokens, commandr_log_first_error());
    }
    s->graph_ready = true;
    return COMMANDR_OK;
}

static void set_input(struct ggml_tensor * t, const void * data) {
    if (t && t->buffer) { /* an input that the graph does not use has no memory */
        ggml_backend_tensor_set(t, data, 0, ggml_nbytes(t));
    }
}

typedef struct masking {
    const commandr_session *  session;
    const commandr_kv_cache * cache;
    struct ggml_tensor *      mask;
} masking;

static void fill_mask_rows(void * ctx, int64_t begin, int64_t end) {
    const masking *          job     = ctx;
    const commandr_session * s       = job->session;
    const ggml_fp16_t        visible = ggml_fp32_to_fp16(0.0f);
    const ggml_fp16_t        hidden  = ggml_fp32_to_fp16(-INFINITY);
    const int64_t            n_kv    = job->mask->ne[0];
    for (int64_t t = begin; t < end; t++) {
        ggml_fp16_t * row = (ggml_fp16_t *) job->mask->data + t * n_kv; /* inputs live in host memory */
        for (int64_t c = 0; c < n_kv; c++) {
            row[c] = commandr_kv_cache_sees(job->cache, c, s->batch_seq[t], s->batch_pos[t]) ? visible : hidden;
        }
    }
}

static void fill_mask(const commandr_session * s, const commandr_kv_cache * cache, struct ggml_tensor * mask) {
    if (mask && mask->buffer) {
        masking job = { s, cache, mask };
        /* Of a long context it takes tens of milliseconds: nothing beside a CPU's layers, but not beside a card's. */
        const bool is_large = s->n_batch * mask->ne[0] >= LARGE_MASK;
        commandr_parallel_for(is_large ? s->params.n_threads : 1, s->n_batch, 8, fill_mask_rows, &job);
    }
}

/* A worker is sent what it is to compute, and nobody waits for it unless something is read. What comes next would pile
 * up before it, and look as if its host were gone. */
static void wait_for_worker(const commandr_session * s) {
    const int64_t             last  = s->model->hparams.n_layer - 1;
    const commandr_kv_cache * cache = &s->caches[s->model->layers[last].has_window ? COMMANDR_CACHE_WINDOW : 0];
    if (s->n_rows == 0 && commandr_is_worker(s->model->layers[last].dev)) {
        uint8_t first[4];
        ggml_backend_tensor_get(cache->memory.layers[last].k, first, 0, sizeof(first));
    }
}

commandr_status commandr_ubatch_compute(commandr_session * s, int32_t outputs) {
    commandr_graph_shape shape;
    memset(&shape, 0, sizeof(shape)); /* padding too: shapes are compared as bytes */
    shape.n_tokens         = s->n_batch;
    shape.n_kv[0]          = kv_extent(&s->caches[0]);
    shape.n_kv[1]          = kv_extent(&s->caches[1]);
    shape.n_outputs        = s->n_rows;
    shape.outputs          = s->n_rows > 0 ? outputs : 0;
    shape.n_head           = shape.outputs & COMMANDR_OUTPUT_LOGITS ? s->head.n_padded : 0;
    commandr_status status = prepare_graph(s, &shape);
    if (status != COMMANDR_OK) {
        return status;
    }
    set_input(s->graph.tokens, s->batch_tokens);
    set_input(s->graph.pos, s->batch_pos);
    set_input(s->graph.rows, s->batch_rows);
    set_input(s->graph.head_ids, s->head.ids);
    for (int which = 0; which < 2; which++) {
        set_input(s->graph.cells[which], s->batch_cells[which]);
        fill_mask(s, &s->caches[which], s->graph.mask[which]);
    }
    const enum ggml_status computed = ggml_backend_sched_graph_compute(s->backends.sched, s->graph.cgraph);
    if (computed == GGML_STATUS_SUCCESS) {
        wait_for_worker(s);
    }
    switch (computed) {
        case GGML_STATUS_SUCCESS: return s->imatrix ? commandr_imatrix_add(s->imatrix, s->n_batch) : COMMANDR_OK;
        case GGML_STATUS_ABORTED: return commandr_fail(COMMANDR_ERROR_CANCELLED, "the evaluation was cancelled");
        case GGML_STATUS_ALLOC_FAILED:
            return commandr_fail(COMMANDR_ERROR_MEMORY, "a backend ran out of memory while computing");
        default:
            return commandr_fail(COMMANDR_ERROR_BACKEND, "a backend failed to compute: %s", commandr_log_first_error());
    }
}

/* ---- compute buffers ---- */

/* What a graph would take, without taking it. */
static void measure(commandr_session * s) {
    size_t sizes[COMMANDR_MAX_BACKENDS];
    ggml_backend_sched_reserve_size(s->backends.sched, s->graph.cgraph, sizes);
    for (int32_t i = 0; i < s->backends.n; i++) {
        bool is_shared = false; /* with a backend before it that has the same type of buffer, as BLAS and the CPU */
        for (int32_t k = 0; k < i; k++) {
            is_shared = is_shared || ggml_backend_sched_get_buffer_type(s->backends.sched, s->backends.list[k]) ==
                                         ggml_backend_sched_get_buffer_type(s->backends.sched, s->backends.list[i]);
        }
        if (!is_shared && sizes[i] > s->compute_sizes[i]) {
            s->compute_sizes[i] = sizes[i];
        }
    }
}

/* n_kv: of each cache */
static commandr_status reserve_shape(commandr_session * s, const int64_t n_kv[2], int64_t n_tokens, int64_t n_outputs,
                                     int32_t outputs, int64_t n_head) {
    commandr_graph_shape shape;
    memset(&shape, 0, sizeof(shape));
    shape.n_tokens = n_tokens;
    for (int which = 0; which < 2; which++) {
        shape.n_kv[which] = n_kv[which];
    }
    shape.n_outputs        = n_outputs;
    shape.outputs          = outputs;
    shape.n_head           = n_head;
    commandr_status status = build_graph(s, &shape);
    if (status != COMMANDR_OK) {
        return status;
    }
    if (s->is_measured) {
        measure(s);
        return COMMANDR_OK;
    }
    commandr_log_clear_error();
    if (!ggml_backend_sched_reserve(s->backends.sched, s->graph.cgraph)) {
        return commandr_fail(COMMANDR_ERROR_MEMORY,
                             "compute buffers for n_ctx %" PRId64 " and n_ubatch %d cannot be allocated: %s",
                             s->params.n_ctx, s->params.n_ubatch, commandr_log_first_error());
    }
    return COMMANDR_OK;
}

/* The graphs of n tokens that take most: each of the forms that outputs and head have. What is reserved last is the whole
 * head with as many outputs as there may be. */
static commandr_status reserve_tokens(commandr_session * s, const int64_t n_kv[2], int64_t n) {
    const int32_t   both      = COMMANDR_OUTPUT_LOGITS | COMMANDR_OUTPUT_HIDDEN;
    const int64_t   n_head    = commandr_head_most(s->model);
    const int64_t   n_outputs = n < s->params.n_outputs ? n : s->params.n_outputs;
    commandr_status status    = COMMANDR_OK;
    if (n_outputs > 1) { /* fewer outputs than tokens are one input more */
        status = reserve_shape(s, n_kv, n, 1, both, 0);
    }
    if (status == COMMANDR_OK && n_outputs > 1 && n_head > 0) {
        status = reserve_shape(s, n_kv, n, 1, both, n_head);
    }
    if (status == COMMANDR_OK && n_head > 0) {
        status = reserve_shape(s, n_kv, n, n_outputs, both, n_head);
    }
    return status == COMMANDR_OK ? reserve_shape(s, n_kv, n, n_outputs, both, 0) : status;
}

static commandr_status reserve(commandr_session * s, const int64_t n_kv[2]) {
    /* The most tokens for which attention keeps parts of long sums: they may take more memory than a whole ubatch. */
    const int64_t   n_parts = commandr_attention_max_parts(s->model->hparams.n_head, s->model->hparams.n_head_kv);
    commandr_status status  = reserve_tokens(s, n_kv, 1);
    if (status == COMMANDR_OK && n_parts > 1 && n_parts < s->params.n_ubatch) {
        status = reserve_tokens(s, n_kv, n_parts);
    }
    if (status == COMMANDR_OK && s->params.n_ubatch > COMMANDR_JOINED) {
        status = reserve_tokens(s, n_kv, COMMANDR_JOINED);
    }
    if (status == COMMANDR_OK && s->params.n_ubatch > 1) {
        status = reserve_tokens(s, n_kv, s->params.n_ubatch);
    }
    ggml_backend_sched_reset(s->backends.sched);
    return status;
}

commandr_status commandr_ubatch_reserve(commandr_session * s) {
    const int64_t n_rows[2] = { s->caches[0].memory.n_rows, s->caches[1].memory.n_rows };
    return reserve(s, n_rows);
}

/* Where there is no memory for graphs over all rows, graphs over the cells that are wanted now may still fit. */
static commandr_status reserve_again(commandr_session * s, const int64_t n_cells[2]) {
    commandr_status status = commandr_ubatch_reserve(s);
    if (status == COMMANDR_ERROR_MEMORY) {
        int64_t n_kv[2];
        for (int which = 0; which < 2; which++) {
            const commandr_kv_cache * cache  = &s->caches[which];
            const int64_t             n_rows = cache->memory.n_rows;
            const int64_t             wanted = kv_extent(cache) > n_cells[which] ? kv_extent(cache) : n_cells[which];
            n_kv[which]                      = commandr_kv_pad(wanted) < n_rows ? commandr_kv_pad(wanted) : n_rows;
        }
        status = reserve(s, n_kv);
    }
    return status;
}

commandr_status commandr_session_hold(commandr_session * s, const int64_t n_cells[2], int32_t n_seqs) {
    commandr_status status   = COMMANDR_OK;
    bool            has_more = false; /* rows, so that graphs may become larger */
    for (int32_t i = 0; i < s->params.n_seq_max; i++) {
        n_seqs += s->seqs[i].n > 0;
    }
    for (int which = 0; which < 2 && status == COMMANDR_OK; which++) {
        commandr_kv_memory * memory  = &s->caches[which].memory;
        const int64_t        n_rows  = memory->n_rows;
        const int64_t        n_moved = memory->n_moved;
        status                       = commandr_kv_cache_hold(&s->caches[which], n_cells[which], n_seqs);
        has_more                     = has_more || memory->n_rows > n_rows;
        s->graph_ready               = s->graph_ready && memory->n_moved == n_moved; /* it points to the tensors */
    }
    s->reserve_due = s->reserve_due || has_more;
    if (status == COMMANDR_OK && s->reserve_due) {
        status         = reserve_again(s, n_cells);
        s->reserve_due = status != COMMANDR_OK; /* ggml has given up the buffers that it had */
    }
    return status;
}
