#include "kernels/amx.h"

#include "kernels/amx-tiles.h"
#include "kernels/amx-unpack.h"
#include "kernels/columns.h"

#include <stdatomic.h>
#include <string.h>

/* Below so many columns unpacking weights takes longer than multiplying 8-bit columns with them as they are; where ggml
 * unpacks them, it is compared with its own product. */
enum { MIN_COLS = 32, MIN_COLS_SLOW = 128 };

bool commandr_amx_wanted(const struct ggml_tensor * w, int64_t n_cols) {
    const int64_t min_cols = commandr_amx_unpacks_fast(w->type) ? MIN_COLS : MIN_COLS_SLOW;
    return n_cols >= min_cols && w->ne[0] % COMMANDR_SUPER_BLOCK == 0 && w->ne[2] * w->ne[3] == 1 &&
           commandr_amx_can_unpack(w);
}

#if COMMANDR_HAS_AMX

#include <immintrin.h>

enum {
    BLOCK      = COMMANDR_SUPER_BLOCK,
    ROWS       = COMMANDR_AMX_TILE_ROWS,
    STRIP      = 2 * ROWS, /* weight rows: two B tiles side by side */
    DEPTH      = 2,        /* super-blocks of a strip unpacked together: 32 KiB of B tiles stay in a level-1 cache */
    MAX_TILES  = 32,       /* of columns: 512 KiB of A tiles at that depth, which stay in a level-2 cache */
    MAX_STRIPS = 4         /* which each such part of the columns meets before the next is read: 256 KiB of sums */
};

/* What a thread works with: weights in bfloat16 and sums. */
typedef struct workspace {
    _Alignas(64) uint32_t b[DEPTH][COMMANDR_AMX_B_WORDS];
    _Alignas(64) float c[MAX_STRIPS][MAX_TILES][COMMANDR_AMX_C_FLOATS];
} workspace;

static int64_t tiles_of(int64_t n_cols) {
    return (n_cols + ROWS - 1) / ROWS;
}

static uint32_t * a_tiles(const struct ggml_tensor * data) {
    const uintptr_t end = (uintptr_t) data->data + COMMANDR_MAX_READERS * sizeof(commandr_counter);
    return (uint32_t *) ((end + 63) / 64 * 64);
}

/* 16 columns in one super-block as 8 A tiles. n: columns that there are. */
__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))) static void round_tiles(const char * x, size_t x_size,
                                                                                        int64_t n, uint32_t * to) {
    for (int64_t row = 0; row < ROWS; row++) {
        for (int s = 0; s < COMMANDR_AMX_STEPS; s++) {
            __m512i pairs = _mm512_setzero_si512();
            if (row < n) {
                const float * in = (const float *) (x + (size_t) row * x_size) + COMMANDR_AMX_STEP * s;
                pairs            = (__m512i) _mm512_cvtne2ps_pbh(_mm512_loadu_ps(in + 16), _mm512_loadu_ps(in));
            }
            _mm512_store_si512(to + s * COMMANDR_AMX_TILE_WORDS + row * ROWS, pairs);
        }
    }
}

/* dst: I8, as in amx.h; source: x. */
static void round_columns(struct ggml_tensor * dst, int ith, int nth, void * user_data) {
    (void) user_data;
    const struct ggml_tensor * x        = dst->src[0];
    const int64_t              n_tiles  = tiles_of(x->ne[1]);
    commandr_counter *         counters = dst->data;
    for (int i = 0; i < COMMANDR_MAX_READERS && ith == 0; i++) {
        atomic_store_explicit(&counters[i].next, 0, memory_order_relaxed);
    }
    for (int64_t i = ith; i < x->ne[0] / BLOCK * n_tiles; i += nth) {
        const int64_t first = i % n_tiles * ROWS;
        const char *  in    = (const char *) x->data + (size_t) first * x->nb[1] + (size_t) (i / n_tiles * BLOCK) * 4;
        round_tiles(in, x->nb[1], x->ne[1] - first, a_tiles(dst) + i * COMMANDR_AMX_A_WORDS);
    }
}

commandr_amx_columns commandr_amx_round(struct ggml_context * ctx, struct ggml_tensor * x) {
    const int64_t size = COMMANDR_MAX_READERS * (int64_t) sizeof(commandr_counter) + 63 +
                         4 * COMMANDR_AMX_A_WORDS * (x->ne[0] / BLOCK) * tiles_of(x->ne[1]);
    return (commandr_amx_columns) {
        .data = ggml_custom_4d(ctx, GGML_TYPE_I8, size, 1, 1, 1, &x, 1, round_columns, GGML_N_TASKS_MAX, NULL),
        .n    = x->ne[1],
    };
}

/* Which part of a product a thread draws: strips down the matrix and tiles of columns. */
typedef struct piece {
    int64_t first_row;
    int64_t n_strips;
    int64_t first_tile;
    int64_t n_tiles;
} piece;

