/* Attention over a KV cache on the CPU, accumulated in float32.
 *
 * ggml's flash attention sums values of an F16 cache in half precision when there are fewer than 64 tokens: the
 * sum of n positions with equal weights grows to n times the values before it is divided by n, and this family's
 * values take it past 65504. For more tokens it is the slower one. This one reads the same cache. A token's result
 * is the same bits whatever it is computed with. */
#ifndef COMMANDR_SRC_KERNELS_ATTENTION_H
#define COMMANDR_SRC_KERNELS_ATTENTION_H

#include "ggml.h"

#include <stdbool.h>
#include <stdint.h>

/* A mask and what all layers that share it need to know of it, computed once. */
typedef struct commandr_mask {
    struct ggml_tensor * cells;  /* F16 [n_kv, n_tokens], contiguous: 0 visible, -inf not */
    struct ggml_tensor * blocks; /* I8: a counter for each reader, then what the tokens see of each block of cells */
    int64_t              max_readers;
    int64_t              n_readers;
} commandr_mask;

commandr_mask commandr_mask_summarize(struct ggml_context * ctx, struct ggml_tensor * cells, int64_t max_readers);

/* Whether heads of so many dimensions can be computed. */
bool commandr_attention_has(int64_t head_dim);

/* The most tokens that are computed in parts, cut by cells and joined by a second operation: with them a graph may take
 * more memory than with more tokens. */
int64_t commandr_attention_max_parts(int64_t n_head, int64_t n_head_kv);

/* softmax(q k^T / sqrt(head_dim) + mask) v. q: F32 [head_dim, n_tokens, n_head], any strides but the first; k, v:
 * [head_dim, n_kv, n_head_kv], rows of any ggml_type with a conversion to float. At most max_readers times for a mask.
 * Result: F32 [head_dim, n_head, n_tokens] */
struct ggml_tensor * commandr_attention(struct ggml_context * ctx, struct ggml_tensor * q, struct ggml_tensor * k,
                                        struct ggml_tensor * v, commandr_mask * mask);

#endif
