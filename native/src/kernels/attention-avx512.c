#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#define TARGET                __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define ATTEND                commandr_attend_avx512
#define LANES                 16
#define TILE_ROWS             4 /* of 32 registers 16 hold sums */
#define TILE_COLS             4
#define FEW_ROWS              4
#define ONE_COLS              8
#define MULTIPLY_ADD(a, b, c) _mm512_fmadd_ps(a, b, c)
#define LARGER(a, b)          _mm512_max_ps(a, b)
#define FROM_HALVES(at)       _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) (at)))
#define FROM_BYTES(at)        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *) (at))))

#include "kernels/attention-body.h"

#else
typedef int commandr_no_avx512; /* ISO C wants something in a file */
#endif
