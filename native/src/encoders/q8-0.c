/* Q8_0: blocks of 32 values with one scale, the largest magnitude over 127. */
#include "encoders/encoders.h"
#include "encoders/lanes.h"

enum { BLOCK = 32 };

/* The nearest whole number, halves away from zero, of magnitudes below 2^22. The largest float below a half is added:
 * half itself would carry the float below a half to 1. */
COMMANDR_INLINE i32v nearest_away(f32v x) {
    const f32v half = (f32v) (((i32v) x & (int32_t) 0x80000000) | (i32v) splat(0x1.fffffep-2f));
    return __builtin_convertvector(x + half, i32v);
}

void COMMANDR_JOIN(commandr_encode_q8_0, COMMANDR_LEVEL)(const float * x, const float * importance, void * blocks,
                                                         int64_t n_rows, int64_t n_per_row) {
    (void) importance; /* it changes nothing here, as in ggml */
    const int64_t n   = n_rows * n_per_row;
    uint8_t *     out = blocks;
    for (int64_t b = 0; b < n; b += BLOCK, out += 2 + BLOCK) {
        f32v values[BLOCK / LANES];
        memcpy(values, x + b, sizeof(values));
        f32v larger = magnitude(values[0]);
        for (int i = 1; i < BLOCK / LANES; i++) {
            const f32v a = magnitude(values[i]);
            larger       = pick(a > larger, a, larger);
        }
        float largest = 0.0f;
        for (int l = 0; l < LANES; l++) {
            largest = larger[l] > largest ? larger[l] : largest;
        }
        const float       scale   = largest / 127.0f;
        const float       inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
        const ggml_fp16_t half    = ggml_fp32_to_fp16(scale);
        memcpy(out, &half, sizeof(half));
        for (int i = 0; i < BLOCK / LANES; i++) {
            store_bytes(nearest_away(values[i] * inverse), out + 2 + i * LANES);
        }
    }
}
