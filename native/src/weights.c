#include "devices.h"
#include "error.h"
#include "kernels/matmul.h"
#include "kernels/packed.h"
#include "log.h"
#include "mapping.h"
#include "placement.h"
#include "tensors.h"
#include "threads.h"

#include <stdlib.h>
#include <string.h>

#define MAX_PLACES 24
/* Uploads to a device, and what our products' weights are packed from, go in pieces of this many bytes, so that
 * progress shows, cancelling works and threads share the head. */
#define COPY_PIECE ((int64_t) 64 << 20)

/* Tensors that share a buffer type. */
typedef struct place {
    ggml_backend_buffer_type_t buft; /* NULL: in place in the mapped file */
    struct ggml_context *      ctx;
    ggml_backend_buffer_t      buffer;
    bool                       packed;  /* for our products */
    bool                       on_host; /* any thread may fill it */
    const char *               device;
    const char *               what;
} place;

struct commandr_weights {
    commandr_mapping mapping;
    place            places[MAX_PLACES];
    int32_t          n_places;
};

/* Bytes that go from the file to a buffer: a tensor, or rows of one that is packed. */
typedef struct copy {
    struct ggml_tensor * tensor;
    int64_t              offset; /* in the file */
    int64_t              size;
    int64_t              first_row; /* when packed */
    bool                 parallel;  /* into host memory: any thread may do it */
} copy;

typedef struct loader {
    commandr_model *              model;
    const commandr_model_params * params;
    commandr_weights *            weights;
    commandr_slot *               slots;
    int64_t                       n_slots;
    copy *                        copies;
    int64_t                       n_copies;
    int64_t                       max_copies;
    int64_t                       first_copy; /* of the group being copied on the host */
    int64_t                       bytes_done;
    int64_t                       bytes_total;
} loader;

void commandr_weights_free(commandr_weights * weights) {
    if (!weights) {
        return;
    }
    for (int32_t i = 0; i < weights->n_places; i++) {
        ggml_backend_buffer_free(weights->places[i].buffer);
        ggml_free(weights->places[i].ctx);
    }
    commandr_mapping_close(&weights->mapping);
    free(weights);
}

/* Can a device compute a product with this weight in a buffer of this type? ggml answers for a finished operation only,
 * so one is made of tensors without data. */
static bool can_multiply(ggml_backend_dev_t dev, ggml_backend_buffer_type_t buft, enum ggml_type type,
                         const int64_t * ne) {
    struct ggml_context * ctx = ggml_init((struct ggml_init_params) { 4 * ggml_tensor_overhead(), NULL, true });
    if (!ctx) {
        return false;
    }
    struct ggml_tensor *  w     = ggml_new_tensor_2d(ctx, type, ne[0], ne[1]);
    struct ggml_tensor *  op    = ggml_mul_mat(ctx, w, ggml_new_tensor_2d(ctx, GGML_TYPE_F32, ne[0], 512));
    ggml_backend_buffer_t empty = ggml_backend_buft_alloc_buffer(buft, 0);
    w->buffer                   = empty;
    const bool supported        = empty && ggml_backend_dev_supports_op(dev, op);
    ggml_backend_buffer_free(empty);
    ggml_free(ctx);
    return supported;
}

/* The place for a buffer type, opened when it is not there yet. NULL when out of memory. */
static place * open_place(loader * ld, ggml_backend_buffer_type_t buft, bool packed, ggml_backend_dev_t dev,
                          const char * what) {
    commandr_weights * weights = ld->weights;
    for (int32_t i = 0; i < weights->n_places; i++) {
        if (weights->places[i].buft == buft && weights->places[i].packed == packed) {
            return &weights->places[i];
        }
    }
    if (weights->n_places == MAX_PLACES) {
        return NULL;
    }
    const size_t          size = ((size_t) ld->n_slots + 1) * ggml_tensor_overhead();
    struct ggml_context * ctx  = ggml_init((struct ggml_init_params) { size, NULL, true });
    if (!ctx) {
        return NULL;
    }
    place * p = &weights->places[weights->n_places++];
    *p        = (place) { .buft    = buft,
                          .ctx     = ctx,
                          .buffer  = NULL,
                          .packed  = packed,
                          .on_host = dev == commandr_device_cpu(),
                          .device  = ggml_backend_dev_name(dev),
                          .what    = what };
    return p;
}

