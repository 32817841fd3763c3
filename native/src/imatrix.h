/* An importance matrix: how large the inputs of the model's products are, column by column.
 *
 * A layer has three inputs: what q, k, v, gate and up share, that of attn_output and that of ffn_down; the head has one
 * more. A graph that collects sums their squares over its tokens, on whatever device they are, in float32. The sums of
 * graph after graph are added in double, so that millions of tokens lose nothing. */
#ifndef COMMANDR_SRC_IMATRIX_H
#define COMMANDR_SRC_IMATRIX_H

#include "model.h"

enum { COMMANDR_INPUT_NORM = 0, COMMANDR_INPUT_ATTN_OUTPUT, COMMANDR_INPUT_FFN_DOWN, COMMANDR_INPUTS_PER_LAYER };

typedef struct commandr_imatrix commandr_imatrix;

/* All sums zero. NULL when out of memory. model must live as long. */
commandr_imatrix * commandr_imatrix_init(const commandr_model * model);
void               commandr_imatrix_free(commandr_imatrix * imatrix);

/* Nodes that a graph has more for each layer when it collects. */
enum { COMMANDR_IMATRIX_LAYER_NODES = 3 * COMMANDR_INPUTS_PER_LAYER };

/* Adds the sums of x^2 over the tokens to a graph. x: F32 [n_in, n_tokens], an input of layer il; the head's counts as
 * the first one of layer n_layer. */
void commandr_imatrix_observe(commandr_imatrix * imatrix, struct ggml_context * ctx, struct ggml_cgraph * cgraph,
                              int64_t il, int input, struct ggml_tensor * x);

/* Adds the sums of the graph that was built last, once it is computed for n_tokens. Fails, with nothing added, when one
 * of them is not finite; the message names a tensor. */
commandr_status commandr_imatrix_add(commandr_imatrix * imatrix, int64_t n_tokens);

#endif
