#include "kernels/matmul.h"

#include "kernels/packed.h"
#include "kernels/tile.h"

#include <stdatomic.h>
#include <string.h>

enum {
    LANES    = COMMANDR_LANES,
    BLOCK    = COMMANDR_SUPER_BLOCK,
    TOGETHER = 4,  /* tiles down the matrix computed together, each column of a panel being read once for all */
    DRAW     = 16, /* tiles that a thread takes at a time when there are several columns */
    PANEL    = 32, /* columns computed together: at one super-block they, the tiles and the sums fit a level-1 cache */
    AHEAD    = 16 << 10, /* bytes between weights that are read and those that are fetched meanwhile */
    FEW_COLS = 16,       /* up to here weights are read once, tile after tile as they lie in memory */
    MIN_COLS = 2         /* packing weights anew in each product costs more than ggml needs for one column */
};

/* Asks for n bytes to be in the level-2 cache soon. They may lie behind the end of a tensor. */
static void fetch(uintptr_t from, int64_t n) {
    for (uintptr_t at = from; at < from + (uintptr_t) n; at += 64) {
        __builtin_prefetch((const void *) at, 0, 2);
    }
}

/* n_tiles super-blocks down the matrix from `first` on, with the columns from c on, at most PANEL. */
static void multiply_panel(struct ggml_tensor * dst, int64_t first, int64_t n_tiles, int64_t c) {
    const struct ggml_tensor * w         = dst->src[0];
    const int32_t *            x         = commandr_columns_units(dst->src[1]);
    const commandr_tile_fn     one       = commandr_tile(w->type);
    const int64_t              tile_size = (int64_t) commandr_tile_size(w->type);
    const int64_t              n_blocks  = w->ne[0] / BLOCK;
    const int64_t              n_cols    = dst->ne[1] - c < PANEL ? dst->ne[1] - c : PANEL;
    float                      sums[TOGETHER][PANEL][LANES];
    uint8_t                    packed[COMMANDR_MAX_TILE];
    for (int64_t i = 0; i < n_tiles; i++) {
        memset(sums[i], 0, (size_t) n_cols * sizeof(sums[i][0]));
    }
    for (int64_t b = 0; b < n_blocks; b++) {
        for (int64_t i = 0; i < n_tiles; i++) {
            const uint8_t * tile = (const uint8_t *) w->data + ((first + i) * n_blocks + b) * tile_size;
            const int64_t   left = w->ne[1] - (first + i) * LANES;
            if (left < LANES || !commandr_is_packed(w)) {
                const uint8_t * rows = (const uint8_t *) w->data + (size_t) ((first + i) * LANES) * w->nb[1];
                commandr_pack_tile(w->type, rows + b * (tile_size / LANES), w->nb[1], left < LANES ? left : LANES,
                                   packed);
                tile = packed;
            } else if (dst->ne[1] > 1 && c == 0) { /* one column reads so fast that processors do it better */
                fetch((uintptr_t) tile + AHEAD, tile_size);
            }
            if (n_cols > FEW_COLS && b + 1 < n_blocks) { /* i-th part of the panel's next super-block */
                const int64_t size = 4 * COMMANDR_COLUMN_UNITS * n_cols / n_tiles;
                fetch((uintptr_t) (x + COMMANDR_COLUMN_UNITS * ((b + 1) * dst->ne[1] + c)) + (uintptr_t) (i * size),
                      size);
            }
            one(tile, x + COMMANDR_COLUMN_UNITS * (b * dst->ne[1] + c), n_cols, sums[i]);
        }
    }
    for (int64_t i = 0; i < n_tiles; i++) {
        const int64_t row = (first + i) * LANES;
        const int64_t n   = w->ne[1] - row < LANES ? w->ne[1] - row : LANES;
        for (int64_t k = 0; k < n_cols; k++) {
            float * column = (float *) ((char *) dst->data + (size_t) (c + k) * dst->nb[1]);
            memcpy(column + row, sums[i][k], (size_t) n * sizeof(float));
        }
    }
}

/* dst: F32 [n_out, n_cols]; sources: w, the rounded columns; user_data: the number of the counter. Threads draw tiles
 * until there are none left. */
static void multiply(struct ggml_tensor * dst, int ith, int nth, void * user_data) {
    (void) ith;
    commandr_counter * counters = dst->src[1]->data;
    _Atomic int64_t *  next     = &counters[(intptr_t) user_data].next;
    const int64_t      n_tiles  = (dst->ne[0] + LANES - 1) / LANES;
    const bool         many     = dst->ne[1] > FEW_COLS;
    const int64_t      together = n_tiles >= (int64_t) 4 * TOGETHER * nth ? TOGETHER : 1;
    const int64_t      draw     = dst->ne[1] > 1 && n_tiles >= (int64_t) 4 * DRAW * nth ? DRAW : together;
    for (;;) {
        const int64_t begin = atomic_fetch_add_explicit(next, draw, memory_order_relaxed);
        const int64_t end   = begin + draw < n_tiles ? begin + draw : n_tiles;
        if (begin >= end) {
            return;
        }
        const int64_t step = many ? together : 1;
        for (int64_t c = 0; c < dst->ne[1]; c += PANEL) {
            for (int64_t i = begin; i < end; i += step) {
                multiply_panel(dst, i, end - i < step ? end - i : step, c);
            }
        }
    }
}

bool commandr_matmul_has(enum ggml_type type, const int64_t * ne) {
    return ne[0] % BLOCK == 0 && commandr_tile(type) != NULL;
}

bool commandr_matmul_wants_fine(enum ggml_type type) {
    return type == GGML_TYPE_Q8_0 || type == GGML_TYPE_Q4_0;
}

bool commandr_matmul_wanted(const struct ggml_tensor * w, int64_t n_cols) {
    return n_cols >= MIN_COLS && w->ne[2] * w->ne[3] == 1 && commandr_matmul_has(w->type, w->ne);
}

struct ggml_tensor * commandr_matmul(struct ggml_context * ctx, struct ggml_tensor * w, commandr_columns * x) {
    GGML_ASSERT(x->n_readers < COMMANDR_MAX_READERS && x->fine == commandr_matmul_wants_fine(w->type));
    struct ggml_tensor * args[2] = { w, x->data };
    return ggml_custom_4d(ctx, GGML_TYPE_F32, w->ne[1], x->n, 1, 1, args, 2, multiply, GGML_N_TASKS_MAX,
                          (void *) (intptr_t) x->n_readers++);
}
