/* Vectors of four floats: NEON's, and what compilers make of them elsewhere. */
#define TARGET
#define ATTEND         commandr_attend_portable
#define LANES          4
#define TILE_ROWS      4
#define TILE_COLS      4
#define FEW_ROWS       4
#define ONE_COLS       8
#define FROM_BYTES(at) ((f32v) { (at)[0], (at)[1], (at)[2], (at)[3] })

#if defined(__aarch64__) && defined(__ARM_NEON)
#include <arm_neon.h>
#define MULTIPLY_ADD(a, b, c) vfmaq_f32(c, a, b)
#define LARGER(a, b)          vmaxq_f32(a, b)
#define FROM_HALVES(at)       vcvt_f32_f16(vld1_f16((const float16_t *) (at)))
#else
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#define LARGER(a, b)          larger(a, b)
#define FROM_HALVES(at)       halves_by_bits(at)
#define PLAIN_C
#endif

#include "kernels/attention-body.h"
