/* A tile of packed weights with a super-block of columns, compiled once for each level of level.h. */
#include "kernels/tile.h"

#include "kernels/tile-formats.h"

enum { MAX_SUMS = VECTOR == 64 ? MAX_COLUMNS : 2 * MAX_COLUMNS /* of [vectors][columns] */ };

/* Makes compilers believe that a value has changed. On ARM they keep sums in registers only when it also
 * stays where it is; on x86 that does harm. */
#if defined(LANES_ARM)
#define BARRIER __asm__ volatile
#else
#define BARRIER __asm__
#endif

/* What one call computes: n_vectors vectors of rows from `lane` on with n_cols columns from `first` on of the group of
 * n_group at x. All but the pointers are constants. Where an array has an element for each sum, it is [n_vectors][n];
 * n is n_cols, made even where columns go in pairs. */
typedef struct piece {
    enum ggml_type  type;
    int             n_vectors;
    int             n_cols;
    int             n;
    int             lane;
    int             first;
    int             n_group;
    const uint8_t * tile;
    const int32_t * x;
} piece;

/* Where the elements of step t for sum number k are, of the first one of a pair. */
COMMANDR_INLINE int step_at(const piece * m, int t, int k) {
    return commandr_columns_step_at(t, m->first + k % m->n / STEPS * STEPS, m->n_group);
}

/* Row `at` of a group, as columns.h lays it out, from the piece's first column on. */
COMMANDR_INLINE const int32_t * columns_at(const piece * m, int at) {
    return m->x + at * m->n_group + m->first;
}

/* What the integer sum number k of a sub-block begins with. Q6_K's q are 32 too large, those of Q4_0 8, and those of
 * Q8_0 128 where the processor wants no signs. */
COMMANDR_INLINE ints shift_of(const piece * m, int s, int k) {
    const ints zero = { 0 };
    if (m->type == GGML_TYPE_Q6_K || (m->type == GGML_TYPE_Q8_0 && !SIGNED_BYTES)) {
        return ints_of(columns_at(m, COMMANDR_SHIFT_AT + s), k % m->n, m->n_cols);
    }
    if (m->type == GGML_TYPE_Q4_0) {
        return ints_of(columns_at(m, COMMANDR_SHIFT_AT + s), k % m->n, m->n_cols) >> 4; /* -8 times the sum */
    }
    return zero;
}

/* What a sub-block's integer sum number k is multiplied with before it is added. */
COMMANDR_INLINE floats scale_of(const piece * m, const tile_scales * scales, int s, int k) {
    const floats scale = rows_of(scales->scale[s] + m->lane + k / m->n * AT_ONCE, k);
    return has_blocks(m->type) ? scale * floats_of(columns_at(m, COMMANDR_D_AT + s), k % m->n, m->n_cols) : scale;
}

/* The integer sums of both sub-blocks of a pair. dots: [2][n_vectors][n] */
COMMANDR_INLINE void multiply_pair(const piece * m, int half, int p, ints * dots) {
    const uint8_t * tile = m->tile;
    /* What pairs have in common is read again for each: kept, it would fill the registers. */
    BARRIER("" : "+r"(tile));

    const int n_steps = steps_in(m->type);
    const int n_run   = steps_of(m->type) < n_steps ? steps_of(m->type) : n_steps;
    const int s       = first_of_pair(m->type, half, p);
    const int apart   = apart_in_pair(m->type);
    const int n_sums  = m->n_vectors * m->n;

    const int32_t * x        = m->x + s * n_steps * m->n_group;
    const int32_t * second_x = x + apart * n_steps * m->n_group;
    UNROLL
    for (int k = 0; k < 2 * n_sums; k++) {
        dots[k] = shift_of(m, s + k / n_sums * apart, k);
    }
    UNROLL
    for (int begin = 0; begin < n_steps; begin += n_run) {
        partial parts[2 * MAX_SUMS];
        UNROLL
        for (int k = 0; k < 2 * n_sums; k++) {
            parts[k] = start(dots[k]);
        }
        UNROLL
        for (int t = begin; t < begin + n_run; t += STEPS) {
            if (m->type == GGML_TYPE_Q5_K && VECTOR == 64) {
                __asm__ volatile("" ::: "memory"); /* else GCC takes all pairs' columns into registers, and spills */
            }
            UNROLL
            for (int v = 0; v < m->n_vectors; v++) {
                words first[STEPS], second[STEPS];
                UNROLL
                for (int j = 0; j < STEPS; j++) {
                    read_pair(m->type, tile, half, p, t + j, m->lane + v * AT_ONCE, &first[j], &second[j]);
                }
                UNROLL
                for (int k = v * m->n; k < (v + 1) * m->n; k++) {
                    const int i       = step_at(m, t, k);
                    const int j       = k % STEPS;
                    parts[k]          = dot(m->type, t == begin, parts[k], first[j], x, i);
                    parts[n_sums + k] = dot(m->type, t == begin, parts[n_sums + k], second[j], second_x, i);
                }
            }
        }
        UNROLL
        for (int k = 0; k < 2 * n_sums; k++) {
            dots[k] = finish(dots[k], parts[k]);
        }
    }
}

