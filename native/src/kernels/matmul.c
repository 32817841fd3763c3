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
    WIDE_PANEL          = 128, /* columns in a panel for weights of 16 bits, whose tiles are unpacked anew for each */
    AHEAD               = 16 << 10, /* bytes between weights that are read and those that are fetched meanwhile */
    FEW_COLS            = 16,       /* up to here weights are read once, tile after tile as they lie in memory */
    MIN_COLS            = 2,        /* packing weights anew in each product costs more than ggml needs for one column */
    MIN_COLS_OF_16_BITS = 32        /* ggml multiplies fewer columns with such weights faster */
};

/* Asks for n bytes to be in the level-2 cache soon. They may lie behind the end of a tensor. */
static void fetch(uintptr_t from, int64_t n) {
    for (uintptr_t at = from; at < from + (uintptr_t) n; at += 64) {
        __builtin_prefetch((const void *) at, 0, 2);
    }
}

/* One of the products that an operation computes with the same columns. */
typedef struct product {
    const struct ggml_tensor * w;
    const struct ggml_tensor * x;  /* the rounded columns */
    float *                    to; /* [n_cols][n_out] */
    int64_t                    n_cols;
} product;

/* n_tiles super-blocks down the matrix from `first` on, with n_cols columns from c on. */
static void multiply_panel(const product * m, int64_t first, int64_t n_tiles, int64_t c, int64_t n_cols) {
    const struct ggml_tensor * w         = m->w;
    const int32_t *            x         = commandr_columns_units(m->x);
    const int64_t              n_units   = commandr_columns_n_units(commandr_matmul_rounding(w->type));
    const commandr_tile_fn     one       = commandr_tile(w->type);
    const int64_t              tile_size = (int64_t) commandr_tile_size(w->type);
    const int64_t              n_blocks  = w->ne[0] / BLOCK;
    float                      sums[TOGETHER][WIDE_PANEL][LANES];
    _Alignas(64) uint8_t       packed[COMMANDR_MAX_TILE];
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
            } else if (m->n_cols > 1 && c == 0) { /* one column reads so fast that processors do it better */
                fetch((uintptr_t) tile + AHEAD, tile_size);
            }
            if (n_cols > FEW_COLS && b + 1 < n_blocks) { /* i-th part of the panel's next super-block */
                const int64_t size = 4 * n_units * n_cols / n_tiles;
                fetch((uintptr_t) (x + n_units * ((b + 1) * m->n_cols + c)) + (uintptr_t) (i * size), size);
            }
            one(tile, x + n_units * (b * m->n_cols + c), n_cols, sums[i]);
        }
    }
    for (int64_t i = 0; i < n_tiles; i++) {
        const int64_t row = (first + i) * LANES;
        const int64_t n   = w->ne[1] - row < LANES ? w->ne[1] - row : LANES;
        for (int64_t k = 0; k < n_cols; k++) {
            memcpy(m->to + (c + k) * w->ne[1] + row, sums[i][k], (size_t) n * sizeof(float));
        }
    }
}

static int64_t tiles_of(const struct ggml_tensor * w) {
    return (w->ne[1] + LANES - 1) / LANES;
}

/* Draws of so many tiles from a matrix. */
static int64_t draws_of(const struct ggml_tensor * w, int64_t draw) {
    return (tiles_of(w) + draw - 1) / draw;
}

/* Tiles begin to end of a product, `step` at a time. */
static void multiply_tiles(const product * m, int64_t begin, int64_t end, int64_t step) {
    const int64_t panel = commandr_matmul_rounding(m->w->type) == COMMANDR_FLOATS ? WIDE_PANEL : PANEL;
    for (int64_t c = 0; c < m->n_cols; c += panel) {
        for (int64_t i = begin; i < end; i += step) {
            multiply_panel(m, i, end - i < step ? end - i : step, c, m->n_cols - c < panel ? m->n_cols - c : panel);
        }
    }
}

/* dst: F32 [the n_out of all matrices, n_cols], a matrix's result behind that of the one before; sources: the rounded
 * columns, then the matrices; user_data: the number of the counter. Threads draw tiles until there are none left, of
 * one matrix after the other without waiting in between. */
