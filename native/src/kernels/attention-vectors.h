/* Vectors of LANES floats, as kernels/attention-body.h uses them; needs its macros. */
#include "kernels/attention-tile.h"
#include "simd.h"

#include <math.h>
#include <string.h>

/* Arrays stay in registers only where every index is a constant. */
#if defined(__clang__)
#define UNROLL                    _Pragma("unroll")
#define SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define UNROLL                    _Pragma("GCC unroll 16")
#define SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, (i32x4) { i, j, k, l })
#endif
#define PART TARGET COMMANDR_INLINE

enum { BLOCK = COMMANDR_BLOCK_CELLS, QUARTERS = LANES / 4 };

typedef float    f32v __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t  i32v __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t u32v __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint16_t u16v __attribute__((vector_size(2 * LANES), aligned(2)));
typedef float    f32x4 __attribute__((vector_size(16), aligned(4)));
typedef int32_t  i32x4 __attribute__((vector_size(16)));

PART f32v load(const float * x) {
    return *(const f32v *) x;
}

PART void store(float * x, f32v v) {
    *(f32v *) x = v;
}

PART f32v same(float x) {
    const f32v zero = { 0 };
    return x - zero; /* x + 0 is not x when that is -0: compilers would compute it */
}

PART f32v multiply_add(f32v a, f32v b, f32v c) {
    return MULTIPLY_ADD(a, b, c);
}

#ifdef PLAIN_C
PART f32v larger(f32v a, f32v b) {
    for (int l = 0; l < LANES; l++) {
        a[l] = a[l] > b[l] ? a[l] : b[l];
    }
    return a;
}

/* The bits moved to their places give the number times 2^-112. Infinities and NaN stay such. */
PART f32v halves_by_bits(const ggml_fp16_t * x) {
    const u32v half = __builtin_convertvector(*(const u16v *) x, u32v);
    u32v       bits = (half & 0x7fff) << 13;
    f32v       f;
    memcpy(&f, &bits, sizeof(f));
    f *= 0x1p112f;
    memcpy(&bits, &f, sizeof(bits));
    const i32v special = (0x7bff - (i32v) (half & 0x7fff)) >> 31; /* all ones above the largest finite number */
    bits |= (half & 0x8000) << 16 | ((u32v) special & 0x7f800000);
    memcpy(&f, &bits, sizeof(f));
    return f;
}
#endif

/* e^x for x <= 0, relative error 2e-7; 0 below -86.6, where normal floats end. x = n ln 2 + f, and e^f by its Taylor
 * series. */
PART f32v exp_of(f32v x) {
    x            = LARGER(x, same(-200.0f));                                        /* -inf has no whole number */
    const f32v n = multiply_add(x, same(1.44269504f), same(0x1.8p23f)) - 0x1.8p23f; /* rounds to a whole number */
    const f32v f = multiply_add(n, same(-0x1.7f7d1cp-20f), multiply_add(n, same(-0x1.62e4p-1f), x));
    f32v       p = multiply_add(f, same(1.0f / 720), same(1.0f / 120));
    p            = multiply_add(p, f, same(1.0f / 24));
    p            = multiply_add(p, f, same(1.0f / 6));
    p            = multiply_add(p, f, same(0.5f));
    p            = multiply_add(p, f, same(1.0f));
    p            = multiply_add(p, f, same(1.0f));
    /* times 2^n, by adding n to the exponent; where that leaves the normal floats (x = -inf too), 0 */
    const i32v exponent = __builtin_convertvector(n, i32v);
    i32v       bits;
    memcpy(&bits, &p, sizeof(bits));
    bits = (i32v) ((u32v) bits + ((u32v) exponent << 23)) & ~((exponent + 125) >> 31);
    memcpy(&p, &bits, sizeof(p));
    return p;
}
