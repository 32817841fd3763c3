/* Q4_K and Q5_K: super-blocks of 8 sub-blocks of 32 values, each value a level of scale * level - minimum. */
#include "encoders/encoders.h"
#include "encoders/lanes.h"

enum {
    SUPER_BLOCK = 256,
    SUB_BLOCK   = 32,
    N_SUBS      = SUPER_BLOCK / SUB_BLOCK, /* of a super-block */
    TOGETHER    = LANES / N_SUBS,          /* super-blocks */
};

/* What is tried for a type: the largest level, and the numbers of levels that a first scale is made from. */
typedef struct search {
    int   max_level;
    float first_step; /* added to max_level */
    int   n_steps;    /* of 0.1 each, both ends included */
} search;

/* Scale and minimum of LANES sub-blocks: weighted least squares for the levels that each trial rounds to, the weights
 * being the root mean square plus the value's magnitude. */
COMMANDR_INLINE void fit(const f32v * x, search how, f32v * scale_out, f32v * min_out) {
    const float max_level = (float) how.max_level;
    f32v        weights[SUB_BLOCK];
    f32v        levels[SUB_BLOCK];
    f32v        squares = splat(0.0f);
    for (int i = 0; i < SUB_BLOCK; i++) {
        squares += x[i] * x[i];
    }
    const f32v rms = square_root(squares / 32.0f);
    f32v       min = x[0];
    f32v       max = x[0];
    weights[0]     = rms + magnitude(x[0]);
    f32v sum_w     = weights[0];
    f32v sum_x     = sum_w * x[0];
    for (int i = 1; i < SUB_BLOCK; i++) {
        min        = pick(x[i] < min, x[i], min);
        max        = pick(x[i] > max, x[i], max);
        weights[i] = rms + magnitude(x[i]);
        sum_w += weights[i];
        sum_x += weights[i] * x[i];
    }
    min             = pick(min > 0.0f, splat(0.0f), min);
    const i32v flat = max == min;

    f32v inverse    = max_level / (max - min);
    f32v scale      = 1.0f / inverse;
    f32v best_error = splat(0.0f);
    for (int i = 0; i < SUB_BLOCK; i++) {
        const f32v level = to_float(clamp(nearest(inverse * (x[i] - min)), 0, how.max_level));
        const f32v error = scale * level + min - x[i];
        best_error += weights[i] * (error * error);
    }
    for (int step = 0; step <= how.n_steps; step++) {
        inverse    = (how.first_step + 0.1f * (float) step + max_level) / (max - min);
        f32v sum_l = splat(0.0f), sum_l2 = splat(0.0f), sum_xl = splat(0.0f);
        for (int i = 0; i < SUB_BLOCK; i++) {
            const f32v level    = to_float(clamp(nearest(inverse * (x[i] - min)), 0, how.max_level));
            const f32v weighted = weights[i] * level;
            levels[i]           = level;
            sum_l += weighted;
            sum_l2 += weighted * level;
            sum_xl += weighted * x[i];
        }
        const f32v determinant = sum_w * sum_l2 - sum_l * sum_l;
        f32v       try_scale   = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        f32v       try_min     = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        const i32v above       = try_min > 0.0f;
        try_min                = pick(above, splat(0.0f), try_min);
        try_scale              = pick(above, sum_xl / sum_l2, try_scale);
        f32v error_sum         = splat(0.0f);
        for (int i = 0; i < SUB_BLOCK; i++) {
            const f32v error = try_scale * levels[i] + try_min - x[i];
            error_sum += weights[i] * (error * error);
        }
        const i32v better = (determinant > 0.0f) & (error_sum < best_error);
        best_error        = pick(better, error_sum, best_error);
        scale             = pick(better, try_scale, scale);
        min               = pick(better, try_min, min);
    }
    *scale_out = pick(flat, splat(0.0f), scale);
    *min_out   = -min;
}

/* Six bits of each scale and minimum, as the format packs them into 12 bytes. */
static void pack_scales(const uint8_t * scales, const uint8_t * mins, uint8_t * out) {
    for (int j = 0; j < 4; j++) {
        out[j]     = (uint8_t) (scales[j] | (scales[j + 4] >> 4) << 6);
        out[j + 4] = (uint8_t) (mins[j] | (mins[j + 4] >> 4) << 6);
        out[j + 8] = (uint8_t) ((scales[j + 4] & 15) | (mins[j + 4] & 15) << 4);
    }
}

/* The first 16 bytes of a block, d, dmin and scales, from the sub-blocks' scales and minimums, and what a level is worth
 * then. False when a sub-block's scale became 0: its levels are left as the search had them, which we do not keep. */