static place * choose_place(loader * ld, const commandr_slot * slot, ggml_backend_dev_t dev, enum ggml_type type) {
    ggml_backend_dev_t cpu = commandr_device_cpu();
    if (dev != cpu) {
        ggml_backend_buffer_type_t buft = ggml_backend_dev_buffer_type(dev);
        if (!slot->is_matrix || can_multiply(dev, buft, type, slot->ne)) {
            return open_place(ld, buft, false, dev, "weights");
        }
    }
    ggml_backend_buffer_type_t   plain        = ggml_backend_dev_buffer_type(cpu);
    const bool                   is_embedding = slot->target == &ld->model->token_embd;
    ggml_backend_buffer_type_t * extra        = commandr_device_extra_bufts();
    if (ld->params->repack && slot->is_matrix && commandr_matmul_has(type, slot->ne) &&
        !(is_embedding && ld->model->head_dev != cpu)) {
        return open_place(ld, plain, true, cpu, "packed");
    }
    if (ld->params->repack && slot->is_matrix && !is_embedding) { /* ggml looks rows up in the file's layout only */
        for (; extra && *extra; extra++) {
            if (can_multiply(cpu, *extra, type, slot->ne)) {
                return open_place(ld, *extra, false, cpu, "repacked");
            }
        }
    }
    if (ld->params->use_mmap) {
        return open_place(ld, NULL, false, cpu, "mapped");
    }
    return open_place(ld, plain, false, cpu, "weights");
}

static bool list_copy(loader * ld, const copy * c) {
    if (ld->n_copies == ld->max_copies) {
        const int64_t max    = 2 * ld->max_copies + 64;
        copy *        copies = realloc(ld->copies, (size_t) max * sizeof(*copies));
        if (!copies) {
            return false;
        }
        ld->copies     = copies;
        ld->max_copies = max;
    }
    ld->copies[ld->n_copies++] = *c;
    return true;
}

/* The tensor that is to be packed, some rows of tiles at a time. */
static bool list_pieces(loader * ld, const copy * all) {
    const int64_t row_size = (int64_t) all->tensor->nb[1];
    const int64_t n_rows   = (COPY_PIECE / row_size / COMMANDR_LANES + 1) * COMMANDR_LANES;
    for (int64_t row = 0; row < all->tensor->ne[1]; row += n_rows) {
        const int64_t left = all->tensor->ne[1] - row;
        copy          c    = *all;
        c.offset += row * row_size;
        c.size      = (left < n_rows ? left : n_rows) * row_size;
        c.first_row = row;
        if (!list_copy(ld, &c)) {
            return false;
        }
    }
    return true;
}

/* Describes one tensor in the place chosen for it; its memory comes later. */
static commandr_status place_tensor(loader * ld, const commandr_slot * slot, ggml_backend_dev_t dev,
                                    struct ggml_tensor ** target) {
    const struct gguf_context * gguf = ld->model->gguf->ctx;
    const enum ggml_type        type = gguf_get_tensor_type(gguf, slot->index);
    place *                     p    = choose_place(ld, slot, dev, type);
    if (!p) {
        return commandr_fail(COMMANDR_ERROR_MEMORY, "%s: out of memory for the tensor %s", ld->model->gguf->path,
                             slot->name);
    }
    struct ggml_tensor * tensor = ggml_new_tensor_2d(p->ctx, type, slot->ne[0], slot->ne[1]);
    ggml_set_name(tensor, slot->name);
    *target = tensor;
    if (p->packed) {
        commandr_mark_packed(tensor);
    }
    bool is_listed = true;
    if (p->buft) {
        copy all = {
            .tensor   = tensor,
            .offset   = (int64_t) (gguf_get_data_offset(gguf) + gguf_get_tensor_offset(gguf, slot->index)),
            .size     = (int64_t) ggml_nbytes(tensor),
            .parallel = p->on_host,
        };
        ld->bytes_total += all.size;
        is_listed = p->packed ? list_pieces(ld, &all) : list_copy(ld, &all);
    }
    return is_listed ? COMMANDR_OK
                     : commandr_fail(COMMANDR_ERROR_MEMORY, "%s: out of memory for the tensor %s",
                                     ld->model->gguf->path, slot->name);
}

