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

/* The scores of rows lo..hi-1 with the block whose keys are in t->columns. */
PART void score_run(commandr_attention_tile * t, int64_t lo, int64_t hi) {
    const int64_t       dim_pad = t->dim_pad;
    const float * const q       = t->ordered;
    float (*const w)[BLOCK]     = t->weights;
    for (int c = 0; c < BLOCK; c += TILE_COLS * LANES) {
        int64_t r = lo;
        for (; r + TILE_ROWS <= hi; r += TILE_ROWS) {
            score_cells(TILE_ROWS, q + r * dim_pad, t->columns + c, dim_pad, w[r] + c);
        }
        for (; r < hi; r++) {
            score_cells(1, q + r * dim_pad, t->columns + c, dim_pad, w[r] + c);
        }
    }
}

/* Adds the weighted values of the block in t->rows to rows lo..hi-1; special: some values are not finite. */
PART void add_run(commandr_attention_tile * t, int64_t lo, int64_t hi, bool special) {
    const int64_t      dim_pad    = t->dim_pad;
    const char * const v          = (const char *) t->rows;
    const size_t       stride     = (size_t) dim_pad * sizeof(float);
    const float (*const w)[BLOCK] = t->weights;
    int64_t r                     = lo;
    for (; r < hi && special; r++) {
        add_special_values(w[r], t->rows, BLOCK, dim_pad, t->acc + r * dim_pad);
    }
    for (; r + TILE_ROWS <= hi; r += TILE_ROWS) {
        add_values(TILE_ROWS, false, w[r], v, stride, BLOCK, dim_pad, t->acc + r * dim_pad);
    }
    for (; r < hi; r++) {
        add_values(1, false, w[r], v, stride, BLOCK, dim_pad, t->acc + r * dim_pad);
    }
}

/* Many rows of one KV head: its cells are converted once for all, keys transposed. */
TARGET
static void attend_many(commandr_attention_tile * t, int64_t begin, int64_t end) {
    const int64_t dim_pad = t->dim_pad;
    float * const rows    = t->rows;
    f32v          sums[COMMANDR_ATTENTION_ROWS];
    memset(sums, 0, sizeof(sums));
    clear(t);
    reorder_queries(t, t->ordered);
    for (int64_t first = begin; first < end; first += BLOCK) {
        seeing_rows seeing;
        find_seeing(t, t->n_rows, first, &seeing);
        if (seeing.n == 0) {
            continue;
        }
        read_cells(t->k, t->head, first, BLOCK, end, dim_pad, rows);
        transpose(rows, dim_pad, t->columns);
        for (int64_t i = 0; i < seeing.n; i++) {
            score_run(t, seeing.runs[i].lo, seeing.runs[i].hi);
            weigh_rows(t, seeing.runs[i].lo, seeing.runs[i].hi, first, end, sums);
        }
        read_cells(t->v, t->head, first, BLOCK, end, dim_pad, rows);
        const bool special = any_special(rows, BLOCK * dim_pad);
        for (int64_t i = 0; i < seeing.n; i++) {
            add_run(t, seeing.runs[i].lo, seeing.runs[i].hi, special);
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
