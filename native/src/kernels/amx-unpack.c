#include "kernels/amx-unpack.h"

#include "kernels/amx-tiles.h"
#include "kernels/packed.h"

#include <string.h>

/* Whether rows of this type are unpacked here from packed ones. */
static bool is_packable(enum ggml_type type) {
    return type == GGML_TYPE_Q4_K || type == GGML_TYPE_Q5_K || type == GGML_TYPE_Q6_K || type == GGML_TYPE_Q8_0 ||
           type == GGML_TYPE_Q4_0;
}

bool commandr_amx_unpacks_fast(enum ggml_type type) {
    return is_packable(type) || type == GGML_TYPE_BF16;
}

bool commandr_amx_can_unpack(const struct ggml_tensor * w) {
    if (commandr_amx_unpacks_fast(w->type)) {
        return true;
    }
    return ggml_is_quantized(w->type) && !commandr_is_packed(w) &&
           COMMANDR_SUPER_BLOCK % ggml_blck_size(w->type) == 0 && ggml_get_type_traits(w->type)->to_float;
}

#if COMMANDR_HAS_AMX

#include <immintrin.h>

enum { LANES = COMMANDR_LANES, BLOCK = COMMANDR_SUPER_BLOCK };

#define TARGET      __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16,fma,f16c")))
#define TARGET_PART TARGET COMMANDR_INLINE

/* ---- packed rows: word i of 16 rows is a vector; words are numbered as in ggml's blocks ---- */

TARGET_PART __m512i word_of(enum ggml_type type, const uint8_t * packed, size_t block, size_t i) {
    const size_t at = commandr_packed_words_at(type) + 4 * LANES * commandr_packed_word_at(type, block, i);
    return _mm512_loadu_si512(packed + at);
}

/* The 16-bit numbers of a block. They stand before all words, block after block. */
TARGET_PART __m512 halves_of(const uint8_t * packed, size_t block) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) (packed + 2 * LANES * block)));
}

TARGET_PART __m512i low_4(__m512i x) {
    return _mm512_and_si512(x, _mm512_set1_epi8(15));
}

TARGET_PART __m512i bits_4_5(__m512i x) {
    return _mm512_and_si512(x, _mm512_set1_epi8(48));
}

/* Two elements of 16 rows in bfloat16, to nearest even, side by side for each row. */
TARGET_PART __m512i pairs_of(__m512 first, __m512 second) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, (__m512i) _mm512_cvtne2ps_pbh(second, first));
}

/* Elements at to at + 3 of 16 rows, a multiple of 4: scale * q - min, q being the unsigned bytes of each word. */
TARGET_PART void put(__m512i q, __m512 scale, __m512 min, int at, uint32_t * to) {
    const __m512i byte = _mm512_set1_epi32(255);
    const __m512  x0   = _mm512_fmsub_ps(_mm512_cvtepi32_ps(_mm512_and_si512(q, byte)), scale, min);
    const __m512i q1   = _mm512_and_si512(_mm512_srli_epi32(q, 8), byte);
    const __m512  x1   = _mm512_fmsub_ps(_mm512_cvtepi32_ps(q1), scale, min);
    const __m512i q2   = _mm512_and_si512(_mm512_srli_epi32(q, 16), byte);
    const __m512  x2   = _mm512_fmsub_ps(_mm512_cvtepi32_ps(q2), scale, min);
    const __m512  x3   = _mm512_fmsub_ps(_mm512_cvtepi32_ps(_mm512_srli_epi32(q, 24)), scale, min);
    to += at / COMMANDR_AMX_STEP * COMMANDR_AMX_STEP_WORDS + at % COMMANDR_AMX_STEP / 2 * LANES;
    _mm512_storeu_si512(to, pairs_of(x0, x1));
    _mm512_storeu_si512(to + LANES, pairs_of(x2, x3));
}

/* Q4_K and Q5_K: word 0 has d below dmin. Words 1 to 3 are 12 bytes a, b, c of 4 each: scales 0 to 3 and minimums 0 to
 * 3 are the low 6 bits of a and b; those 4 to 7 have their low 4 bits in the halves of c and their high 2 in the rest
 * of a and b. This leaves them in the bytes of scales[2] and mins[2]. */
TARGET_PART void read_scales(enum ggml_type type, const uint8_t * packed, __m512i * scales, __m512i * mins) {
    const __m512i a      = word_of(type, packed, 0, 1);
    const __m512i b      = word_of(type, packed, 0, 2);
    const __m512i c      = word_of(type, packed, 0, 3);
    const __m512i bits_6 = _mm512_set1_epi8(63);
    scales[0]            = _mm512_and_si512(a, bits_6);
    scales[1]            = _mm512_or_si512(low_4(c), bits_4_5(_mm512_srli_epi32(a, 2)));
    mins[0]              = _mm512_and_si512(b, bits_6);
    mins[1]              = _mm512_or_si512(low_4(_mm512_srli_epi32(c, 4)), bits_4_5(_mm512_srli_epi32(b, 2)));
}

