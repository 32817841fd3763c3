/* Some rows of a weight matrix as a matrix of their own. */
#ifndef COMMANDR_SRC_KERNELS_GATHER_H
#define COMMANDR_SRC_KERNELS_GATHER_H

#include "ggml.h"

/* Copies groups of COMMANDR_LANES rows of w: [n_in, n_out], in host memory, packed or in its file's layout. ids: I32
 * [n], the groups, each of whole rows: id * COMMANDR_LANES + COMMANDR_LANES <= n_out. Result: of w's type and layout,
 * [n_in, n * COMMANDR_LANES]. A product with it gives for each row what one with w gives. */
struct ggml_tensor * commandr_gather(struct ggml_context * ctx, struct ggml_tensor * w, struct ggml_tensor * ids);

#endif
