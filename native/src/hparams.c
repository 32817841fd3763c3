#include "error.h"
#include "model.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Larger than any model's, small enough that products of two of them stay far from 2^63. */
#define MAX_DIM ((int64_t) 1 << 30)

/* "command-r" + "block_count" -> "command-r.block_count". Valid until the next call on this thread. */
static const char * key_of(const commandr_hparams * hp, const char * name) {
    static _Thread_local char key[128];
    snprintf(key, sizeof(key), "%s.%s", hp->architecture, name);
    return key;
}

static bool has(const commandr_gguf * gguf, const char * key) {
    return commandr_gguf_find(gguf, key) >= 0;
}

static commandr_status read_sizes(const commandr_gguf * gguf, commandr_hparams * hp) {
    const struct {
        const char * name;
        int64_t *    out;
        int64_t      max;
    } sizes[] = {
        { "block_count",          &hp->n_layer,     4096    },
        { "context_length",       &hp->n_ctx_train, MAX_DIM },
        { "embedding_length",     &hp->n_embd,      MAX_DIM },
        { "feed_forward_length",  &hp->n_ff,        MAX_DIM },
        { "attention.head_count", &hp->n_head,      MAX_DIM },
    };
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        const commandr_status status =
            commandr_gguf_int(gguf, key_of(hp, sizes[i].name), 1, sizes[i].max, sizes[i].out);
        if (status != COMMANDR_OK) {
            return status;
        }
    }
    /* What a file may leave out: llama.cpp writes them always, older files do not. */
    const struct {
        const char * name;
        int64_t *    out;
        int64_t      value;
    } optional[] = {
        { "attention.head_count_kv", &hp->n_head_kv, hp->n_head              },
        { "attention.key_length",    &hp->head_dim,  hp->n_embd / hp->n_head },
        { "rope.dimension_count",    &hp->n_rot,     0                       },
    };
    for (size_t i = 0; i < sizeof(optional) / sizeof(optional[0]); i++) {
        *optional[i].out = optional[i].value;
        const char * key = key_of(hp, optional[i].name);
        if (has(gguf, key)) {
            const commandr_status status = commandr_gguf_int(gguf, key, 1, MAX_DIM, optional[i].out);
            if (status != COMMANDR_OK) {
                return status;
            }
        }
    }
    if (hp->n_rot == 0) {
        hp->n_rot = hp->head_dim;
    }
    if (hp->n_head % hp->n_head_kv != 0) {
        return commandr_fail(COMMANDR_ERROR_FORMAT,
                             "%s: attention.head_count %" PRId64
                             " is not a multiple of attention.head_count_kv %" PRId64,
                             gguf->path, hp->n_head, hp->n_head_kv);
    }
    if (hp->n_rot > hp->head_dim || hp->n_rot % 2 != 0) {
        return commandr_fail(COMMANDR_ERROR_FORMAT,
                             "%s: rope.dimension_count %" PRId64 " does not fit heads of %" PRId64 " dimensions",
                             gguf->path, hp->n_rot, hp->head_dim);
    }
    const char * value_length = key_of(hp, "attention.value_length");
    if (has(gguf, value_length)) {
        int64_t               length = 0;
        const commandr_status status = commandr_gguf_int(gguf, value_length, 1, MAX_DIM, &length);
        if (status != COMMANDR_OK) {
            return status;
        }
        if (length != hp->head_dim) {
            return commandr_fail(COMMANDR_ERROR_UNSUPPORTED,
                                 "%s: attention.value_length %" PRId64 " differs from attention.key_length %" PRId64,
                                 gguf->path, length, hp->head_dim);
        }
    }
    return COMMANDR_OK;
}

/* A float key within its range; a key that is absent keeps the value of out when it may. */
static commandr_status read_float(const commandr_gguf * gguf, const commandr_hparams * hp, const char * name,
                                  bool needed, float min, float max, float * out) {
    const char * key = key_of(hp, name);
    if (!needed && !has(gguf, key)) {
        return COMMANDR_OK;
    }
    const commandr_status status = commandr_gguf_float(gguf, key, out);
    if (status == COMMANDR_OK && !(*out >= min && *out <= max)) {
        return commandr_fail(COMMANDR_ERROR_FORMAT, "%s: the key %s is %g, outside %g..%g", gguf->path, key,
                             (double) *out, (double) min, (double) max);
    }
    return status;
}

static commandr_status read_floats(const commandr_gguf * gguf, commandr_hparams * hp) {
    hp->rope_freq_base     = 10000.0f;
    commandr_status status = read_float(gguf, hp, "attention.layer_norm_epsilon", true, 0.0f, 1.0f, &hp->norm_eps);
    if (status == COMMANDR_OK) {
        status = read_float(gguf, hp, "logit_scale", true, -1e6f, 1e6f, &hp->logit_scale);
    }
    if (status == COMMANDR_OK) {
        status = read_float(gguf, hp, "rope.freq_base", false, 1e-3f, 1e30f, &hp->rope_freq_base);
    }
    return status;
}

/* No model of the family scales its positions. Without a type, other programs take a factor for a linear scaling. */
static commandr_status check_rope_scaling(const commandr_gguf * gguf, const commandr_hparams * hp) {
    const char * key = key_of(hp, "rope.scaling.type");
    if (has(gguf, key)) {
        const char *          type   = "";
        const commandr_status status = commandr_gguf_string(gguf, key, &type);
        if (status == COMMANDR_OK && strcmp(type, "none") != 0) {
            return commandr_fail(COMMANDR_ERROR_UNSUPPORTED, "%s: %s is \"%s\", and only \"none\" is known", gguf->path,
                                 key, type);
        }
        return status;
    }
    static const char * const factors[] = { "rope.scaling.factor", "rope.scale_linear" };
    for (size_t i = 0; i < sizeof(factors) / sizeof(factors[0]); i++) {
        float                 factor = 1.0f;
        const commandr_status status = read_float(gguf, hp, factors[i], false, 0.0f, 1e6f, &factor);
        if (status != COMMANDR_OK) {
            return status;
        }
        if (factor != 1.0f && factor != 0.0f) {
            return commandr_fail(COMMANDR_ERROR_UNSUPPORTED, "%s: %s is %g: scaled positions are not known", gguf->path,
                                 key_of(hp, factors[i]), (double) factor);
        }
    }
    return COMMANDR_OK;
}