/* Adds them, scaled, to sums: [n_vectors][n]. */
COMMANDR_INLINE void add_pair(const piece * m, const tile_scales * scales, int half, int p, floats * sums) {
    const int n_sums = m->n_vectors * m->n;
    ints      dots[2 * MAX_SUMS];
    multiply_pair(m, half, p, dots);
    UNROLL
    for (int k = 0; k < 2 * n_sums; k++) {
        const int s      = first_of_pair(m->type, half, p) + k / n_sums * apart_in_pair(m->type);
        sums[k % n_sums] = fma_of(scale_of(m, scales, s, k % n_sums), to_floats(dots[k]), sums[k % n_sums]);
    }
}

/* The end of it: takes the minimums off, scales by the columns and adds to out: [n][LANES]. */
COMMANDR_INLINE void add_sums(const piece * m, const tile_scales * scales, floats * sums, float (*out)[LANES]) {
    UNROLL
    for (int k = 0; k < m->n_vectors * m->n; k++) {
        const int       first  = m->lane + k / m->n * AT_ONCE;
        const int32_t * column = m->x + m->first + k % m->n;
        float *         to     = out[m->first + k % m->n] + first;
        if (k % m->n == m->n_cols) {
            continue; /* a pair without a second column */
        }
        floats sum = untangled(sums, k);
        if (m->type == GGML_TYPE_Q4_K || m->type == GGML_TYPE_Q5_K) {
            ints mins = { 0 };
            UNROLL
            for (int j = 0; j < 4; j++) {
                const int32_t * pairs = m->x + (COMMANDR_PAIRS_AT + j) * m->n_group;
                mins                  = dot_pairs(mins, words_at(scales->mins[j] + first), pairs, m->first + k % m->n);
            }
            sum = fma_of(-floats_at(scales->min_d + first), to_floats(mins), sum);
        }
        if (has_blocks(m->type)) {
            put(to, sum + floats_at(to));
        } else {
            put(to, fma_of(all_floats(column + COMMANDR_D_AT * m->n_group), sum, floats_at(to)));
        }
    }
}

/* Few columns: weights go from memory into registers and from there into the sums. */
COMMANDR_INLINE void multiply_packed(const piece * m, const tile_scales * scales, float (*out)[LANES]) {
    floats sums[MAX_SUMS];
    UNROLL
    for (int k = 0; k < m->n_vectors * m->n; k++) {
        sums[k] = no_floats();
    }
    if (m->type == GGML_TYPE_Q4_K || has_blocks(m->type)) { /* all pairs are alike */
        for (int p = 0; p < 4; p++) {
            add_pair(m, scales, 0, p, sums);
        }
    } else {
        for (int half = 0; half < (m->type == GGML_TYPE_Q6_K ? 2 : 1); half++) {
            UNROLL
            for (int p = 0; p < 4; p++) {
                add_pair(m, scales, half, p, sums);
            }
        }
    }
    add_sums(m, scales, sums, out);
}

/* ---- many columns: weights are unpacked once, into words that stay in the level-1 cache ---- */

/* to: [64][LANES], in the order of the elements. */
COMMANDR_INLINE void unpack(enum ggml_type type, const uint8_t * tile, int32_t (*to)[LANES]) {
    const int n_steps = steps_in(type);
    for (int half = 0; half < (type == GGML_TYPE_Q6_K ? 2 : 1); half++) {
        UNROLL
        for (int p = 0; p < 4; p++) {
            const int first  = first_of_pair(type, half, p) * n_steps;
            const int second = first + apart_in_pair(type) * n_steps;
            UNROLL
            for (int t = 0; t < n_steps; t++) {
                UNROLL
                for (int lane = 0; lane < LANES; lane += AT_ONCE) {
                    words w[2];
                    read_pair(type, tile, half, p, t, lane, &w[0], &w[1]);
                    memcpy(to[first + t] + lane, &w[0], sizeof(words));
                    memcpy(to[second + t] + lane, &w[1], sizeof(words));
                }
            }
        }
    }
}

