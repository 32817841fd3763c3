/* The body of kernels/attention-{avx512,avx2,portable}.c, which define
 *
 *     TARGET, ATTEND              attribute and name of the function
 *     LANES                       floats in a vector: 4, 8 or 16
 *     TILE_ROWS, TILE_COLS        rows by vectors of a product's sums that stay in registers
 *     FEW_COLS                    vectors of sums when there is one row only
 *     MULTIPLY_ADD(a, b, c)       a b + c
 *     LARGER(a, b)                a > b ? a : b
 *     FROM_HALVES(at)             LANES half floats as floats
 *     FROM_BYTES(at)              LANES signed bytes as floats
 *
 * Scores and sums come out of two loops each, for few rows and for many, with the same operations on each number in the
 * same order: a row's bits do not depend on how many it is computed with. */

#include "kernels/attention-products.h"

enum {
    FEW_ROWS  = 8, /* up to here it is quicker to leave the keys as they lie than to transpose them */
    FEW_CELLS = 16 /* then so many are read at a time: reading from memory and computing overlap */
};

/* ---- cells as floats ---- */

/* Blocks of a half float and 32 bytes that it scales. */
PART void read_q8_0(const char * row, int64_t dim, float * to) {
    for (int64_t d = 0; d < dim; d += 32, row += 34) {
        const f32v scale = same(FROM_HALVES((const ggml_fp16_t *) row)[0]); /* the rest are bytes of the block */
        UNROLL
        for (int i = 0; i < 32; i += LANES) {
            store(to + d + i, FROM_BYTES((const int8_t *) row + 2 + i) * scale);
        }
    }
}

/* One row of the cache as floats: [dim_pad], 0 beyond the head's dimensions. */
PART void read_row(const struct ggml_tensor * cache, const char * row, int64_t dim_pad, float * to) {
    const int64_t dim = cache->ne[0];
    if (cache->type == GGML_TYPE_F16 && dim == dim_pad) {
        for (int64_t i = 0; i < dim_pad; i += LANES) {
            store(to + i, FROM_HALVES((const ggml_fp16_t *) row + i));
        }
        return;
    }
    memset(to + dim_pad - COMMANDR_DIM_PAD, 0, COMMANDR_DIM_PAD * sizeof(float));
    if (cache->type == GGML_TYPE_F32) {
        memcpy(to, row, (size_t) dim * sizeof(float));
    } else if (cache->type == GGML_TYPE_Q8_0) {
        read_q8_0(row, dim, to);
    } else {
        ggml_get_type_traits(cache->type)->to_float(row, to, dim);
    }
}

PART const char * row_of(const struct ggml_tensor * cache, int64_t head, int64_t cell) {
    return (const char *) cache->data + (size_t) cell * cache->nb[1] + (size_t) head * cache->nb[2];
}

/* The rows of n cells from `first` on, of one head: [n][dim_pad], zero from cell `end` on. Meanwhile the rows from `ahead`
 * on of the other tensor are fetched from memory: heads lie side by side in a cell, and processors do not read ahead in
 * such strides. */
PART void read_cells(const struct ggml_tensor * cache, int64_t head, int64_t first, int64_t n, int64_t end,
                     int64_t dim_pad, const struct ggml_tensor * other, int64_t ahead, float * to) {
    const int64_t n_bytes = (int64_t) ggml_row_size(other->type, other->ne[0]);
    for (int64_t i = 0; i < n; i++) {
        if (ahead + i < other->ne[1]) {
            const char * next = row_of(other, head, ahead + i);
            for (int64_t at = 0; at < n_bytes; at += 64) {
                __builtin_prefetch(next + at, 0, 2);
            }
        }
        if (first + i < end) {
            read_row(cache, row_of(cache, head, first + i), dim_pad, to + i * dim_pad);
        } else {
            memset(to + i * dim_pad, 0, (size_t) dim_pad * sizeof(float));
        }
    }
}

/* Whether one of n floats is infinite or NaN; n is a multiple of 4 LANES. */
PART bool any_special(const float * x, int64_t n) {
    f32v sums[4] = { 0 };
    for (int64_t i = 0; i < n; i += 4 * LANES) {
        UNROLL
        for (int c = 0; c < 4; c++) {
            sums[c] = multiply_add(load(x + i + c * LANES), same(0.0f), sums[c]);
        }
    }
    const f32v all   = sums[0] + sums[1] + sums[2] + sums[3];
    float      total = 0.0f;
    for (int l = 0; l < LANES; l++) {
        total += all[l];
    }
    return total != 0.0f;
}

/* ---- weights: exp(score - max) ---- */

/* Sets the scores of cells that the row does not see to -infinity; mask: [n] of a block. Returns what check_scores does,
 * for those that it sees. */
PART f32v hide_cells(const ggml_fp16_t * mask, int64_t n, float * scores) {
    ggml_fp16_t padded[BLOCK];
    f32v        bad = { 0 };
    if (n < BLOCK) {
        memset(padded, 0xff, sizeof(padded));
        memcpy(padded, mask, (size_t) n * sizeof(*mask));
        mask = padded;
    }
    for (int i = 0; i < BLOCK; i += LANES) {
        const u32v half   = __builtin_convertvector(*(const u16v *) (mask + i), u32v);
        const u32v hidden = -(half >> 15); /* by the sign: all ones */
        u32v       bits;
        f32v       seen;
        memcpy(&bits, scores + i, sizeof(bits));
        bits &= ~hidden;
        memcpy(&seen, &bits, sizeof(seen));
        bad = multiply_add(seen, same(0.0f), bad);
        bits |= hidden & 0xff800000;
        memcpy(scores + i, &bits, sizeof(bits));
    }
    return bad;
}

