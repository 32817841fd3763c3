#include "devices.h"
#include "error.h"
#include "kernels/packed.h"
#include "log.h"
#include "placement.h"
#include "places.h"
#include "threads.h"
#include "workers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Uploads to a device, and what our products' weights are packed from, go in pieces of this many bytes, so that
 * progress shows, cancelling works and threads share the head. */
#define COPY_PIECE ((int64_t) 64 << 20)

/* Bytes written at a time to the file of packed weights. The kernel caches a large piece in large pages, which the
 * mapping is read from at the speed of memory of our own; with pieces of 1 MiB decoding was a fifth slower. */
#define WRITE_PIECE ((int64_t) 8 << 20)

/* Bytes that go from a file to a buffer: a tensor, or rows of one that is packed. */
typedef struct copy {
    struct ggml_tensor *     tensor;
    const commandr_mapping * file;
    int64_t                  offset; /* in the file */
    int64_t                  size;
    int64_t                  first_row; /* when packed */
    bool                     parallel;  /* into host memory, as packed tensors are: any thread may do it */
} copy;

typedef struct loader {
    commandr_model *              model;
    const commandr_model_params * params;
    commandr_slot *               slots;
    int64_t                       n_slots;
    copy *                        copies;
    int64_t                       n_copies;
    int64_t                       max_copies;
    int64_t                       n_on_device, n_plain; /* once sorted: devices, then the host's, then packed ones */
    int64_t                       first_copy;           /* of the group being copied on the host */
    int64_t                       bytes_done;
    int64_t                       bytes_total;
    float                         reported; /* the fraction last told */
} loader;

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