/* Adds a sub-block's integer sums, scaled, to sums. w: the sub-block's words, unpacked. */
COMMANDR_INLINE void add_unpacked(const piece * m, const tile_scales * scales, int s, int32_t (*w)[LANES],
                                  floats * sums) {
    const int       n_steps = steps_in(m->type);
    const int       n_run   = steps_of(m->type) < n_steps ? steps_of(m->type) : n_steps;
    const int       n_sums  = m->n_vectors * m->n;
    const int32_t * column  = m->x + s * n_steps * m->n_group;
    ints            dots[MAX_SUMS];
    UNROLL
    for (int k = 0; k < n_sums; k++) {
        dots[k] = shift_of(m, s, k);
    }
    UNROLL
    for (int begin = 0; begin < n_steps; begin += n_run) {
        partial parts[MAX_SUMS];
        UNROLL
        for (int k = 0; k < n_sums; k++) {
            parts[k] = start(dots[k]);
        }
        UNROLL
        for (int t = begin; t < begin + n_run; t += STEPS) {
            UNROLL
            for (int k = 0; k < n_sums; k++) {
                const words some = words_at(w[t + k % STEPS] + m->lane + k / m->n * AT_ONCE);
                parts[k]         = dot(m->type, t == begin, parts[k], some, column, step_at(m, t, k));
            }
        }
        UNROLL
        for (int k = 0; k < n_sums; k++) {
            dots[k] = finish(dots[k], parts[k]);
        }
    }
    UNROLL
    for (int k = 0; k < n_sums; k++) {
        sums[k] = fma_of(scale_of(m, scales, s, k), to_floats(dots[k]), sums[k]);
    }
}

COMMANDR_INLINE void multiply_unpacked(const piece * m, const tile_scales * scales, int32_t (*w)[LANES],
                                       float (*out)[LANES]) {
    floats sums[MAX_SUMS];
    UNROLL
    for (int k = 0; k < m->n_vectors * m->n; k++) {
        sums[k] = no_floats();
    }
    for (int i = 0; i < BLOCK / 4 / steps_in(m->type); i++) {
        /* In the order of the pairs, for the same sums. */
        const int s = m->type == GGML_TYPE_Q6_K ? i / 8 * 8 + i % 2 * 4 + i % 8 / 2 : i;
        add_unpacked(m, scales, s, w + s * steps_in(m->type), sums);
    }
    add_sums(m, scales, sums, out);
}

/* ---- all rows of a tile ---- */

/* Columns that n_cols are computed as. */
COMMANDR_INLINE int whole_pairs(int n_cols) {
    return PAIRED ? (n_cols + 1) / 2 * 2 : n_cols;
}

/* n columns, at most MAX_COLUMNS. The fewer there are the more rows at once, as each needs sums in registers of its
 * own. */
COMMANDR_INLINE void multiply_few(enum ggml_type type, int n, const uint8_t * tile, const tile_scales * scales,
                                  const int32_t * x, float (*out)[LANES]) {
    const int even      = whole_pairs(n);
    const int room      = n > 0 ? MAX_COLUMNS / even : 1;
    const int most      = LANES / AT_ONCE;
    const int n_vectors = room >= 4 && most >= 4 ? 4 : room >= 2 && most >= 2 ? 2 : 1;
    for (int lane = 0; lane < LANES; lane += n_vectors * AT_ONCE) {
        const piece m = { type, n_vectors, n, even, lane, 0, n, tile, x };
        multiply_packed(&m, scales, out);
    }
}

/* A group of n_group columns. w: what unpack() made of the tile. */
COMMANDR_INLINE void multiply_group(enum ggml_type type, int n_group, int32_t (*w)[LANES], const tile_scales * scales,
                                    const int32_t * x, float (*out)[LANES]) {
    const int n_vectors = 2 * MAX_COLUMNS <= COMMANDR_GROUP ? 2 : 1; /* share the loading of columns */
    for (int lane = 0; lane < LANES; lane += n_vectors * AT_ONCE) {
        UNROLL
        for (int c = 0; c < n_group; c += MAX_COLUMNS) {
            const int   n = n_group - c < MAX_COLUMNS ? n_group - c : MAX_COLUMNS;
            const piece m = { type, n_vectors, n, whole_pairs(n), lane, c, n_group, NULL, x };
            multiply_unpacked(&m, scales, w, out);
        }
    }
}

