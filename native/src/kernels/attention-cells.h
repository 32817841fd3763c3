/* Cells of the cache as floats, and scores as weights, as kernels/attention-body.h uses them; needs its macros. */
#include "kernels/attention-products.h"

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

/* The rows of n cells from `first` on, of one head: [n][dim_pad], zero from cell `end` on. */
PART void read_cells(const struct ggml_tensor * cache, int64_t head, int64_t first, int64_t n, int64_t end,
                     int64_t dim_pad, float * to) {
    for (int64_t i = 0; i < n; i++) {
        if (first + i < end) {
            read_row(cache, row_of(cache, head, first + i), dim_pad, to + i * dim_pad);
        } else {
            memset(to + i * dim_pad, 0, (size_t) dim_pad * sizeof(float));
        }
    }
}

/* Whether one of n floats is infinite or NaN; n is a multiple of LANES. */
PART bool any_special(const float * x, int64_t n) {
    f32v    sums[4] = { 0 };
    int64_t i       = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        UNROLL
        for (int c = 0; c < 4; c++) {
            sums[c] = multiply_add(load(x + i + c * LANES), same(0.0f), sums[c]);
        }
    }
    for (; i < n; i += LANES) {
        sums[0] = multiply_add(load(x + i), same(0.0f), sums[0]);
    }
    const f32v all   = sums[0] + sums[1] + sums[2] + sums[3];
    float      total = 0.0f;
    for (int l = 0; l < LANES; l++) {
        total += all[l];
    }
    return total != 0.0f;
}

/* ---- weights: exp(score - max) ---- */

/* Sets the scores of cells that the row does not see to -infinity; mask: [n] of a block. Returns what check_scores
 * does, for those that it sees. */
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

/* What the row's token sees of the block that begins with cell `first`. */
PART uint8_t seen_by(const commandr_attention_tile * t, int64_t r, int64_t first) {
    return t->sees[first / BLOCK * t->n_tokens + t->token[r]];
}

/* The runs of rows lo..hi-1 that see some of a block. Rows of other sequences than the block's see nothing of it, and
 * are most of those that many replies at once have. */
typedef struct seeing_rows {
    int64_t n;
    struct {
        int64_t lo, hi;
    } runs[COMMANDR_ATTENTION_ROWS / 2 + 1];
} seeing_rows;

/* Of rows 0..n_rows-1. */
PART void find_seeing(const commandr_attention_tile * t, int64_t n_rows, int64_t first, seeing_rows * seeing) {
    seeing->n = 0;
    for (int64_t r = 0; r < n_rows; r++) {
        if (seen_by(t, r, first) == COMMANDR_SEES_NONE) {
            continue;
        }
        if (seeing->n == 0 || seeing->runs[seeing->n - 1].hi < r) {
            seeing->runs[seeing->n++].lo = r;
        }
        seeing->runs[seeing->n - 1].hi = r + 1;
    }
}

/* Turns a block's scores of rows lo..hi-1, which see some of it, into weights. */
PART void weigh_rows(commandr_attention_tile * t, int64_t lo, int64_t hi, int64_t first, int64_t end, f32v * sums) {
    const int64_t n = end - first < BLOCK ? end - first : BLOCK;
    for (int64_t r = lo; r < hi; r++) {
        float *    w        = t->weights[r];
        const bool sees_all = seen_by(t, r, first) == COMMANDR_SEES_ALL;
        weigh(t, r, sees_all ? check_scores(w) : hide_cells(t->mask[r] + first, n, w), w, &sums[r]);
    }
}

/* A tile whose rows have seen no cell. */
PART void clear(commandr_attention_tile * t) {
    memset(t->acc, 0, (size_t) (t->n_rows * t->dim_pad) * sizeof(float));
    for (int64_t r = 0; r < t->n_rows; r++) {
        t->max[r] = -INFINITY;
        t->sum[r] = 0.0f;
    }
}

PART void add_partial_sums(commandr_attention_tile * t, const f32v * sums) {
    for (int64_t r = 0; r < t->n_rows; r++) {
        for (int l = 0; l < LANES; l++) {
            t->sum[r] += sums[r][l];
        }
    }
}
