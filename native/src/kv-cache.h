/* Cells that hold the keys and values of positions, for the layers that share one visibility rule.
 *
 * A session has one cache for layers that see everything and, for cohere2, one for layers with a sliding window. A cell
 * belongs to a position and to any number of sequences; sequences that share a prefix share its cells. Cells need not
 * be in order: a graph writes rows by index and the mask says who sees whom.
 *
 * In a window cache a cell may be taken over once every sequence in it is past seeing it by WINDOW_SLACK positions; so
 * the cache stays small, and a sequence can be shortened by up to WINDOW_SLACK tokens and go on. */
#ifndef COMMANDR_SRC_KV_CACHE_H
#define COMMANDR_SRC_KV_CACHE_H

#include "model.h"

#define COMMANDR_MAX_SEQS     64
#define COMMANDR_WINDOW_SLACK 64

typedef struct commandr_kv_cache {
    int64_t                 size;     /* cells */
    int64_t                 n_window; /* 0: every position sees all before it */
    int64_t *               pos;      /* [size], -1: free */
    uint64_t *              seqs;     /* [size], bit per sequence; 0: free */
    int64_t                 n_used;   /* cells with a sequence */
    int64_t                 n_seen;   /* cells below this index may be in use, none above */
    int64_t                 head;     /* where the search for free cells begins */
    int64_t                 n_layer;
    struct ggml_tensor **   k;    /* [n_layer], each [n_embd_kv, size]; NULL for layers of the other kind */
    struct ggml_tensor **   v;    /* the same */
    struct ggml_context **  ctxs; /* one per device */
    ggml_backend_buffer_t * buffers;
    int32_t                 n_buffers;
} commandr_kv_cache;

/* Rounded up so that graphs of neighboring lengths are the same graph and kernels have whole blocks. */
int64_t commandr_kv_pad(int64_t n_cells);

/* Cells of a window cache that never runs out. */
int64_t commandr_kv_window_size(int64_t n_swa, int64_t n_seq_max, int64_t n_ubatch);

/* window: for the layers with a sliding window, else for the others. On failure nothing stays allocated. */
commandr_status commandr_kv_cache_init(commandr_kv_cache * cache, const commandr_model * model, bool window,
                                       int64_t size, enum ggml_type type_k, enum ggml_type type_v);
void            commandr_kv_cache_free(commandr_kv_cache * cache); /* a zeroed one is allowed */

/* Bytes of buffer i: of a model that is only measured, those that it would take. */
int64_t commandr_kv_cache_bytes(const commandr_kv_cache * cache, int32_t i);

/* Finds n cells for new positions and writes their indices, without taking them. next_pos: [COMMANDR_MAX_SEQS], the
 * first position that each sequence has not computed yet. false when there are too few. */
bool commandr_kv_cache_find(commandr_kv_cache * cache, const int64_t * next_pos, int64_t n, int64_t * cells);

void commandr_kv_cache_take(commandr_kv_cache * cache, int64_t cell, int32_t seq_id, int64_t pos);

/* Forgets positions >= pos of a sequence. */
void commandr_kv_cache_seq_rm(commandr_kv_cache * cache, int32_t seq_id, int64_t pos);
void commandr_kv_cache_seq_cp(commandr_kv_cache * cache, int32_t src, int32_t dst);

/* Whether all that position n_keep of the sequence would see is still there. */
bool commandr_kv_cache_complete(const commandr_kv_cache * cache, int32_t seq_id, int64_t n_keep);

/* The first position worth saving of a sequence of this length: all after it is there, and the next token and those
 * of a short rollback see none before it. */
int64_t commandr_kv_cache_first(const commandr_kv_cache * cache, int32_t seq_id, int64_t length);

/* Does a token of the sequence at pos see the cell? */
static inline bool commandr_kv_cache_sees(const commandr_kv_cache * cache, int64_t cell, int32_t seq_id, int64_t pos) {
    return (cache->seqs[cell] >> seq_id & 1) && cache->pos[cell] <= pos &&
           (cache->n_window == 0 || pos - cache->pos[cell] < cache->n_window);
}

#endif
