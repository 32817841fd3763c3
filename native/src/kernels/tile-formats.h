/* What the bytes of a packed tile mean: ggml's blocks, of which word i of 16 rows is vector i of a tile. `tile`
 * points at the first word. */
#ifndef COMMANDR_SRC_KERNELS_TILE_FORMATS_H
#define COMMANDR_SRC_KERNELS_TILE_FORMATS_H

#include "kernels/lanes.h"

enum {
    LANES   = COMMANDR_LANES,
    BLOCK   = COMMANDR_SUPER_BLOCK,
    AT_ONCE = VECTOR / 4 /* rows in a vector */
};

/* Arrays stay in registers only where every index is a constant. */
#if defined(LANES_PORTABLE)
#define UNROLL
#elif defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* What the bytes of a super-block of 16 rows mean, computed once for all groups of columns. weight = scale * q - min,
 * in Q6_K scale * (q - 32), in Q4_0 scale * (q - 8). */
typedef struct tile_scales {
    float   scale[BLOCK / 16][LANES];
    int32_t mins[4][LANES]; /* of sub-blocks 2j and 2j + 1, in the low and high 16 bits, times min_d */
    float   min_d[LANES];
} tile_scales;

/* Word i of AT_ONCE rows from `lane` on. */
COMMANDR_INLINE words word(const uint8_t * tile, int i, int lane) {
    return words_at(tile + 4 * (LANES * i + lane));
}

COMMANDR_INLINE floats bits_of(words x, int shift, uint32_t mask) {
    return to_floats((ints) (x >> shift & mask));
}

COMMANDR_INLINE void put(float * to, floats x) {
    memcpy(to, &x, sizeof(x));
}

/* The low two bytes as 16-bit halves. */
COMMANDR_INLINE words spread(words x) {
    return (x & 0xff) | (x << 8 & 0xff0000);
}

/* Q4_K and Q5_K: word 0 has d below dmin. Words 1 to 3 are 12 bytes a, b, c of 4 each: scales 0 to 3 and minimums 0
 * to 3 are the low 6 bits of a and b; those 4 to 7 have their low 4 bits in the halves of c and their high 2 in the
 * rest of a and b. */
COMMANDR_INLINE void read_scales_with_min(const uint8_t * tile, int lane, tile_scales * to) {
    const words  a      = word(tile, 1, lane);
    const words  b      = word(tile, 2, lane);
    const words  c      = word(tile, 3, lane);
    const words  a_high = (c & 0x0f0f0f0f) | (a >> 2 & 0x30303030);
    const words  b_low  = b & 0x3f3f3f3f;
    const words  b_high = (c >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030);
    const floats d      = halves(word(tile, 0, lane) & 0xffff);
    for (int i = 0; i < 4; i++) {
        put(to->scale[i] + lane, d * bits_of(a, 8 * i, 63));
        put(to->scale[i + 4] + lane, d * bits_of(a_high, 8 * i, 63));
    }
    for (int i = 0; i < 2; i++) {
        const words low  = spread(b_low >> 16 * i);
        const words high = spread(b_high >> 16 * i);
        memcpy(to->mins[i] + lane, &low, sizeof(low));
        memcpy(to->mins[i + 2] + lane, &high, sizeof(high));
    }
    put(to->min_d + lane, halves(word(tile, 0, lane) >> 16));
}

/* Half floats of neighboring lanes. */
COMMANDR_INLINE floats halves_at(const uint8_t * at) {
    words h;
    for (int i = 0; i < AT_ONCE; i++) {
        uint16_t bits;
        memcpy(&bits, at + 2 * i, sizeof(bits));
        h[i] = bits;
    }
    return halves(h);
}

/* Q6_K: words 0 to 3 are 16 signed bytes, d stands before all words. */
COMMANDR_INLINE void read_signed_scales(const uint8_t * tile, int lane, tile_scales * to) {
    const floats d = halves_at(tile - 2 * LANES + 2 * lane);
    for (int s = 0; s < BLOCK / 16; s++) {
        put(to->scale[s] + lane, d * to_floats((ints) (word(tile, s / 4, lane) << (24 - 8 * (s % 4))) >> 24));
    }
}

/* Blocks of 32 elements, each with a scale and nothing else, and so have the columns. */
COMMANDR_INLINE bool has_blocks(enum ggml_type type) {
    return type == GGML_TYPE_Q8_0 || type == GGML_TYPE_Q4_0;
}

