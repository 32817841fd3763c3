#include "kv-cache.h"

#include "error.h"
#include "kernels/attention-tile.h"

#include <stdlib.h>
#include <string.h>

#define PAD        256
#define BLOCK      COMMANDR_BLOCK_CELLS
#define N_FIRST    512                 /* cells that a cache begins with */
#define STEP_BYTES ((int64_t) 1 << 30) /* most memory that is added at once, unless more is needed */

int64_t commandr_kv_pad(int64_t n_cells) {
    return (n_cells + PAD - 1) / PAD * PAD;
}

int64_t commandr_kv_window_size(int64_t n_swa, int64_t n_seq_max, int64_t n_ubatch) {
    return commandr_kv_pad(n_seq_max * (n_swa + COMMANDR_WINDOW_SLACK) + n_ubatch);
}

commandr_status commandr_kv_cache_init(commandr_kv_cache * cache, const commandr_model * model, bool window,
                                       int64_t size, enum ggml_type type_k, enum ggml_type type_v) {
    memset(cache, 0, sizeof(*cache));
    const int64_t n_held = size < N_FIRST ? size : N_FIRST;
    cache->size          = size;
    cache->n_window      = window ? model->hparams.n_swa : 0;

    commandr_status status = commandr_kv_memory_init(&cache->memory, model, window, size, n_held, type_k, type_v);
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
    if (status != COMMANDR_OK) {
        commandr_kv_cache_free(cache);
    }
    return status;
}

void commandr_kv_cache_free(commandr_kv_cache * cache) {
    commandr_kv_memory_free(&cache->memory);
    free(cache->pos);
    free(cache->seqs);
    memset(cache, 0, sizeof(*cache));
}

/* How many cells to add at once: as many as there are, but a GiB of them at most, or an eighth where that is more.
 * Where growing means copying, this keeps what is copied in proportion to what is held. */
static int64_t step(const commandr_kv_memory * memory) {
    const int64_t in_a_gib = memory->cell_size > 0 ? STEP_BYTES / (int64_t) memory->cell_size : memory->size;
    const int64_t most     = in_a_gib > memory->n_held / 8 ? in_a_gib : memory->n_held / 8;
    return most < memory->n_held ? most : memory->n_held;
}

static int64_t at_most(int64_t n, int64_t limit) {
    return n < limit ? n : limit;
}

commandr_status commandr_kv_cache_hold(commandr_kv_cache * cache, int64_t n, int64_t n_seqs) {
    commandr_kv_memory * memory = &cache->memory;
    const int64_t        least  = at_most(commandr_kv_pad(n), cache->size);
    const int64_t        roomy  = at_most(commandr_kv_pad(n + n_seqs * BLOCK), cache->size);
    if (roomy <= memory->n_held) {
        return COMMANDR_OK;
    }
    const int64_t more = at_most(commandr_kv_pad(memory->n_held + step(memory)), cache->size);
    if (commandr_kv_memory_grow(memory, more > roomy ? more : roomy, cache->n_touched) == COMMANDR_OK) {
        return COMMANDR_OK;
    }
    return least <= memory->n_held ? COMMANDR_OK : commandr_kv_memory_grow(memory, least, cache->n_touched);
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
    for (int64_t first = 0; first < cache->memory.n_held;
         first += BLOCK) { /* low ones first: graphs reach up to n_seen */
        int64_t cell = first;
        while (cell < first + BLOCK && cell < cache->memory.n_held && is(cache, cell, next_pos)) {
            cell++;
        }
        if (cell == first + BLOCK || cell == cache->memory.n_held) {
            return first;
        }
    }
    return -1;
}

static int64_t find_cell(const commandr_kv_cache * cache, const int64_t * next_pos, int32_t seq_id) {
    const int64_t next = cache->last[seq_id] + 1;
    if (next % BLOCK != 0 && next < cache->memory.n_held && is_usable(cache, next, next_pos)) {
        return next;
    }
    int64_t block = find_block(cache, next_pos, is_free);
    if (block < 0 && cache->n_window > 0) {
        block = find_block(cache, next_pos, is_usable);
    }
    if (block >= 0) {
        return block;
    }
    for (int64_t cell = 0; cell < cache->memory.n_held; cell++) {
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
    cache->n_touched    = cache->n_seen > cache->n_touched ? cache->n_seen : cache->n_touched;
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
