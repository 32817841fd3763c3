#include "kv-memory.h"

#include "devices.h"
#include "error.h"
#include "host-memory.h"
#include "log.h"
#include "places.h"
#include "workers.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define GIB (1024.0 * 1024.0 * 1024.0)

static size_t whole_pages(size_t size) {
    const size_t page = (size_t) sysconf(_SC_PAGESIZE);
    return (size + page - 1) / page * page;
}

static commandr_status fail_to_grow(const commandr_kv_memory * memory, ggml_backend_dev_t dev, int64_t n,
                                    const char * why) {
    const double cell = memory->size > 0 ? (double) commandr_kv_memory_limit(memory, dev) / (double) memory->size : 0.0;
    return commandr_fail(COMMANDR_ERROR_MEMORY,
                         "%.2f GiB for the KV cache of %" PRId64 " cells cannot be allocated on %s, where it has %.2f "
                         "GiB: %s",
                         cell * (double) n / GIB, n, ggml_backend_dev_name(dev),
                         (double) commandr_kv_memory_held(memory, dev) / GIB, why);
}

/* ---- the CPU ---- */

/* Lets the first n cells of a layer be written to. Fresh pages are zero: rows that nobody has written are multiplied by
 * a weight of 0, and must be numbers for that. */
static bool permit(commandr_kv_layer * layer, int64_t n) {
    struct ggml_tensor * const both[2] = { layer->k, layer->v };
    for (int i = 0; i < 2; i++) {
        if (mprotect(both[i]->data, whole_pages((size_t) n * both[i]->nb[1]), PROT_READ | PROT_WRITE) != 0) {
            return false;
        }
    }
    return true;
}

