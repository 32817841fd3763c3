/* What an evaluation is asked for: whether it can be done, and how much of it is done already. */
#include "error.h"
#include "session.h"

#include <inttypes.h>

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

static int64_t count_new(const commandr_eval_item * items, const int64_t * n_keep, int32_t n_items) {
    int64_t n_new = 0;
    for (int32_t i = 0; i < n_items; i++) {
        n_new += items[i].n_tokens - n_keep[i];
    }
    return n_new;
}

static commandr_status check_room(const commandr_session * s, const commandr_eval_item * items, const int64_t * n_keep,
                                  int32_t n_items) {
    const int64_t n_new = count_new(items, n_keep, n_items);
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

void commandr_eval_count_cells(const commandr_session * s, const commandr_eval_item * items, int32_t n_items,
                               const int64_t * n_keep, int64_t n_cells[2]) {
    const commandr_kv_cache * full  = &s->caches[COMMANDR_CACHE_FULL];
    const int64_t             n_new = count_new(items, n_keep, n_items);
    n_cells[COMMANDR_CACHE_FULL]    = full->n_used + n_new;
    if (n_cells[COMMANDR_CACHE_FULL] > full->memory.n_held) { /* else what is given up before makes no difference */
        n_cells[COMMANDR_CACHE_FULL] = cells_kept(s, items, n_keep, n_items) + n_new;
    }
    /* The window cache gives cells up on its way; it does so only when it has all of its own. */
    n_cells[COMMANDR_CACHE_WINDOW] = s->caches[COMMANDR_CACHE_WINDOW].n_used + n_new;
}

commandr_status commandr_eval_check(const commandr_session * s, const commandr_eval_item * items, int32_t n_items,
                                    int32_t outputs, int64_t * n_keep) {
    const commandr_status status = check_items(s, items, n_items, outputs);
    for (int32_t i = 0; i < n_items && status == COMMANDR_OK; i++) {
        n_keep[i] = reusable(s, &items[i]);
    }
    return status == COMMANDR_OK ? check_room(s, items, n_keep, n_items) : status;
}
