#include "graph.h"

#include "devices.h"
#include "head.h"
#include "kernels/amx.h"
#include "kernels/attention.h"
#include "kernels/gather.h"
#include "kernels/level.h"
#include "kernels/matmul.h"
#include "kernels/packed.h"

#include <math.h>

/* What every part of the graph needs. */
typedef struct builder {
    struct ggml_context *        ctx;
    const commandr_model *       model;
    const commandr_hparams *     hp;
    const commandr_kv_cache *    caches;
    const commandr_graph_shape * shape;
    bool                         flash_attn;
    commandr_imatrix *           imatrix; /* NULL when none is collected */
    commandr_graph               graph;
    struct ggml_tensor *         rounded_from; /* the last activations rounded for our products */
    commandr_columns             rounded;
    struct ggml_tensor *         amx_rounded_from; /* the same for AMX */
    commandr_amx_columns         amx_rounded;
    commandr_mask                masks[2]; /* for our attention; those of no layer so far have no cells */
} builder;

size_t commandr_graph_max_nodes(const commandr_model * model) {
    return 256 + (56 + COMMANDR_IMATRIX_LAYER_NODES) * (size_t) model->hparams.n_layer;
}

/* LayerNorm without bias: (x - mean) / sqrt(variance + eps) * w, over the first dimension. */
static struct ggml_tensor * norm(builder * b, struct ggml_tensor * x, struct ggml_tensor * w) {
    return ggml_mul(b->ctx, ggml_norm(b->ctx, x, b->hp->norm_eps), w);
}

/* Rotates pairs of neighboring dimensions (2i, 2i+1) of each head by pos * freq_base^(-2i / n_rot). */
static struct ggml_tensor * rope(builder * b, struct ggml_tensor * x) {
    return ggml_rope_ext(b->ctx, x, b->graph.pos, NULL, (int) b->hp->n_rot, GGML_ROPE_TYPE_NORMAL, 0,
                         b->hp->rope_freq_base, 1.0f, 0.0f, 1.0f, 0.0f, 0.0f);
}

/* x rounded for our products with weights of a type; q, k, v, gate and up share it. */
static commandr_columns * rounded(builder * b, struct ggml_tensor * x, enum ggml_type type) {
    const commandr_rounding rounding = commandr_matmul_rounding(type);
    if (b->rounded_from != x || b->rounded.rounding != rounding) {
        b->rounded_from = x;
        b->rounded      = commandr_columns_round(b->ctx, x, rounding);
    }
    return &b->rounded;
}

static commandr_amx_columns * amx_rounded(builder * b, struct ggml_tensor * x) {
    if (b->amx_rounded_from != x) {
        b->amx_rounded_from = x;
        b->amx_rounded      = commandr_amx_round(b->ctx, x);
    }
    return &b->amx_rounded;
}

/* Whether w lies in the CPU's memory as our products read it: packed, or in the file's layout. With a GPU in use ggml
 * may compute the latter there. */
static bool is_readable(const builder * b, const struct ggml_tensor * w) {
    return commandr_is_packed(w) || (b->model->n_devs == 0 && ggml_backend_buffer_is_host(w->buffer));
}

/* Whether our products compute n columns with w: packed weights are for them, others where they beat ggml's. */
static bool is_ours(const builder * b, const struct ggml_tensor * w, int64_t n) {
    return commandr_is_packed(w) || (is_readable(b, w) && commandr_matmul_wanted(w, n));
}

/* Whether AMX computes n columns with w. */
static bool is_for_amx(const builder * b, const struct ggml_tensor * w, int64_t n) {
    return commandr_level_chosen() == COMMANDR_LEVEL_AMX && is_readable(b, w) && commandr_amx_wanted(w, n);
}

/* rows x, computed as products with w are: w itself, or some of its rows. */
static struct ggml_tensor * multiply(builder * b, struct ggml_tensor * w, struct ggml_tensor * rows,
                                     struct ggml_tensor * x) {
    if (is_for_amx(b, w, x->ne[1])) {
        return commandr_amx_matmul(b->ctx, rows, amx_rounded(b, x));
    }
    return is_ours(b, w, x->ne[1]) ? commandr_matmul(b->ctx, rows, rounded(b, x, w->type))
                                   : ggml_mul_mat(b->ctx, rows, x);
}

