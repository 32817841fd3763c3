/* Evaluation: cutting items into ubatches, and where their outputs go. */
#include "error.h"
#include "session.h"
#include "worker-guard.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

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
        for (int64_t t = 0; t < s->n_batch && s->caches[which].size > 0; t++) {
            const int64_t cell = commandr_kv_cache_take(&s->caches[which], next_pos, s->batch_seq[t], s->batch_pos[t]);
            if (cell < 0) {
                return commandr_fail(COMMANDR_ERROR_CONTEXT, "the KV cache has no room for %" PRId64 " tokens",
                                     s->n_batch);
            }
            s->batch_cells[which][t] = cell;
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
            status = commandr_ubatch_compute(s, outputs);
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

static commandr_status eval_items(commandr_session * s, const commandr_eval_item * items, int32_t n_items,
                                  int32_t outputs) {
    int64_t         n_keep[COMMANDR_MAX_SEQS];
    commandr_status status = commandr_eval_check(s, items, n_items, outputs, n_keep);
    commandr_session_drop_outputs(s);
    if (status == COMMANDR_OK) {
        status = make_room(s, items, n_items, outputs);
    }
    if (status == COMMANDR_OK) { /* all at once: a long prompt fails before it is computed, if it fails */
        int64_t n_cells[2];
        commandr_eval_count_cells(s, items, n_items, n_keep, n_cells);
        status = commandr_session_hold(s, n_cells, n_items);
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

commandr_status commandr_session_eval(commandr_session * s, const commandr_eval_item * items, int32_t n_items,
                                      int32_t outputs) {
    commandr_guard  guard;
    commandr_status status = commandr_model_check(s->model);
    if (status != COMMANDR_OK) {
        commandr_session_drop_outputs(s);
    } else if (COMMANDR_GUARD_BEGIN(guard)) {
        status = eval_items(s, items, n_items, outputs);
        commandr_guard_end(&guard);
    } else {
        commandr_session_drop_outputs(s);
        status = commandr_model_lost(s->model);
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