static bool finish_scales(const float * scales, const float * mins, uint8_t * out, float * steps, float * offsets) {
    float max_scale = 0.0f, max_min = 0.0f;
    for (int j = 0; j < N_SUBS; j++) {
        max_scale = scales[j] > max_scale ? scales[j] : max_scale;
        max_min   = mins[j] > max_min ? mins[j] : max_min;
    }
    const float       inverse_scale = max_scale > 0.0f ? 63.0f / max_scale : 0.0f;
    const float       inverse_min   = max_min > 0.0f ? 63.0f / max_min : 0.0f;
    const ggml_fp16_t halves[2]     = { ggml_fp32_to_fp16(max_scale / 63.0f), ggml_fp32_to_fp16(max_min / 63.0f) };
    const float       d = ggml_fp16_to_fp32(halves[0]), dmin = ggml_fp16_to_fp32(halves[1]);
    uint8_t           s[N_SUBS], m[N_SUBS];
    bool              all = true;
    for (int j = 0; j < N_SUBS; j++) {
        const uint8_t scale = (uint8_t) nearest_of(inverse_scale * scales[j]); /* negative ones wrap to 63, as there */
        const uint8_t min   = (uint8_t) nearest_of(inverse_min * mins[j]);
        s[j]                = scale < 63 ? scale : 63;
        m[j]                = min < 63 ? min : 63;
        steps[j]            = d * (float) s[j];
        offsets[j]          = dmin * (float) m[j];
        all                 = all && steps[j] != 0.0f;
    }
    memcpy(out, halves, sizeof(halves));
    pack_scales(s, m, out + sizeof(halves));
    return all;
}

/* Levels of a super-block, one a byte */
COMMANDR_INLINE void round_levels(const float * x, const float * steps, const float * offsets, int max_level,
                                  uint8_t * levels) {
    for (int j = 0; j < SUPER_BLOCK; j += LANES) {
        f32v values;
        memcpy(&values, x + j, sizeof(values));
        const i32v level = clamp(nearest((values + offsets[j / SUB_BLOCK]) / steps[j / SUB_BLOCK]), 0, max_level);
        store_bytes(level, levels + j);
    }
}

/* Pairs of sub-blocks share 32 bytes, the first one's four low bits below the second one's; the fifth bits of all eight
 * share 32 bytes before them. */
COMMANDR_INLINE void pack_levels(const uint8_t * levels, bool has_fifth_bit, uint8_t * out) {
    if (has_fifth_bit) {
        for (int i = 0; i < SUB_BLOCK; i++) {
            uint8_t bits = 0;
            for (int j = 0; j < N_SUBS; j++) {
                bits |= (uint8_t) ((levels[j * SUB_BLOCK + i] >> 4) << j);
            }
            *out++ = bits;
        }
    }
    for (int j = 0; j < N_SUBS; j += 2) {
        for (int i = 0; i < SUB_BLOCK; i++) {
            *out++ = (uint8_t) ((levels[j * SUB_BLOCK + i] & 15) | (levels[(j + 1) * SUB_BLOCK + i] & 15) << 4);
        }
    }
}

COMMANDR_INLINE void encode(enum ggml_type type, search how, const float * x, uint8_t * out, int64_t n) {
    const size_t  size     = ggml_type_size(type);
    const int64_t n_blocks = n / SUPER_BLOCK;
    for (int64_t b = 0; b < n_blocks; b += TOGETHER) {
        const int64_t n_now = n_blocks - b < TOGETHER ? n_blocks - b : TOGETHER;
        float         copy[TOGETHER * SUPER_BLOCK];
        const float * values = x + b * SUPER_BLOCK;
        if (n_now < TOGETHER) {
            for (int64_t i = 0; i < TOGETHER; i++) {
                memcpy(copy + i * SUPER_BLOCK, values, SUPER_BLOCK * sizeof(float));
            }
            values = copy;
        }
        f32v columns[SUB_BLOCK], scales, mins;
        gather(values, SUB_BLOCK, columns);
        fit(columns, how, &scales, &mins);
        float scale[LANES], min[LANES];
        memcpy(scale, &scales, sizeof(scale));
        memcpy(min, &mins, sizeof(min));
        for (int64_t i = 0; i < n_now; i++) {
            float         steps[N_SUBS], offsets[N_SUBS];
            uint8_t       levels[SUPER_BLOCK];
            uint8_t *     block = out + (size_t) (b + i) * size;
            const float * of    = values + i * SUPER_BLOCK;
            if (finish_scales(scale + i * N_SUBS, min + i * N_SUBS, block, steps, offsets)) {
                round_levels(of, steps, offsets, how.max_level, levels);
                pack_levels(levels, type == GGML_TYPE_Q5_K, block + 16);
            } else {
                ggml_quantize_chunk(type, of, block, 0, 1, SUPER_BLOCK, NULL);
            }
        }
    }
}

void COMMANDR_JOIN(commandr_encode_q4_k, COMMANDR_LEVEL)(const float * x, void * blocks, int64_t n) {
    encode(GGML_TYPE_Q4_K, (search) { 15, -1.0f, 20 }, x, blocks, n);
}

void COMMANDR_JOIN(commandr_encode_q5_k, COMMANDR_LEVEL)(const float * x, void * blocks, int64_t n) {
    encode(GGML_TYPE_Q5_K, (search) { 31, -0.5f, 15 }, x, blocks, n);
}
