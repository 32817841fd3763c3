#include "kernels/tile.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include "simd.h"

#include <immintrin.h>
#include <string.h>

enum {
    LANES = COMMANDR_LANES,
    BLOCK = COMMANDR_SUPER_BLOCK,
    AHEAD = 2048 /* bytes between what is read and what is fetched from memory meanwhile; 2 to 6 KiB do as well */
};

#define TARGET      __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")))
#define TARGET_PART TARGET COMMANDR_INLINE
/* Arrays stay in registers only where every index is a constant. */
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* What the bytes of a super-block of 16 rows mean, computed once for all groups of columns. weight = scale * q - min,
 * in Q6_K scale * (q - 32). */
typedef struct tile_scales {
    float scale[BLOCK / 16][LANES];
    float min[BLOCK / 32][LANES];
} tile_scales;

/* ---- the formats: ggml's blocks, of which word i of 16 rows is vector i of a tile ---- */

TARGET_PART __m512i word(const uint8_t * tile, int i) {
    return _mm512_loadu_si512(tile + 4 * LANES * i);
}

/* The same for a word that is read for the first time. While several columns are computed the processor does not read far
 * enough ahead by itself; with one column it does, and better than it can be told to. */
TARGET_PART __m512i next_word(const uint8_t * tile, int i, int n_cols) {
    if (n_cols > 1) {
        _mm_prefetch((const char *) tile + 4 * LANES * i + AHEAD, _MM_HINT_T0);
    }
    return word(tile, i);
}

TARGET_PART __m512 halves(__m512i x) {
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x));
}

TARGET_PART __m512 byte_of(__m512i x, int i, int mask) {
    const __m512i shift = _mm512_set1_epi32(8 * i);
    return _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srlv_epi32(x, shift), _mm512_set1_epi32(mask)));
}

/* Q4_K and Q5_K: word 0 has d below dmin. Words 1 to 3 are 12 bytes a, b, c of 4 each: scales 0 to 3 and minimums 0 to 3
 * are the low 6 bits of a and b; those 4 to 7 have their low 4 bits in the halves of c and their high 2 in the rest of a
 * and b. */
TARGET_PART void read_scales_with_min(const uint8_t * tile, tile_scales * to) {
    const __m512i a        = word(tile, 1);
    const __m512i b        = word(tile, 2);
    const __m512i c        = word(tile, 3);
    const __m512i low_4    = _mm512_set1_epi8(15);
    const __m512i bits_4_5 = _mm512_set1_epi8(48);
    const __m512i a_high =
        _mm512_or_si512(_mm512_and_si512(c, low_4), _mm512_and_si512(_mm512_srli_epi32(a, 2), bits_4_5));
    const __m512i b_high = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi32(c, 4), low_4),
                                           _mm512_and_si512(_mm512_srli_epi32(b, 2), bits_4_5));
    const __m512  d      = halves(word(tile, 0));
    const __m512  d_min  = halves(_mm512_srli_epi32(word(tile, 0), 16));
    for (int i = 0; i < 4; i++) {
        _mm512_storeu_ps(to->scale[i], _mm512_mul_ps(d, byte_of(a, i, 63)));
        _mm512_storeu_ps(to->min[i], _mm512_mul_ps(d_min, byte_of(b, i, 63)));
        _mm512_storeu_ps(to->scale[i + 4], _mm512_mul_ps(d, byte_of(a_high, i, 63)));
        _mm512_storeu_ps(to->min[i + 4], _mm512_mul_ps(d_min, byte_of(b_high, i, 63)));
    }
}

/* Q6_K: words 0 to 3 are 16 signed bytes, d stands behind all words. */
TARGET_PART void read_signed_scales(const uint8_t * tile, tile_scales * to) {
    const __m512 d = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) (tile + 4 * LANES * 52)));
    for (int s = 0; s < BLOCK / 16; s++) {
        const __m512i left = _mm512_sllv_epi32(word(tile, s / 4), _mm512_set1_epi32(24 - 8 * (s % 4)));
        _mm512_storeu_ps(to->scale[s], _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_srai_epi32(left, 24))));
    }
}

/* Q8_0: d of 8 blocks stand behind their 64 words. Quants are signed and become q by adding 128. */
TARGET_PART void read_block_scales(const uint8_t * tile, tile_scales * to) {
    for (int s = 0; s < BLOCK / 32; s++) {
        const uint8_t * at = tile + LANES * (4 * 64 + 2 * s);
        const __m512    d  = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) at));
        _mm512_storeu_ps(to->scale[s], d);
        _mm512_storeu_ps(to->min[s], _mm512_mul_ps(d, _mm512_set1_ps(128.0f)));
    }
}

