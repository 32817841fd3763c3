/* Cells that hold the keys and values of positions, for the layers that share one visibility rule.
 *
 * A session has one cache for layers that see everything and, for cohere2, one for layers with a sliding window. A cell
 * belongs to a position and to any number of sequences; sequences that share a prefix share its cells. Cells need not
 * be in order: a graph writes rows by index and the mask says who sees whom.
 *
 * Each sequence fills blocks of cells of its own as long as there are free ones: attention skips a block of which a
 * token sees nothing, so that a token's time depends on its own sequence's length and not on how many others there are.
 *
 * In a window cache a cell may be taken over once every sequence in it is past seeing it by WINDOW_SLACK positions; so
 * the cache stays small, and a sequence can be shortened by up to WINDOW_SLACK tokens and go on.
 *
 * Cells get memory as they come into use: commandr_kv_cache_hold sees to it before they are looked for. */
#ifndef COMMANDR_SRC_KV_CACHE_H
#define COMMANDR_SRC_KV_CACHE_H

#include "kv-memory.h"
#include "model.h"

#define COMMANDR_MAX_SEQS     64
#define COMMANDR_WINDOW_SLACK 64

typedef struct commandr_kv_cache {
    int64_t            size;                    /* cells at most; 0: no such cache */
    int64_t            n_window;                /* 0: every position sees all before it */
    int64_t *          pos;                     /* [size], -1: free */
    uint64_t *         seqs;                    /* [size], bit per sequence; 0: free */
    int64_t            n_used;                  /* cells with a sequence */
    int64_t            n_seen;                  /* cells below this index may be in use, none above */
    int64_t            n_touched;               /* cells below this index may have been in use, none above */
    int64_t            last[COMMANDR_MAX_SEQS]; /* the cell of each sequence's last position, -1: none */
    commandr_kv_memory memory;                  /* the rows, by layer; those of layers of the other kind are NULL */
} commandr_kv_cache;

/* Rounded up so that graphs of neighboring lengths are the same graph and kernels have whole blocks. */
int64_t commandr_kv_pad(int64_t n_cells);

/* Cells of a window cache that never runs out. */
int64_t commandr_kv_window_size(int64_t n_swa, int64_t n_seq_max, int64_t n_ubatch);

/* window: for the layers with a sliding window, else for the others. size: a multiple of commandr_kv_pad. On failure
 * nothing stays allocated. */
commandr_status commandr_kv_cache_init(commandr_kv_cache * cache, const commandr_model * model, bool window,
                                       int64_t size, enum ggml_type type_k, enum ggml_type type_v);
void            commandr_kv_cache_free(commandr_kv_cache * cache); /* a zeroed one is allowed */

/* Sees to memory for n cells in use at once, for n_seqs blocks that are not full, and for more so that it need not be
 * done often; beyond size for size cells. MEMORY, when there is none for n cells, leaves the cache as it was. */
commandr_status commandr_kv_cache_hold(commandr_kv_cache * cache, int64_t n, int64_t n_seqs);

/* Takes a cell for a sequence's next position: a free one, or in a window cache one that may be taken over. next_pos:
 * [COMMANDR_MAX_SEQS], the first position that each sequence has not computed yet. -1 when there is none. */
int64_t commandr_kv_cache_take(commandr_kv_cache * cache, const int64_t * next_pos, int32_t seq_id, int64_t pos);

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
