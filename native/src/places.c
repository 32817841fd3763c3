#include "places.h"

#include "devices.h"
#include "error.h"
#include "kernels/matmul.h"
#include "kernels/packed.h"
#include "log.h"
#include "workers.h"

#include <stdlib.h>
#include <string.h>

#define MAX_BUFTS 24 /* the most places that are not in a mapped file */

commandr_status commandr_places_init(commandr_model * model) {
    const commandr_gguf * gguf    = model->gguf;
    commandr_weights *    weights = calloc(1, sizeof(*weights));
    model->weights                = weights;
    if (weights) {
        weights->mappings = calloc((size_t) gguf->n_parts, sizeof(*weights->mappings));
        weights->places   = calloc((size_t) gguf->n_parts + MAX_BUFTS, sizeof(*weights->places));
    }
    if (!weights || !weights->mappings || !weights->places) {
        return commandr_fail(COMMANDR_ERROR_MEMORY, "%s: out of memory", gguf->path);
    }
    weights->n_parts       = gguf->n_parts;
    commandr_status status = COMMANDR_OK;
    for (int32_t i = 0; i < gguf->n_parts && !model->is_measured && status == COMMANDR_OK; i++) {
        status = commandr_mapping_open(gguf->parts[i].path, &weights->mappings[i]);
    }
    return status;
}

void commandr_weights_free(commandr_weights * weights) {
    if (!weights) {
        return;
    }
    for (int32_t i = 0; i < weights->n_places; i++) {
        commandr_buffer_free(weights->places[i].buffer);
        ggml_free(weights->places[i].ctx);
    }
    for (int32_t i = 0; i < weights->n_parts; i++) {
        commandr_mapping_close(&weights->mappings[i]);
    }
    commandr_packed_file_close(&weights->packed_file);
    free(weights->places);
    free(weights->mappings);
    free(weights);
}

/* Can a device compute a product with this weight in a buffer of this type? ggml answers for a finished operation only,
 * so one is made of tensors without data. */
static bool can_multiply(ggml_backend_dev_t dev, ggml_backend_buffer_type_t buft, const commandr_tensor_info * info) {
    struct ggml_context * ctx = ggml_init((struct ggml_init_params) { 4 * ggml_tensor_overhead(), NULL, true });
    if (!ctx) {
        return false;
    }
    struct ggml_tensor *  w     = ggml_new_tensor_2d(ctx, (enum ggml_type) info->type, info->ne[0], info->ne[1]);
    struct ggml_tensor *  op    = ggml_mul_mat(ctx, w, ggml_new_tensor_2d(ctx, GGML_TYPE_F32, info->ne[0], 512));
    ggml_backend_buffer_t empty = ggml_backend_buft_alloc_buffer(buft, 0);
    w->buffer                   = empty;
    const bool supported        = empty && ggml_backend_dev_supports_op(dev, op);
    ggml_backend_buffer_free(empty);
    ggml_free(ctx);
    return supported;
}

/* What a place must be for a tensor: a place without its context. */
static commandr_place choose(const commandr_model * model, const commandr_model_params * params,
                             const commandr_slot * slot, ggml_backend_dev_t dev) {
    const commandr_tensor_info * info = slot->info;
    ggml_backend_dev_t           cpu  = commandr_device_cpu();
    if (dev != cpu) {
        ggml_backend_buffer_type_t buft = ggml_backend_dev_buffer_type(dev);
        if (!slot->is_matrix || can_multiply(dev, buft, info)) {
            return (commandr_place) { .buft = buft, .device = ggml_backend_dev_name(dev), .what = "weights" };
        }
    }
    commandr_place place        = { .on_host = true, .device = ggml_backend_dev_name(cpu) };
    const bool     is_embedding = slot->target == &model->token_embd;
    const bool     repack       = params->repack && slot->is_matrix;
    if (repack && commandr_matmul_is_to_pack((enum ggml_type) info->type, info->ne) &&
        !(is_embedding && model->head_dev != cpu)) {
        place.buft   = ggml_backend_dev_buffer_type(cpu);
        place.packed = true;
        place.what   = "packed";
        return place;
    }
    ggml_backend_buffer_type_t * extra = commandr_device_extra_bufts();
    for (; repack && !is_embedding && extra && *extra; extra++) { /* ggml looks rows up in the file's layout only */
        if (can_multiply(cpu, *extra, info)) {
            place.buft = *extra;
            place.what = "repacked";
            return place;
        }
    }
    if (params->use_mmap) {
        place.mapped = &model->weights->mappings[info->part];
        place.what   = "mapped";
    } else {
        place.buft = ggml_backend_dev_buffer_type(cpu);
        place.what = "weights";
    }
    return place;
}

/* The place that is like wanted, opened when there is none yet. NULL when out of memory. */
static commandr_place * find_place(commandr_model * model, commandr_place wanted) {
    commandr_weights * weights = model->weights;
    for (int32_t i = 0; i < weights->n_places; i++) {
        commandr_place * p = &weights->places[i];
        if (p->buft == wanted.buft && p->mapped == wanted.mapped && p->packed == wanted.packed) {
            return p;
        }
    }
    if (weights->n_places == weights->n_parts + MAX_BUFTS) {
        return NULL;
    }
    /* One more: the embedding may lie in one place twice, as the head, too. */
    const size_t size = ((size_t) model->gguf->n_tensors + 1) * ggml_tensor_overhead();
    wanted.ctx        = ggml_init((struct ggml_init_params) { size, NULL, true });
    if (!wanted.ctx) {
        return NULL;
    }
    commandr_place * p = &weights->places[weights->n_places++];
    *p                 = wanted;
    return p;
}

