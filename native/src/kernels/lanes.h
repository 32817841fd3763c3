/* Vectors of 32-bit lanes, one lane for each row of a tile, and the few instructions that C has no word for. Which
 * ones depends on what the file is compiled for, see CMakeLists.txt.
 *
 * The products' inner loop multiplies 4 bytes of weights in each lane with the same 4 bytes of a column. Processors
 * do it in one instruction, or (AVX2) as two sums of two products in 16 bits, of which only so many fit before they
 * must be widened. A `partial` is what such sums are kept in. */
#ifndef COMMANDR_SRC_KERNELS_LANES_H
#define COMMANDR_SRC_KERNELS_LANES_H

#include "kernels/packed.h"
#include "simd.h"

#include <math.h>
#include <string.h>

/* COMMANDR_LANES_256: the dialect of AVX-VNNI with AVX-512's encodings, for tests on processors that have only those.
 */
#if defined(COMMANDR_LANES_PORTABLE)
#define LANES_PORTABLE
#elif defined(__AVX512VNNI__) && !defined(COMMANDR_LANES_256)
#define LANES_AVX512
#elif defined(__AVXVNNI__) || (defined(__AVX512VNNI__) && defined(__AVX512VL__))
#define LANES_AVXVNNI
#elif defined(__AVX2__)
#define LANES_AVX2
#elif defined(__ARM_FEATURE_MATMUL_INT8)
#define LANES_ARM
#define LANES_I8MM
#elif defined(__ARM_FEATURE_DOTPROD)
#define LANES_ARM
#else
#define LANES_PORTABLE
#endif

#if defined(LANES_AVX512)
enum { VECTOR = 64 };
#elif defined(LANES_AVXVNNI) || defined(LANES_AVX2)
enum { VECTOR = 32 };
#else
enum { VECTOR = 16 };
#endif

#if defined(LANES_ARM)
#include <arm_neon.h>
#elif !defined(LANES_PORTABLE)
#include <immintrin.h>
#endif

typedef uint32_t words __attribute__((vector_size(VECTOR)));
typedef int32_t  ints __attribute__((vector_size(VECTOR)));
typedef float    floats __attribute__((vector_size(VECTOR)));

COMMANDR_INLINE words words_at(const void * p) {
    words w;
    memcpy(&w, p, sizeof(w));
    return w;
}

/* ---- what the dialects differ in ----
 *
 * MAX_COLUMNS: that a loop can compute at once, two sub-blocks of each, in the registers there are.
 * SIGNED_BYTES: whether dot() takes weights below 0; if not, they come with 128 added.
 * steps_of(type): calls of dot() whose sums a partial can hold.
 * start(sum), finish(sum, partial): a partial to go on from a sum, and what that has become.
 * dot(type, is_first, partial, w, x, i): adds the products of w's 4 bytes with the 4 signed ones of x[i]; is_first:
 *     behind start(). i is a constant; what is read are the 4 elements around it at most, from a multiple of 4 on.
 * dot_pairs(sum, a, b, i): adds the products of the two signed 16-bit halves of a's lanes and b[i].
 * fma_of(a, b, c): a b + c, rounded once.
 * halves(h): the half floats in the low 16 bits of each lane; the others are 0.
 *
 * PAIRED: whether dot() multiplies two rows with two columns, 8 bytes of each from x[i] on. Then sums 2k and 2k + 1 are
 *     both of columns 2k and 2k + 1: one of rows 0 and 1 of 4, the other of rows 2 and 3. Also:
 * words_of_step(p, stride, t): w for step t, where p points at the words of step 0. Paired, w of an even step has both
 *     steps of the rows of sum 2k, that of the odd one behind it both steps of those of sum 2k + 1.
 * rows_of(rows, k), ints_of(x, c, n), floats_of(x, c, n): in each lane of a sum what its row, or its column, has in an
 *     array: sum number k, of column c of n.
 * untangled(sums, k): column k's sums, one lane for each row. */

