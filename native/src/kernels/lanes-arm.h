/* The dialects of lanes.h for ARM. */
#ifndef COMMANDR_SRC_KERNELS_LANES_ARM_H
#define COMMANDR_SRC_KERNELS_LANES_ARM_H

#if defined(LANES_I8MM)

enum { MAX_COLUMNS = 8, SIGNED_BYTES = 1, PAIRED = 1 };
typedef ints partial;

/* Both steps of rows 0 and 1 for an even step, of rows 2 and 3 for the odd one behind it. */
COMMANDR_INLINE words words_of_step(const uint8_t * p, int stride, int t) {
    const uint32x4_t even = (uint32x4_t) words_at(p + t / 2 * 2 * stride);
    const uint32x4_t odd  = (uint32x4_t) words_at(p + (t / 2 * 2 + 1) * stride);
    return (words) (t % 2 == 0 ? vzip1q_u32(even, odd) : vzip2q_u32(even, odd));
}

COMMANDR_INLINE partial dot(enum ggml_type type, bool is_first, partial sum, words w, const int32_t * x, int i) {
    (void) type;
    (void) is_first;
    return (partial) vmmlaq_s32((int32x4_t) sum, (int8x16_t) words_at(x + i), (int8x16_t) w);
}

COMMANDR_INLINE floats rows_of(const float * four, int k) {
    const float32x2_t two = vld1_f32(four + 2 * (k % 2));
    return (floats) vcombine_f32(two, two);
}

COMMANDR_INLINE ints ints_of(const int32_t * x, int c, int n) {
    const int32x2_t two = c / 2 * 2 + 1 < n ? vld1_s32(x + c / 2 * 2) : vld1_dup_s32(x + c / 2 * 2);
    const int32x4_t one = vcombine_s32(two, two);
    return (ints) vzip1q_s32(one, one);
}

COMMANDR_INLINE floats floats_of(const int32_t * x, int c, int n) {
    return (floats) ints_of(x, c, n);
}

COMMANDR_INLINE floats untangled(const floats * sums, int k) {
    const float64x2_t a = (float64x2_t) sums[k / 2 * 2];
    const float64x2_t b = (float64x2_t) sums[k / 2 * 2 + 1];
    return (floats) (k % 2 ? vzip2q_f64(a, b) : vzip1q_f64(a, b));
}

#else

enum { MAX_COLUMNS = 8, SIGNED_BYTES = 1, PAIRED = 0 };
typedef ints partial;

/* The instruction takes any of the 4 elements of a register: one load serves both steps of 2 columns, or 4 of one. */
COMMANDR_INLINE partial dot(enum ggml_type type, bool is_first, partial sum, words w, const int32_t * x, int i) {
    const int32x4_t a = (int32x4_t) sum;
    const int8x16_t b = (int8x16_t) w;
    const int8x16_t c = (int8x16_t) words_at(x + i / 4 * 4);
    (void) type;
    (void) is_first;
    switch (i % 4) {
        case 0: return (partial) vdotq_laneq_s32(a, b, c, 0);
        case 1: return (partial) vdotq_laneq_s32(a, b, c, 1);
        case 2: return (partial) vdotq_laneq_s32(a, b, c, 2);
        default: return (partial) vdotq_laneq_s32(a, b, c, 3);
    }
}

#endif

COMMANDR_INLINE partial start(ints sum) {
    return sum;
}

COMMANDR_INLINE ints finish(ints sum, partial p) {
    (void) sum;
    __asm__ volatile("" : "+w"(p)); /* else Clang begins with the next sums, and has no registers to keep these in */
    return p;
}

COMMANDR_INLINE int steps_of(enum ggml_type type) {
    (void) type;
    return 8;
}

COMMANDR_INLINE ints dot_pairs(ints sum, words a, const int32_t * b, int i) {
    const int16x4_t low  = vmovn_s32((int32x4_t) a);
    const int16x4_t high = vshrn_n_s32((int32x4_t) a, 16);
    const int16x8_t c    = (int16x8_t) words_at(b + i / 4 * 4);
    const int32x4_t s    = (int32x4_t) sum;
    switch (i % 4) {
        case 0: return (ints) vmlal_laneq_s16(vmlal_laneq_s16(s, low, c, 0), high, c, 1);
        case 1: return (ints) vmlal_laneq_s16(vmlal_laneq_s16(s, low, c, 2), high, c, 3);
        case 2: return (ints) vmlal_laneq_s16(vmlal_laneq_s16(s, low, c, 4), high, c, 5);
        default: return (ints) vmlal_laneq_s16(vmlal_laneq_s16(s, low, c, 6), high, c, 7);
    }
}

COMMANDR_INLINE floats fma_of(floats a, floats b, floats c) {
    return (floats) vfmaq_f32((float32x4_t) c, (float32x4_t) a, (float32x4_t) b);
}

COMMANDR_INLINE floats halves(words h) {
    return (floats) vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32((uint32x4_t) h)));
}

#endif