/* Results that may be beyond the numbers of half precision, in which some devices sum up unless they are told. */
static struct ggml_tensor * in_f32(struct ggml_tensor * result) {
    if (result->op == GGML_OP_MUL_MAT) {
        ggml_mul_mat_set_prec(result, GGML_PREC_F32);
    }
    return result;
}

/* W x, for every weight matrix of the model. x: [n_in, n]; result: [n_out, n] */
static struct ggml_tensor * product(builder * b, struct ggml_tensor * w, struct ggml_tensor * x) {
    return multiply(b, w, w, x);
}

/* The same for n matrices with one x: where our products compute all of them, in one operation. */
static void products(builder * b, struct ggml_tensor * const * w, int n, struct ggml_tensor * x,
                     struct ggml_tensor ** results) {
    bool is_one = true;
    for (int i = 0; i < n; i++) {
        is_one = is_one && is_ours(b, w[i], x->ne[1]) && !is_for_amx(b, w[i], x->ne[1]) &&
                 commandr_matmul_rounding(w[i]->type) == commandr_matmul_rounding(w[0]->type);
    }
    if (is_one) {
        commandr_matmul_all(b->ctx, w, n, rounded(b, x, w[0]->type), results);
        return;
    }
    for (int i = 0; i < n; i++) {
        results[i] = product(b, w[i], x);
    }
}

/* The head's rows that are wanted times x: [n, n_outputs] */
static struct ggml_tensor * head(builder * b, struct ggml_tensor * x) {
    struct ggml_tensor * w = b->model->head;
    ggml_build_forward_expand(b->graph.cgraph, x); /* first, or the gathered rows would take memory beside the layers */
    return b->shape->n_head == 0 ? product(b, w, x) : multiply(b, w, commandr_gather(b->ctx, w, b->graph.head_ids), x);
}

static struct ggml_tensor * embed(builder * b, struct ggml_tensor * ids) {
    struct ggml_tensor * w = b->model->token_embd;
    return commandr_is_packed(w) ? commandr_packed_rows(b->ctx, w, ids) : ggml_get_rows(b->ctx, w, ids);
}

/* x: [n * head_dim, n_tokens] as heads: [head_dim, n, n_tokens] */
static struct ggml_tensor * heads(builder * b, struct ggml_tensor * x, int64_t n) {
    return ggml_reshape_3d(b->ctx, x, b->hp->head_dim, n, b->shape->n_tokens);
}

/* Queries or keys as heads, normalized (w) and rotated where the layer has that. */
static struct ggml_tensor * placed(builder * b, const commandr_layer * layer, struct ggml_tensor * x, int64_t n,
                                   struct ggml_tensor * w) {
    x = heads(b, x, n);
    x = w ? norm(b, x, w) : x;
    return layer->has_rope ? rope(b, x) : x;
}

/* The first n_kv cells of a cache tensor by head: [head_dim, n_kv, n_head_kv] */
static struct ggml_tensor * cached(builder * b, struct ggml_tensor * cache, int64_t n_kv) {
    return ggml_view_3d(b->ctx, cache, b->hp->head_dim, n_kv, b->hp->n_head_kv, cache->nb[1],
                        ggml_row_size(cache->type, b->hp->head_dim), 0);
}

/* softmax(q k^T / sqrt(head_dim) + mask) v, accumulated in float32: half precision overflows on this family.
 * q: [head_dim, n_head, n_tokens]; result: [n_head * head_dim, n_tokens] */
static struct ggml_tensor * attend(builder * b, int64_t il, int which, struct ggml_tensor * q) {
    struct ggml_context *     ctx   = b->ctx;
    const commandr_kv_cache * cache = &b->caches[which];
    struct ggml_tensor *      mask  = b->graph.mask[which];
    struct ggml_tensor *      k     = cached(b, cache->memory.layers[il].k, b->shape->n_kv[which]);
    struct ggml_tensor *      v     = cached(b, cache->memory.layers[il].v, b->shape->n_kv[which]);
    const float               scale = 1.0f / sqrtf((float) b->hp->head_dim);
    const int64_t             n_out = b->hp->n_head * b->hp->head_dim;