struct ggml_tensor * commandr_place_tensor(commandr_model * model, const commandr_model_params * params,
                                           const commandr_slot * slot, ggml_backend_dev_t dev,
                                           const commandr_place ** place) {
    const commandr_tensor_info * info = slot->info;
    const commandr_place *       p    = find_place(model, choose(model, params, slot, dev));
    if (!p) {
        return NULL;
    }
    struct ggml_tensor * tensor = ggml_new_tensor_2d(p->ctx, (enum ggml_type) info->type, info->ne[0], info->ne[1]);
    ggml_set_name(tensor, info->name);
    if (p->packed) {
        commandr_mark_packed(tensor);
    }
    *place = p;
    return tensor;
}

static int64_t size_of(const commandr_place * p) {
    int64_t size = 0;
    for (struct ggml_tensor * t = ggml_get_first_tensor(p->ctx); t; t = ggml_get_next_tensor(p->ctx, t)) {
        size += (int64_t) ggml_nbytes(t);
    }
    return size;
}

commandr_place * commandr_places_packed(commandr_weights * weights) {
    for (int32_t i = 0; i < weights->n_places; i++) {
        if (weights->places[i].packed) {
            return &weights->places[i];
        }
    }
    return NULL;
}

void commandr_place_use_file(commandr_place * place, const commandr_weights * weights) {
    place->mapped = &weights->packed_file.mapping;
    place->what   = "packed-mapped";
}

static void point_into_file(commandr_place * p, const commandr_model * model) {
    for (struct ggml_tensor * t = ggml_get_first_tensor(p->ctx); t; t = ggml_get_next_tensor(p->ctx, t)) {
        uint8_t * data = p->packed ? commandr_packed_file_data(&model->weights->packed_file, t)
                                   : p->mapped->data + commandr_gguf_find_tensor(model->gguf, t->name)->offset;
        ggml_backend_tensor_alloc(p->buffer, t, data);
        commandr_mapping_prefetch(p->mapped, data - p->mapped->data, (int64_t) ggml_nbytes(t));
    }
}

ggml_backend_buffer_t commandr_empty_buffer(struct ggml_context * tensors, ggml_backend_buffer_type_t buft) {
    ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(buft, 0);
    for (struct ggml_tensor * t = ggml_get_first_tensor(tensors); buffer && t; t = ggml_get_next_tensor(tensors, t)) {
        t->buffer = buffer;
    }
    return buffer;
}

commandr_status commandr_places_allocate(commandr_model * model) {
    for (int32_t i = 0; i < model->weights->n_places; i++) {
        commandr_place * p = &model->weights->places[i];
        commandr_log_clear_error();
        p->buffer =
            model->is_measured
                ? commandr_empty_buffer(p->ctx, p->buft ? p->buft : ggml_backend_dev_buffer_type(commandr_device_cpu()))
            : p->mapped ? ggml_backend_dev_buffer_from_host_ptr(commandr_device_cpu(), p->mapped->data,
                                                                (size_t) p->mapped->size, 0)
                        : ggml_backend_alloc_ctx_tensors_from_buft(p->ctx, p->buft);
        if (!p->buffer) {
            return commandr_fail(COMMANDR_ERROR_MEMORY, "%s: %.2f GiB for weights cannot be allocated on %s: %s",
                                 model->gguf->path, (double) size_of(p) / (1 << 30), p->device,
                                 commandr_log_first_error());
        }
        if (p->packed && !model->is_measured) {
            commandr_memory_huge(ggml_backend_buffer_get_base(p->buffer), ggml_backend_buffer_get_size(p->buffer));
        }
        ggml_backend_buffer_set_usage(p->buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
        if (p->mapped && !model->is_measured) {
            point_into_file(p, model);
        }
    }
    return COMMANDR_OK;
}

/* Whether the bytes of a place's tensors are the file's own, in memory of ours. */
static bool is_writable(const commandr_place * p) {
    return !p->mapped && !p->packed && strcmp(p->what, "repacked") != 0;
}

commandr_status commandr_weights_set(commandr_weights * weights, const char * name, const void * data, int64_t size) {
    int32_t n_found = 0;
    for (int32_t i = 0; i < weights->n_places; i++) {
        const commandr_place *     p = &weights->places[i];
        const struct ggml_tensor * t = ggml_get_tensor(p->ctx, name);
        if (t && !is_writable(p)) {
            return commandr_fail(COMMANDR_ERROR_UNSUPPORTED,
                                 "the tensor %s is %s; it can be overwritten in a model loaded without mmap and repack",
                                 name, p->what);
        }
        if (t && size != (int64_t) ggml_nbytes(t)) {
            return commandr_fail(COMMANDR_ERROR_ARGUMENT, "the tensor %s has %zu bytes, not %lld", name, ggml_nbytes(t),
                                 (long long) size);
        }
        n_found += t != NULL;
    }
    if (n_found == 0) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "the model has no tensor %s", name);
    }
    for (int32_t i = 0; i < weights->n_places; i++) {
        struct ggml_tensor * t = ggml_get_tensor(weights->places[i].ctx, name);
        if (t) {
            ggml_backend_tensor_set(t, data, 0, (size_t) size);
        }
    }
    return COMMANDR_OK;
}

commandr_status commandr_weights_memory(const commandr_weights * weights, int64_t index, commandr_memory_info * info) {
    if (index < 0 || index >= weights->n_places || !info) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "there is no memory place number %lld", (long long) index);
    }
    const commandr_place * p = &weights->places[index];
    info->device             = p->device;
    info->what               = p->what;
    info->size               = size_of(p);
    return COMMANDR_OK;
}
