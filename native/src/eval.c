/* Evaluation: what is reused, what is computed in which ubatch, and where the outputs go. */
#include "error.h"
#include "kernels/attention.h"
#include "log.h"
#include "session.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- running one ubatch ---- */

/* How much of a cache a graph must look at: the cells in use, rounded up so that the next graphs have the same
 * shape. */
static int64_t kv_extent(const commandr_kv_cache * cache) {
    if (cache->n_buffers == 0) {
        return 0;
    }
    const int64_t n = commandr_kv_pad(cache->n_seen > 0 ? cache->n_seen : 1);
    return n < cache->size ? n : cache->size;
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

static void fill_mask(const commandr_session * s, const commandr_kv_cache * cache, struct ggml_tensor * mask) {
    if (!mask || !mask->buffer) {
        return;
    }
    const ggml_fp16_t visible = ggml_fp32_to_fp16(0.0f);
    const ggml_fp16_t hidden  = ggml_fp32_to_fp16(-INFINITY);
    const int64_t     n_kv    = mask->ne[0];
    for (int64_t t = 0; t < s->n_batch; t++) {
        ggml_fp16_t * row = (ggml_fp16_t *) mask->data + t * n_kv; /* inputs live in host memory */
        for (int64_t c = 0; c < n_kv; c++) {
            row[c] = commandr_kv_cache_sees(cache, c, s->batch_seq[t], s->batch_pos[t]) ? visible : hidden;
        }
    }
}

static commandr_status compute(commandr_session * s, int32_t outputs) {
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
    switch (ggml_backend_sched_graph_compute(s->backends.sched, s->graph.cgraph)) {
        case GGML_STATUS_SUCCESS: return s->imatrix ? commandr_imatrix_add(s->imatrix, s->n_batch) : COMMANDR_OK;
        case GGML_STATUS_ABORTED: return commandr_fail(COMMANDR_ERROR_CANCELLED, "the evaluation was cancelled");
        case GGML_STATUS_ALLOC_FAILED:
            return commandr_fail(COMMANDR_ERROR_MEMORY, "a backend ran out of memory while computing");
        default:
            return commandr_fail(COMMANDR_ERROR_BACKEND, "a backend failed to compute: %s", commandr_log_first_error());
    }
}

/* ---- cutting items into ubatches ---- */

/* One item on its way: tokens next.. of it are not computed yet. */
typedef struct progress {
    const commandr_eval_item * item;
    commandr_output_rows *     rows;
    int64_t                    next;
} progress;

/* Fills the ubatch from the items in turn until it is full of tokens or of outputs, and takes cells for its tokens. */
static commandr_status fill_batch(commandr_session * s, progress * items, int32_t n_items) {
    s->n_batch = 0;
    s->n_rows  = 0;
    int64_t next_pos[COMMANDR_MAX_SEQS];
    for (int32_t i = 0; i < COMMANDR_MAX_SEQS; i++) {
        next_pos[i] = s->seqs[i].n;
    }
    for (int32_t i = 0; i < n_items; i++) {
        const commandr_eval_item * item = items[i].item;
        for (int64_t pos = items[i].next; pos < item->n_tokens && s->n_batch < s->params.n_ubatch; pos++) {
            if (pos >= item->n_tokens - item->n_outputs) {
                if (s->n_rows == s->params.n_outputs) {
                    break;
                }
                s->batch_rows[s->n_rows++] = (int32_t) s->n_batch;
            }
            s->batch_tokens[s->n_batch] = item->tokens[pos];
            s->batch_pos[s->n_batch]    = (int32_t) pos;
            s->batch_seq[s->n_batch]    = item->seq_id;
            s->n_batch++;
        }
    }
    for (int which = 0; which < 2; which++) {
        commandr_kv_cache * cache = &s->caches[which];
        if (cache->size > 0 && !commandr_kv_cache_find(cache, next_pos, s->n_batch, s->batch_cells[which])) {
            return commandr_fail(COMMANDR_ERROR_CONTEXT, "the KV cache has no room for %" PRId64 " tokens", s->n_batch);
        }
    }
    for (int which = 0; which < 2; which++) {
        for (int64_t t = 0; t < s->n_batch && s->caches[which].size > 0; t++) {
            commandr_kv_cache_take(&s->caches[which], s->batch_cells[which][t], s->batch_seq[t], s->batch_pos[t]);
        }
    }
    return COMMANDR_OK;
}

/* The ubatch is computed: its tokens are held now. */
static void commit_batch(commandr_session * s) {
    for (int64_t t = 0; t < s->n_batch; t++) {
        commandr_sequence * seq = &s->seqs[s->batch_seq[t]];
        seq->tokens[seq->n++]   = s->batch_tokens[t]; /* room was made before the first ubatch */
    }
}

static void undo_batch(commandr_session * s) {
    for (int which = 0; which < 2; which++) {
        for (int32_t i = 0; i < s->params.n_seq_max; i++) {
            commandr_kv_cache_seq_rm(&s->caches[which], i, s->seqs[i].n);
        }
    }
}

/* Copies the ubatch's output rows to their items' places, and moves the items on. */
static void collect(commandr_session * s, progress * items, int32_t n_items) {
    const int64_t n_vocab = s->model->hparams.n_vocab;
    const int64_t n_embd  = s->model->hparams.n_embd;
    int64_t       row     = 0; /* of the graph's outputs */
    for (int32_t i = 0; i < n_items; i++) {
        const commandr_eval_item * item  = items[i].item;
        const int64_t              end   = s->seqs[item->seq_id].n;
        const int64_t              start = item->n_tokens - item->n_outputs;
        const int64_t              from  = items[i].next > start ? items[i].next : start;
        const int64_t              n     = end > from ? end - from : 0;
        if (n > 0) {
            const int64_t to = items[i].rows->first + (from - start);
            if (s->graph.logits) {
                commandr_head_read(&s->head, s->graph.logits, row, n, n_vocab, s->logits + to * n_vocab);
            }
            if (s->graph.hidden) {
                ggml_backend_tensor_get(s->graph.hidden, s->hidden + to * n_embd,
                                        (size_t) (row * n_embd) * sizeof(float), (size_t) (n * n_embd) * sizeof(float));
            }
            row += n;
        }
        items[i].next = end;
    }
}

static bool report(commandr_session * s) {
    return !s->params.progress || s->params.progress(s->n_done, s->n_total, s->params.progress_user_data);
}

static commandr_status compute_all(commandr_session * s, progress * items, int32_t n_items, int32_t outputs) {
    while (s->n_done < s->n_total) {
        if (atomic_load(&s->cancelled)) {
            return commandr_fail(COMMANDR_ERROR_CANCELLED, "the evaluation was cancelled");
        }
        commandr_status status = fill_batch(s, items, n_items);
        if (status == COMMANDR_OK) {
            status = compute(s, outputs);
        }
        if (status != COMMANDR_OK) {
            undo_batch(s);
            return status;
        }
        commit_batch(s);
        collect(s, items, n_items);
        s->n_done += s->n_batch;
        if (!report(s) && s->n_done < s->n_total) {
            return commandr_fail(COMMANDR_ERROR_CANCELLED, "the evaluation was cancelled");
        }
    }
    return COMMANDR_OK;
}

/* ---- before the first ubatch ---- */

static commandr_status check_items(const commandr_session * s, const commandr_eval_item * items, int32_t n_items,
                                   int32_t outputs) {
    if (!items || n_items < 1 || n_items > s->params.n_seq_max) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "n_items is %d, outside 1..%d, or items is NULL", n_items,
                             s->params.n_seq_max);
    }
    if (outputs & ~(COMMANDR_OUTPUT_LOGITS | COMMANDR_OUTPUT_HIDDEN)) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "outputs is %d; it is made of COMMANDR_OUTPUT_*", outputs);
    }
    const int64_t n_vocab   = s->model->hparams.n_vocab;
    uint64_t      seen      = 0;
    int64_t       n_outputs = 0;
    for (int32_t i = 0; i < n_items; i++) {
        const commandr_eval_item * item   = &items[i];
        const commandr_status      status = commandr_session_check_seq(s, item->seq_id);
        if (status != COMMANDR_OK) {
            return status;
        }
        if (seen >> item->seq_id & 1) {
            return commandr_fail(COMMANDR_ERROR_ARGUMENT, "seq_id %d stands in two items", item->seq_id);
        }
        seen |= (uint64_t) 1 << item->seq_id;
        if (!item->tokens || item->n_tokens < 1 || item->n_outputs < 0 || item->n_outputs > item->n_tokens) {
            return commandr_fail(COMMANDR_ERROR_ARGUMENT,
                                 "item %d has %" PRId64 " tokens and asks for %" PRId64
                                 " outputs; it needs a token and no more outputs than tokens",
                                 i, item->n_tokens, item->n_outputs);
        }
        if (item->n_tokens > s->params.n_ctx) {
            return commandr_fail(COMMANDR_ERROR_CONTEXT,
                                 "%" PRId64 " tokens do not fit in the context of %" PRId64 ": %" PRId64 " too many",
                                 item->n_tokens, s->params.n_ctx, item->n_tokens - s->params.n_ctx);
        }
        for (int64_t t = 0; t < item->n_tokens; t++) {
            if (item->tokens[t] < 0 || item->tokens[t] >= n_vocab) {
                return commandr_fail(COMMANDR_ERROR_ARGUMENT, "token %" PRId64 " of item %d is %d, outside 0..%" PRId64,
                                     t, i, item->tokens[t], n_vocab - 1);
            }
        }
        n_outputs += item->n_outputs;
    }
    if (n_outputs > s->params.n_batch) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "%" PRId64 " outputs are asked for at once; n_batch is %d",
                             n_outputs, s->params.n_batch);
    }
    return COMMANDR_OK;
}

