#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#define TARGET                __attribute__((target("avx2,fma,f16c")))
#define ATTEND                commandr_attend_avx2
#define LANES                 8
#define TILE_ROWS             6 /* of 16 registers 12 hold sums */
#define TILE_COLS             2
#define FEW_ROWS              2
#define ONE_COLS              8
#define MULTIPLY_ADD(a, b, c) _mm256_fmadd_ps(a, b, c)
#define LARGER(a, b)          _mm256_max_ps(a, b)
#define FROM_HALVES(at)       _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) (at)))
#define FROM_BYTES(at)        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadu_si64(at)))

#include "kernels/attention-body.h"

#else
typedef int commandr_no_avx2; /* ISO C wants something in a file */
#endif
