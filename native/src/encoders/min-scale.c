/* Q4_K and Q5_K: super-blocks of 8 sub-blocks of 32 values, each value a level of scale * level - minimum. */
#include "encoders/encoders.h"
#include "encoders/lanes.h"

enum {
    SUPER_BLOCK = 256,
    SUB_BLOCK   = 32,
    N_SUBS      = SUPER_BLOCK / SUB_BLOCK,          /* of a super-block */
    TOGETHER = LANES > N_SUBS ? LANES / N_SUBS : 1, /* super-blocks */
    ALL_SUBS = TOGETHER * N_SUBS
};

/* Below it scales or minimums count as zero. */
static const float TINY = 1e-15f;

/* What is tried for a type: the largest level, and the numbers of levels that a first scale is made from. */
typedef struct search {
    int   max_level;
    float first_step; /* added to max_level */
    float step;
    int   n_steps; /* both ends included */
} search;

/* Weights of the values of LANES sub-blocks without an importance matrix: root mean square plus magnitude */
COMMANDR_INLINE void plain_weights(const f32v * x, f32v * weights) {
    f32v squares = splat(0.0f);
    for (int i = 0; i < SUB_BLOCK; i++) {
        squares += x[i] * x[i];
    }
    const f32v rms = square_root(squares / 32.0f);
    for (int i = 0; i < SUB_BLOCK; i++) {
        weights[i] = rms + magnitude(x[i]);
    }
}

/* With one: the column's weight times the root of twice the super-block's mean square plus the value's square.
 * first: the first of the LANES sub-blocks; means, columns: of each super-block the former, and its columns' weights */
COMMANDR_INLINE void given_weights(int first, const float * means, const float * const * columns, const f32v * x,
                                   f32v * weights) {
    f32v mean;
    for (int l = 0; l < LANES; l++) {
        mean[l] = means[(first + l) / N_SUBS];
    }
    for (int i = 0; i < SUB_BLOCK; i++) {
        f32v column;
        for (int l = 0; l < LANES; l++) {
            column[l] = columns[(first + l) / N_SUBS][(first + l) % N_SUBS * SUB_BLOCK + i];
        }
        weights[i] = column * square_root(mean + x[i] * x[i]);
    }
}

static float twice_mean_square(const float * x) {
    float sum = 0.0f;
    for (int i = 0; i < SUPER_BLOCK; i++) {
        sum += x[i] * x[i];
    }
    return 2.0f * sum / (float) SUPER_BLOCK;
}

/* Scale, minimum and sum of weights of LANES sub-blocks: weighted least squares for the levels that each trial rounds
 * to. */
