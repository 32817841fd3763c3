/* Which of the instructions that our kernels are compiled for this processor has.
 *
 * Products and attention go by the level chosen here. Two kinds of code do not, and so ignore COMMANDR_CPU: the
 * encoders, which ask commandr_has_x86_64_v4, and the loops of simd.h, which the dynamic linker chooses before any of
 * our code runs; among these is the rounding of activations, 1 to 2 % of a prefill. Both give the same bits at any
 * width. */
#ifndef COMMANDR_SRC_KERNELS_LEVEL_H
#define COMMANDR_SRC_KERNELS_LEVEL_H

#include "error.h"

#include <stdbool.h>

typedef enum commandr_level {
    COMMANDR_LEVEL_PORTABLE, /* plain C, the reference; its products, slower than ggml's, only when asked for */
    COMMANDR_LEVEL_AVX2,     /* with FMA */
    COMMANDR_LEVEL_AVXVNNI,
    COMMANDR_LEVEL_AVX512,  /* F, BW, CD, DQ, VL and VNNI */
    COMMANDR_LEVEL_AMX,     /* the same, and amx.h for batches */
    COMMANDR_LEVEL_DOTPROD, /* of ARMv8.2 */
    COMMANDR_LEVEL_I8MM     /* the same, and products of 8-bit matrices: ARMv8.6, from Apple's M2 on */
} commandr_level;

/* Settles on the best level there is, or on the one that the environment variable COMMANDR_CPU names, for tests and
 * comparisons. The first model that is loaded does so for the whole process: what another one computes at that time
 * must not change. An error when this processor lacks the level named. */
commandr_status commandr_level_choose(void);

/* What has been settled on; before, the best level. */
commandr_level commandr_level_chosen(void);

#if defined(__x86_64__)
/* Whether the processor has what level 4 of x86-64 has beyond level 3, which all of this library needs: AVX-512 F, BW,
 * CD, DQ and VL. */
bool commandr_has_x86_64_v4(void);
#endif

#endif
