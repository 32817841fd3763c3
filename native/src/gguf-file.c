#include "gguf-file.h"

#include "error.h"
#include "split.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void describe(const commandr_part * part, int32_t number, int64_t index, commandr_tensor_info * info) {
    const int64_t * ne = gguf_get_tensor_ne(part->ctx, index);
    info->name         = gguf_get_tensor_name(part->ctx, index);
    info->path         = part->path;
    info->part         = number;
    info->type         = (int32_t) gguf_get_tensor_type(part->ctx, index);
    info->n_dims       = 1;
    for (int32_t d = 0; d < 4; d++) {
        info->ne[d] = ne[d];
        if (ne[d] > 1) {
            info->n_dims = d + 1;
        }
    }
    info->offset = (int64_t) (gguf_get_data_offset(part->ctx) + gguf_get_tensor_offset(part->ctx, index));
    info->size   = (int64_t) gguf_get_tensor_size(part->ctx, index);
}

/* The tensors of all parts, and a hash of all parts. */
static commandr_status read_parts(commandr_gguf * gguf) {
    for (int32_t p = 0; p < gguf->n_parts; p++) {
        gguf->n_tensors += gguf_get_n_tensors(gguf->parts[p].ctx);
    }
    gguf->tensors = calloc((size_t) gguf->n_tensors + 1, sizeof(*gguf->tensors));
    if (!gguf->tensors) {
        return commandr_fail(COMMANDR_ERROR_MEMORY, "%s: out of memory", gguf->path);
    }
    commandr_tensor_info * next   = gguf->tensors;
    commandr_status        status = COMMANDR_OK;
    gguf->fingerprint             = COMMANDR_FNV1A_START;
    for (int32_t p = 0; p < gguf->n_parts && status == COMMANDR_OK; p++) {
        const int64_t n = gguf_get_n_tensors(gguf->parts[p].ctx);
        for (int64_t i = 0; i < n; i++) {
            describe(&gguf->parts[p], p, i, next++);
        }
        status = commandr_part_hash(&gguf->parts[p], &gguf->fingerprint);
    }
    return status;
}

commandr_status commandr_gguf_open(const char * path, commandr_gguf ** out) {
    if (!path || !out) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "commandr_gguf_open: path and out must not be NULL");
    }
    commandr_gguf * gguf = calloc(1, sizeof(*gguf));
    if (!gguf) {
        return commandr_fail(COMMANDR_ERROR_MEMORY, "%s: out of memory", path);
    }
    commandr_status status = commandr_parts_open(path, &gguf->parts, &gguf->n_parts);
    if (status == COMMANDR_OK) {
        gguf->path = gguf->parts[0].path;
        gguf->ctx  = gguf->parts[0].ctx;
        status     = read_parts(gguf);
    }
    if (status != COMMANDR_OK) {
        commandr_gguf_free(gguf);
        return status;
    }
    *out = gguf;
    return COMMANDR_OK;
}

void commandr_gguf_free(commandr_gguf * gguf) {
    if (gguf) {
        commandr_parts_close(gguf->parts, gguf->n_parts);
        free(gguf->tensors);
        free(gguf);
    }
}

int64_t commandr_gguf_n_keys(const commandr_gguf * gguf) {
    return gguf_get_n_kv(gguf->ctx);
}

const char * commandr_gguf_key(const commandr_gguf * gguf, int64_t index) {
    return index >= 0 && index < gguf_get_n_kv(gguf->ctx) ? gguf_get_key(gguf->ctx, index) : NULL;
}

int64_t commandr_gguf_find(const commandr_gguf * gguf, const char * key) {
    return gguf_find_key(gguf->ctx, key);
}

static commandr_kind kind_of(enum gguf_type type) {
    switch (type) {
        case GGUF_TYPE_FLOAT32:
        case GGUF_TYPE_FLOAT64: return COMMANDR_KIND_FLOAT;
        case GGUF_TYPE_BOOL: return COMMANDR_KIND_BOOL;
        case GGUF_TYPE_STRING: return COMMANDR_KIND_STRING;
        default: return COMMANDR_KIND_INT;
    }
}

/* Element i of packed integers or bools of a GGUF type, widened. */
static int64_t int_at(enum gguf_type type, const void * data, int64_t i) {
    switch (type) {
        case GGUF_TYPE_UINT8: return ((const uint8_t *) data)[i];
        case GGUF_TYPE_INT8: return ((const int8_t *) data)[i];
        case GGUF_TYPE_BOOL: return ((const int8_t *) data)[i] != 0;
        case GGUF_TYPE_UINT16: return ((const uint16_t *) data)[i];
        case GGUF_TYPE_INT16: return ((const int16_t *) data)[i];
        case GGUF_TYPE_UINT32: return ((const uint32_t *) data)[i];
        case GGUF_TYPE_INT32: return ((const int32_t *) data)[i];
        default: return ((const int64_t *) data)[i];
    }
}

static double float_at(enum gguf_type type, const void * data, int64_t i) {
    return type == GGUF_TYPE_FLOAT32 ? (double) ((const float *) data)[i] : ((const double *) data)[i];
}