/* attention.sliding_window_pattern is a period, or one bool a layer: true where there is a window. */
static commandr_status read_window_pattern(const commandr_gguf * gguf, commandr_hparams * hp) {
    const char *  key   = key_of(hp, "attention.sliding_window_pattern");
    const int64_t index = commandr_gguf_find(gguf, key);
    hp->swa_period      = 4; /* of every published cohere2 model; their files have no key for it */
    if (index < 0) {
        return COMMANDR_OK;
    }
    commandr_gguf_value value;
    commandr_status     status = commandr_gguf_get(gguf, index, &value);
    if (status != COMMANDR_OK || value.n < 0) {
        return status != COMMANDR_OK ? status : commandr_gguf_int(gguf, key, 1, MAX_DIM, &hp->swa_period);
    }
    if ((value.kind != COMMANDR_KIND_BOOL && value.kind != COMMANDR_KIND_INT) || value.n < hp->n_layer) {
        return commandr_fail(COMMANDR_ERROR_FORMAT,
                             "%s: %s must be a period or one bool for each of the %" PRId64 " layers", gguf->path, key,
                             hp->n_layer);
    }
    int64_t * has_window = malloc((size_t) value.n * sizeof(*has_window));
    if (!has_window) {
        return commandr_fail(COMMANDR_ERROR_MEMORY, "%s: out of memory", gguf->path);
    }
    status = commandr_gguf_get_array(gguf, index, has_window, NULL);
    if (status == COMMANDR_OK) {
        hp->swa_period = hp->n_layer + 1; /* windows everywhere, unless a layer without one is found */
        for (int64_t i = 0; i < hp->n_layer; i++) {
            if (!has_window[i]) {
                hp->swa_period = i + 1;
                break;
            }
        }
        for (int64_t i = 0; i < hp->n_layer; i++) {
            if ((has_window[i] != 0) != ((i + 1) % hp->swa_period != 0)) {
                status = commandr_fail(COMMANDR_ERROR_UNSUPPORTED,
                                       "%s: %s does not repeat: layer %" PRId64 " breaks the period of %" PRId64,
                                       gguf->path, key, i, hp->swa_period);
                break;
            }
        }
    }
    free(has_window);
    return status;
}

/* What no key says: the vocabulary's size and whether there is q/k norm. llama.cpp decides on the latter by the
 * number of layers; the tensors are the better sign. */
static commandr_status read_tensors(const commandr_gguf * gguf, commandr_hparams * hp) {
    const commandr_tensor_info * embd = commandr_gguf_find_tensor(gguf, "token_embd.weight");
    if (!embd) {
        return commandr_fail(COMMANDR_ERROR_FORMAT, "%s: the tensor token_embd.weight is missing", gguf->path);
    }
    hp->n_vocab      = embd->ne[1];
    hp->has_qk_norm  = commandr_gguf_find_tensor(gguf, "blk.0.attn_q_norm.weight") != NULL;
    const char * key = key_of(hp, "vocab_size");
    if (!has(gguf, key)) {
        return COMMANDR_OK;
    }
    int64_t         n_vocab = 0;
    commandr_status status  = commandr_gguf_int(gguf, key, 1, MAX_DIM, &n_vocab);
    if (status == COMMANDR_OK && n_vocab != hp->n_vocab) {
        status = commandr_fail(COMMANDR_ERROR_FORMAT,
                               "%s: the key %s is %" PRId64 ", and token_embd.weight has %" PRId64 " rows", gguf->path,
                               key, n_vocab, hp->n_vocab);
    }
    return status;
}

commandr_status commandr_gguf_hparams(const commandr_gguf * gguf, commandr_hparams * hparams) {
    const char *    architecture = NULL;
    commandr_status status       = commandr_gguf_string(gguf, "general.architecture", &architecture);
    if (status != COMMANDR_OK) {
        return status;
    }
    if (strcmp(architecture, "command-r") != 0 && strcmp(architecture, "cohere2") != 0) {
        return commandr_fail(COMMANDR_ERROR_UNSUPPORTED,
                             "%s: architecture \"%s\" is not of the Command-R family (command-r or cohere2)",
                             gguf->path, architecture);
    }
    commandr_hparams hp;
    memset(&hp, 0, sizeof(hp));
    strcpy(hp.architecture, architecture);
    status = read_sizes(gguf, &hp);
    if (status == COMMANDR_OK) {
        status = read_floats(gguf, &hp);
    }
    if (status == COMMANDR_OK) {
        status = check_rope_scaling(gguf, &hp);
    }
    if (status == COMMANDR_OK && strcmp(hp.architecture, "cohere2") == 0) {
        status = commandr_gguf_int(gguf, key_of(&hp, "attention.sliding_window"), 1, MAX_DIM, &hp.n_swa);
        if (status == COMMANDR_OK) {
            status = read_window_pattern(gguf, &hp);
        }
    }
    if (status == COMMANDR_OK) {
        status = read_tensors(gguf, &hp);
    }
    if (status == COMMANDR_OK) {
        *hparams = hp;
    }
    return status;
}
