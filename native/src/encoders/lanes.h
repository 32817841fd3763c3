/* As many values side by side as a register of the level holds, and the operations that ggml's encoders do with each.
 * (Wider vectors are not split well: GCC 12 takes their comparisons apart value by value.) */
#ifndef COMMANDR_SRC_ENCODERS_LANES_H
#define COMMANDR_SRC_ENCODERS_LANES_H

#include "simd.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX2__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif

typedef float   f32v __attribute__((vector_size(4 * LANES)));
typedef int32_t i32v __attribute__((vector_size(4 * LANES)));
typedef int8_t  i8v __attribute__((vector_size(LANES)));

COMMANDR_INLINE f32v splat(float x) {
    return (f32v) { 0 } + x;
}

/* Lane by lane: a where the mask is set, else b */
COMMANDR_INLINE f32v pick(i32v mask, f32v a, f32v b) {
    return (f32v) (((i32v) a & mask) | ((i32v) b & ~mask));
}

COMMANDR_INLINE i32v pick_int(i32v mask, i32v a, i32v b) {
    return (a & mask) | (b & ~mask);
}

COMMANDR_INLINE f32v magnitude(f32v x) {
    return (f32v) ((i32v) x & 0x7fffffff);
}

/* The nearest whole number, ties to even, of magnitudes below 2^22: adding 1.5 * 2^23 leaves it in the low bits. Of
 * larger values, infinities and NaN it makes what ggml's encoders make of them. */
COMMANDR_INLINE i32v nearest(f32v x) {
    return ((i32v) (x + 12582912.0f) & 0x007fffff) - 0x00400000;
}

COMMANDR_INLINE int32_t nearest_of(float x) {
    const float shifted = x + 12582912.0f;
    int32_t     bits;
    memcpy(&bits, &shifted, sizeof(bits));
    return (bits & 0x007fffff) - 0x00400000;
}

COMMANDR_INLINE i32v clamp(i32v x, int32_t low, int32_t high) {
    x = pick_int(x > low, x, (i32v) { 0 } + low);
    return pick_int(x < high, x, (i32v) { 0 } + high);
}

COMMANDR_INLINE f32v to_float(i32v x) {
    return __builtin_convertvector(x, f32v);
}

/* Values that fit a byte, one a byte */
COMMANDR_INLINE void store_bytes(i32v x, void * out) {
    const i8v bytes = __builtin_convertvector(x, i8v);
    memcpy(out, &bytes, sizeof(bytes));
}

COMMANDR_INLINE f32v square_root(f32v x) {
    for (int l = 0; l < LANES; l++) {
        x[l] = sqrtf(x[l]);
    }
    return x;
}

/* Value i of each of LANES sub-blocks of n values that follow each other: [n] vectors */
COMMANDR_INLINE void gather(const float * x, int n, f32v * out) {
    for (int i = 0; i < n; i++) {
        for (int l = 0; l < LANES; l++) {
            out[i][l] = x[l * n + i];
        }
    }
}

#endif
