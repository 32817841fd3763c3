/* Products of quantized weights with many columns on the CPU, where ggml 0.20.2 has a slow path only.
 *
 * ggml computes Q6_K (half of ffn_down and attn_v, and the head, in a Q4_K_M file) on x86 by unpacking each weight
 * anew for every column. This kernel unpacks a tile of weights once into bytes and reuses it for all columns of the
 * batch. */
#ifndef COMMANDR_SRC_KERNELS_MATMUL_H
#define COMMANDR_SRC_KERNELS_MATMUL_H

#include "ggml.h"

#include <stdbool.h>
#include <stdint.h>

/* Whether this machine has the kernel for a weight in its file layout, and n_cols columns are enough for it to win. */
bool commandr_matmul_wanted(const struct ggml_tensor * w, int64_t n_cols);

/* w x like ggml_mul_mat. w: [n_in, n_out]; x: F32 [n_in, n_cols], contiguous. Result: F32 [n_out, n_cols].
 * x is rounded to 8 bits per 256 elements, as ggml does it for K-quants. */
struct ggml_tensor * commandr_matmul(struct ggml_context * ctx, struct ggml_tensor * w, struct ggml_tensor * x);

#endif