/* Q8_0 and Q4_0: d of 8 blocks stand before all words. */
COMMANDR_INLINE void read_block_scales(const uint8_t * tile, int lane, tile_scales * to) {
    for (int s = 0; s < BLOCK / 32; s++) {
        put(to->scale[s] + lane, halves_at(tile + 2 * LANES * (s - BLOCK / 32) + 2 * lane));
    }
}

COMMANDR_INLINE void read_scales(enum ggml_type type, const uint8_t * tile, tile_scales * to) {
    for (int lane = 0; lane < LANES; lane += AT_ONCE) {
        if (type == GGML_TYPE_Q6_K) {
            read_signed_scales(tile, lane, to);
        } else if (has_blocks(type)) {
            read_block_scales(tile, lane, to);
        } else {
            read_scales_with_min(tile, lane, to);
        }
    }
}

/* Quants come in pairs of sub-blocks that share bytes: the first one's low 4 bits are the low halves, the second
 * one's the high halves. Q4_K, Q5_K: 32 bytes a pair, sub-blocks 2p and 2p + 1 of 32 elements. Q6_K: 16 bytes,
 * sub-blocks of 16 elements that are 4 apart; pair 4 is 8 sub-blocks behind pair 0. Q8_0 has whole bytes in
 * sub-blocks of 32; in Q4_0 each has 16 bytes of its own, with the first 16 elements in the low halves. */
COMMANDR_INLINE int first_of_pair(enum ggml_type type, int half, int p) {
    return type == GGML_TYPE_Q6_K ? 8 * half + p : 2 * p;
}

/* Words of 4 elements in a sub-block. */
COMMANDR_INLINE int steps_in(enum ggml_type type) {
    return type == GGML_TYPE_Q6_K ? 4 : 8;
}

COMMANDR_INLINE int apart_in_pair(enum ggml_type type) {
    return type == GGML_TYPE_Q6_K ? 4 : 1;
}

/* The word of step t, where that of step 0 is word `at` and others lie `stride` words apart. */
COMMANDR_INLINE words step_word(const uint8_t * tile, int at, int stride, int t, int lane) {
    return words_of_step(tile + 4 * (LANES * at + lane), 4 * LANES * stride, t);
}

/* Elements 4t to 4t + 3 of both sub-blocks of pair p, 0 to 3, in one of the two halves of Q6_K: step t. */
COMMANDR_INLINE void read_pair(enum ggml_type type, const uint8_t * tile, int half, int p, int t, int lane,
                               words * first, words * second) {
    if (type == GGML_TYPE_Q8_0) {
        const uint32_t offset = SIGNED_BYTES ? 0 : 0x80808080;
        *first                = step_word(tile, 16 * p, 2, t, lane) ^ offset;
        *second               = step_word(tile, 16 * p + 1, 2, t, lane) ^ offset;
        return;
    }
    if (type == GGML_TYPE_Q4_0) {
        *first  = step_word(tile, 8 * p, 2, t % 4, lane) >> t / 4 * 4 & 0x0f0f0f0f;
        *second = step_word(tile, 8 * p + 1, 2, t % 4, lane) >> t / 4 * 4 & 0x0f0f0f0f;
        return;
    }
    /* High bits lie between. */
    const bool  is_sparse = (type == GGML_TYPE_Q5_K && p == 0) || (type == GGML_TYPE_Q6_K && p < 2);
    const int   q5_at     = p == 0 ? 4 : 12 + 8 * p;
    const int   q6_at     = 4 + 24 * half + 8 * p + (p < 2 ? 0 : 8 - 4 * p);
    const int   at        = type == GGML_TYPE_Q4_K ? 4 + 8 * p : type == GGML_TYPE_Q5_K ? q5_at : q6_at;
    const words both      = step_word(tile, at, is_sparse ? 2 : 1, t, lane);
    *first                = both & 0x0f0f0f0f;
    *second               = both >> 4 & 0x0f0f0f0f;
    if (type == GGML_TYPE_Q5_K) { /* bit s of byte l of 32 is the fifth of element l in sub-block s */
        const words high = step_word(tile, 5, 2, t, lane);
        *first |= shift_left(high, 4 - 2 * p) & 0x10101010;
        *second |= shift_left(high, 3 - 2 * p) & 0x10101010;
    }
    if (type == GGML_TYPE_Q6_K) { /* byte l of 32 has 2 bits for each of the elements l, l + 32, l + 64, l + 96 */
        const words high = step_word(tile, 4 + 24 * half + 8 * (p % 2) + 1, 2, t, lane);
        *first |= shift_left(high, 4 - p / 2 * 2) & 0x30303030;
        *second |= shift_left(high, -(p / 2 * 2)) & 0x30303030;
    }
}

#endif
