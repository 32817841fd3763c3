/* Which cells sequences get: prints what is wrong and ends with exit code 1. */
#include "kernels/attention-tile.h"
#include "kv-cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIZE = 512, BLOCK = COMMANDR_BLOCK_CELLS };

static int64_t next_pos[COMMANDR_MAX_SEQS];

static void fail(const char * what) {
    printf("%s\n", what);
    exit(1);
}

static commandr_kv_cache make_cache(int64_t n_window) {
    commandr_kv_cache cache = {
        .size = SIZE, .n_window = n_window, .memory = { .size = SIZE, .n_held = SIZE }
    };
    cache.pos  = malloc(SIZE * sizeof(*cache.pos));
    cache.seqs = calloc(SIZE, sizeof(*cache.seqs));
    if (!cache.pos || !cache.seqs) {
        fail("out of memory");
    }
    memset(cache.pos, 0xff, SIZE * sizeof(*cache.pos));
    memset(cache.last, 0xff, sizeof(cache.last));
    memset(next_pos, 0, sizeof(next_pos));
    return cache;
}

static int64_t take(commandr_kv_cache * cache, int32_t seq_id) {
    const int64_t cell = commandr_kv_cache_take(cache, next_pos, seq_id, next_pos[seq_id]);
    next_pos[seq_id] += cell >= 0;
    return cell;
}

static void check_blocks_are_not_shared(void) {
    commandr_kv_cache cache = make_cache(0);
    for (int i = 0; i < 3 * 100; i++) {
        take(&cache, i % 3);
    }
    for (int64_t first = 0; first < SIZE; first += BLOCK) {
        uint64_t seqs = 0;
        for (int64_t cell = first; cell < first + BLOCK; cell++) {
            seqs |= cache.seqs[cell];
        }
        if (seqs & (seqs - 1)) {
            fail("two sequences share a block while others are free");
        }
    }
    for (int i = 3 * 100; i < SIZE; i++) {
        if (take(&cache, i % 3) < 0) {
            fail("a cell is free and was not given");
        }
    }
    if (cache.n_used != SIZE || take(&cache, 0) != -1) {
        fail("more cells were given than there are");
    }
}

static void check_a_shortened_sequence_goes_on_where_it_ends(void) {
    commandr_kv_cache cache = make_cache(0);
    int64_t           cells[100];
    for (int i = 0; i < 100; i++) {
        cells[i] = take(&cache, 1);
        take(&cache, 2);
    }
    commandr_kv_cache_seq_rm(&cache, 1, 70);
    next_pos[1] = 70;
    if (take(&cache, 1) != cells[70]) {
        fail("a shortened sequence does not go on behind its last cell");
    }
    commandr_kv_cache_seq_cp(&cache, 1, 3);
    next_pos[3] = next_pos[1];
    if (take(&cache, 1) != cells[71] || take(&cache, 3) / BLOCK == cells[71] / BLOCK) {
        fail("a copied sequence goes on in the other one's block");
    }
}

static void check_a_window_never_runs_out(void) {
    const int64_t     n_window = 100;
    commandr_kv_cache cache    = make_cache(n_window);
    for (int64_t i = 0; i < 2000; i++) {
        for (int32_t seq_id = 0; seq_id < 2; seq_id++) {
            if (take(&cache, seq_id) < 0) {
                fail("a window cache ran out of cells");
            }
            if (!commandr_kv_cache_complete(&cache, seq_id, next_pos[seq_id])) {
                fail("a cell that is still seen was taken over");
            }
        }
    }
}

int main(void) {
    check_blocks_are_not_shared();
    check_a_shortened_sequence_goes_on_where_it_ends();
    check_a_window_never_runs_out();
    return 0;
}
