#include "tensors.h"

#include "error.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct layer_spec {
    const char * name;
    size_t       field;
    int64_t      ne0, ne1; /* ne1 0: a vector */
    bool         is_norm;
} layer_spec;

/* Appends a slot after checking presence, shape and type. */
static commandr_status add(const commandr_gguf * gguf, commandr_slot * slot, const char * name, int64_t ne0,
                           int64_t ne1, bool is_norm, struct ggml_tensor ** target) {
    const commandr_tensor_info * info = commandr_gguf_find_tensor(gguf, name);
    if (!info) {
        return commandr_fail(COMMANDR_ERROR_FORMAT, "%s: the tensor %s is missing", gguf->path, name);
    }
    const int64_t one = ne1 ? ne1 : 1;
    if (info->ne[0] != ne0 || info->ne[1] != one || info->ne[2] != 1 || info->ne[3] != 1) {
        return commandr_fail(COMMANDR_ERROR_FORMAT,
                             "%s: the tensor %s is [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64
                             "], and the keys call for [%" PRId64 ", %" PRId64 ", 1, 1]",
                             info->path, name, info->ne[0], info->ne[1], info->ne[2], info->ne[3], ne0, one);
    }
    const enum ggml_type type = (enum ggml_type) info->type;
    if (is_norm && type != GGML_TYPE_F32) {
        return commandr_fail(COMMANDR_ERROR_UNSUPPORTED, "%s: the tensor %s is %s; norms are F32", info->path, name,
                             ggml_type_name(type));
    }
    if (type != GGML_TYPE_F32 && !ggml_get_type_traits(type)->to_float) {
        return commandr_fail(COMMANDR_ERROR_UNSUPPORTED, "%s: the tensor %s has the type %s, which is not a weight's",
                             info->path, name, ggml_type_name(type));
    }
    slot->info      = info;
    slot->is_matrix = !is_norm;
    slot->target    = target;
    return COMMANDR_OK;
}

/* A tensor nobody uses is a model nobody implemented: a bias or an untied head, left out in silence, gives nonsense. */
static commandr_status check_surplus(const commandr_gguf * gguf, const commandr_slot * slots, int64_t n_slots) {
    if (gguf->n_tensors == n_slots) {
        return COMMANDR_OK;
    }
    bool * used = calloc((size_t) gguf->n_tensors, sizeof(*used));
    if (!used) {
        return commandr_fail(COMMANDR_ERROR_MEMORY, "%s: out of memory", gguf->path);
    }
    for (int64_t i = 0; i < n_slots; i++) {
        used[slots[i].info - gguf->tensors] = true;
    }
    int64_t surplus = 0;
    while (surplus < gguf->n_tensors && used[surplus]) {
        surplus++;
    }
    free(used);
    return commandr_fail(COMMANDR_ERROR_UNSUPPORTED, "%s: the tensor %s is not part of this architecture",
                         gguf->tensors[surplus].path, gguf->tensors[surplus].name);
}

commandr_status commandr_tensors_list(commandr_model * model, commandr_slot ** out, int64_t * n_out) {
    const commandr_gguf *    gguf      = model->gguf;
    const commandr_hparams * hp        = &model->hparams;
    const int64_t            n_embd_q  = hp->n_head * hp->head_dim;
    const int64_t            n_embd_kv = hp->n_head_kv * hp->head_dim;
    const layer_spec         specs[]   = {
        { "attn_norm",   offsetof(commandr_layer, attn_norm),   hp->n_embd,   0,             true  },
        { "attn_q",      offsetof(commandr_layer, attn_q),      hp->n_embd,   n_embd_q,      false },
        { "attn_k",      offsetof(commandr_layer, attn_k),      hp->n_embd,   n_embd_kv,     false },
        { "attn_v",      offsetof(commandr_layer, attn_v),      hp->n_embd,   n_embd_kv,     false },
        { "attn_output", offsetof(commandr_layer, attn_output), n_embd_q,     hp->n_embd,    false },
        { "ffn_gate",    offsetof(commandr_layer, ffn_gate),    hp->n_embd,   hp->n_ff,      false },
        { "ffn_up",      offsetof(commandr_layer, ffn_up),      hp->n_embd,   hp->n_ff,      false },
        { "ffn_down",    offsetof(commandr_layer, ffn_down),    hp->n_ff,     hp->n_embd,    false },
        { "attn_q_norm", offsetof(commandr_layer, attn_q_norm), hp->head_dim, hp->n_head,    true  },
        { "attn_k_norm", offsetof(commandr_layer, attn_k_norm), hp->head_dim, hp->n_head_kv, true  },
    };
    const size_t n_specs = sizeof(specs) / sizeof(specs[0]) - (hp->has_qk_norm ? 0 : 2);

    commandr_slot * slots = calloc((size_t) hp->n_layer * n_specs + 2, sizeof(*slots));
    if (!slots) {
        return commandr_fail(COMMANDR_ERROR_MEMORY, "%s: out of memory", gguf->path);
    }
    int64_t         n = 0;
    commandr_status status =
        add(gguf, &slots[n++], "token_embd.weight", hp->n_embd, hp->n_vocab, false, &model->token_embd);
    if (status == COMMANDR_OK) {
        status         = add(gguf, &slots[n], "output_norm.weight", hp->n_embd, 0, true, &model->output_norm);
        slots[n++].dev = model->head_dev;
    }
    for (int64_t il = 0; il < hp->n_layer && status == COMMANDR_OK; il++) {
        for (size_t s = 0; s < n_specs && status == COMMANDR_OK; s++) {
            char name[64];
            snprintf(name, sizeof(name), "blk.%" PRId64 ".%s.weight", il, specs[s].name);
            struct ggml_tensor ** target = (struct ggml_tensor **) ((char *) &model->layers[il] + specs[s].field);
            status         = add(gguf, &slots[n], name, specs[s].ne0, specs[s].ne1, specs[s].is_norm, target);
            slots[n++].dev = model->layers[il].dev;
        }
    }
    if (status == COMMANDR_OK) {
        status = check_surplus(gguf, slots, n);
    }
    if (status != COMMANDR_OK) {
        free(slots);
        return status;
    }
    *out   = slots;
    *n_out = n;
    return COMMANDR_OK;
}
