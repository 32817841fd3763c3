/* Products of many columns through AMX, the matrix unit of Intel's servers since Sapphire Rapids.
 *
 * In bfloat16, not in 8 bits: K-quants have a scale for each 16 or 32 weights, at which sums of 8-bit products would
 * have to leave the unit, while bfloat16 products are added in float32 along the whole row. Weights are unpacked to
 * bfloat16 (scale * q - min, to nearest even) once for up to 512 columns, which are rounded the same way. Both
 * roundings are finer than 8 bits with a scale for 256 elements: 8 significant bits for every element, however large
 * its neighbors are. */
#ifndef COMMANDR_SRC_KERNELS_AMX_H
#define COMMANDR_SRC_KERNELS_AMX_H

#include "ggml.h"

#include <stdbool.h>
#include <stdint.h>

/* Columns as A tiles, which products of up to COMMANDR_MAX_READERS matrices share. */
typedef struct commandr_amx_columns {
    struct ggml_tensor * data; /* I8: counters as in columns.h, then from the next multiple of 64 bytes on the tiles:
                                * [n_in / 256][columns / 16, rounded up][8][16][32] bfloat16; columns that are missing
                                * are 0 */
    int64_t              n;
    int                  n_readers;
} commandr_amx_columns;

/* Whether a processor of COMMANDR_LEVEL_AVX512 and its system have AMX with bfloat16, too, and it has proved itself in
 * amx-check.h's test, which runs at the first call. From any thread. */
bool commandr_amx_available(void);

/* Whether a product of w: [n_in, n_out], packed or in its file's layout, with so many columns should go through AMX at
 * COMMANDR_LEVEL_AMX. */
bool commandr_amx_wanted(const struct ggml_tensor * w, int64_t n_cols);

/* Rounds x: F32 [n_in, n], contiguous, n_in a multiple of 256, to nearest even. Infinities and NaN stay. */
commandr_amx_columns commandr_amx_round(struct ggml_context * ctx, struct ggml_tensor * x);

/* w x like ggml_mul_mat. Result: F32 [n_out, x->n], each column by the same operations in the same order whatever the
 * others. To be computed only at COMMANDR_LEVEL_AMX. */
struct ggml_tensor * commandr_amx_matmul(struct ggml_context * ctx, struct ggml_tensor * w, commandr_amx_columns * x);

#endif
