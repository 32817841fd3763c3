/* Which of the instructions that our kernels are compiled for this processor has. */
#ifndef COMMANDR_SRC_KERNELS_LEVEL_H
#define COMMANDR_SRC_KERNELS_LEVEL_H

#include "error.h"

typedef enum commandr_level {
    COMMANDR_LEVEL_PORTABLE, /* plain C, the reference: slower than ggml; its products are used only where COMMANDR_CPU asks for them */
    COMMANDR_LEVEL_AVX2, /* with FMA */
    COMMANDR_LEVEL_AVXVNNI,
    COMMANDR_LEVEL_AVX512, /* F, BW, CD, DQ, VL and VNNI */
    COMMANDR_LEVEL_AMX,    /* the same, and amx.h for batches */
    COMMANDR_LEVEL_DOTPROD /* of ARMv8.2 */
} commandr_level;

/* Settles on the best level there is, or on the one that the environment variable COMMANDR_CPU names, for tests and
 * comparisons. The first model that is loaded does so for the whole process: what another one computes at that time
 * must not change. An error when this processor lacks the level named. */
commandr_status commandr_level_choose(void);

/* What has been settled on; before, the best level. */
commandr_level commandr_level_chosen(void);

#endif
