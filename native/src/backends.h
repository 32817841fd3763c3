/* The ggml backends that a session computes on, and the scheduler that splits graphs between them. */
#ifndef COMMANDR_SRC_BACKENDS_H
#define COMMANDR_SRC_BACKENDS_H

#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "model.h"

#define COMMANDR_MAX_BACKENDS 16 /* as many as ggml's scheduler takes */

typedef struct commandr_backends {
    ggml_backend_t           list[COMMANDR_MAX_BACKENDS]; /* graphics devices, accelerators, and the CPU last */
    int32_t                  n;
    ggml_backend_sched_t     sched;
    struct ggml_threadpool * threadpool;
} commandr_backends;

/* abort: asked by the CPU backend between graph nodes whether to stop. On failure nothing stays open. */
commandr_status commandr_backends_init(commandr_backends * backends, const commandr_model * model, int32_t n_threads,
                                       size_t max_nodes, ggml_abort_callback abort, void * user_data);
void            commandr_backends_free(commandr_backends * backends); /* a zeroed one is allowed */

#endif
