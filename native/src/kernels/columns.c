#include "kernels/columns.h"

#include "simd.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

enum { BLOCK = COMMANDR_SUPER_BLOCK };

/* The largest magnitude; infinite or NaN when any is. The order of positive floats is that of their bits, in which NaN
 * comes after infinity. */
COMMANDR_INLINE float largest(const float * x) {
    int32_t max_bits = 0;
    for (int i = 0; i < BLOCK; i++) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof(bits));
        bits &= INT32_MAX;
        max_bits = bits > max_bits ? bits : max_bits;
    }
    float max;
    memcpy(&max, &max_bits, sizeof(max));
    return max;
}

/* One super-block of a column. to: of the group's super-block, at this column; n: columns of the group. */
COMMANDR_EACH_VECTOR_WIDTH
static void round_block(const float * x, int64_t n, int32_t * to) {
    int8_t      q[BLOCK];
    int32_t     sums[BLOCK / 16];
    const float max     = largest(x);
    const bool  finite  = max < INFINITY;
    const float inverse = finite && max > 0.0f ? 127.0f / max : 0.0f;
    const float d       = finite ? max / 127.0f : NAN; /* what is not finite shows in the logits, as it should */
    for (int i = 0; i < BLOCK; i++) {
        const float scaled = finite ? x[i] * inverse : 0.0f;
        q[i]               = (int8_t) (int32_t) (scaled + 0x1.8p23f - 0x1.8p23f); /* nearest even */
    }
    for (int s = 0; s < BLOCK / 16; s++) {
        sums[s] = 0;
        for (int i = 0; i < 16; i++) {
            sums[s] += q[16 * s + i];
        }
    }
    for (int i = 0; i < BLOCK / 4; i++) {
        memcpy(to + i * n, q + 4 * i, 4);
    }
    for (int s = 0; s < BLOCK / 16; s++) {
        to[(COMMANDR_SHIFT_AT + s) * n] = -32 * sums[s];
    }
    for (int s = 0; s < BLOCK / 32; s++) {
        const float sum = (float) (sums[2 * s] + sums[2 * s + 1]);
        memcpy(to + (COMMANDR_SUM_AT + s) * n, &sum, sizeof(sum));
    }
    memcpy(to + COMMANDR_D_AT * n, &d, sizeof(d));
}

/* dst: I8, as in columns.h; source: x. */
static void round_columns(struct ggml_tensor * dst, int ith, int nth, void * user_data) {
    (void) user_data;
    const struct ggml_tensor * x        = dst->src[0];
    const int64_t              n_blocks = x->ne[0] / BLOCK;
    commandr_counter *         counters = dst->data;
    for (int i = 0; i < COMMANDR_MAX_READERS && ith == 0; i++) {
        atomic_store_explicit(&counters[i].next, 0, memory_order_relaxed);
    }
    int32_t * units = (int32_t *) (counters + COMMANDR_MAX_READERS);
    for (int64_t i = ith; i < n_blocks * x->ne[1]; i += nth) {
        const int64_t b     = i % n_blocks;
        const int64_t c     = i / n_blocks;
        const int64_t first = c / COMMANDR_GROUP * COMMANDR_GROUP;
        const int64_t n     = x->ne[1] - first < COMMANDR_GROUP ? x->ne[1] - first : COMMANDR_GROUP;
        const float * in    = (const float *) ((const char *) x->data + (size_t) c * x->nb[1]) + b * BLOCK;
        round_block(in, n, units + COMMANDR_COLUMN_UNITS * (b * x->ne[1] + first) + (c - first));
    }
}

commandr_columns commandr_columns_round(struct ggml_context * ctx, struct ggml_tensor * x) {
    const int64_t size = COMMANDR_MAX_READERS * (int64_t) sizeof(commandr_counter) +
                         4 * COMMANDR_COLUMN_UNITS * (x->ne[0] / BLOCK) * x->ne[1];
    return (commandr_columns) {
        .data = ggml_custom_4d(ctx, GGML_TYPE_I8, size, 1, 1, 1, &x, 1, round_columns, GGML_N_TASKS_MAX, NULL),
        .n    = x->ne[1],
    };
}
