/* What a processor does for our products: a tile of packed weights with a super-block of columns. */
#ifndef COMMANDR_SRC_KERNELS_TILE_H
#define COMMANDR_SRC_KERNELS_TILE_H

#include "kernels/columns.h"
#include "kernels/packed.h"

/* Adds the product of a packed tile with one super-block of n_cols columns, as columns.h lays them out, to out:
 * [n_cols][COMMANDR_LANES]. A column's result does not depend on the others. */
typedef void (*commandr_tile_fn)(const uint8_t * tile, const int32_t * x, int64_t n_cols, float (*out)[COMMANDR_LANES]);

/* The function of each level, NULL for types without one. They are compiled for processors that have the level. */
#define COMMANDR_TILE_NAME(level) commandr_tile_##level
#define COMMANDR_TILE(level)      COMMANDR_TILE_NAME(level)
commandr_tile_fn commandr_tile_portable(enum ggml_type type);
commandr_tile_fn commandr_tile_avx2(enum ggml_type type);
commandr_tile_fn commandr_tile_avxvnni(enum ggml_type type);
commandr_tile_fn commandr_tile_avx512(enum ggml_type type);
commandr_tile_fn commandr_tile_dotprod(enum ggml_type type);
commandr_tile_fn commandr_tile_i8mm(enum ggml_type type);

/* That of the level chosen, see level.h; NULL for types without one, and where portable is the best there is. */
commandr_tile_fn commandr_tile(enum ggml_type type);

#endif
