/* The memory of a cache's rows, which grows with the cells in use up to a limit.
 *
 * On the CPU a range of addresses for all cells is set aside, and memory comes with the first write to a page: growing
 * is permission to write, moves nothing and costs nothing. Other devices have no such ranges: there a layer at a time
 * gets a larger buffer and its rows are copied, so that one layer at most is held twice. */
#ifndef COMMANDR_SRC_KV_MEMORY_H
#define COMMANDR_SRC_KV_MEMORY_H

#include "model.h"

typedef struct commandr_kv_layer {
    struct ggml_tensor *  k; /* [n_embd_kv, cells]: all cells on the CPU, else those that have memory; NULL: no rows */
    struct ggml_tensor *  v; /* the same */
    struct ggml_context * ctx;
    ggml_backend_buffer_t buffer;
    ggml_backend_dev_t    dev;
    void *                range; /* on the CPU: the addresses, NULL elsewhere */
    size_t                range_size;
} commandr_kv_layer;

typedef struct commandr_kv_memory {
    int64_t             n_layer;
    bool                is_measured; /* buffers stay empty */
    commandr_kv_layer * layers;      /* [n_layer] */
    int64_t             size;        /* cells at most */
    int64_t             n_held;      /* cells below this index have memory; the rows of the others must not be read */
    int64_t             n_rows;      /* cells that the tensors of every layer have; 0: no layer has rows */
    int64_t             n_moved;     /* tensors that gave way to larger ones so far, in growth that failed, too */
    size_t              cell_size;   /* bytes of a cell */
    size_t              cell_cpu;    /* of it, those on the CPU */
} commandr_kv_memory;

/* For layers with or without a sliding window, n_held of size cells with memory. On failure nothing stays allocated. */
commandr_status commandr_kv_memory_init(commandr_kv_memory * memory, const commandr_model * model, bool window,
                                        int64_t size, int64_t n_held, enum ggml_type type_k, enum ggml_type type_v);
void            commandr_kv_memory_free(commandr_kv_memory * memory); /* a zeroed one is allowed */

/* Gives the first n cells memory; those that have some keep what they hold, the others are zero. n_touched: cells that
 * were ever written to. MEMORY leaves all as it was. Tensors on other devices than the CPU are new afterwards. */
commandr_status commandr_kv_memory_grow(commandr_kv_memory * memory, int64_t n, int64_t n_touched);

/* Bytes on a device: of the cells that have memory, and of all cells. */
int64_t commandr_kv_memory_held(const commandr_kv_memory * memory, ggml_backend_dev_t dev);
int64_t commandr_kv_memory_limit(const commandr_kv_memory * memory, ggml_backend_dev_t dev);

#endif