/* Sets addresses aside for all cells of a layer. false: there are none left. */
static bool set_aside(commandr_kv_layer * layer) {
    const size_t k_size = whole_pages(ggml_nbytes(layer->k));
    layer->range_size   = k_size + whole_pages(ggml_nbytes(layer->v));
    layer->range        = mmap(NULL, layer->range_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (layer->range == MAP_FAILED) {
        layer->range = NULL;
        return false;
    }
    layer->buffer = ggml_backend_cpu_buffer_from_ptr(layer->range, layer->range_size);
    return layer->buffer && ggml_backend_tensor_alloc(layer->buffer, layer->k, layer->range) == GGML_STATUS_SUCCESS &&
           ggml_backend_tensor_alloc(layer->buffer, layer->v, (char *) layer->range + k_size) == GGML_STATUS_SUCCESS;
}

/* Memory is only taken when it is written to, and who takes too much then is killed: so it is asked for before. */
static commandr_status check_free(const commandr_kv_memory * memory, int64_t n, int64_t n_touched) {
    const int64_t needed = (n - n_touched) * (int64_t) memory->cell_cpu;
    const int64_t free   = commandr_host_memory_for_addresses();
    if (needed <= free) {
        return COMMANDR_OK;
    }
    char why[96];
    snprintf(why, sizeof(why), "%.2f GiB more are needed, and %.2f GiB are free", (double) needed / GIB,
             (double) free / GIB);
    return fail_to_grow(memory, commandr_device_cpu(), n, why);
}

/* ---- other devices ---- */

/* Copies all rows of src to the first ones of dst, which has more. */
static bool copy_rows(struct ggml_tensor * src, struct ggml_tensor * dst) {
    struct ggml_context * ctx = ggml_init((struct ggml_init_params) { ggml_tensor_overhead(), NULL, true });
    if (!ctx) {
        return false;
    }
    struct ggml_tensor * view = ggml_view_2d(ctx, dst, src->ne[0], src->ne[1], dst->nb[1], 0);
    const bool           ok   = ggml_backend_view_init(view) == GGML_STATUS_SUCCESS;
    if (ok) {
        ggml_backend_tensor_copy(src, view);
    }
    ggml_free(ctx);
    return ok;
}

static bool open_tensors(commandr_kv_layer * layer, const struct ggml_tensor * k, const struct ggml_tensor * v,
                         int64_t n) {
    layer->ctx = ggml_init((struct ggml_init_params) { 2 * ggml_tensor_overhead(), NULL, true });
    if (!layer->ctx) {
        return false;
    }
    layer->k = ggml_new_tensor_2d(layer->ctx, k->type, k->ne[0], n);
    layer->v = ggml_new_tensor_2d(layer->ctx, v->type, v->ne[0], n);
    ggml_set_name(layer->k, k->name);
    ggml_set_name(layer->v, v->name);
    return true;
}

static void close_layer(commandr_kv_layer * layer) {
    if (layer->buffer) {
        commandr_buffer_free(layer->buffer);
    }
    if (layer->range) {
        munmap(layer->range, layer->range_size);
    }
    ggml_free(layer->ctx);
}

/* Gives a layer a buffer of n cells, in which it keeps what it holds. */
static bool enlarge(commandr_kv_layer * layer, int64_t n) {
    commandr_kv_layer larger = { .dev = layer->dev };
    if (!open_tensors(&larger, layer->k, layer->v, n)) {
        return false;
    }
    larger.buffer = ggml_backend_alloc_ctx_tensors_from_buft(larger.ctx, ggml_backend_dev_buffer_type(larger.dev));
    if (larger.buffer) {
        ggml_backend_buffer_clear(larger.buffer, 0); /* as above */
    }
    if (!larger.buffer || (layer->buffer && !(copy_rows(layer->k, larger.k) && copy_rows(layer->v, larger.v)))) {
        close_layer(&larger);
        return false;
    }
    close_layer(layer);
    *layer = larger;
    return true;
}

/* ---- both ---- */

static bool is_cpu(const commandr_kv_layer * layer) {
    return layer->dev == commandr_device_cpu();
}

/* Of a model that is only measured, all cells are laid out at once, in empty buffers. */
static commandr_status measure_layers(commandr_kv_memory * memory) {
    for (int64_t il = 0; il < memory->n_layer; il++) {
        commandr_kv_layer * layer = &memory->layers[il];
        if (layer->k && !layer->buffer) {
            layer->buffer = commandr_empty_buffer(layer->ctx, ggml_backend_dev_buffer_type(layer->dev));
            if (!layer->buffer) {
                return fail_to_grow(memory, layer->dev, memory->size, "out of memory");
            }
        }
    }
    memory->n_held = memory->size;
    memory->n_rows = memory->cell_size > 0 ? memory->size : 0;
    return COMMANDR_OK;
}

commandr_status commandr_kv_memory_grow(commandr_kv_memory * memory, int64_t n, int64_t n_touched) {
    if (memory->is_measured) {
        return measure_layers(memory);
    }
    commandr_status status = memory->cell_cpu > 0 ? check_free(memory, n, n_touched) : COMMANDR_OK;
    if (status != COMMANDR_OK) {
        return status;
    }
    for (int64_t il = 0; il < memory->n_layer; il++) {
        commandr_kv_layer * layer = &memory->layers[il];
        if (!layer->k) {
            continue;
        }
        commandr_log_clear_error();
        if (is_cpu(layer)) {
            if ((!layer->range && !set_aside(layer)) || !permit(layer, n)) {
                return fail_to_grow(memory, layer->dev, n, strerror(errno));
            }
        } else if (!layer->buffer || layer->k->ne[1] < n) {
            if (!enlarge(layer, n)) {
                return fail_to_grow(memory, layer->dev, n, commandr_log_first_error());
            }
            memory->n_moved++;
        }
    }
    memory->n_held = n; /* layers that grew before one failed are larger than they need be, and keep what they hold */
    memory->n_rows = memory->cell_size > 0 ? memory->size : 0;
    for (int64_t il = 0; il < memory->n_layer; il++) {
        const commandr_kv_layer * layer = &memory->layers[il];
        if (layer->k && layer->k->ne[1] < memory->n_rows) {
            memory->n_rows = layer->k->ne[1];
        }
    }
    return COMMANDR_OK;
}

static commandr_status open_layers(commandr_kv_memory * memory, const commandr_model * model, bool window,
                                   enum ggml_type type_k, enum ggml_type type_v) {
    const int64_t      n_embd_kv = model->hparams.n_head_kv * model->hparams.head_dim;
    struct ggml_tensor k         = { .type = type_k, .ne = { n_embd_kv } };
    struct ggml_tensor v         = { .type = type_v, .ne = { n_embd_kv } };
    for (int64_t il = 0; il < memory->n_layer; il++) {
        commandr_kv_layer * layer = &memory->layers[il];
        layer->dev                = model->layers[il].dev;
        if (model->layers[il].has_window != window) {
            continue;
        }
        ggml_format_name(&k, "cache_k.%lld", (long long) il);
        ggml_format_name(&v, "cache_v.%lld", (long long) il);
        if (!open_tensors(layer, &k, &v, memory->size)) {
            return commandr_fail(COMMANDR_ERROR_MEMORY, "out of memory for the KV cache");
        }
        const size_t cell = layer->k->nb[1] + layer->v->nb[1];
        memory->cell_size += cell;
        memory->cell_cpu += is_cpu(layer) ? cell : 0;
    }
    return COMMANDR_OK;
}

commandr_status commandr_kv_memory_init(commandr_kv_memory * memory, const commandr_model * model, bool window,
                                        int64_t size, int64_t n_held, enum ggml_type type_k, enum ggml_type type_v) {
    memset(memory, 0, sizeof(*memory));
    memory->size        = size;
    memory->n_layer     = model->hparams.n_layer;
    memory->is_measured = model->is_measured;
    memory->layers      = calloc((size_t) memory->n_layer, sizeof(*memory->layers));
    if (!memory->layers) {
        return commandr_fail(COMMANDR_ERROR_MEMORY, "out of memory for the KV cache");
    }
    commandr_status status = open_layers(memory, model, window, type_k, type_v);
    if (status == COMMANDR_OK) {
        status = commandr_kv_memory_grow(memory, n_held, 0);
    }
    if (status != COMMANDR_OK) {
        commandr_kv_memory_free(memory);
    }
    return status;
}

void commandr_kv_memory_free(commandr_kv_memory * memory) {
    for (int64_t il = 0; memory->layers && il < memory->n_layer; il++) {
        close_layer(&memory->layers[il]);
    }
    free(memory->layers);
    memset(memory, 0, sizeof(*memory));
}

/* Bytes of a cell on a device. */
static int64_t cell_size(const commandr_kv_memory * memory, ggml_backend_dev_t dev) {
    int64_t size = 0;
    for (int64_t il = 0; il < memory->n_layer; il++) {
        const commandr_kv_layer * layer = &memory->layers[il];
        if (layer->k && layer->dev == dev) {
            size += (int64_t) (layer->k->nb[1] + layer->v->nb[1]);
        }
    }
    return size;
}

int64_t commandr_kv_memory_held(const commandr_kv_memory * memory, ggml_backend_dev_t dev) {
    return memory->n_held * cell_size(memory, dev);
}

int64_t commandr_kv_memory_limit(const commandr_kv_memory * memory, ggml_backend_dev_t dev) {
    return memory->size * cell_size(memory, dev);
}
