/* Which of the instructions that our kernels are compiled for this processor has. */
#ifndef COMMANDR_SRC_KERNELS_LEVEL_H
#define COMMANDR_SRC_KERNELS_LEVEL_H

#include "error.h"

typedef enum commandr_level {
    COMMANDR_LEVEL_PORTABLE, /* plain C, the reference: slower than ggml */
    COMMANDR_LEVEL_AVX2,     /* with FMA and F16C */
    COMMANDR_LEVEL_AVXVNNI,
    COMMANDR_LEVEL_AVX512, /* F, BW, CD, DQ, VL and VNNI */
    COMMANDR_LEVEL_DOTPROD /* of ARMv8.2 */
} commandr_level;

/* The best level there is; the environment variable COMMANDR_CPU names another one, for tests and comparisons. */
commandr_level commandr_level_best(void);

/* An error when COMMANDR_CPU is no level of this processor, which counts as not set. */
commandr_status commandr_level_check(void);

#endif