TARGET_PART __m512 byte_of(__m512i x, int i) {
    const __m512i shifted = _mm512_srlv_epi32(x, _mm512_set1_epi32(8 * i));
    return _mm512_cvtepi32_ps(_mm512_and_si512(shifted, _mm512_set1_epi32(255)));
}

/* 32 bytes have the low 4 bits of elements 64 p to 64 p + 31, below those of the next 32. In Q5_K bit s of byte l of
 * another 32 is the fifth of element l in sub-block s. */
TARGET_PART void unpack_with_min(enum ggml_type type, const uint8_t * packed, uint32_t * to) {
    const bool    q5    = type == GGML_TYPE_Q5_K;
    const __m512i both  = word_of(type, packed, 0, 0);
    const __m512  d     = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(both));
    const __m512  d_min = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(both, 16)));
    const __m512i bit_4 = _mm512_set1_epi8(16);
    __m512i       scales[2], mins[2];
    read_scales(type, packed, scales, mins);
    for (int s = 0; s < BLOCK / 32; s++) {
        const __m512  scale = _mm512_mul_ps(d, byte_of(scales[s / 4], s % 4));
        const __m512  min   = _mm512_mul_ps(d_min, byte_of(mins[s / 4], s % 4));
        const __m512i shift = _mm512_set1_epi32(s % 2 * 4);
        for (int t = 0; t < 8; t++) {
            const __m512i quants = word_of(type, packed, 0, (size_t) ((q5 ? 12 : 4) + s / 2 * 8 + t));
            __m512i       q      = low_4(_mm512_srlv_epi32(quants, shift));
            if (q5) {
                const __m512i high =
                    _mm512_srlv_epi32(word_of(type, packed, 0, (size_t) (4 + t)), _mm512_set1_epi32(s));
                q = _mm512_or_si512(q, _mm512_and_si512(_mm512_slli_epi32(high, 4), bit_4));
            }
            put(q, scale, min, 32 * s + 4 * t, to);
        }
    }
}

/* Q6_K: in each half, bytes l and l + 32 of 64 have the low 4 bits of elements l and l + 32, below those of l + 64 and
 * l + 96, and byte l of 32 has the upper 2 of all four. 16 signed bytes are scales. weight = d * scale * (q - 32) */
TARGET_PART void unpack_q6_k(const uint8_t * packed, uint32_t * to) {
    const enum ggml_type type = GGML_TYPE_Q6_K;
    const __m512         d    = halves_of(packed, 0);
    __m512               scale[BLOCK / 16];
    for (int s = 0; s < BLOCK / 16; s++) {
        const __m512i bytes = word_of(type, packed, 0, (size_t) (48 + s / 4));
        const __m512i left  = _mm512_sllv_epi32(bytes, _mm512_set1_epi32(24 - s % 4 * 8));
        scale[s]            = _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_srai_epi32(left, 24)));
    }
    for (int i = 0; i < 16; i++) {
        const int     half   = i / 8;
        const int     t      = i % 8;
        const __m512i high   = word_of(type, packed, 0, (size_t) (32 + 8 * half + t));
        const __m512i low[2] = { word_of(type, packed, 0, (size_t) (16 * half + t)),
                                 word_of(type, packed, 0, (size_t) (16 * half + 8 + t)) };
        const __m512i q[4]   = {
            _mm512_or_si512(low_4(low[0]), bits_4_5(_mm512_slli_epi32(high, 4))),
            _mm512_or_si512(low_4(low[1]), bits_4_5(_mm512_slli_epi32(high, 2))),
            _mm512_or_si512(low_4(_mm512_srli_epi32(low[0], 4)), bits_4_5(high)),
            _mm512_or_si512(low_4(_mm512_srli_epi32(low[1], 4)), bits_4_5(_mm512_srli_epi32(high, 2))),
        };
        for (int k = 0; k < 4; k++) {
            const int    at = 128 * half + 32 * k + 4 * t;
            const __m512 sc = scale[at / 16];
            put(q[k], sc, _mm512_mul_ps(sc, _mm512_set1_ps(32.0f)), at, to);
        }
    }
}

/* Q8_0: blocks of 32 signed bytes, which become unsigned by adding 128. */
TARGET_PART void unpack_q8_0(const uint8_t * packed, uint32_t * to) {
    for (int s = 0; s < BLOCK / 32; s++) {
        const __m512 d   = halves_of(packed, (size_t) s);
        const __m512 min = _mm512_mul_ps(d, _mm512_set1_ps(128.0f));
        for (int t = 0; t < 8; t++) {
            const __m512i q = word_of(GGML_TYPE_Q8_0, packed, (size_t) s, (size_t) t);
            put(_mm512_xor_si512(q, _mm512_set1_epi8(-128)), d, min, 32 * s + 4 * t, to);
        }
    }
}

/* Q4_0: blocks of 16 bytes, the low halves of which are elements 0 to 15 and the upper ones 16 to 31.
 * weight = d * (q - 8) */