/* Quants come in pairs of sub-blocks that share bytes: the first one's low 4 bits are the low halves, the second one's
 * the high halves. Q4_K, Q5_K: 32 bytes a pair, sub-blocks 2p and 2p + 1 of 32 elements. Q6_K: 16 bytes, sub-blocks of 16
 * elements that are 4 apart. Q8_0 has whole bytes in sub-blocks of 32. */
TARGET_PART int first_of_pair(enum ggml_type type, int p) {
    return type == GGML_TYPE_Q6_K ? p / 4 * 8 + p % 4 : 2 * p;
}

/* Elements 4t to 4t + 3 of both sub-blocks of pair p. */
TARGET_PART void read_pair(enum ggml_type type, const uint8_t * tile, int p, int t, int n_cols, __m512i * first,
                           __m512i * second) {
    if (type == GGML_TYPE_Q8_0) {
        const __m512i sign = _mm512_set1_epi8(-128);
        *first             = _mm512_xor_si512(next_word(tile, 16 * p + 2 * t, n_cols), sign);
        *second            = _mm512_xor_si512(next_word(tile, 16 * p + 2 * t + 1, n_cols), sign);
        return;
    }
    const int q5_at = p == 0 ? 4 + 2 * t : 12 + 8 * p + t;
    const int l     = p % 4 * 4 + t; /* of 16 words of a half of Q6_K */
    const int q6_at = 4 + p / 4 * 24 + (l < 8 ? 2 * l : 8 + l);

    const int     at    = type == GGML_TYPE_Q4_K ? 4 + 8 * p + t : type == GGML_TYPE_Q5_K ? q5_at : q6_at;
    const __m512i both  = next_word(tile, at, n_cols);
    const __m512i low_4 = _mm512_set1_epi8(15);
    *first              = _mm512_and_si512(both, low_4);
    *second             = _mm512_and_si512(_mm512_srli_epi32(both, 4), low_4);
    if (type == GGML_TYPE_Q5_K) { /* bit s of byte l of 32 is the fifth of element l in sub-block s */
        const __m512i high =
            _mm512_srlv_epi32(next_word(tile, 5 + 2 * t, p == 0 ? n_cols : 1), _mm512_set1_epi32(2 * p));
        const __m512i bit_4 = _mm512_set1_epi8(16);
        *first              = _mm512_or_si512(*first, _mm512_and_si512(_mm512_slli_epi32(high, 4), bit_4));
        *second             = _mm512_or_si512(*second, _mm512_and_si512(_mm512_slli_epi32(high, 3), bit_4));
    }
    if (type == GGML_TYPE_Q6_K) { /* byte l of 32 has 2 bits for each of the elements l, l + 32, l + 64, l + 96 */
        const int     high_at = 4 + p / 4 * 24 + 2 * (l % 8) + 1;
        const __m512i high =
            _mm512_srlv_epi32(next_word(tile, high_at, l < 8 ? n_cols : 1), _mm512_set1_epi32(l / 8 * 2));
        const __m512i bits_4_5 = _mm512_set1_epi8(48);
        *first                 = _mm512_or_si512(*first, _mm512_and_si512(_mm512_slli_epi32(high, 4), bits_4_5));
        *second                = _mm512_or_si512(*second, _mm512_and_si512(high, bits_4_5));
    }
}

/* ---- the product ---- */

TARGET_PART __m512i broadcast(const int32_t * unit) {
    return _mm512_set1_epi32(*unit);
}

TARGET_PART __m512 broadcast_float(const int32_t * unit) {
    float f;
    memcpy(&f, unit, sizeof(f));
    return _mm512_set1_ps(f);
}

