/* A loaded model: hyper-parameters, weights by layer, and where each stands. */
#ifndef COMMANDR_SRC_MODEL_H
#define COMMANDR_SRC_MODEL_H

#include "commandr.h"
#include "ggml-backend.h"
#include "ggml.h"
#include "gguf-file.h"

#include <stdatomic.h>

/* All matrices are [n_in, n_out]: the contiguous dimension is the one that a product sums over. */
typedef struct commandr_layer {
    struct ggml_tensor * attn_norm;   /* [n_embd] */
    struct ggml_tensor * attn_q;      /* [n_embd, n_head * head_dim] */
    struct ggml_tensor * attn_k;      /* [n_embd, n_head_kv * head_dim] */
    struct ggml_tensor * attn_v;      /* [n_embd, n_head_kv * head_dim] */
    struct ggml_tensor * attn_q_norm; /* [head_dim, n_head], NULL without q/k norm */
    struct ggml_tensor * attn_k_norm; /* [head_dim, n_head_kv], NULL without q/k norm */
    struct ggml_tensor * attn_output; /* [n_head * head_dim, n_embd] */
    struct ggml_tensor * ffn_gate;    /* [n_embd, n_ff] */
    struct ggml_tensor * ffn_up;      /* [n_embd, n_ff] */
    struct ggml_tensor * ffn_down;    /* [n_ff, n_embd] */
    ggml_backend_dev_t   dev;
    bool                 has_window; /* attends to the last n_swa positions only */
    bool                 has_rope;
} commandr_layer;

typedef struct commandr_weights commandr_weights; /* places.h: file mappings, buffers, contexts */

struct commandr_model {
    atomic_int           n_refs;
    commandr_gguf *      gguf;
    commandr_hparams     hparams;
    commandr_layer *     layers;      /* [n_layer] */
    struct ggml_tensor * token_embd;  /* [n_embd, n_vocab], always on the CPU: rows are looked up */
    struct ggml_tensor * head;        /* the same matrix as the product's operand: token_embd, or a copy on a device */
    struct ggml_tensor * output_norm; /* [n_embd], on the head's device */
    ggml_backend_dev_t   head_dev;
    bool                 is_measured; /* measure.c: tensors are placed and have no memory */
    ggml_backend_dev_t   devs[16];    /* the GPUs in use */
    int32_t              n_devs;
    bool                 uses_workers; /* is counted among those that do, see workers.h */
    atomic_bool          lost;         /* a worker is gone: nothing can be computed any more */
    commandr_weights *   weights;
};

/* weights.c: checks the tensors, places and fills them. On failure the model is good for commandr_model_free only. */
commandr_status commandr_weights_load(commandr_model * model, const commandr_model_params * params);
/* places.c */
void            commandr_weights_free(commandr_weights * weights);
commandr_status commandr_weights_memory(const commandr_weights * weights, int64_t index, commandr_memory_info * info);
/* Overwrites every copy of a tensor; on failure none. */
commandr_status commandr_weights_set(commandr_weights * weights, const char * name, const void * data, int64_t size);

/* model.c: for a guard that has ended because a worker is gone: BACKEND, from now on by commandr_model_check as well. */
commandr_status commandr_model_lost(commandr_model * model);
commandr_status commandr_model_check(const commandr_model * model);

/* model.c: one more owner. Each is undone by commandr_model_free. */
void commandr_model_retain(commandr_model * model);

#endif