TARGET_PART void unpack_q4_0(const uint8_t * packed, uint32_t * to) {
    for (int s = 0; s < BLOCK / 32; s++) {
        const __m512 d   = halves_of(packed, (size_t) s);
        const __m512 min = _mm512_mul_ps(d, _mm512_set1_ps(8.0f));
        for (int t = 0; t < 4; t++) {
            const __m512i q = word_of(GGML_TYPE_Q4_0, packed, (size_t) s, (size_t) t);
            put(low_4(q), d, min, 32 * s + 4 * t, to);
            put(low_4(_mm512_srli_epi32(q, 4)), d, min, 32 * s + 16 + 4 * t, to);
        }
    }
}

TARGET static void unpack_packed(enum ggml_type type, const uint8_t * packed, uint32_t * to) {
    switch ((int) type) {
        case GGML_TYPE_Q4_K: unpack_with_min(GGML_TYPE_Q4_K, packed, to); break;
        case GGML_TYPE_Q5_K: unpack_with_min(GGML_TYPE_Q5_K, packed, to); break;
        case GGML_TYPE_Q6_K: unpack_q6_k(packed, to); break;
        case GGML_TYPE_Q8_0: unpack_q8_0(packed, to); break;
        default: unpack_q4_0(packed, to);
    }
}

/* ---- any other type: ggml makes floats of a row ---- */

TARGET static void unpack_row(enum ggml_type type, const uint8_t * from, uint32_t * pairs) {
    float x[BLOCK];
    if (type == GGML_TYPE_BF16) {
        memcpy(pairs, from, 2 * BLOCK);
        return;
    }
    ggml_get_type_traits(type)->to_float(from, x, BLOCK);
    for (int i = 0; i < BLOCK; i += 32) {
        const __m512bh both = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + i + 16), _mm512_loadu_ps(x + i));
        _mm512_storeu_si512(pairs + i / 2, (__m512i) both);
    }
}

/* rows: 16 of them, n apart. to: [16][16], word i of all rows in row i. */
TARGET static void transpose(const uint32_t * rows, int n, uint32_t * to) {
    __m512i x[16], y[16];
    for (int i = 0; i < 16; i++) {
        x[i] = _mm512_loadu_si512(rows + i * n);
    }
    for (int i = 0; i < 16; i += 2) {
        y[i]     = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        x[i]     = _mm512_unpacklo_epi64(y[i], y[i + 2]);
        x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
        x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
        x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
    }
    /* Quarter k of x[4 g + i] has word 4 k + i of rows 4 g to 4 g + 3. */
    for (int i = 0; i < 4; i++) {
        const __m512i even_low  = _mm512_shuffle_i32x4(x[i], x[4 + i], 0x88);
        const __m512i odd_low   = _mm512_shuffle_i32x4(x[i], x[4 + i], 0xdd);
        const __m512i even_high = _mm512_shuffle_i32x4(x[8 + i], x[12 + i], 0x88);
        const __m512i odd_high  = _mm512_shuffle_i32x4(x[8 + i], x[12 + i], 0xdd);
        _mm512_storeu_si512(to + 16 * i, _mm512_shuffle_i32x4(even_low, even_high, 0x88));
        _mm512_storeu_si512(to + 16 * (4 + i), _mm512_shuffle_i32x4(odd_low, odd_high, 0x88));
        _mm512_storeu_si512(to + 16 * (8 + i), _mm512_shuffle_i32x4(even_low, even_high, 0xdd));
        _mm512_storeu_si512(to + 16 * (12 + i), _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd));
    }
}

static void unpack_rows(const struct ggml_tensor * w, int64_t first_row, int64_t block, uint32_t * to) {
    enum { PAIRS = BLOCK / 2 };
    const size_t  at   = (size_t) block * ggml_row_size(w->type, BLOCK);
    const int64_t last = w->ne[1] - 1;
    uint32_t      rows[LANES * PAIRS];
    for (int64_t lane = 0; lane < LANES; lane++) {
        const int64_t row = first_row + lane < last ? first_row + lane : last;
        unpack_row(w->type, (const uint8_t *) w->data + (size_t) row * w->nb[1] + at, rows + lane * PAIRS);
    }
    for (int s = 0; s < COMMANDR_AMX_STEPS; s++) {
        transpose(rows + s * LANES, PAIRS, to + s * COMMANDR_AMX_STEP_WORDS);
    }
}

void commandr_amx_unpack(const struct ggml_tensor * w, int64_t first_row, int64_t block, uint32_t * to) {
    if (!is_packable(w->type)) {
        unpack_rows(w, first_row, block, to);
        return;
    }
    const size_t  size = commandr_tile_size(w->type);
    const int64_t left = w->ne[1] - first_row;
    if (left >= LANES && commandr_is_packed(w)) {
        const int64_t index = first_row / LANES * (w->ne[0] / BLOCK) + block;
        unpack_packed(w->type, (const uint8_t *) w->data + (size_t) index * size, to);
        return;
    }
    uint8_t         packed[COMMANDR_MAX_TILE];
    const uint8_t * rows = (const uint8_t *) w->data + (size_t) first_row * w->nb[1];
    commandr_pack_tile(w->type, rows + (size_t) block * (size / LANES), w->nb[1], left < LANES ? left : LANES, packed);
    unpack_packed(w->type, packed, to);
}

#endif
