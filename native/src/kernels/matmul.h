/* Our products of quantized weights on the CPU.
 *
 * ggml computes a batch of 2 to 16 columns, as drafts need it, for several times the price of one, and a row's result
 * depends on how many others are in the batch. Here weights are unpacked in registers and multiplied with up to 8
 * columns, each column by the same operations in the same order whatever the others: a token's logits do not depend on
 * what it is computed with. (From 32 columns on AMX rounds otherwise, see amx.h,
 * and products with bfloat16 weights are ours instead of ggml's: the same but for the order of the sums.) */
#ifndef COMMANDR_SRC_KERNELS_MATMUL_H
#define COMMANDR_SRC_KERNELS_MATMUL_H

#include "kernels/columns.h"

#include <stdbool.h>

/* Whether this machine has the kernel for a weight of this type and shape: [ne[0], ne[1]]. */
bool commandr_matmul_has(enum ggml_type type, const int64_t * ne);

/* Whether the kernel beats ggml's product with a weight in its file layout, which it packs anew each time. */
bool commandr_matmul_wanted(const struct ggml_tensor * w, int64_t n_cols);

/* Whether such weights are better packed once, when they are loaded. */
bool commandr_matmul_is_to_pack(enum ggml_type type, const int64_t * ne);

/* How columns are to be rounded for products with weights of this type. */
commandr_rounding commandr_matmul_rounding(enum ggml_type type);

/* w x like ggml_mul_mat. w: [n_in, n_out], packed or in its file's layout; x: rounded, at most COMMANDR_MAX_READERS
 * products for each. Result: F32 [n_out, x->n]. */
struct ggml_tensor * commandr_matmul(struct ggml_context * ctx, struct ggml_tensor * w, commandr_columns * x);

/* The same for n matrices (at most GGML_MAX_SRC - 2), which may differ in n_out and type, as one operation: one reader
 * of x, and no thread waits for another between two matrices. results[i]: F32 [n_out of w[i], x->n], contiguous. */
void commandr_matmul_all(struct ggml_context * ctx, struct ggml_tensor * const * w, int n, commandr_columns * x,
                         struct ggml_tensor ** results);

#endif