/* Adds a tile's product with a super-block of n columns to out: [n][LANES]. type and n are constants. */
TARGET_PART void multiply_tile(enum ggml_type type, int n, const uint8_t * tile, const tile_scales * scales,
                               const int32_t * x, float (*out)[LANES]) {
    const bool has_min = type != GGML_TYPE_Q6_K;
    const int  n_steps = has_min ? 8 : 4; /* of 4 elements in a sub-block */
    const int  n_pairs = BLOCK / 8 / n_steps;
    const bool fine    = type == GGML_TYPE_Q8_0;
    __m512     sums[COMMANDR_GROUP];
    UNROLL
    for (int c = 0; c < n; c++) {
        sums[c] = _mm512_setzero_ps();
    }
    for (int p = 0; p < n_pairs; p++) {
        const int s[2] = { first_of_pair(type, p), first_of_pair(type, p) + (has_min ? 1 : 4) };
        __m512i   dots[2][COMMANDR_GROUP];
        UNROLL
        for (int c = 0; c < n; c++) {
            UNROLL
            for (int i = 0; i < 2; i++) {
                dots[i][c] = has_min ? _mm512_setzero_si512() : broadcast(x + (COMMANDR_SHIFT_AT + s[i]) * n + c);
            }
        }
        UNROLL
        for (int t = 0; t < n_steps; t++) {
            __m512i w[2];
            read_pair(type, tile, p, t, n, &w[0], &w[1]);
            UNROLL
            for (int i = 0; i < 2; i++) {
                UNROLL
                for (int c = 0; c < n; c++) {
                    dots[i][c] = _mm512_dpbusd_epi32(dots[i][c], w[i], broadcast(x + (s[i] * n_steps + t) * n + c));
                }
            }
        }
        UNROLL
        for (int i = 0; i < 2; i++) {
            const __m512 scale = _mm512_loadu_ps(scales->scale[s[i]]);
            const __m512 min   = has_min ? _mm512_loadu_ps(scales->min[s[i]]) : _mm512_setzero_ps();
            UNROLL
            for (int c = 0; c < n; c++) {
                const __m512 dot = _mm512_cvtepi32_ps(dots[i][c]);
                const __m512 sum = broadcast_float(x + (COMMANDR_SUM_AT + s[i]) * n + c);
                if (fine) {
                    const __m512 d       = broadcast_float(x + (COMMANDR_D_AT + s[i]) * n + c);
                    const __m512 product = _mm512_fmsub_ps(scale, dot, _mm512_mul_ps(min, sum));
                    sums[c]              = _mm512_fmadd_ps(product, d, sums[c]);
                } else {
                    sums[c] = _mm512_fmadd_ps(scale, dot, sums[c]);
                    sums[c] = has_min ? _mm512_fnmadd_ps(min, sum, sums[c]) : sums[c];
                }
            }
        }
    }
    UNROLL
    for (int c = 0; c < n; c++) {
        const __m512 d = fine ? _mm512_set1_ps(1.0f) : broadcast_float(x + COMMANDR_D_AT * n + c);
        _mm512_storeu_ps(out[c], _mm512_fmadd_ps(sums[c], d, _mm512_loadu_ps(out[c])));
    }
}

/* A tile with a super-block of n_cols columns, group after group. */
TARGET_PART void multiply_groups(enum ggml_type type, const uint8_t * tile, const int32_t * x, int64_t n_cols,
                                 float (*out)[LANES]) {
    tile_scales scales;
    if (type == GGML_TYPE_Q6_K) {
        read_signed_scales(tile, &scales);
    } else if (type == GGML_TYPE_Q8_0) {
        read_block_scales(tile, &scales);
    } else {
        read_scales_with_min(tile, &scales);
    }
    for (int64_t c = 0; c < n_cols; c += COMMANDR_GROUP, x += COMMANDR_GROUP * COMMANDR_COLUMN_UNITS) {
        switch (n_cols - c) {
            case 1: multiply_tile(type, 1, tile, &scales, x, out + c); break;
            case 2: multiply_tile(type, 2, tile, &scales, x, out + c); break;
            case 3: multiply_tile(type, 3, tile, &scales, x, out + c); break;
            case 4: multiply_tile(type, 4, tile, &scales, x, out + c); break;
            case 5: multiply_tile(type, 5, tile, &scales, x, out + c); break;
            case 6: multiply_tile(type, 6, tile, &scales, x, out + c); break;
            case 7: multiply_tile(type, 7, tile, &scales, x, out + c); break;
            default: multiply_tile(type, COMMANDR_GROUP, tile, &scales, x, out + c);
        }
    }
}

TARGET static void multiply_q4_k(const uint8_t * tile, const int32_t * x, int64_t n_cols, float (*out)[LANES]) {
    multiply_groups(GGML_TYPE_Q4_K, tile, x, n_cols, out);
}

TARGET static void multiply_q5_k(const uint8_t * tile, const int32_t * x, int64_t n_cols, float (*out)[LANES]) {
    multiply_groups(GGML_TYPE_Q5_K, tile, x, n_cols, out);
}

TARGET static void multiply_q6_k(const uint8_t * tile, const int32_t * x, int64_t n_cols, float (*out)[LANES]) {
    multiply_groups(GGML_TYPE_Q6_K, tile, x, n_cols, out);
}

TARGET static void multiply_q8_0(const uint8_t * tile, const int32_t * x, int64_t n_cols, float (*out)[LANES]) {
    multiply_groups(GGML_TYPE_Q8_0, tile, x, n_cols, out);
}

commandr_tile_fn commandr_tile_avx512(enum ggml_type type) {
    if (!__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl")) {
        return NULL;
    }
    switch ((int) type) {
        case GGML_TYPE_Q4_K: return multiply_q4_k;
        case GGML_TYPE_Q5_K: return multiply_q5_k;
        case GGML_TYPE_Q6_K: return multiply_q6_k;
        case GGML_TYPE_Q8_0: return multiply_q8_0;
        default: return NULL;
    }
}

#else

commandr_tile_fn commandr_tile_avx512(enum ggml_type type) {
    (void) type;
    return NULL;
}

#endif
