/* What a session holds, shared by its parts: session.c (life), sequences.c, eval-items.c, eval.c and ubatch.c
 * (computing, from the whole to one graph), state.c and state-layout.c (files). */
#ifndef COMMANDR_SRC_SESSION_H
#define COMMANDR_SRC_SESSION_H

#include "backends.h"
#include "graph.h"
#include "head.h"
#include "kv-cache.h"
#include "model.h"

#include <stdatomic.h>

typedef struct commandr_sequence {
    int32_t * tokens; /* [capacity], the first n held */
    int64_t   n;
    int64_t   capacity;
} commandr_sequence;

/* The outputs of one item: rows first..first+n-1 of the buffers. */
typedef struct commandr_output_rows {
    int64_t first;
    int64_t n;
    int64_t n_reused;
} commandr_output_rows;

struct commandr_session {
    commandr_model *        model;
    commandr_session_params params; /* with every default filled in */
    bool                    flash_attn;
    bool                    is_measured; /* measure.c: nothing is allocated on devices, and nothing can be computed */
    size_t                  compute_sizes[COMMANDR_MAX_BACKENDS]; /* when measured: bytes for each backend */

    commandr_backends backends;
    commandr_kv_cache caches[2];
    commandr_sequence seqs[COMMANDR_MAX_SEQS];

    /* The last graph, kept while batches have the same shape. */
    void *                graph_memory;
    size_t                graph_memory_size;
    struct ggml_context * graph_ctx;
    commandr_graph        graph;
    commandr_graph_shape  graph_shape;
    bool                  reserve_due; /* compute buffers are smaller than the graphs that there may be */
    bool                  graph_ready;

    /* The ubatch being computed, [n_ubatch] each. */
    int32_t * batch_tokens;
    int32_t * batch_pos;
    int32_t * batch_seq;
    int32_t * batch_rows;
    int64_t * batch_cells[2];
    int64_t   n_batch;
    int64_t   n_rows;

    commandr_head_list head; /* of the evaluation in progress */

    /* Outputs of the last evaluation. */
    float *              logits;
    float *              hidden;
    int64_t              logits_capacity; /* floats */
    int64_t              hidden_capacity;
    bool                 has_logits;
    bool                 has_hidden;
    int32_t              n_items;
    commandr_output_rows items[COMMANDR_MAX_SEQS];

    commandr_imatrix * imatrix; /* NULL when none is to be collected */

    atomic_bool cancelled;
    int64_t     n_done; /* of the evaluation in progress */
    int64_t     n_total;
    double      last_report; /* seconds */
};

/* Drops the outputs of the last evaluation: the session is about to change. */
void commandr_session_drop_outputs(commandr_session * session);

/* ---- sequences.c ---- */

/* Checks a sequence's number. */
commandr_status commandr_session_check_seq(const commandr_session * session, int32_t seq_id);

/* Makes room for n tokens in a sequence's token list. */
commandr_status commandr_sequence_reserve(commandr_sequence * seq, int64_t n);

/* How many of the first n tokens a sequence holds can be kept so that computing goes on from there. */
int64_t commandr_session_keepable(const commandr_session * session, int32_t seq_id, int64_t n);

/* Shortens a sequence in tokens and caches to what commandr_session_keepable says of n_keep: a sequence that holds
 * anything can always go on from its end. */
void commandr_session_truncate(commandr_session * session, int32_t seq_id, int64_t n_keep);

/* ---- computing ---- */

/* eval-items.c: checks what commandr_session_eval is asked for. On success n_keep[i], of COMMANDR_MAX_SEQS, is how many
 * of item i's tokens stay as they are held: the common prefix, short of the first position with an output. */
commandr_status commandr_eval_check(const commandr_session * session, const commandr_eval_item * items, int32_t n_items,
                                    int32_t outputs, int64_t * n_keep);

/* eval-items.c: how many cells of each cache will be in use once the items are computed. */
void commandr_eval_count_cells(const commandr_session * session, const commandr_eval_item * items, int32_t n_items,
                               const int64_t * n_keep, int64_t n_cells[2]);

/* ubatch.c: computes the ubatch. outputs: COMMANDR_OUTPUT_*, for its n_rows rows. */
commandr_status commandr_ubatch_compute(commandr_session * session, int32_t outputs);

/* ubatch.c: allocates compute buffers for the largest graphs of the rows that the caches have, so that nothing is
 * allocated before they have more. */
commandr_status commandr_ubatch_reserve(commandr_session * session);

/* ubatch.c: sees to memory for so many cells of each cache in use at once, and for graphs that reach over them. n_seqs:
 * sequences that will hold some. MEMORY leaves all sequences as they were. */
commandr_status commandr_session_hold(commandr_session * session, const int64_t n_cells[2], int32_t n_seqs);

#endif