    q = ggml_permute(ctx, q, 0, 2, 1, 3); /* [head_dim, n_tokens, n_head] */
    if (b->flash_attn && b->model->layers[il].dev == commandr_device_cpu() && commandr_attention_has(b->hp->head_dim)) {
        commandr_mask * summarized = &b->masks[which];
        if (!summarized->cells) {
            *summarized = commandr_mask_summarize(ctx, mask, b->hp->n_layer);
        }
        return ggml_reshape_2d(ctx, commandr_attention(ctx, q, k, v, summarized), n_out, b->shape->n_tokens);
    }
    if (b->flash_attn) {
        struct ggml_tensor * out = ggml_flash_attn_ext(ctx, q, k, v, mask, scale, 0.0f, 0.0f);
        ggml_flash_attn_ext_set_prec(out, GGML_PREC_F32);
        return ggml_reshape_2d(ctx, out, n_out, b->shape->n_tokens);
    }
    struct ggml_tensor * kq = ggml_mul_mat(ctx, k, q); /* [n_kv, n_tokens, n_head] */
    ggml_mul_mat_set_prec(kq, GGML_PREC_F32);
    kq                       = ggml_soft_max_ext(ctx, kq, mask, scale, 0.0f);
    struct ggml_tensor * vt  = ggml_cont(ctx, ggml_transpose(ctx, v)); /* [n_kv, head_dim, n_head_kv] */
    struct ggml_tensor * kqv = ggml_mul_mat(ctx, vt, kq);              /* [head_dim, n_tokens, n_head] */
    ggml_mul_mat_set_prec(kqv, GGML_PREC_F32);
    return ggml_cont_2d(ctx, ggml_permute(ctx, kqv, 0, 2, 1, 3), n_out, b->shape->n_tokens);
}

/* Puts the tokens' keys and values into their cells. k, v: head_dim * n_head_kv elements for each token */
static void store(builder * b, int64_t il, int which, struct ggml_tensor * k, struct ggml_tensor * v) {
    const commandr_kv_layer * rows = &b->caches[which].memory.layers[il];
    const int64_t             n    = b->hp->head_dim * b->hp->n_head_kv;
    k                              = ggml_reshape_2d(b->ctx, k, n, b->shape->n_tokens);
    v                              = ggml_reshape_2d(b->ctx, v, n, b->shape->n_tokens);
    ggml_build_forward_expand(b->graph.cgraph, ggml_set_rows(b->ctx, rows->k, k, b->graph.cells[which]));
    ggml_build_forward_expand(b->graph.cgraph, ggml_set_rows(b->ctx, rows->v, v, b->graph.cells[which]));
}

/* The rows of x: [n, n_tokens] whose outputs are wanted */
static struct ggml_tensor * wanted(builder * b, struct ggml_tensor * x) {
    return b->graph.rows ? ggml_get_rows(b->ctx, x, b->graph.rows) : x;
}

/* x is the input of a layer's products (COMMANDR_INPUT_*), or that of the head. */
static void observe(builder * b, int64_t il, int input, struct ggml_tensor * x) {
    if (b->imatrix) {
        commandr_imatrix_observe(b->imatrix, b->ctx, b->graph.cgraph, il, input, x);
    }
}

/* One parallel block: attention and FFN read the same normalized vector and both add to x. x: [n_embd, n_tokens].
 * NULL after the last layer when no outputs are wanted: its keys and values are all that is left to compute. For an
 * importance matrix all of it is computed, for all tokens. */
static struct ggml_tensor * block(builder * b, int64_t il, struct ggml_tensor * x) {
    struct ggml_context *    ctx   = b->ctx;
    const commandr_hparams * hp    = b->hp;
    const commandr_layer *   layer = &b->model->layers[il];
    const int                which = layer->has_window ? COMMANDR_CACHE_WINDOW : COMMANDR_CACHE_FULL;
    const bool               cuts  = il == hp->n_layer - 1 && !b->imatrix;

    struct ggml_tensor * h = norm(b, x, layer->attn_norm);
    observe(b, il, COMMANDR_INPUT_NORM, h);

    /* All that read h, in one operation. The FFN waits where fewer rows of it are wanted; and where there are many
     * tokens, as its results would take much memory during attention, and threads wait next to nothing for each other. */
    enum { K, V, Q, GATE, UP, ALL };
    struct ggml_tensor * const w[ALL] = { layer->attn_k, layer->attn_v, layer->attn_q, layer->ffn_gate, layer->ffn_up };
    struct ggml_tensor *       y[ALL];
    const bool                 is_end = cuts && b->shape->n_outputs == 0;
    const int n_now = is_end ? Q : b->shape->n_tokens > COMMANDR_JOINED || (cuts && b->graph.rows) ? GATE : ALL;
    products(b, w, n_now, h, y);