static void multiply(struct ggml_tensor * dst, int ith, int nth, void * user_data) {
    (void) ith;
    commandr_counter * counters = dst->src[0]->data;
    _Atomic int64_t *  next     = &counters[(intptr_t) user_data].next;
    const int64_t      n_cols   = dst->ne[1];
    int64_t            n_tiles  = 0;
    for (int s = 1; s < GGML_MAX_SRC && dst->src[s]; s++) {
        n_tiles += tiles_of(dst->src[s]);
    }
    const int64_t together = n_tiles >= (int64_t) 4 * TOGETHER * nth ? TOGETHER : 1;
    const int64_t draw     = n_cols > 1 && n_tiles >= (int64_t) 4 * DRAW * nth ? DRAW : together;
    const int64_t step     = n_cols > FEW_COLS ? together : 1;
    product       m        = { .w = dst->src[1], .x = dst->src[0], .to = dst->data, .n_cols = n_cols };
    int64_t       first    = 0; /* draw of the matrix that m is about */
    for (int s = 1;;) {
        const int64_t drawn = atomic_fetch_add_explicit(next, 1, memory_order_relaxed);
        while (drawn - first >= draws_of(m.w, draw)) {
            if (++s == GGML_MAX_SRC || !dst->src[s]) {
                return;
            }
            first += draws_of(m.w, draw);
            m.to += n_cols * m.w->ne[1];
            m.w = dst->src[s];
        }
        const int64_t begin = (drawn - first) * draw;
        multiply_tiles(&m, begin, begin + draw < tiles_of(m.w) ? begin + draw : tiles_of(m.w), step);
    }
}

bool commandr_matmul_has(enum ggml_type type, const int64_t * ne) {
    return ne[0] % BLOCK == 0 && commandr_tile(type) != NULL;
}

bool commandr_matmul_is_to_pack(enum ggml_type type, const int64_t * ne) {
    return commandr_matmul_has(type, ne) && commandr_matmul_rounding(type) != COMMANDR_FLOATS;
}

commandr_rounding commandr_matmul_rounding(enum ggml_type type) {
    switch ((int) type) {
        case GGML_TYPE_BF16: return COMMANDR_FLOATS;
        case GGML_TYPE_Q8_0:
        case GGML_TYPE_Q4_0: return COMMANDR_FINE;
        default: return COMMANDR_COARSE;
    }
}

bool commandr_matmul_wanted(const struct ggml_tensor * w, int64_t n_cols) {
    const int64_t min_cols = commandr_matmul_rounding(w->type) == COMMANDR_FLOATS ? MIN_COLS_OF_16_BITS : MIN_COLS;
    return n_cols >= min_cols && w->ne[2] * w->ne[3] == 1 && commandr_matmul_has(w->type, w->ne);
}

void commandr_matmul_all(struct ggml_context * ctx, struct ggml_tensor * const * w, int n, commandr_columns * x,
                         struct ggml_tensor ** results) {
    GGML_ASSERT(x->n_readers < COMMANDR_MAX_READERS && n + 1 < GGML_MAX_SRC);
    struct ggml_tensor * args[GGML_MAX_SRC] = { x->data };
    int64_t              n_out              = 0;
    for (int i = 0; i < n; i++) {
        GGML_ASSERT(x->rounding == commandr_matmul_rounding(w[i]->type));
        args[i + 1] = w[i];
        n_out += w[i]->ne[1];
    }
    struct ggml_tensor * all = ggml_custom_4d(ctx, GGML_TYPE_F32, n_out, x->n, 1, 1, args, n + 1, multiply,
                                              GGML_N_TASKS_MAX, (void *) (intptr_t) x->n_readers++);
    size_t               at  = 0;
    for (int i = 0; i < n; i++) {
        const size_t size = (size_t) w[i]->ne[1] * sizeof(float);
        results[i]        = n == 1 ? all : ggml_view_2d(ctx, all, w[i]->ne[1], x->n, size, at);
        at += size * (size_t) x->n;
    }
}

struct ggml_tensor * commandr_matmul(struct ggml_context * ctx, struct ggml_tensor * w, commandr_columns * x) {
    struct ggml_tensor * result;
    commandr_matmul_all(ctx, &w, 1, x, &result);
    return result;
}
