#include "head.h"

#include <math.h>

enum { GROUP = COMMANDR_HEAD_GROUP };

int64_t commandr_head_most(const commandr_model * model) {
    const struct ggml_tensor * w       = model->head;
    const int64_t              quarter = w->ne[1] / GROUP / 4; /* copying and computing more would gain little */
    if (!commandr_is_packed(w) && (model->n_devs > 0 || !ggml_backend_buffer_is_host(w->buffer))) {
        return 0;
    }
    return quarter >= COMMANDR_HEAD_MANY ? COMMANDR_HEAD_MANY : quarter >= COMMANDR_HEAD_FEW ? COMMANDR_HEAD_FEW : 0;
}

int64_t commandr_model_max_masked(const commandr_model * model) {
    return commandr_head_most(model) * GROUP;
}

/* A word of all items' masks together: 32 tokens. */
static uint32_t wanted(const commandr_eval_item * items, int32_t n_items, int64_t i) {
    uint32_t word = 0;
    for (int32_t k = 0; k < n_items; k++) {
        word |= items[k].n_outputs > 0 ? items[k].mask[i] : 0;
    }
    return word;
}

void commandr_head_choose(const commandr_model * model, const commandr_eval_item * items, int32_t n_items,
                          commandr_head_list * list) {
    list->n = list->n_padded = 0;
    int64_t n_outputs        = 0;
    for (int32_t k = 0; k < n_items; k++) {
        if (items[k].n_outputs > 0 && !items[k].mask) {
            return;
        }
        n_outputs += items[k].n_outputs;
    }
    const int64_t most = commandr_head_most(model);
    if (n_outputs == 0 || most == 0) {
        return;
    }
    const int64_t n_vocab  = model->hparams.n_vocab;
    const int64_t n_groups = n_vocab / GROUP; /* whole ones: rows that are left over belong to the whole head */
    int64_t       n        = 0;
    for (int64_t i = 0; i < (n_vocab + 31) / 32; i++) {
        const uint32_t word = wanted(items, n_items, i);
        for (int half = 0; half < 32 / GROUP; half++) {
            if ((word >> (half * GROUP) & 0xFFFF) == 0) {
                continue;
            }
            const int64_t id = i * (32 / GROUP) + half;
            if (n == most || id >= n_groups) {
                return;
            }
            list->ids[n++] = (int32_t) id;
        }
    }
    if (n == 0) {
        return;
    }
    list->n        = n;
    list->n_padded = n <= COMMANDR_HEAD_FEW ? COMMANDR_HEAD_FEW : COMMANDR_HEAD_MANY;
    for (; n < list->n_padded; n++) {
        list->ids[n] = list->ids[0];
    }
}

void commandr_head_read(const commandr_head_list * list, const struct ggml_tensor * logits, int64_t row, int64_t n,
                        int64_t n_vocab, float * to) {
    if (list->n == 0) {
        ggml_backend_tensor_get(logits, to, (size_t) row * logits->nb[1], (size_t) n * logits->nb[1]);
        return;
    }
    for (int64_t i = 0; i < n * n_vocab; i++) {
        to[i] = -INFINITY;
    }
    for (int64_t r = 0; r < n; r++) {
        for (int64_t k = 0; k < list->n; k++) {
            const size_t offset = (size_t) (row + r) * logits->nb[1] + (size_t) k * GROUP * sizeof(float);
            ggml_backend_tensor_get(logits, to + r * n_vocab + list->ids[k] * GROUP, offset, GROUP * sizeof(float));
        }
    }
}
