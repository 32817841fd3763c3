/* The Command-R computation as a ggml graph. */
#ifndef COMMANDR_SRC_GRAPH_H
#define COMMANDR_SRC_GRAPH_H

#include "imatrix.h"
#include "kv-cache.h"
#include "model.h"

/* Everything that decides a graph's form. Two batches of the same shape run through the same graph. */
typedef struct commandr_graph_shape {
    int64_t n_tokens;
    int64_t n_kv[2];   /* cells looked at in the full and in the window cache, padded; 0: no such layers */
    int64_t n_outputs; /* 0: fill the cache only */
    int32_t outputs;   /* COMMANDR_OUTPUT_* */
    int64_t n_head;    /* groups of the head's rows; 0: all rows */
} commandr_graph_shape;

enum {
    COMMANDR_CACHE_FULL   = 0,
    COMMANDR_CACHE_WINDOW = 1,
    COMMANDR_JOINED       = 31 /* the most tokens of which q, k, v, gate and up are one operation */
};

typedef struct commandr_graph {
    struct ggml_cgraph * cgraph;
    /* inputs */
    struct ggml_tensor * tokens;   /* I32 [n_tokens] */
    struct ggml_tensor * pos;      /* I32 [n_tokens] */
    struct ggml_tensor * rows;     /* I32 [n_outputs]: the tokens whose outputs are wanted; NULL: all or none */
    struct ggml_tensor * head_ids; /* I32 [n_head]: the groups; NULL: all rows */
    struct ggml_tensor * cells[2]; /* I64 [n_tokens] per cache: where each token's key and value go */
    struct ggml_tensor * mask[2];  /* F16 [n_kv, n_tokens] per cache: 0 visible, -inf not */
    /* outputs, NULL when not asked for */
    struct ggml_tensor * hidden; /* F32 [n_embd, n_outputs] */
    struct ggml_tensor * logits; /* F32 [n_vocab, or COMMANDR_HEAD_GROUP for each of the groups; n_outputs] */
} commandr_graph;

/* Nodes that the graph of a model needs at most. */
size_t commandr_graph_max_nodes(const commandr_model * model);

/* Builds the graph in ctx, a context without allocation. caches: [2], full and window. imatrix: receives the sums of
 * all tokens, NULL: none are made. */
commandr_graph commandr_graph_build(struct ggml_context * ctx, const commandr_model * model,
                                    const commandr_kv_cache * caches, const commandr_graph_shape * shape,
                                    bool flash_attn, commandr_imatrix * imatrix);

#endif
