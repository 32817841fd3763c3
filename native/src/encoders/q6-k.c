/* Q6_K: super-blocks of 16 sub-blocks of 16 values, each value a signed level of its sub-block's scale. */
#include "encoders/encoders.h"
#include "encoders/lanes.h"

enum { SUPER_BLOCK = 256, SUB_BLOCK = 16, N_SUBS = SUPER_BLOCK / SUB_BLOCK, MAX_LEVEL = 32, BLOCK_SIZE = 210 };

/* Below it a block counts as zero. */
static const float TINY = 1e-15f;

/* Scales of LANES sub-blocks: the one of 19 trials whose levels leave the least weighted squares' error. */
COMMANDR_INLINE f32v fit(const f32v * x, const f32v * weights) {
    f32v largest = splat(0.0f), size = splat(0.0f);
    for (int i = 0; i < SUB_BLOCK; i++) {
        const f32v a       = magnitude(x[i]);
        const i32v greater = a > size;
        size               = pick(greater, a, size);
        largest            = pick(greater, x[i], largest);
    }
    f32v scale = splat(0.0f), best = splat(0.0f);
    for (int trial = 0; trial < 19; trial++) {
        /* the plain scale first, then those of 31.1 to 32.9 levels without it */
        const int  step    = trial == 0 ? 0 : trial <= 9 ? trial - 10 : trial - 9;
        const f32v inverse = trial == 0 ? -32.0f / largest : -(32.0f + 0.1f * (float) step) / largest;
        f32v       sum_xl = splat(0.0f), sum_l2 = splat(0.0f);
        for (int i = 0; i < SUB_BLOCK; i++) {
            const f32v level = to_float(clamp(nearest(inverse * x[i]), -MAX_LEVEL, MAX_LEVEL - 1));
            sum_xl += weights[i] * x[i] * level;
            sum_l2 += weights[i] * level * level;
        }
        const i32v any       = sum_l2 != 0.0f;
        const f32v try_scale = pick(any, sum_xl / sum_l2, splat(0.0f));
        const i32v better    = trial == 0 ? ~(i32v) { 0 } : (sum_l2 > 0.0f) & (sum_xl * sum_xl > best * sum_l2);
        scale                = pick(better, try_scale, scale);
        best                 = pick(better, try_scale * sum_xl, best);
    }
    return pick(size < TINY, splat(0.0f), scale);
}

/* d and the sub-blocks' whole-numbered scales; what a level is worth then. False when one became 0. */
static bool finish_scales(const float * scales, int8_t * out_scales, ggml_fp16_t * d_out, float * steps) {
    float max_scale = 0.0f, max_size = 0.0f;
    for (int j = 0; j < N_SUBS; j++) {
        const float a = fabsf(scales[j]);
        if (a > max_size) {
            max_size  = a;
            max_scale = scales[j];
        }
    }
    if (max_size < TINY) {
        return false;
    }
    const float inverse = -128.0f / max_scale;
    *d_out              = ggml_fp32_to_fp16(1 / inverse);
    const float d       = ggml_fp16_to_fp32(*d_out);
    bool        all     = true;
    for (int j = 0; j < N_SUBS; j++) {
        const int32_t scale = nearest_of(inverse * scales[j]);
        out_scales[j]       = (int8_t) (scale < 127 ? scale : 127);
        steps[j]            = d * (float) out_scales[j];
        all                 = all && steps[j] != 0.0f;
    }
    return all;
}

/* Two halves of 128 values: 64 bytes of low four bits, values 64 apart sharing one; of the high two bits, four values
 * 32 apart share a byte behind both. */
COMMANDR_INLINE void pack_levels(const uint8_t * levels, uint8_t * out) {
    for (int half = 0; half < 2; half++) {
        const uint8_t * q    = levels + 128 * half;
        uint8_t *       low  = out + 64 * half;
        uint8_t *       high = out + 128 + 32 * half;
        for (int i = 0; i < 64; i++) {
            low[i] = (uint8_t) ((q[i] & 15) | (q[i + 64] & 15) << 4);
        }
        for (int i = 0; i < 32; i++) {
            high[i] = (uint8_t) (q[i] >> 4 | (q[i + 32] >> 4) << 2 | (q[i + 64] >> 4) << 4 | (q[i + 96] >> 4) << 6);
        }
    }
}

void COMMANDR_JOIN(commandr_encode_q6_k, COMMANDR_LEVEL)(const float * x, const float * importance, void * blocks,
                                                         int64_t n_rows, int64_t n_per_row) {
    const int64_t n     = n_rows * n_per_row;
    uint8_t *     block = blocks;
    for (int64_t b = 0; b < n; b += SUPER_BLOCK, block += BLOCK_SIZE) {
        const float * weights_of = importance ? importance + b % n_per_row : NULL;
        float         scales[N_SUBS], steps[N_SUBS];
        ggml_fp16_t   d;
        for (int first = 0; first < N_SUBS; first += LANES) {
            f32v columns[SUB_BLOCK], weights[SUB_BLOCK]; /* the values' squares, if none are given */
            gather(x + b + first * SUB_BLOCK, SUB_BLOCK, columns);
            if (importance) {
                gather(weights_of + first * SUB_BLOCK, SUB_BLOCK, weights);
            } else {
                for (int i = 0; i < SUB_BLOCK; i++) {
                    weights[i] = columns[i] * columns[i];
                }
            }
            const f32v fitted = fit(columns, weights);
            memcpy(scales + first, &fitted, sizeof(fitted));
        }
        if (!finish_scales(scales, (int8_t *) block + 192, &d, steps)) {
            ggml_quantize_chunk(GGML_TYPE_Q6_K, x + b, block, 0, 1, SUPER_BLOCK, weights_of);
            continue;
        }
        uint8_t levels[SUPER_BLOCK];
        for (int j = 0; j < SUPER_BLOCK; j += LANES) {
            f32v values;
            memcpy(&values, x + b + j, sizeof(values));
            const i32v level = clamp(nearest(values / steps[j / SUB_BLOCK]), -MAX_LEVEL, MAX_LEVEL - 1) + MAX_LEVEL;
            store_bytes(level, levels + j);
        }
        pack_levels(levels, block);
        memcpy(block + 208, &d, sizeof(d));
    }
}
