/* Weights as B tiles of AMX. */
#ifndef COMMANDR_SRC_KERNELS_AMX_UNPACK_H
#define COMMANDR_SRC_KERNELS_AMX_UNPACK_H

#include "ggml.h"

#include <stdbool.h>
#include <stdint.h>

/* Whether a matrix, packed or in its file's layout, can be unpacked. F16 and F32 have bits that bfloat16 lacks and that
 * whoever chose them wants to keep. */
bool commandr_amx_can_unpack(const struct ggml_tensor * w);

/* Whether that is done in vectors, not through ggml's scalar code. */
bool commandr_amx_unpacks_fast(enum ggml_type type);

/* Unpacks 16 rows of w: [n_in, n_out] from first_row on, a multiple of 16 below n_out, in one super-block. The last row
 * stands for those that are missing. to: 8 tiles as in amx-tiles.h, COMMANDR_AMX_STEP_WORDS apart. */
void commandr_amx_unpack(const struct ggml_tensor * w, int64_t first_row, int64_t block, uint32_t * to);

#endif