/* How much of what the sequence holds stays: the common prefix, short of the first position with an output. */
static int64_t reusable(const commandr_session * s, const commandr_eval_item * item) {
    const commandr_sequence * seq   = &s->seqs[item->seq_id];
    const int64_t             bound = item->n_tokens - item->n_outputs;
    const int64_t             limit = seq->n < bound ? seq->n : bound;
    int64_t                   n     = 0;
    while (n < limit && seq->tokens[n] == item->tokens[n]) {
        n++;
    }
    return commandr_session_keepable(s, item->seq_id, n);
}

/* Cells that stay in use once each item's sequence is cut to what it keeps. */
static int64_t cells_kept(const commandr_session * s, const commandr_eval_item * items, const int64_t * n_keep,
                          int32_t n_items) {
    const commandr_kv_cache * cache                   = &s->caches[COMMANDR_CACHE_FULL];
    int64_t                   keep[COMMANDR_MAX_SEQS] = { 0 };
    for (int32_t i = 0; i < COMMANDR_MAX_SEQS; i++) {
        keep[i] = s->seqs[i].n;
    }
    for (int32_t i = 0; i < n_items; i++) {
        keep[items[i].seq_id] = n_keep[i];
    }
    int64_t n = 0;
    for (int64_t c = 0; c < cache->n_seen; c++) {
        bool stays = false;
        for (int32_t i = 0; i < s->params.n_seq_max && !stays; i++) {
            stays = (cache->seqs[c] >> i & 1) && cache->pos[c] < keep[i];
        }
        n += stays;
    }
    return n;
}