    struct ggml_tensor * k = placed(b, layer, y[K], hp->n_head_kv, layer->attn_k_norm);
    store(b, il, which, k, y[V]);
    if (is_end) {
        return NULL;
    }
    struct ggml_tensor * a = attend(b, il, which, placed(b, layer, y[Q], hp->n_head, layer->attn_q_norm));
    observe(b, il, COMMANDR_INPUT_ATTN_OUTPUT, a);
    if (cuts) {
        a = wanted(b, a);
        x = wanted(b, x);
    }
    a = in_f32(product(b, layer->attn_output, a));
    if (n_now < ALL) {
        products(b, w + GATE, ALL - GATE, cuts ? wanted(b, h) : h, y + GATE);
    }
    struct ggml_tensor * mid = ggml_swiglu_split(ctx, y[GATE], y[UP]);
    observe(b, il, COMMANDR_INPUT_FFN_DOWN, mid);
    struct ggml_tensor * f = in_f32(product(b, layer->ffn_down, mid));

    return ggml_add(ctx, ggml_add(ctx, f, x), a);
}

static struct ggml_tensor * input(builder * b, enum ggml_type type, int64_t ne0, int64_t ne1, const char * name) {
    struct ggml_tensor * t = ggml_new_tensor_2d(b->ctx, type, ne0, ne1);
    ggml_set_name(t, name);
    ggml_set_input(t);
    return t;
}

static void add_inputs(builder * b) {
    const commandr_graph_shape * s = b->shape;
    b->graph.tokens                = input(b, GGML_TYPE_I32, s->n_tokens, 1, "tokens");
    b->graph.pos                   = input(b, GGML_TYPE_I32, s->n_tokens, 1, "pos");
    for (int which = 0; which < 2; which++) {
        if (s->n_kv[which] > 0) {
            b->graph.cells[which] = input(b, GGML_TYPE_I64, s->n_tokens, 1, which ? "cells_window" : "cells");
            b->graph.mask[which] = input(b, GGML_TYPE_F16, s->n_kv[which], s->n_tokens, which ? "mask_window" : "mask");
        }
    }
    if (s->n_outputs > 0 && s->n_outputs < s->n_tokens) {
        b->graph.rows = input(b, GGML_TYPE_I32, s->n_outputs, 1, "rows");
    }
    if (s->n_head > 0) {
        b->graph.head_ids = input(b, GGML_TYPE_I32, s->n_head, 1, "head_ids");
    }
}

static void add_output(builder * b, struct ggml_tensor * t, const char * name) {
    ggml_set_name(t, name);
    ggml_set_output(t);
    ggml_build_forward_expand(b->graph.cgraph, t);
}

commandr_graph commandr_graph_build(struct ggml_context * ctx, const commandr_model * model,
                                    const commandr_kv_cache * caches, const commandr_graph_shape * shape,
                                    bool flash_attn, commandr_imatrix * imatrix) {
    builder b = {
        .ctx        = ctx,
        .model      = model,
        .hp         = &model->hparams,
        .caches     = caches,
        .shape      = shape,
        .flash_attn = flash_attn,
        .imatrix    = imatrix,
    };
    b.graph.cgraph = ggml_new_graph_custom(ctx, commandr_graph_max_nodes(model), false);
    add_inputs(&b);

    struct ggml_tensor * x = embed(&b, b.graph.tokens);
    for (int64_t il = 0; il < b.hp->n_layer; il++) {
        x = block(&b, il, x);
    }
    if (imatrix) {
        observe(&b, b.hp->n_layer, 0, norm(&b, x, model->output_norm));
        x = wanted(&b, x);
    }
    if (shape->n_outputs > 0) {
        x = norm(&b, x, model->output_norm);
        if (shape->outputs & COMMANDR_OUTPUT_HIDDEN) {
            b.graph.hidden = x;
            add_output(&b, x, "hidden");
        }
        if (shape->outputs & COMMANDR_OUTPUT_LOGITS) {
            b.graph.logits = ggml_scale(ctx, head(&b, x), b.hp->logit_scale);
            add_output(&b, b.graph.logits, "logits");
        }
    }
    return b.graph;
}