/* 0, or NaN in some places when a score is infinite or NaN. */
PART f32v check_scores(const float * scores) {
    f32v bad = { 0 };
    for (int i = 0; i < BLOCK; i += LANES) {
        bad = multiply_add(load(scores + i), same(0.0f), bad);
    }
    return bad;
}

PART float largest(const float * scores) {
    f32v max = load(scores);
    for (int i = LANES; i < BLOCK; i += LANES) {
        max = LARGER(load(scores + i), max);
    }
    float all = max[0];
    for (int l = 1; l < LANES; l++) {
        all = max[l] > all ? max[l] : all;
    }
    return all;
}

/* Turns a row's scores into weights relative to its largest score so far, which may rise. sum: what becomes t->sum, as
 * a vector of partial sums; NaN when a score is not finite, which then shows in the logits, as it should. */
PART void weigh(commandr_attention_tile * t, int64_t r, f32v bad, float * w, f32v * sum) {
    const float block_max = largest(w);
    if (block_max > t->max[r]) {
        const float shrink = expf(t->max[r] - block_max);
        float *     acc    = t->acc + r * t->dim_pad;
        for (int64_t d = 0; d < t->dim_pad; d += LANES) {
            store(acc + d, load(acc + d) * shrink);
        }
        *sum *= shrink;
        t->max[r] = block_max;
    }
    f32v total = *sum + bad;
    for (int i = 0; i < BLOCK; i += LANES) {
        const f32v e = exp_of(load(w + i) - t->max[r]);
        total += e;
        store(w + i, e);
    }
    *sum = total;
}

/* ---- a tile ---- */

/* Queries in the order of transposed keys. */
PART void reorder_queries(const commandr_attention_tile * t, float * to) {
    for (int64_t r = 0; r < t->n_rows; r++) {
        for (int64_t d = 0; d < t->dim_pad; d++) {
            to[r * t->dim_pad + place_of(d, t->dim_pad)] = t->q[r * t->dim_pad + d];
        }
    }
}

TARGET
void ATTEND(commandr_attention_tile * t, int64_t begin, int64_t end) {
    const int64_t dim_pad   = t->dim_pad;
    const bool    few       = t->n_rows <= FEW_ROWS;
    const int64_t step      = few ? FEW_CELLS : BLOCK;
    float * const rows      = t->rows;
    float * const columns   = t->columns;
    float * const q         = t->ordered;
    float (*const w)[BLOCK] = t->weights;
    f32v sums[COMMANDR_ATTENTION_ROWS];
    memset(sums, 0, sizeof(sums));
    if (!few) {
        reorder_queries(t, q);
    }
    for (int64_t first = begin; first < end; first += BLOCK) {
        const int64_t   n    = end - first < BLOCK ? end - first : BLOCK;
        const uint8_t * sees = t->sees + first / BLOCK * t->n_tokens;
        int64_t         lo   = 0; /* rows lo..hi-1 see some of the block */
        int64_t         hi   = t->n_rows;
        while (lo < hi && sees[t->token[lo]] == COMMANDR_SEES_NONE) {
            lo++;
        }
        while (lo < hi && sees[t->token[hi - 1]] == COMMANDR_SEES_NONE) {
            hi--;
        }
        if (lo == hi) {
            continue;
        }
        for (int64_t cell = 0; cell < BLOCK; cell += step) {
            read_cells(t->k, t->head, first + cell, step, end, dim_pad, t->v, first + cell, rows);
            for (int64_t r = lo; r < hi && few; r++) {
                for (int64_t c = 0; c < step; c += 4) {
                    *(f32x4 *) &w[r][cell + c] = score_four(t->q + r * dim_pad, rows + c * dim_pad, dim_pad);
                }
            }
        }
        if (!few) {
            transpose(rows, dim_pad, columns);
            for (int c = 0; c < BLOCK; c += TILE_COLS * LANES) {
                int64_t r = lo;
                for (; r + TILE_ROWS <= hi; r += TILE_ROWS) {
                    score_cells(TILE_ROWS, q + r * dim_pad, columns + c, dim_pad, w[r] + c);
                }
                for (; r < hi; r++) {
                    score_cells(1, q + r * dim_pad, columns + c, dim_pad, w[r] + c);
                }
            }
        }
        for (int64_t r = lo; r < hi; r++) {
            const uint8_t seen = sees[t->token[r]];
            if (seen == COMMANDR_SEES_NONE) {
                memset(w[r], 0, sizeof(w[r]));
                continue;
            }
            const f32v bad = seen == COMMANDR_SEES_ALL ? check_scores(w[r]) : hide_cells(t->mask[r] + first, n, w[r]);
            weigh(t, r, bad, w[r], &sums[r]);
        }
        for (int64_t cell = 0; cell < BLOCK; cell += step) {
            read_cells(t->v, t->head, first + cell, step, end, dim_pad, t->k, first + BLOCK + cell, rows);
            const bool special = any_special(rows, step * dim_pad);
            int64_t    r       = lo;
            for (; r < hi && special; r++) {
                add_special_values(w[r] + cell, rows, step, dim_pad, t->acc + r * dim_pad);
            }
            for (; r + TILE_ROWS <= hi; r += TILE_ROWS) {
                add_values(TILE_ROWS, w[r] + cell, rows, step, dim_pad, t->acc + r * dim_pad);
            }
            for (; r < hi; r++) {
                add_values(1, w[r] + cell, rows, step, dim_pad, t->acc + r * dim_pad);
            }
        }
    }
    for (int64_t r = 0; r < t->n_rows; r++) {
        for (int l = 0; l < LANES; l++) {
            t->sum[r] += sums[r][l];
        }
    }
}