#if defined(LANES_AVX512) || defined(LANES_AVXVNNI)

enum { MAX_COLUMNS = VECTOR / 8, SIGNED_BYTES = 0, PAIRED = 0 };
typedef ints partial;

COMMANDR_INLINE int steps_of(enum ggml_type type) {
    (void) type;
    return 8;
}

#if defined(LANES_AVX512)
COMMANDR_INLINE partial dot(enum ggml_type type, bool is_first, partial sum, words w, const int32_t * x, int i) {
    (void) type;
    (void) is_first;
    return (partial) _mm512_dpbusd_epi32((__m512i) sum, (__m512i) w, _mm512_set1_epi32(x[i]));
}

COMMANDR_INLINE ints dot_pairs(ints sum, words a, const int32_t * b, int i) {
    return (ints) _mm512_dpwssd_epi32((__m512i) sum, (__m512i) a, _mm512_set1_epi32(b[i]));
}

COMMANDR_INLINE floats fma_of(floats a, floats b, floats c) {
    return (floats) _mm512_fmadd_ps((__m512) a, (__m512) b, (__m512) c);
}

COMMANDR_INLINE floats halves(words h) {
    return (floats) _mm512_cvtph_ps(_mm512_cvtepi32_epi16((__m512i) h));
}
#else
COMMANDR_INLINE partial dot(enum ggml_type type, bool is_first, partial sum, words w, const int32_t * x, int i) {
    (void) type;
    (void) is_first;
    return (partial) _mm256_dpbusd_epi32((__m256i) sum, (__m256i) w, _mm256_set1_epi32(x[i]));
}
#endif

#elif defined(LANES_AVX2)

enum { MAX_COLUMNS = 4, SIGNED_BYTES = 1, PAIRED = 0 };
typedef int16_t partial __attribute__((vector_size(VECTOR)));

/* |2 w x| <= 2 * 127 * the largest w, and 16 bits end at 32767. */
COMMANDR_INLINE int steps_of(enum ggml_type type) {
    const bool is_4_bit = type == GGML_TYPE_Q4_K || type == GGML_TYPE_Q4_0;
    return is_4_bit ? 8 : type == GGML_TYPE_Q5_K ? 4 : type == GGML_TYPE_Q6_K ? 2 : 1;
}

COMMANDR_INLINE partial dot(enum ggml_type type, bool is_first, partial sum, words w, const int32_t * x, int i) {
    __m256i a = (__m256i) w;
    __m256i b = _mm256_set1_epi32(x[i]);
    if (type == GGML_TYPE_Q8_0) { /* the instruction wants one side without a sign */
        b = _mm256_sign_epi8(b, a);
        a = _mm256_abs_epi8(a);
    }
    const partial products = (partial) _mm256_maddubs_epi16(a, b);
    sum                    = is_first ? products : sum + products;
    __asm__("" : "+x"(sum)); /* else GCC makes all products first, and has no registers to keep them in */
    return sum;
}

COMMANDR_INLINE partial start(ints sum) {
    const partial zero = { 0 };
    (void) sum;
    return zero;
}

COMMANDR_INLINE ints finish(ints sum, partial p) {
    sum += (ints) _mm256_madd_epi16((__m256i) p, _mm256_set1_epi16(1));
    __asm__("" : "+x"(sum));
    return sum;
}

#elif defined(LANES_ARM)

#include "kernels/lanes-arm.h"

#else

enum { MAX_COLUMNS = 1, SIGNED_BYTES = 1, PAIRED = 0 };
typedef ints partial;

COMMANDR_INLINE int steps_of(enum ggml_type type) {
    (void) type;
    return 8;
}

