#include "kernels/columns.h"

#include "simd.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

enum { BLOCK = COMMANDR_SUPER_BLOCK };

#define SMALLEST 1e-30f /* below this, 127 divided by it would not be finite; it counts as 0 */

/* Rounds n elements with one scale, which it returns. n is a constant. */
COMMANDR_INLINE float round_run(const float * x, int n, int8_t * q) {
    /* The largest magnitude, infinite or NaN when any is: the order of positive floats is that of their bits, in which
     * NaN comes after infinity. */
    int32_t max_bits = 0;
    for (int i = 0; i < n; i++) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof(bits));
        bits &= INT32_MAX;
        max_bits = bits > max_bits ? bits : max_bits;
    }
    float max;
    memcpy(&max, &max_bits, sizeof(max));
    if (!(max > SMALLEST && max < INFINITY)) {
        memset(q, 0, (size_t) n);
        return max <= SMALLEST ? 0.0f : NAN; /* what is not finite shows in the logits, as it should */
    }
    const float inverse = 127.0f / max;
    for (int i = 0; i < n; i++) {
        q[i] = (int8_t) (int32_t) (x[i] * inverse + 0x1.8p23f - 0x1.8p23f); /* nearest even */
    }
    return max / 127.0f;
}

/* One super-block of column c of a group's n. to: the group's super-block. */
COMMANDR_EACH_VECTOR_WIDTH
static void round_block(const float * x, bool fine, int64_t c, int64_t n, int32_t * to) {
    int8_t  q[BLOCK];
    int32_t sums[BLOCK / 16];
    float   d[BLOCK / 32];
    if (fine) {
        for (int s = 0; s < BLOCK / 32; s++) {
            d[s] = round_run(x + 32 * s, 32, q + 32 * s);
        }
    } else {
        d[0] = round_run(x, BLOCK, q);
        for (int s = 1; s < BLOCK / 32; s++) {
            d[s] = d[0];
        }
    }
    for (int s = 0; s < BLOCK / 16; s++) {
        sums[s] = 0;
        for (int i = 0; i < 16; i++) {
            sums[s] += q[16 * s + i];
        }
    }
    for (int i = 0; i < BLOCK / 8; i++) {
        memcpy(to + 2 * (i * n + c), q + 8 * i, 8);
    }
    to += c;
    for (int s = 0; s < BLOCK / 16; s++) {
        const int32_t of_fine = s < BLOCK / 32 ? -128 * (sums[2 * s] + sums[2 * s + 1]) : 0;

        to[(COMMANDR_SHIFT_AT + s) * n] = fine ? of_fine : -32 * sums[s];
    }
    for (int j = 0; j < BLOCK / 64; j++) {
        const int16_t pair[2] = { (int16_t) (sums[4 * j] + sums[4 * j + 1]),
                                  (int16_t) (sums[4 * j + 2] + sums[4 * j + 3]) };
        memcpy(to + (COMMANDR_PAIRS_AT + j) * n, pair, sizeof(pair));
    }
    for (int s = 0; s < BLOCK / 32; s++) {
        memcpy(to + (COMMANDR_D_AT + s) * n, &d[s], sizeof(d[s]));
    }
}

static void begin_counters(commandr_counter * counters) {
    for (int i = 0; i < COMMANDR_MAX_READERS; i++) {
        atomic_store_explicit(&counters[i].next, 0, memory_order_relaxed);
    }
}

/* dst: I8, as in columns.h; source: x; user_data: the rounding. */
static void round_columns(struct ggml_tensor * dst, int ith, int nth, void * user_data) {
    const struct ggml_tensor * x        = dst->src[0];
    const int64_t              n_blocks = x->ne[0] / BLOCK;
    const bool                 fine     = (intptr_t) user_data == COMMANDR_FINE;
    int32_t *                  units    = (int32_t *) ((commandr_counter *) dst->data + COMMANDR_MAX_READERS);
    if (ith == 0) {
        begin_counters(dst->data);
    }
    for (int64_t i = ith; i < n_blocks * x->ne[1]; i += nth) {
        const int64_t b     = i % n_blocks;
        const int64_t c     = i / n_blocks;
        const int64_t first = c / COMMANDR_GROUP * COMMANDR_GROUP;
        const int64_t n     = x->ne[1] - first < COMMANDR_GROUP ? x->ne[1] - first : COMMANDR_GROUP;
        const float * in    = (const float *) ((const char *) x->data + (size_t) c * x->nb[1]) + b * BLOCK;
        round_block(in, fine, c - first, n, units + COMMANDR_COLUMN_UNITS * (b * x->ne[1] + first));
    }
}

/* To nearest even. NaN stays NaN: its sign and the upper bits of what it carries, one of which is set. */
static float to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    bits = (bits & INT32_MAX) > 0x7f800000 ? bits | 0x00400000 : bits + 0x7fff + (bits >> 16 & 1);
    bits &= 0xffff0000;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

/* The same in bfloat16. */
static void transpose_columns(struct ggml_tensor * dst, int ith, int nth, void * user_data) {
    (void) user_data;
    const struct ggml_tensor * x        = dst->src[0];
    const int64_t              n_blocks = x->ne[0] / BLOCK;
    const int64_t              n_groups = (x->ne[1] + COMMANDR_GROUP - 1) / COMMANDR_GROUP;
    float *                    floats   = (float *) ((commandr_counter *) dst->data + COMMANDR_MAX_READERS);
    if (ith == 0) {
        begin_counters(dst->data);
    }
    for (int64_t i = ith; i < n_blocks * n_groups; i += nth) {
        const int64_t b     = i / n_groups;
        const int64_t first = i % n_groups * COMMANDR_GROUP;
        const int64_t n     = x->ne[1] - first < COMMANDR_GROUP ? x->ne[1] - first : COMMANDR_GROUP;
        float *       to    = floats + BLOCK * (b * x->ne[1] + first);
        for (int64_t c = 0; c < n; c++) {
            const float * in = (const float *) ((const char *) x->data + (size_t) (first + c) * x->nb[1]) + b * BLOCK;
            for (int64_t k = 0; k < BLOCK; k++) {
                to[k * n + c] = to_bf16(in[k]);
            }
        }
    }
}

commandr_columns commandr_columns_round(struct ggml_context * ctx, struct ggml_tensor * x, commandr_rounding rounding) {
    const int64_t          size    = COMMANDR_MAX_READERS * (int64_t) sizeof(commandr_counter) +
                                     4 * commandr_columns_n_units(rounding) * (x->ne[0] / BLOCK) * x->ne[1];
    const ggml_custom_op_t compute = rounding == COMMANDR_FLOATS ? transpose_columns : round_columns;
    return (commandr_columns) {
        .data     = ggml_custom_4d(ctx, GGML_TYPE_I8, size, 1, 1, 1, &x, 1, compute, GGML_N_TASKS_MAX,
                                   (void *) (intptr_t) rounding),
        .n        = x->ne[1],
        .rounding = rounding,
    };
}
