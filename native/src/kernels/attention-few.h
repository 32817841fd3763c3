/* Attention of a few rows for each of several KV heads, as kernels/attention-body.h uses it. Next to nothing is
 * computed with a number of the cache, so all depends on reading it quickly: cells are taken as they lie in memory,
 * all heads of one before the next, which processors read ahead in. */
#include "kernels/attention-cells.h"

enum { FEW_CELLS = 16 /* whose values are added at a time */ };

/* Where n cells of a head from `first` on are: in the cache when these are half floats, or converted, with zeros from
 * cell `end` on. */
typedef struct cells_at {
    const char * at;
    size_t       stride;
    bool         halves;
} cells_at;

PART cells_at find_cells(const struct ggml_tensor * cache, int64_t head, int64_t first, int64_t n, int64_t end,
                         int64_t dim_pad, float * rows) {
    if (cache->type == GGML_TYPE_F16 && cache->ne[0] == dim_pad && first + n <= end) {
        return (cells_at) { row_of(cache, head, first), cache->nb[1], true };
    }
    read_cells(cache, head, first, n, end, dim_pad, rows);
    return (cells_at) { (const char *) rows, (size_t) dim_pad * sizeof(float), false };
}

/* The scores with 4 cells of the rows that see some of their block; halves, a constant: k.halves. */
PART void score_cells_at(bool halves, const seeing_rows * seeing, cells_at k, const float * q, int64_t dim_pad,
                         float * scores) {
    for (int64_t i = 0; i < seeing->n; i++) {
        int64_t       r  = seeing->runs[i].lo;
        const int64_t hi = seeing->runs[i].hi;
        for (; r + FEW_ROWS <= hi; r += FEW_ROWS) {
            score_fours(FEW_ROWS, halves, q + r * dim_pad, k.at, k.stride, dim_pad, scores + r * BLOCK);
        }
        for (; r < hi; r++) {
            score_fours(1, halves, q + r * dim_pad, k.at, k.stride, dim_pad, scores + r * BLOCK);
        }
    }
}

PART void add_cells_at(bool halves, const seeing_rows * seeing, cells_at v, const float * w, int64_t n, int64_t dim_pad,
                       float * acc) {
    for (int64_t i = 0; i < seeing->n; i++) {
        int64_t       r  = seeing->runs[i].lo;
        const int64_t hi = seeing->runs[i].hi;
        for (; r + FEW_ROWS <= hi; r += FEW_ROWS) {
            add_values(FEW_ROWS, halves, w + r * BLOCK, v.at, v.stride, n, dim_pad, acc + r * dim_pad);
        }
        for (; r < hi; r++) {
            add_values(1, halves, w + r * BLOCK, v.at, v.stride, n, dim_pad, acc + r * dim_pad);
        }
    }
}

/* Asks for n cells of a head, from `first` on, to be in the level-2 cache by the time that the block's other half has
 * been computed. */
PART void fetch_cells(const struct ggml_tensor * cache, int64_t head, int64_t first, int64_t n) {
    const int64_t n_bytes = (int64_t) cache->nb[2];
    for (int64_t i = first; i < first + n && i < cache->ne[1]; i++) {
        const char * row = row_of(cache, head, i);
        for (int64_t at = 0; at < n_bytes; at += 64) {
            __builtin_prefetch(row + at, 0, 2);
        }
    }
}

/* A block's scores: [n_rows][BLOCK], of the rows of each head that see some of it. */
PART void score_block(const commandr_attention_tile * t, const seeing_rows * seeing, int64_t first, int64_t end,
                      float * rows, float * scores) {
    const int64_t n_rows = t->n_rows / t->n_heads;
    for (int64_t cell = 0; cell < BLOCK && first + cell < end; cell += 4) {
        for (int64_t h = 0; h < t->n_heads; h++) {
            const cells_at k = find_cells(t->k, t->head + h, first + cell, 4, end, t->dim_pad, rows);
            const float *  q = t->q + h * n_rows * t->dim_pad;
            fetch_cells(t->v, t->head + h, first + cell, 4);
            if (k.halves) {
                score_cells_at(true, seeing, k, q, t->dim_pad, scores + h * n_rows * BLOCK + cell);
            } else {
                score_cells_at(false, seeing, k, q, t->dim_pad, scores + h * n_rows * BLOCK + cell);
            }
        }
    }
}

/* Adds a block's weighted values to the rows that see some of it. careful: some values may not be finite.
 * w: [n_rows][BLOCK] */
PART void add_block(commandr_attention_tile * t, const seeing_rows * seeing, int64_t first, int64_t end, bool careful,
                    const float * w) {
    const int64_t n_rows = t->n_rows / t->n_heads;
    for (int64_t cell = 0; cell < BLOCK && first + cell < end; cell += FEW_CELLS) {
        for (int64_t h = 0; h < t->n_heads; h++, w += n_rows * BLOCK) {
            float * acc = t->acc + h * n_rows * t->dim_pad;
            fetch_cells(t->k, t->head + h, first + BLOCK + cell, FEW_CELLS);
            if (careful) {
                read_cells(t->v, t->head + h, first + cell, FEW_CELLS, end, t->dim_pad, t->rows);
                for (int64_t i = 0; i < seeing->n; i++) {
                    for (int64_t r = seeing->runs[i].lo; r < seeing->runs[i].hi; r++) {
                        add_special_values(w + r * BLOCK, t->rows, FEW_CELLS, t->dim_pad, acc + r * t->dim_pad);
                    }
                }
                continue;
            }
            const cells_at v = find_cells(t->v, t->head + h, first + cell, FEW_CELLS, end, t->dim_pad, t->rows);
            if (v.halves) {
                add_cells_at(true, seeing, v, w, FEW_CELLS, t->dim_pad, acc);
            } else {
                add_cells_at(false, seeing, v, w, FEW_CELLS, t->dim_pad, acc);
            }
        }
        w += FEW_CELLS - t->n_rows * BLOCK;
    }
}

TARGET
static void attend_few(commandr_attention_tile * t, int64_t begin, int64_t end, bool careful) {
    const int64_t n_rows = t->n_rows / t->n_heads;
    f32v          sums[COMMANDR_ATTENTION_ROWS];
    memset(sums, 0, sizeof(sums));
    clear(t);
    for (int64_t first = begin; first < end; first += BLOCK) {
        seeing_rows seeing; /* of a head: all heads have the same tokens */
        find_seeing(t, n_rows, first, &seeing);
        if (seeing.n == 0) {
            continue;
        }
        score_block(t, &seeing, first, end, t->rows, t->weights[0]);
        for (int64_t h = 0; h < t->n_heads; h++) {
            for (int64_t i = 0; i < seeing.n; i++) {
                weigh_rows(t, h * n_rows + seeing.runs[i].lo, h * n_rows + seeing.runs[i].hi, first, end, sums);
            }
        }
        add_block(t, &seeing, first, end, careful, t->weights[0]);
    }
    add_partial_sums(t, sums);
}