static commandr_status check_room(const commandr_session * s, const commandr_eval_item * items, const int64_t * n_keep,
                                  int32_t n_items) {
    int64_t n_new = 0;
    for (int32_t i = 0; i < n_items; i++) {
        n_new += items[i].n_tokens - n_keep[i];
    }
    if (n_new <= commandr_session_n_free(s)) {
        return COMMANDR_OK;
    }
    const int64_t over = cells_kept(s, items, n_keep, n_items) + n_new - s->params.n_ctx;
    return over <= 0 ? COMMANDR_OK
                     : commandr_fail(COMMANDR_ERROR_CONTEXT,
                                     "%" PRId64 " new tokens do not fit beside what the other sequences hold in the "
                                     "context of %" PRId64 ": %" PRId64 " too many",
                                     n_new, s->params.n_ctx, over);
}

static commandr_status reserve_floats(float ** buffer, int64_t * capacity, int64_t n) {
    if (n <= *capacity) {
        return COMMANDR_OK;
    }
    free(*buffer);
    *buffer   = malloc((size_t) n * sizeof(float));
    *capacity = *buffer ? n : 0;
    return *buffer ? COMMANDR_OK
                   : commandr_fail(COMMANDR_ERROR_MEMORY, "%.2f GiB for outputs cannot be allocated",
                                   (double) n * sizeof(float) / (1 << 30));
}

static commandr_status make_room(commandr_session * s, const commandr_eval_item * items, int32_t n_items,
                                 int32_t outputs) {
    int64_t         n_rows = 0;
    commandr_status status = COMMANDR_OK;
    for (int32_t i = 0; i < n_items && status == COMMANDR_OK; i++) {
        n_rows += items[i].n_outputs;
        status = commandr_sequence_reserve(&s->seqs[items[i].seq_id], items[i].n_tokens);
    }
    if (status == COMMANDR_OK && outputs & COMMANDR_OUTPUT_LOGITS) {
        status = reserve_floats(&s->logits, &s->logits_capacity, n_rows * s->model->hparams.n_vocab);
    }
    if (status == COMMANDR_OK && outputs & COMMANDR_OUTPUT_HIDDEN) {
        status = reserve_floats(&s->hidden, &s->hidden_capacity, n_rows * s->model->hparams.n_embd);
    }
    return status;
}

