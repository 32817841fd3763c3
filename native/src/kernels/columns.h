/* The other side of our products: activations rounded once for all matrices that multiply them, to 8 bits where these
 * are quantized.
 *
 * They are cut into super-blocks of 256 elements. The first super-blocks of all columns come first, in groups of
 * COMMANDR_GROUP columns, the last group with the rest. A group holds, each time for its n columns side by side
 * (4-byte units):
 *
 *     int8_t  q[32][n][8]    x = d q, q in -127..127. Products take steps of 4 elements; two steps lie side by side
 *     int32_t shift[16][n]   -32 times the sum of 16 q: what multiplying with q6 instead of q6 - 32 adds, taken off.
 *                            When rounding is fine 8, -128 times the sum of 32 q
 *     int16_t pairs[4][n][2] the sum of 32 q each, for formats whose weights are scale * q - min
 *     float   d[8][n]        for 32 q each: 8 different ones when rounding is fine, else all the same
 *
 * For weights in bfloat16 they are rounded to that, as for ggml's product, which computes smaller batches: a group holds
 * float x[256][n].
 */
#ifndef COMMANDR_SRC_KERNELS_COLUMNS_H
#define COMMANDR_SRC_KERNELS_COLUMNS_H

#include "kernels/packed.h"

#include <stdint.h>

enum {
    COMMANDR_GROUP = 8, /* columns */
    /* in units of 4 bytes for each column of the group: */
    COMMANDR_SHIFT_AT     = 64,
    COMMANDR_PAIRS_AT     = 80,
    COMMANDR_D_AT         = 84,
    COMMANDR_COLUMN_UNITS = 92, /* all of them */
    COMMANDR_MAX_READERS  = 8
};

typedef enum commandr_rounding {
    COMMANDR_COARSE, /* 256 elements share a scale */
    COMMANDR_FINE,   /* 32 do */
    COMMANDR_FLOATS  /* each has its own, as a bfloat16 */
} commandr_rounding;

/* A counter from which threads draw pieces of one product; rounding sets them all to 0. */
typedef struct commandr_counter {
    _Atomic int64_t next;
    int64_t         unused[7]; /* no two in one cache line's length */
} commandr_counter;

typedef struct commandr_columns {
    struct ggml_tensor * data; /* I8: COMMANDR_MAX_READERS counters, then the groups */
    int64_t              n;
    commandr_rounding    rounding;
    int                  n_readers;
} commandr_columns;

/* Lays out x: F32 [n_in, n], contiguous, n_in a multiple of 256. */
commandr_columns commandr_columns_round(struct ggml_context * ctx, struct ggml_tensor * x, commandr_rounding rounding);

/* Units of a column in a super-block. */
static inline int64_t commandr_columns_n_units(commandr_rounding rounding) {
    return rounding == COMMANDR_FLOATS ? COMMANDR_SUPER_BLOCK : COMMANDR_COLUMN_UNITS;
}

/* Where the 4 elements of step t, 0 to 63, of column c are in a group of n columns. */
static inline int commandr_columns_step_at(int t, int c, int n) {
    return 2 * (t / 2 * n + c) + t % 2;
}

/* The groups behind the counters. */
static inline const int32_t * commandr_columns_units(const struct ggml_tensor * data) {
    return (const int32_t *) ((const char *) data->data + COMMANDR_MAX_READERS * sizeof(commandr_counter));
}

#endif