COMMANDR_INLINE partial dot(enum ggml_type type, bool is_first, partial sum, words w, const int32_t * x, int i) {
    (void) type;
    (void) is_first;
    for (int shift = 24; shift >= 0; shift -= 8) {
        const int32_t byte = (int32_t) ((uint32_t) x[i] << shift) >> 24;
        sum += ((ints) (w << shift) >> 24) * byte;
    }
    return sum;
}

COMMANDR_INLINE floats fma_of(floats a, floats b, floats c) {
    for (size_t i = 0; i < sizeof(a) / sizeof(a[0]); i++) {
        c[i] = fmaf(a[i], b[i], c[i]);
    }
    return c;
}

COMMANDR_INLINE floats halves(words h) {
    floats f;
    for (size_t i = 0; i < sizeof(h) / sizeof(h[0]); i++) {
        f[i] = ggml_fp16_to_fp32((ggml_fp16_t) h[i]);
    }
    return f;
}

#endif

#if defined(LANES_AVXVNNI) || defined(LANES_AVX2)
COMMANDR_INLINE ints dot_pairs(ints sum, words a, const int32_t * b, int i) {
    return sum + (ints) _mm256_madd_epi16((__m256i) a, _mm256_set1_epi32(b[i]));
}

COMMANDR_INLINE floats fma_of(floats a, floats b, floats c) {
    return (floats) _mm256_fmadd_ps((__m256) a, (__m256) b, (__m256) c);
}

COMMANDR_INLINE floats halves(words h) {
    const __m256i low = _mm256_and_si256((__m256i) h, _mm256_set1_epi32(0xffff));
    return (floats) _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
}
#elif defined(LANES_PORTABLE)
COMMANDR_INLINE ints dot_pairs(ints sum, words a, const int32_t * b, int i) {
    const int32_t low  = (int32_t) ((uint32_t) b[i] << 16) >> 16;
    const int32_t high = b[i] >> 16;
    return sum + ((ints) (a << 16) >> 16) * low + ((ints) a >> 16) * high;
}
#endif

#if !defined(LANES_AVX2) && !defined(LANES_ARM)
COMMANDR_INLINE partial start(ints sum) {
    return sum;
}

COMMANDR_INLINE ints finish(ints sum, partial p) {
    (void) sum;
    return p;
}
#endif

/* ---- the same in all of them ---- */

COMMANDR_INLINE floats floats_at(const void * p) {
    floats f;
    memcpy(&f, p, sizeof(f));
    return f;
}

COMMANDR_INLINE floats no_floats(void) {
    const floats zero = { 0 };
    return zero;
}

COMMANDR_INLINE floats to_floats(ints x) {
    return __builtin_convertvector(x, floats);
}

/* n < 0: to the right. */
COMMANDR_INLINE words shift_left(words w, int n) {
    return n >= 0 ? w << n : w >> -n;
}

COMMANDR_INLINE ints all_ints(const int32_t * x) {
    const ints zero = { 0 };
    return zero + *x;
}

COMMANDR_INLINE floats all_floats(const int32_t * bits) {
    const floats zero = { 0 };
    float        f;
    memcpy(&f, bits, sizeof(f));
    return f - zero; /* f + zero would not be f when that is -0, and have to be computed */
}

enum { STEPS = PAIRED ? 2 : 1 }; /* in a word for dot() */

#if !defined(LANES_I8MM)
COMMANDR_INLINE words words_of_step(const uint8_t * p, int stride, int t) {
    return words_at(p + t * stride);
}

COMMANDR_INLINE floats rows_of(const float * rows, int k) {
    (void) k;
    return floats_at(rows);
}

COMMANDR_INLINE ints ints_of(const int32_t * x, int c, int n) {
    (void) n;
    return all_ints(x + c);
}

COMMANDR_INLINE floats floats_of(const int32_t * x, int c, int n) {
    (void) n;
    return all_floats(x + c);
}

COMMANDR_INLINE floats untangled(const floats * sums, int k) {
    return sums[k];
}
#endif

#endif