/* Places a tensor and lists what is to be copied there. */
static commandr_status place_tensor(loader * ld, const commandr_slot * slot, ggml_backend_dev_t dev,
                                    struct ggml_tensor ** target) {
    const commandr_tensor_info * info  = slot->info;
    const commandr_place *       place = NULL;
    *target                            = commandr_place_tensor(ld->model, ld->params, slot, dev, &place);
    bool is_listed                     = *target != NULL;
    if (is_listed && !place->mapped) {
        const copy all = {
            .tensor   = *target,
            .file     = &ld->model->weights->mappings[info->part],
            .offset   = info->offset,
            .size     = info->size,
            .parallel = place->on_host,
        };
        ld->bytes_total += all.size;
        is_listed = place->packed ? list_pieces(ld, &all) : list_copy(ld, &all);
    }
    return is_listed
               ? COMMANDR_OK
               : commandr_fail(COMMANDR_ERROR_MEMORY, "%s: out of memory for the tensor %s", info->path, info->name);
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

static int kind_of(const copy * c) {
    return c->parallel + commandr_is_packed(c->tensor);
}

static int in_order(const void * a, const void * b) {
    const copy * x = a;
    const copy * y = b;
    if (kind_of(x) != kind_of(y)) {
        return kind_of(x) - kind_of(y);
    }
    return x->file != y->file ? (x->file > y->file) - (x->file < y->file)
                              : (x->offset > y->offset) - (x->offset < y->offset);
}

static void sort_copies(loader * ld) {
    if (ld->n_copies > 0) {
        qsort(ld->copies, (size_t) ld->n_copies, sizeof(*ld->copies), in_order);
    }
    for (int64_t i = 0; i < ld->n_copies; i++) {
        ld->n_on_device += kind_of(&ld->copies[i]) == 0;
        ld->n_plain += kind_of(&ld->copies[i]) < 2;
    }
}

static bool report(loader * ld, int64_t bytes) {
    ld->bytes_done += bytes;
    const float done = (float) ((double) ld->bytes_done / (double) (ld->bytes_total ? ld->bytes_total : 1));
    ld->reported     = done > ld->reported ? done : ld->reported; /* it stands while work is done a second time */
    return !ld->params->progress || ld->params->progress(ld->reported, ld->params->progress_user_data);
}

static void copy_on_host(void * user_data, int64_t begin, int64_t end) {
    const loader * ld = user_data;
    for (int64_t i = begin; i < end; i++) {
        const copy *    c    = &ld->copies[ld->first_copy + i];
        const uint8_t * from = c->file->data + c->offset;
        if (commandr_is_packed(c->tensor)) {
            commandr_pack(c->tensor, c->first_row, c->size / (int64_t) c->tensor->nb[1], from);
        } else {
            ggml_backend_tensor_set(c->tensor, from, 0, (size_t) c->size);
        }
        commandr_mapping_drop(c->file, c->offset, c->size);
    }
}

static void pack_into_file(void * user_data, int64_t begin, int64_t end) {
    const loader *         ld   = user_data;
    commandr_packed_file * file = &ld->model->weights->packed_file;
    for (int64_t i = begin; i < end && atomic_load(&file->error) == 0; i++) {
        const copy *       c        = &ld->copies[ld->first_copy + i];
        const int64_t      row_size = (int64_t) c->tensor->nb[1];
        const int64_t      n_step   = (WRITE_PIECE / row_size / COMMANDR_LANES + 1) * COMMANDR_LANES;
        struct ggml_tensor piece    = *c->tensor;
        piece.data                  = malloc((size_t) (n_step * row_size));
        if (!piece.data) {
            atomic_store(&file->error, ENOMEM);
            return;
        }
        for (int64_t at = 0; at < c->size; at += n_step * row_size) {
            const int64_t left = c->size - at;
            const int64_t size = left < n_step * row_size ? left : n_step * row_size;
            commandr_pack(&piece, 0, size / row_size, c->file->data + c->offset + at);
            commandr_packed_file_write(file, c->tensor, c->first_row * row_size + at, piece.data, size);
        }
        free(piece.data);
        commandr_mapping_drop(c->file, c->offset, c->size);
    }
}

/* Does copies begin..end-1 on all threads, a few at a time. false: cancelled. */
static bool run_parallel(loader * ld, int64_t begin, int64_t end, commandr_work_fn work) {
    const int32_t n_threads = ld->params->n_threads > 0 ? ld->params->n_threads : commandr_default_n_threads();
    bool          goes      = true;
    while (begin < end && goes) {
        const int64_t left  = end - begin;
        const int64_t n     = left < 2 * n_threads ? left : 2 * n_threads;
        int64_t       bytes = 0;
        for (int64_t k = 0; k < n; k++) {
            const copy * c = &ld->copies[begin + k];
            commandr_mapping_prefetch(c->file, c->offset, c->size);
            bytes += c->size;
        }
        ld->first_copy = begin;
        commandr_parallel_for(n_threads, n, 1, work, ld);
        goes = report(ld, bytes);
        begin += n;
    }
    return goes;
}

static commandr_status cancelled(const loader * ld) {
    return commandr_fail(COMMANDR_ERROR_CANCELLED, "%s: loading was cancelled", ld->model->gguf->path);
}

/* Packed tensors from the file beside the model, which is written when there is none that fits. Without it, for
 * whatever reason, they stay to be packed in memory. */
static commandr_status use_packed_file(loader * ld) {
    commandr_weights *     weights = ld->model->weights;
    commandr_packed_file * file    = &weights->packed_file;
    commandr_place *       place   = commandr_places_packed(weights);
    if (place && ld->model->is_measured) {
        commandr_place_use_file(place, weights);
        return COMMANDR_OK;
    }
    if (!place) {
        commandr_log(3, "%s: no packed weights are kept: none are packed here", ld->model->gguf->path);
        return COMMANDR_OK;
    }
    int64_t n_bytes = 0;
    for (int64_t i = ld->n_plain; i < ld->n_copies; i++) {
        n_bytes += ld->copies[i].size;
    }
    const int64_t before   = ld->bytes_done;
    bool          complete = commandr_packed_file_open(file, ld->model, place->ctx);
    if (complete) {
        ld->bytes_total -= n_bytes;
    } else if (commandr_packed_file_create(file, ld->model, place->ctx)) {
        if (!run_parallel(ld, ld->n_plain, ld->n_copies, pack_into_file)) {
            return cancelled(ld);
        }
        complete = commandr_packed_file_finish(file);
    }
    if (complete) {
        ld->n_copies = ld->n_plain;
        commandr_place_use_file(place, weights);
    } else {
        ld->bytes_done = before; /* once more, in memory */
    }
    return COMMANDR_OK;
}

/* Devices first, one piece after the other; then the host's. */
static commandr_status fill(loader * ld) {
    bool goes = report(ld, 0);
    for (int64_t i = 0; i < ld->n_on_device && goes; i++) {
        const copy * c = &ld->copies[i];
        for (int64_t done = 0; done < c->size && goes; done += COPY_PIECE) {
            const int64_t n = c->size - done < COPY_PIECE ? c->size - done : COPY_PIECE;
            ggml_backend_tensor_set(c->tensor, c->file->data + c->offset + done, (size_t) done, (size_t) n);
            commandr_mapping_drop(c->file, c->offset + done, n);
            goes = report(ld, n);
        }
    }
    goes = goes && run_parallel(ld, ld->n_on_device, ld->n_copies, copy_on_host);
    if (goes && ld->bytes_total == 0 && ld->params->progress) {
        goes = ld->params->progress(1.0f, ld->params->progress_user_data); /* all of it is mapped */
    }
    return goes ? COMMANDR_OK : cancelled(ld);
}

commandr_status commandr_weights_load(commandr_model * model, const commandr_model_params * params) {
    loader ld = { .model = model, .params = params };
    if (params->n_threads < 0 || params->n_threads > COMMANDR_MAX_THREADS) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "n_threads is %d, outside 0..%d", params->n_threads,
                             COMMANDR_MAX_THREADS);
    }
    if (params->cache_packed && !(params->use_mmap && params->repack)) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "cache_packed needs use_mmap and repack");
    }
    const commandr_hparams * hp         = &model->hparams;
    const bool               is_cohere2 = strcmp(hp->architecture, "cohere2") == 0;
    model->layers                       = calloc((size_t) hp->n_layer, sizeof(*model->layers));
    if (!model->layers) {
        return commandr_fail(COMMANDR_ERROR_MEMORY, "%s: out of memory", model->gguf->path);
    }
    for (int64_t i = 0; i < hp->n_layer; i++) {
        model->layers[i].has_window = is_cohere2 && (i + 1) % hp->swa_period != 0;
        model->layers[i].has_rope   = !is_cohere2 || model->layers[i].has_window;
    }

    commandr_status status = commandr_placement_choose(model, params);
    if (status == COMMANDR_OK) {
        status = commandr_tensors_list(model, &ld.slots, &ld.n_slots);
    }
    if (status == COMMANDR_OK) {
        status = commandr_places_init(model);
    }
    if (status == COMMANDR_OK) {
        status = place_all(&ld);
    }
    if (status == COMMANDR_OK) {
        sort_copies(&ld);
        status = params->cache_packed ? use_packed_file(&ld) : COMMANDR_OK;
    }
    if (status == COMMANDR_OK) {
        status = commandr_places_allocate(model);
    }
    if (status == COMMANDR_OK && !model->is_measured) {
        commandr_workers_watch(model->devs, model->n_devs);
        status = fill(&ld);
    }
    free(ld.slots);
    free(ld.copies);
    return status;
}
