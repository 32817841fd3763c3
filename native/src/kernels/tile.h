/* What a processor does for our products: a tile of packed weights with a super-block of columns. */
#ifndef COMMANDR_SRC_KERNELS_TILE_H
#define COMMANDR_SRC_KERNELS_TILE_H

#include "kernels/columns.h"
#include "kernels/packed.h"

/* Adds the product of a packed tile with one super-block of n_cols columns, as columns.h lays them out, to out:
 * [n_cols][COMMANDR_LANES]. A column's result does not depend on the others. */
typedef void (*commandr_tile_fn)(const uint8_t * tile, const int32_t * x, int64_t n_cols, float (*out)[COMMANDR_LANES]);

/* NULL for types without one, and where the processor lacks AVX-512 VNNI. */
commandr_tile_fn commandr_tile_avx512(enum ggml_type type);

#endif