COMMANDR_INLINE void fit(const f32v * x, const f32v * weights, search how, f32v * scale_out, f32v * min_out,
                         f32v * weight_out) {
    const float max_level = (float) how.max_level;
    f32v        levels[SUB_BLOCK];
    f32v        min   = x[0];
    f32v        max   = x[0];
    f32v        sum_w = weights[0];
    f32v        sum_x = sum_w * x[0];
    for (int i = 1; i < SUB_BLOCK; i++) {
        min = pick(x[i] < min, x[i], min);
        max = pick(x[i] > max, x[i], max);
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
        inverse    = (how.first_step + how.step * (float) step + max_level) / (max - min);
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
    *scale_out  = pick(flat, splat(0.0f), scale);
    *min_out    = -min;
    *weight_out = sum_w;
}

/* Six bits of each scale and minimum, as the format packs them into 12 bytes. */
static void pack_scales(const uint8_t * scales, const uint8_t * mins, uint8_t * out) {
    for (int j = 0; j < 4; j++) {
        out[j]     = (uint8_t) (scales[j] | (scales[j + 4] >> 4) << 6);
        out[j + 4] = (uint8_t) (mins[j] | (mins[j + 4] >> 4) << 6);
        out[j + 8] = (uint8_t) ((scales[j + 4] & 15) | (mins[j + 4] & 15) << 4);
    }
}

/* The scales' or minimums' own scale, and their levels in six bits, without an importance matrix */
static float round_plain(const float * x, uint8_t * levels) {
    float max = 0.0f;
    for (int j = 0; j < N_SUBS; j++) {
        max = x[j] > max ? x[j] : max;
    }
    const float inverse = max > 0.0f ? 63.0f / max : 0.0f;
    for (int j = 0; j < N_SUBS; j++) {
        const uint8_t level = (uint8_t) nearest_of(inverse * x[j]); /* negative ones wrap to 63, as in ggml */
        levels[j]           = level < 63 ? level : 63;
    }
    return max / 63.0f;
}

static int32_t capped(float x) {
    const int32_t level = nearest_of(x);
    return level < 63 ? level : 63;
}

/* The same with one: of nine scales the one that leaves the least weighted error, then levels moved one by one while
 * that brings the scaled levels nearer. */
static float round_weighted(const float * x, const float * weights, uint8_t * levels) {
    float max = 0.0f;
    for (int j = 0; j < N_SUBS; j++) {
        max = max > x[j] ? max : x[j];
    }
    if (max < TINY) {
        memset(levels, 0, N_SUBS);
        return 0.0f;
    }
    float inverse = 63.0f / max, least = 0.0f;
    for (int trial = 0; trial < 9; trial++) {
        const int   step        = trial == 0 ? 0 : trial <= 4 ? trial - 5 : trial - 4; /* 0, -4..-1, 1..4 */
        const float try_inverse = trial == 0 ? inverse : (0.1f * (float) step + 63.0f) / max;
        const float scale       = 1.0f / try_inverse;
        float       error       = 0.0f;
        for (int j = 0; j < N_SUBS; j++) {
            const int32_t level = trial == 0 ? (uint8_t) nearest_of(try_inverse * x[j]) : capped(try_inverse * x[j]);
            const float   off   = x[j] - scale * (float) level;
            error += weights[j] * off * off;
        }
        if (trial == 0 || error < least) {
            least   = error;
            inverse = try_inverse;
        }
    }
    float sum_xl = 0.0f, sum_l2 = 0.0f;
    for (int j = 0; j < N_SUBS; j++) {
        const int32_t level = capped(inverse * x[j]);
        levels[j]           = (uint8_t) level;
        sum_xl += weights[j] * x[j] * (float) level;
        sum_l2 += weights[j] * (float) level * (float) level;
    }
    bool changed = true;
    for (int round = 0; round < 5 && changed; round++) {
        changed = false;
        for (int j = 0; j < N_SUBS; j++) {
            float xl = sum_xl - weights[j] * x[j] * (float) levels[j];
            float l2 = sum_l2 - weights[j] * (float) levels[j] * (float) levels[j];
            if (!(xl > 0.0f && l2 > 0.0f)) {
                continue;
            }
            const int32_t level = capped(x[j] * l2 / xl);
            if (level == levels[j]) {
                continue;
            }
            xl += weights[j] * x[j] * (float) level;
            l2 += weights[j] * (float) level * (float) level;
            if (xl * xl * sum_l2 > sum_xl * sum_xl * l2) {
                levels[j] = (uint8_t) level;
                sum_xl    = xl;
                sum_l2    = l2;
                changed   = true;
            }
        }
    }
    return sum_l2 > 0.0f ? sum_xl / sum_l2 : 0.0f;
}

/* The first 16 bytes of a block, d, dmin and scales, from the sub-blocks' scales and minimums, and what a level is
 * worth then. weights: [N_SUBS] sums of the sub-blocks' weights, NULL without an importance matrix. False when a
 * sub-block's scale became 0: its levels are left as the search had them, which we do not keep. */
static bool finish_scales(const float * scales, const float * mins, const float * weights, uint8_t * out, float * steps,
                          float * offsets) {
    uint8_t           s[N_SUBS], m[N_SUBS];
    const float       scale     = weights ? round_weighted(scales, weights, s) : round_plain(scales, s);
    const float       min       = weights ? round_weighted(mins, weights, m) : round_plain(mins, m);
    const ggml_fp16_t halves[2] = { ggml_fp32_to_fp16(scale), ggml_fp32_to_fp16(min) };
    const float       d = ggml_fp16_to_fp32(halves[0]), dmin = ggml_fp16_to_fp32(halves[1]);
    bool              all = true;
    for (int j = 0; j < N_SUBS; j++) {
        if (s[j] > 63 || m[j] > 63) {
            return false; /* a level below 0 has wrapped */
        }
        steps[j]   = d * (float) s[j];
        offsets[j] = dmin * (float) m[j];
        all        = all && steps[j] != 0.0f;
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

/* TOGETHER super-blocks of which n_now are wanted. columns: the weights of each one's columns, NULL without an
 * importance matrix */
COMMANDR_INLINE void encode_some(enum ggml_type type, search how, const float * values, const float * const * columns,
                                 int64_t n_now, uint8_t * out) {
    float scale[ALL_SUBS], min[ALL_SUBS], weight[ALL_SUBS], means[TOGETHER];
    for (int i = 0; i < TOGETHER && columns; i++) {
        means[i] = twice_mean_square(values + i * SUPER_BLOCK);
    }
    for (int first = 0; first < ALL_SUBS; first += LANES) {
        f32v x[SUB_BLOCK], weights[SUB_BLOCK], scales, mins, sums;
        gather(values + first * SUB_BLOCK, SUB_BLOCK, x);
        if (columns) {
            given_weights(first, means, columns, x, weights);
        } else {
            plain_weights(x, weights);
        }
        fit(x, weights, how, &scales, &mins, &sums);
        memcpy(scale + first, &scales, sizeof(scales));
        memcpy(min + first, &mins, sizeof(mins));
        memcpy(weight + first, &sums, sizeof(sums));
    }
    for (int64_t i = 0; i < n_now; i++) {
        float         steps[N_SUBS], offsets[N_SUBS];
        uint8_t       levels[SUPER_BLOCK];
        uint8_t *     block = out + (size_t) i * ggml_type_size(type);
        const float * of    = values + i * SUPER_BLOCK;
        if (finish_scales(scale + i * N_SUBS, min + i * N_SUBS, columns ? weight + i * N_SUBS : NULL, block, steps,
                          offsets)) {
            round_levels(of, steps, offsets, how.max_level, levels);
            pack_levels(levels, type == GGML_TYPE_Q5_K, block + 16);
        } else {
            ggml_quantize_chunk(type, of, block, 0, 1, SUPER_BLOCK, columns ? columns[i] : NULL);
        }
    }
}

COMMANDR_INLINE void encode(enum ggml_type type, search how, const float * x, const float * importance, uint8_t * out,
                            int64_t n_rows, int64_t n_per_row) {
    const int64_t n_blocks = n_rows * n_per_row / SUPER_BLOCK;
    for (int64_t b = 0; b < n_blocks; b += TOGETHER) {
        const int64_t n_now = n_blocks - b < TOGETHER ? n_blocks - b : TOGETHER;
        float         copy[TOGETHER * SUPER_BLOCK];
        const float * values = x + b * SUPER_BLOCK;
        const float * columns[TOGETHER];
        for (int64_t i = 0; i < TOGETHER && importance; i++) {
            columns[i] = importance + (b + (i < n_now ? i : 0)) * SUPER_BLOCK % n_per_row;
        }
        if (n_now < TOGETHER) { /* the last one stands in for those that are not there */
            for (int64_t i = 0; i < TOGETHER; i++) {
                memcpy(copy + i * SUPER_BLOCK, values, SUPER_BLOCK * sizeof(float));
            }
            values = copy;
        }
        encode_some(type, how, values, importance ? columns : NULL, n_now, out + (size_t) b * ggml_type_size(type));
    }
}

void COMMANDR_JOIN(commandr_encode_q4_k, COMMANDR_LEVEL)(const float * x, const float * importance, void * blocks,
                                                         int64_t n_rows, int64_t n_per_row) {
    const search how = importance ? (search) { 15, -0.9f, 0.05f, 36 } : (search) { 15, -1.0f, 0.1f, 20 };
    encode(GGML_TYPE_Q4_K, how, x, importance, blocks, n_rows, n_per_row);
}

void COMMANDR_JOIN(commandr_encode_q5_k, COMMANDR_LEVEL)(const float * x, const float * importance, void * blocks,
                                                         int64_t n_rows, int64_t n_per_row) {
    const search how = importance ? (search) { 31, -0.9f, 0.05f, 36 } : (search) { 31, -0.5f, 0.1f, 15 };
    encode(GGML_TYPE_Q5_K, how, x, importance, blocks, n_rows, n_per_row);
}