commandr_status commandr_session_eval(commandr_session * s, const commandr_eval_item * items, int32_t n_items,
                                      int32_t outputs) {
    commandr_status status = check_items(s, items, n_items, outputs);
    int64_t         n_keep[COMMANDR_MAX_SEQS];
    for (int32_t i = 0; i < n_items && status == COMMANDR_OK; i++) {
        n_keep[i] = reusable(s, &items[i]);
    }
    if (status == COMMANDR_OK) {
        status = check_room(s, items, n_keep, n_items);
    }
    commandr_session_drop_outputs(s);
    if (status == COMMANDR_OK) {
        status = make_room(s, items, n_items, outputs);
    }
    if (status != COMMANDR_OK) {
        return status;
    }

    progress             work[COMMANDR_MAX_SEQS];
    commandr_output_rows rows[COMMANDR_MAX_SEQS];
    int64_t              n_rows = 0;
    s->n_done                   = 0;
    s->n_total                  = 0;
    s->last_report              = 0.0;
    for (int32_t i = 0; i < n_items; i++) {
        commandr_session_truncate(s, items[i].seq_id, n_keep[i]);
        rows[i] = (commandr_output_rows) { .first = n_rows, .n = items[i].n_outputs, .n_reused = n_keep[i] };
        work[i] = (progress) { .item = &items[i], .rows = &rows[i], .next = n_keep[i] };
        n_rows += items[i].n_outputs;
        s->n_total += items[i].n_tokens - n_keep[i];
    }
    commandr_head_choose(s->model, items, n_items, &s->head);
    status = compute_all(s, work, n_items, outputs);
    if (status == COMMANDR_OK) {
        memcpy(s->items, rows, (size_t) n_items * sizeof(*rows));
        s->n_items    = n_items;
        s->has_logits = outputs & COMMANDR_OUTPUT_LOGITS;
        s->has_hidden = outputs & COMMANDR_OUTPUT_HIDDEN;
    }
    return status;
}

/* ---- outputs ---- */

/* The row of an item's output, -1 when there is none. */
static int64_t row_of(const commandr_session * s, int32_t item, int64_t i) {
    return item >= 0 && item < s->n_items && i >= 0 && i < s->items[item].n ? s->items[item].first + i : -1;
}

const float * commandr_session_logits(const commandr_session * s, int32_t item, int64_t i) {
    const int64_t row = row_of(s, item, i);
    return row >= 0 && s->has_logits ? s->logits + row * s->model->hparams.n_vocab : NULL;
}

const float * commandr_session_hidden(const commandr_session * s, int32_t item, int64_t i) {
    const int64_t row = row_of(s, item, i);
    return row >= 0 && s->has_hidden ? s->hidden + row * s->model->hparams.n_embd : NULL;
}

int64_t commandr_session_n_reused(const commandr_session * s, int32_t item) {
    return item >= 0 && item < s->n_items ? s->items[item].n_reused : 0;
}

/* ---- compute buffers ---- */

static commandr_status reserve_shape(commandr_session * s, int64_t n_tokens, int64_t n_outputs, int32_t outputs,
                                     int64_t n_head) {
    commandr_graph_shape shape;
    memset(&shape, 0, sizeof(shape));
    shape.n_tokens = n_tokens;
    for (int which = 0; which < 2; which++) {
        shape.n_kv[which] = s->caches[which].n_buffers > 0 ? s->caches[which].size : 0;
    }
    shape.n_outputs        = n_outputs;
    shape.outputs          = outputs;
    shape.n_head           = n_head;
    commandr_status status = build_graph(s, &shape);
    if (status != COMMANDR_OK) {
        return status;
    }
    commandr_log_clear_error();
    if (!ggml_backend_sched_reserve(s->backends.sched, s->graph.cgraph)) {
        return commandr_fail(COMMANDR_ERROR_MEMORY,
                             "compute buffers for n_ctx %" PRId64 " and n_ubatch %d cannot be allocated: %s",
                             s->params.n_ctx, s->params.n_ubatch, commandr_log_first_error());
    }
    return COMMANDR_OK;
}

commandr_status commandr_eval_reserve(commandr_session * s) {
    const int32_t   both   = COMMANDR_OUTPUT_LOGITS | COMMANDR_OUTPUT_HIDDEN;
    const int64_t   n_head = commandr_head_most(s->model);
    commandr_status status = reserve_shape(s, s->params.n_ubatch, s->params.n_outputs, both, 0);
    /* The most tokens for which attention keeps parts of long sums. */
    const int64_t n_parts = commandr_attention_max_parts(s->model->hparams.n_head, s->model->hparams.n_head_kv);
    if (status == COMMANDR_OK && s->params.n_ubatch > n_parts && n_parts > 1) {
        status = reserve_shape(s, n_parts, 1, both, 0);
    }
    if (status == COMMANDR_OK) {
        status = reserve_shape(s, 1, 1, both, 0);
    }
    if (status == COMMANDR_OK && n_head > 0) {
        status = reserve_shape(s, s->params.n_ubatch, s->params.n_outputs, COMMANDR_OUTPUT_LOGITS, n_head);
    }
    if (status == COMMANDR_OK) {
        status = reserve_shape(s, s->params.n_ubatch, s->params.n_outputs, both, 0);
    }
    ggml_backend_sched_reset(s->backends.sched);
    return status;
}
