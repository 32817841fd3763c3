/* The body of kernels/attention-{avx512,avx2,portable}.c, which define
 *
 *     TARGET, ATTEND              attribute and name of the function
 *     LANES                       floats in a vector: 4, 8 or 16
 *     TILE_ROWS, TILE_COLS        rows by vectors of a product's sums that stay in registers
 *     FEW_ROWS                    the same by 4 cells or ONE_COLS / FEW_ROWS vectors of values
 *     ONE_COLS                    vectors of sums when there is one row only
 *     MULTIPLY_ADD(a, b, c)       a b + c
 *     LARGER(a, b)                a > b ? a : b
 *     FROM_HALVES(at)             LANES half floats as floats
 *     FROM_BYTES(at)              LANES signed bytes as floats
 *
 * Scores and sums come out of two loops each, for few rows of a KV head and for many, with the same operations on
 * each number in the same order: a row's bits do not depend on how many it is computed with. */

#include "kernels/attention-few.h"

/* Queries in the order of transposed keys. */
PART void reorder_queries(const commandr_attention_tile * t, float * to) {
    for (int64_t r = 0; r < t->n_rows; r++) {
        for (int64_t d = 0; d < t->dim_pad; d++) {
            to[r * t->dim_pad + place_of(d, t->dim_pad)] = t->q[r * t->dim_pad + d];
        }
    }
}

/* Many rows of one KV head: its cells are converted once for all, keys transposed. */
TARGET
static void attend_many(commandr_attention_tile * t, int64_t begin, int64_t end) {
    const int64_t dim_pad   = t->dim_pad;
    float * const rows      = t->rows;
    float * const q         = t->ordered;
    float (*const w)[BLOCK] = t->weights;
    f32v sums[COMMANDR_ATTENTION_ROWS];
    memset(sums, 0, sizeof(sums));
    clear(t);
    reorder_queries(t, q);
    for (int64_t first = begin; first < end; first += BLOCK) {
        int64_t lo = 0; /* rows lo..hi-1 see some of the block */
        int64_t hi = t->n_rows;
        while (lo < hi && seen_by(t, lo, first) == COMMANDR_SEES_NONE) {
            lo++;
        }
        while (lo < hi && seen_by(t, hi - 1, first) == COMMANDR_SEES_NONE) {
            hi--;
        }
        if (lo == hi) {
            continue;
        }
        read_cells(t->k, t->head, first, BLOCK, end, dim_pad, rows);
        transpose(rows, dim_pad, t->columns);
        for (int c = 0; c < BLOCK; c += TILE_COLS * LANES) {
            int64_t r = lo;
            for (; r + TILE_ROWS <= hi; r += TILE_ROWS) {
                score_cells(TILE_ROWS, q + r * dim_pad, t->columns + c, dim_pad, w[r] + c);
            }
            for (; r < hi; r++) {
                score_cells(1, q + r * dim_pad, t->columns + c, dim_pad, w[r] + c);
            }
        }
        weigh_block(t, lo, hi, first, end, sums);
        read_cells(t->v, t->head, first, BLOCK, end, dim_pad, rows);
        const char * v       = (const char *) rows;
        const size_t stride  = (size_t) dim_pad * sizeof(float);
        const bool   special = any_special(rows, BLOCK * dim_pad);
        int64_t      r       = lo;
        for (; r < hi && special; r++) {
            add_special_values(w[r], rows, BLOCK, dim_pad, t->acc + r * dim_pad);
        }
        for (; r + TILE_ROWS <= hi; r += TILE_ROWS) {
            add_values(TILE_ROWS, false, w[r], v, stride, BLOCK, dim_pad, t->acc + r * dim_pad);
        }
        for (; r < hi; r++) {
            add_values(1, false, w[r], v, stride, BLOCK, dim_pad, t->acc + r * dim_pad);
        }
    }
    add_partial_sums(t, sums);
}

TARGET
void ATTEND(commandr_attention_tile * t, int64_t begin, int64_t end) {
    if (t->n_rows / t->n_heads > COMMANDR_FEW_ROWS) {
        attend_many(t, begin, end);
        return;
    }
    attend_few(t, begin, end, false);
    if (any_special(t->acc, t->n_rows * t->dim_pad)) {
        attend_few(t, begin, end, true); /* cells that nobody sees may hold anything */
    }
}
