/* Attention of a few tokens over a KV cache on the CPU, accumulated in float32.
 *
 * ggml's flash attention sums values of an F16 cache in half precision when there are fewer than 64 tokens: the
 * sum of n positions with equal weights grows to n times the values before it is divided by n, and this family's
 * values take it past 65504. This kernel reads the same cache and sums in float32. Grouped heads share one
 * conversion of the cache's rows. */
#ifndef COMMANDR_SRC_KERNELS_ATTENTION_H
#define COMMANDR_SRC_KERNELS_ATTENTION_H

#include "ggml.h"

#include <stdbool.h>
#include <stdint.h>

/* From so many tokens on, ggml's kernel sums in single precision where it has tiles for the head. */
enum { COMMANDR_ATTENTION_TILES = 64 };

/* Whether ggml's CPU flash attention would sum in half precision, and this kernel is needed. */
bool commandr_attention_needed(enum ggml_type type_k, enum ggml_type type_v, int64_t n_tokens, int64_t head_dim);

/* softmax(q k^T / sqrt(head_dim) + mask) v. q: F32 [head_dim, n_tokens, n_head], any strides but the first; k, v:
 * [head_dim, n_kv, n_head_kv], rows of any ggml_type with a conversion to float; mask: F16 [n_kv, n_tokens],
 * contiguous. Result: F32 [head_dim, n_head, n_tokens] */
struct ggml_tensor * commandr_attention(struct ggml_context * ctx, struct ggml_tensor * q, struct ggml_tensor * k,
                                        struct ggml_tensor * v, struct ggml_tensor * mask);

#endif