static commandr_status place_all(loader * ld) {
    commandr_model * model = ld->model;
    for (int64_t i = 0; i < ld->n_slots; i++) {
        commandr_slot *       slot   = &ld->slots[i];
        ggml_backend_dev_t    dev    = slot->target == &model->token_embd ? commandr_device_cpu() : slot->dev;
        const commandr_status status = place_tensor(ld, slot, dev, slot->target);
        if (status != COMMANDR_OK) {
            return status;
        }
    }
    /* Embedding and head are one matrix. Our products' packed weights serve as both. A head on a device is a second
     * copy there; of the mapped one only the rows that are looked up become resident. */
    model->head = model->token_embd;
    if (model->head_dev != commandr_device_cpu()) {
        commandr_slot slot = ld->slots[0];
        slot.target        = &model->head;
        return place_tensor(ld, &slot, model->head_dev, &model->head);
    }
    return COMMANDR_OK;
}

static commandr_status allocate(loader * ld) {
    commandr_weights *          weights = ld->weights;
    const struct gguf_context * gguf    = ld->model->gguf->ctx;
    for (int32_t i = 0; i < weights->n_places; i++) {
        place * p = &weights->places[i];
        commandr_log_clear_error();
        if (p->buft) {
            p->buffer = ggml_backend_alloc_ctx_tensors_from_buft(p->ctx, p->buft);
        } else {
            p->buffer = ggml_backend_dev_buffer_from_host_ptr(commandr_device_cpu(), weights->mapping.data,
                                                              (size_t) weights->mapping.size, 0);
        }
        if (!p->buffer) {
            size_t size = 0;
            for (struct ggml_tensor * t = ggml_get_first_tensor(p->ctx); t; t = ggml_get_next_tensor(p->ctx, t)) {
                size += ggml_nbytes(t);
            }
            return commandr_fail(COMMANDR_ERROR_MEMORY, "%s: %.2f GiB for weights cannot be allocated on %s: %s",
                                 ld->model->gguf->path, (double) size / (1 << 30), p->device,
                                 commandr_log_first_error());
        }
        if (p->packed) {
            commandr_memory_huge(ggml_backend_buffer_get_base(p->buffer), ggml_backend_buffer_get_size(p->buffer));
        }
        ggml_backend_buffer_set_usage(p->buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
        if (p->buft) {
            continue;
        }
        for (struct ggml_tensor * t = ggml_get_first_tensor(p->ctx); t; t = ggml_get_next_tensor(p->ctx, t)) {
            const int64_t index  = gguf_find_tensor(gguf, t->name);
            const size_t  offset = gguf_get_data_offset(gguf) + gguf_get_tensor_offset(gguf, index);
            ggml_backend_tensor_alloc(p->buffer, t, weights->mapping.data + offset);
            commandr_mapping_prefetch(&weights->mapping, (int64_t) offset, (int64_t) ggml_nbytes(t));
        }
    }
    return COMMANDR_OK;
}

static int by_offset(const void * a, const void * b) {
    const copy * x = a;
    const copy * y = b;
    return x->parallel != y->parallel ? x->parallel - y->parallel : (x->offset > y->offset) - (x->offset < y->offset);
}

static bool report(loader * ld, int64_t bytes) {
    ld->bytes_done += bytes;
    return !ld->params->progress ||
           ld->params->progress((float) ((double) ld->bytes_done / (double) (ld->bytes_total ? ld->bytes_total : 1)),
                                ld->params->progress_user_data);
}

static void copy_on_host(void * user_data, int64_t begin, int64_t end) {
    const loader * ld = user_data;
    for (int64_t i = begin; i < end; i++) {
        const copy *    c    = &ld->copies[ld->first_copy + i];
        const uint8_t * from = ld->weights->mapping.data + c->offset;
        if (commandr_is_packed(c->tensor)) {
            commandr_pack(c->tensor, c->first_row, c->size / (int64_t) c->tensor->nb[1], from);
        } else {
            ggml_backend_tensor_set(c->tensor, from, 0, (size_t) c->size);
        }
        commandr_mapping_drop(&ld->weights->mapping, c->offset, c->size);
    }
}

/* Devices first, one piece after the other; then the host's, a few tensors at a time on all threads. */
static commandr_status fill(loader * ld) {
    const commandr_mapping * mapping = &ld->weights->mapping;
    const int32_t n_threads          = ld->params->n_threads > 0 ? ld->params->n_threads : commandr_default_n_threads();
    qsort(ld->copies, (size_t) ld->n_copies, sizeof(*ld->copies), by_offset);
    int64_t i    = 0;
    bool    goes = report(ld, 0);
    for (; i < ld->n_copies && !ld->copies[i].parallel && goes; i++) {
        const copy * c = &ld->copies[i];
        for (int64_t done = 0; done < c->size && goes; done += COPY_PIECE) {
            const int64_t n = c->size - done < COPY_PIECE ? c->size - done : COPY_PIECE;
            ggml_backend_tensor_set(c->tensor, mapping->data + c->offset + done, (size_t) done, (size_t) n);
            commandr_mapping_drop(mapping, c->offset + done, n);
            goes = report(ld, n);
        }
    }
    while (i < ld->n_copies && goes) {
        const int64_t left  = ld->n_copies - i;
        const int64_t n     = left < 2 * n_threads ? left : 2 * n_threads;
        int64_t       bytes = 0;
        for (int64_t k = 0; k < n; k++) {
            commandr_mapping_prefetch(mapping, ld->copies[i + k].offset, ld->copies[i + k].size);
            bytes += ld->copies[i + k].size;
        }
        ld->first_copy = i;
        commandr_parallel_for(n_threads, n, 1, copy_on_host, ld);
        goes = report(ld, bytes);
        i += n;
    }
    if (goes && ld->bytes_total == 0 && ld->params->progress) {
        goes = ld->params->progress(1.0f, ld->params->progress_user_data); /* all of it is mapped */
    }
    return goes ? COMMANDR_OK
                : commandr_fail(COMMANDR_ERROR_CANCELLED, "%s: loading was cancelled", ld->model->gguf->path);
}

commandr_status commandr_weights_load(commandr_model * model, const commandr_model_params * params) {
    loader ld = { .model = model, .params = params };
    if (params->n_threads < 0 || params->n_threads > COMMANDR_MAX_THREADS) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "n_threads is %d, outside 0..%d", params->n_threads,
                             COMMANDR_MAX_THREADS);
    }

    model->layers = calloc((size_t) model->hparams.n_layer, sizeof(*model->layers));
    ld.weights    = calloc(1, sizeof(*ld.weights));
    if (!model->layers || !ld.weights) {
        free(ld.weights);
        return commandr_fail(COMMANDR_ERROR_MEMORY, "%s: out of memory", model->gguf->path);
    }
    const commandr_hparams * hp         = &model->hparams;
    const bool               is_cohere2 = strcmp(hp->architecture, "cohere2") == 0;
    for (int64_t i = 0; i < hp->n_layer; i++) {
        model->layers[i].has_window = is_cohere2 && (i + 1) % hp->swa_period != 0;
        model->layers[i].has_rope   = !is_cohere2 || model->layers[i].has_window;
    }

    commandr_status status = commandr_placement_choose(model, params);
    if (status == COMMANDR_OK) {
        status = commandr_tensors_list(model, &ld.slots, &ld.n_slots);
    }
    if (status == COMMANDR_OK) {
        status = commandr_mapping_open(model->gguf->path, &ld.weights->mapping);
    }
    if (status == COMMANDR_OK) {
        status = place_all(&ld);
    }
    if (status == COMMANDR_OK) {
        status = allocate(&ld);
    }
    if (status == COMMANDR_OK) {
        status = fill(&ld);
    }
    free(ld.slots);
    free(ld.copies);
    if (status != COMMANDR_OK) {
        commandr_weights_free(ld.weights);
        return status;
    }
    model->weights = ld.weights;
    return COMMANDR_OK;
}

/* Whether the bytes of a place's tensors are the file's own, in memory of ours. */
static bool is_writable(const place * p) {
    return p->buft && !p->packed && strcmp(p->what, "repacked") != 0;
}

commandr_status commandr_weights_set(commandr_weights * weights, const char * name, const void * data, int64_t size) {
    int32_t n_found = 0;
    for (int32_t i = 0; i < weights->n_places; i++) {
        const place *              p = &weights->places[i];
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
    const place * p = &weights->places[index];
    info->device    = p->device;
    info->what      = p->what;
    info->size      = 0;
    for (struct ggml_tensor * t = ggml_get_first_tensor(p->ctx); t; t = ggml_get_next_tensor(p->ctx, t)) {
        info->size += (int64_t) ggml_nbytes(t);
    }
    return COMMANDR_OK;
}