/* n columns of one group or less, as a case of a switch rules out what does not fit the registers. Where columns go in
 * pairs, none is alone. */
#define FEW(n)  multiply_few(type, (n) > PAIRED && (n) <= MAX_COLUMNS ? (n) : 0, tile, &scales, x, out)
#define MANY(n) multiply_group(type, n, w, &scales, x, out)

/* A tile with a super-block of n_cols columns, group after group. */
COMMANDR_INLINE void multiply(enum ggml_type type, const uint8_t * tile, const int32_t * x, int64_t n_cols,
                              float (*out)[LANES]) {
#if defined(LANES_I8MM)
    if (n_cols == 1) { /* in a pair half of the products would be for nothing */
        commandr_tile_dotprod(type)(tile, x, n_cols, out);
        return;
    }
#endif
    tile_scales          scales;
    _Alignas(64) int32_t w[BLOCK / 4][LANES];
    const bool           in_registers = n_cols <= MAX_COLUMNS || VECTOR == 64;
    tile += commandr_packed_words_at(type);
    read_scales(type, tile, &scales);
    if (!in_registers) {
        unpack(type, tile, w);
    }
    for (; n_cols > 0; n_cols -= COMMANDR_GROUP) {
        const int64_t n = n_cols < COMMANDR_GROUP ? n_cols : COMMANDR_GROUP;
        if (in_registers) {
            switch (n) {
                case 1: FEW(1); break;
                case 2: FEW(2); break;
                case 3: FEW(3); break;
                case 4: FEW(4); break;
                case 5: FEW(5); break;
                case 6: FEW(6); break;
                case 7: FEW(7); break;
                default: FEW(8);
            }
        } else {
            switch (n) {
                case 1: MANY(1); break;
                case 2: MANY(2); break;
                case 3: MANY(3); break;
                case 4: MANY(4); break;
                case 5: MANY(5); break;
                case 6: MANY(6); break;
                case 7: MANY(7); break;
                default: MANY(8);
            }
        }
        x += COMMANDR_GROUP * COMMANDR_COLUMN_UNITS;
        out += COMMANDR_GROUP;
    }
}

/* Where processors multiply bfloat16 themselves, as those with long vectors and ARM's do, ggml's product is faster. */
#if defined(LANES_AVX2) || defined(LANES_AVXVNNI) || defined(LANES_PORTABLE)
#define HAS_BF16
#include "kernels/tile-bf16.h"
#endif

static void multiply_q4_k(const uint8_t * tile, const int32_t * x, int64_t n_cols, float (*out)[LANES]) {
    multiply(GGML_TYPE_Q4_K, tile, x, n_cols, out);
}

static void multiply_q5_k(const uint8_t * tile, const int32_t * x, int64_t n_cols, float (*out)[LANES]) {
    multiply(GGML_TYPE_Q5_K, tile, x, n_cols, out);
}

static void multiply_q6_k(const uint8_t * tile, const int32_t * x, int64_t n_cols, float (*out)[LANES]) {
    multiply(GGML_TYPE_Q6_K, tile, x, n_cols, out);
}

static void multiply_q8_0(const uint8_t * tile, const int32_t * x, int64_t n_cols, float (*out)[LANES]) {
    multiply(GGML_TYPE_Q8_0, tile, x, n_cols, out);
}

static void multiply_q4_0(const uint8_t * tile, const int32_t * x, int64_t n_cols, float (*out)[LANES]) {
    multiply(GGML_TYPE_Q4_0, tile, x, n_cols, out);
}

commandr_tile_fn COMMANDR_TILE(COMMANDR_LEVEL)(enum ggml_type type) {
    switch ((int) type) {
        case GGML_TYPE_Q4_K: return multiply_q4_k;
        case GGML_TYPE_Q5_K: return multiply_q5_k;
        case GGML_TYPE_Q6_K: return multiply_q6_k;
        case GGML_TYPE_Q8_0: return multiply_q8_0;
        case GGML_TYPE_Q4_0: return multiply_q4_0;
#if defined(HAS_BF16)
        case GGML_TYPE_BF16: return multiply_bf16;
#endif
        default: return NULL;
    }
}