static void store_sums(struct ggml_tensor * dst, const piece * part, const workspace * space) {
    for (int64_t strip = 0; strip < part->n_strips; strip++) {
        for (int64_t t = 0; t < part->n_tiles; t++) {
            const int64_t column = (part->first_tile + t) * ROWS;
            for (int64_t i = 0; i < ROWS && column + i < dst->ne[1]; i++) {
                float * to = (float *) ((char *) dst->data + (size_t) (column + i) * dst->nb[1]);
                for (int64_t half = 0; half < 2; half++) {
                    const int64_t row = part->first_row + STRIP * strip + ROWS * half;
                    const int64_t n   = dst->ne[0] - row < ROWS ? dst->ne[0] - row : ROWS;
                    if (n > 0) {
                        const float * c = space->c[strip][t] + COMMANDR_AMX_TILE_WORDS * half + ROWS * i;
                        memcpy(to + row, c, (size_t) n * sizeof(float));
                    }
                }
            }
        }
    }
}

static void multiply_piece(struct ggml_tensor * dst, const piece * part, workspace * space) {
    const struct ggml_tensor * w        = dst->src[0];
    const int64_t              n_blocks = w->ne[0] / BLOCK;
    const int64_t              a_words  = tiles_of(dst->ne[1]) * COMMANDR_AMX_A_WORDS; /* of a super-block */
    for (int64_t block = 0; block < n_blocks; block += DEPTH) {
        const int64_t    depth = n_blocks - block < DEPTH ? n_blocks - block : DEPTH;
        const uint32_t * a     = a_tiles(dst->src[1]) + block * a_words + part->first_tile * COMMANDR_AMX_A_WORDS;
        for (int64_t strip = 0; strip < part->n_strips; strip++) {
            const int64_t row = part->first_row + STRIP * strip;
            for (int64_t i = 0; i < depth; i++) {
                commandr_amx_unpack(w, row, block + i, space->b[i]);
                if (row + ROWS < w->ne[1]) { /* else the second tile is what it was, and its sums are not stored */
                    commandr_amx_unpack(w, row + ROWS, block + i, space->b[i] + COMMANDR_AMX_TILE_WORDS);
                }
            }
            for (int64_t t = 0; t < part->n_tiles; t += 2) {
                commandr_amx_tiles_multiply(a + t * COMMANDR_AMX_A_WORDS, a_words, space->b[0], depth, block == 0,
                                            t + 1 < part->n_tiles, space->c[strip][t]);
            }
        }
    }
    store_sums(dst, part, space);
}

static int64_t min_of(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* dst: F32 [n_out, n_cols]; sources: w, the rounded columns; user_data: the number of the counter. Threads draw pieces
 * until there are none left. */
static void multiply(struct ggml_tensor * dst, int ith, int nth, void * user_data) {
    (void) ith;
    static _Thread_local workspace space; /* too large for the stack of every C library's threads */
    commandr_counter *             counters = dst->src[1]->data;
    _Atomic int64_t *              next     = &counters[(intptr_t) user_data].next;
    const int64_t                  n_strips = (dst->ne[0] + STRIP - 1) / STRIP;
    const int64_t                  n_tiles  = tiles_of(dst->ne[1]);
    const int64_t                  n_wide   = (n_tiles + MAX_TILES - 1) / MAX_TILES;
    const int64_t                  wide     = ((n_tiles + n_wide - 1) / n_wide + 1) / 2 * 2;
    int64_t                        tall     = MAX_STRIPS;
    while (tall > 1 && n_strips / tall * n_wide < (int64_t) 4 * nth) {
        tall /= 2;
    }
    const int64_t n_tall = (n_strips + tall - 1) / tall;
    workspace *   own    = &space;
    __asm__("" : "+r"(own)); /* or GCC asks for a thread-local's address again and again, between any two tiles */
    commandr_amx_tiles_configure();
    for (;;) {
        const int64_t i = atomic_fetch_add_explicit(next, 1, memory_order_relaxed);
        if (i >= n_tall * n_wide) {
            break;
        }
        const int64_t first_strip = i % n_tall * tall;
        const int64_t first_tile  = i / n_tall * wide;
        const piece   part        = {
            .first_row  = first_strip * STRIP,
            .n_strips   = min_of(tall, n_strips - first_strip),
            .first_tile = first_tile,
            .n_tiles    = min_of(wide, n_tiles - first_tile),
        };
        multiply_piece(dst, &part, own);
    }
    commandr_amx_tiles_release();
}

struct ggml_tensor * commandr_amx_matmul(struct ggml_context * ctx, struct ggml_tensor * w, commandr_amx_columns * x) {
    GGML_ASSERT(x->n_readers < COMMANDR_MAX_READERS);
    struct ggml_tensor * args[2] = { w, x->data };
    return ggml_custom_4d(ctx, GGML_TYPE_F32, w->ne[1], x->n, 1, 1, args, 2, multiply, GGML_N_TASKS_MAX,
                          (void *) (intptr_t) x->n_readers++);
}

#else

commandr_amx_columns commandr_amx_round(struct ggml_context * ctx, struct ggml_tensor * x) {
    (void) ctx;
    return (commandr_amx_columns) { .n = x->ne[1] };
}

struct ggml_tensor * commandr_amx_matmul(struct ggml_context * ctx, struct ggml_tensor * w, commandr_amx_columns * x) {
    (void) ctx, (void) w, (void) x;
    return NULL;
}

#endif