commandr_status commandr_gguf_get(const commandr_gguf * gguf, int64_t index, commandr_gguf_value * value) {
    if (index < 0 || index >= gguf_get_n_kv(gguf->ctx)) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "%s: there is no key number %" PRId64, gguf->path, index);
    }
    commandr_gguf_value  v    = { .kind = COMMANDR_KIND_INT, .n = -1, .i = 0, .f = 0.0, .s = NULL };
    const enum gguf_type type = gguf_get_kv_type(gguf->ctx, index);
    if (type == GGUF_TYPE_ARRAY) {
        v.kind = kind_of(gguf_get_arr_type(gguf->ctx, index));
        v.n    = (int64_t) gguf_get_arr_n(gguf->ctx, index);
    } else if (type == GGUF_TYPE_STRING) {
        v.kind = COMMANDR_KIND_STRING;
        v.s    = gguf_get_val_str(gguf->ctx, index);
    } else {
        const void * data = gguf_get_val_data(gguf->ctx, index);
        v.kind            = kind_of(type);
        if (v.kind == COMMANDR_KIND_FLOAT) {
            v.f = float_at(type, data, 0);
        } else {
            v.i = int_at(type, data, 0);
        }
    }
    *value = v;
    return COMMANDR_OK;
}

commandr_status commandr_gguf_get_array(const commandr_gguf * gguf, int64_t index, void * dst, int64_t * n_bytes) {
    if (index < 0 || index >= gguf_get_n_kv(gguf->ctx) || gguf_get_kv_type(gguf->ctx, index) != GGUF_TYPE_ARRAY) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "%s: key number %" PRId64 " is not an array", gguf->path, index);
    }
    const enum gguf_type type = gguf_get_arr_type(gguf->ctx, index);
    const int64_t        n    = (int64_t) gguf_get_arr_n(gguf->ctx, index);
    int64_t              size = 0;
    if (type == GGUF_TYPE_STRING) {
        for (int64_t i = 0; i < n; i++) {
            const char *  s      = gguf_get_arr_str(gguf->ctx, index, (size_t) i);
            const int64_t length = (int64_t) strlen(s) + 1;
            if (dst) {
                memcpy((char *) dst + size, s, (size_t) length);
            }
            size += length;
        }
    } else {
        const void * data    = gguf_get_arr_data(gguf->ctx, index);
        const bool   is_real = kind_of(type) == COMMANDR_KIND_FLOAT;
        for (int64_t i = 0; dst && i < n; i++) {
            if (is_real) {
                ((double *) dst)[i] = float_at(type, data, i);
            } else {
                ((int64_t *) dst)[i] = int_at(type, data, i);
            }
        }
        size = n * 8;
    }
    if (n_bytes) {
        *n_bytes = size;
    }
    return COMMANDR_OK;
}

int64_t commandr_gguf_n_tensors(const commandr_gguf * gguf) {
    return gguf->n_tensors;
}

commandr_status commandr_gguf_tensor(const commandr_gguf * gguf, int64_t index, commandr_tensor_info * info) {
    if (index < 0 || index >= gguf->n_tensors) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "%s: there is no tensor number %" PRId64, gguf->path, index);
    }
    if (!info) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "commandr_gguf_tensor: info must not be NULL");
    }
    *info = gguf->tensors[index];
    return COMMANDR_OK;
}

const commandr_tensor_info * commandr_gguf_find_tensor(const commandr_gguf * gguf, const char * name) {
    for (int64_t i = 0; i < gguf->n_tensors; i++) {
        if (strcmp(gguf->tensors[i].name, name) == 0) {
            return &gguf->tensors[i];
        }
    }
    return NULL;
}

/* ---- typed look-ups ---- */

static const char * const KIND_NAMES[] = { "an integer", "a float", "a bool", "a string" };

static commandr_status get_single(const commandr_gguf * gguf, const char * key, commandr_kind kind,
                                  commandr_gguf_value * value) {
    const int64_t index = gguf_find_key(gguf->ctx, key);
    if (index < 0) {
        return commandr_fail(COMMANDR_ERROR_FORMAT, "%s: the key %s is missing", gguf->path, key);
    }
    const commandr_status status = commandr_gguf_get(gguf, index, value);
    if (status != COMMANDR_OK) {
        return status;
    }
    if (value->n >= 0 || value->kind != kind) {
        return commandr_fail(COMMANDR_ERROR_FORMAT, "%s: the key %s must be %s, not %s%s", gguf->path, key,
                             KIND_NAMES[kind], value->n >= 0 ? "an array of which each is " : "",
                             KIND_NAMES[value->kind]);
    }
    return COMMANDR_OK;
}

commandr_status commandr_gguf_int(const commandr_gguf * gguf, const char * key, int64_t min, int64_t max,
                                  int64_t * out) {
    commandr_gguf_value   value  = { .n = -1 };
    const commandr_status status = get_single(gguf, key, COMMANDR_KIND_INT, &value);
    if (status != COMMANDR_OK) {
        return status;
    }
    if (value.i < min || value.i > max) {
        return commandr_fail(COMMANDR_ERROR_FORMAT, "%s: the key %s is %" PRId64 ", outside %" PRId64 "..%" PRId64,
                             gguf->path, key, value.i, min, max);
    }
    *out = value.i;
    return COMMANDR_OK;
}

commandr_status commandr_gguf_float(const commandr_gguf * gguf, const char * key, float * out) {
    commandr_gguf_value   value  = { .n = -1 };
    const commandr_status status = get_single(gguf, key, COMMANDR_KIND_FLOAT, &value);
    if (status == COMMANDR_OK) {
        *out = (float) value.f;
    }
    return status;
}

commandr_status commandr_gguf_string(const commandr_gguf * gguf, const char * key, const char ** out) {
    commandr_gguf_value   value  = { .n = -1 };
    const commandr_status status = get_single(gguf, key, COMMANDR_KIND_STRING, &value);
    if (status == COMMANDR_OK) {
        *out = value.s;
    }
    return status;
}
