/* Workers: other processes, mostly on other hosts, that lend their devices through ggml's RPC. */
#ifndef COMMANDR_SRC_WORKERS_H
#define COMMANDR_SRC_WORKERS_H

#include "commandr.h"
#include "ggml-backend.h"

#include <stdbool.h>

/* A function of ggml's RPC by its name; NULL, and UNSUPPORTED with a sentence, in a ggml without it. */
void *          commandr_rpc_proc(const char * name);
commandr_status commandr_rpc_missing(void);

/* ARGUMENT unless it is "host:port". */
commandr_status commandr_endpoint_check(const char * endpoint);

/* The devices of all workers in a list "host:port,host:port", in its order. *n: how many; at most capacity. */
commandr_status commandr_workers_find(const char * list, ggml_backend_dev_t * devs, int32_t capacity, int32_t * n);

bool commandr_is_worker(ggml_backend_dev_t dev);

/* Counts n_models more, or less, that lie on those of these devices that are workers'. */
void commandr_workers_use(const ggml_backend_dev_t * devs, int32_t n_devs, int32_t n_models);

/* From now on a connection to them breaks when the other host falls silent. */
void commandr_workers_watch(const ggml_backend_dev_t * devs, int32_t n_devs);

/* Frees what may lie on a worker that is gone; then some of the host's memory that belongs to it stays behind. */
void commandr_buffer_free(ggml_backend_buffer_t buffer);
void commandr_sched_free(ggml_backend_sched_t sched);

/* BACKEND, with a sentence that names those of these devices' workers that do not answer any more. After it a new
 * connection is made when one of them is asked for again. */
commandr_status commandr_workers_lost(const ggml_backend_dev_t * devs, int32_t n_devs);

#endif
