#include "backends.h"

#include "devices.h"
#include "error.h"
#include "log.h"
#include "workers.h"

#include <string.h>

typedef struct ggml_threadpool * (*threadpool_new_fn)(struct ggml_threadpool_params * params);
typedef void (*threadpool_free_fn)(struct ggml_threadpool * threadpool);
typedef void (*set_threadpool_fn)(ggml_backend_t backend, struct ggml_threadpool * threadpool);

static void * proc(ggml_backend_dev_t dev, const char * name) {
    return ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(dev), name);
}

static commandr_status add(commandr_backends * backends, ggml_backend_dev_t dev, int32_t n_threads) {
    if (backends->n == COMMANDR_MAX_BACKENDS) {
        return commandr_fail(COMMANDR_ERROR_UNSUPPORTED,
                             "more than %d devices, the CPU among them, cannot be used at once", COMMANDR_MAX_BACKENDS);
    }
    commandr_log_clear_error();
    ggml_backend_t backend = ggml_backend_dev_init(dev, NULL);
    if (!backend) {
        return commandr_fail(COMMANDR_ERROR_BACKEND, "the device %s cannot be started: %s", ggml_backend_dev_name(dev),
                             commandr_log_first_error());
    }
    backends->list[backends->n++]       = backend;
    ggml_backend_set_n_threads_t set_fn = (ggml_backend_set_n_threads_t) proc(dev, "ggml_backend_set_n_threads");
    if (set_fn) {
        set_fn(backend, n_threads);
    }
    return COMMANDR_OK;
}

/* Threads that live as long as the session: without OpenMP ggml would start new ones for every graph. Left as they are,
 * they would spin for a fifth of a second behind each one, and take the cores from a draft model's session meanwhile:
 * evaluations of two sessions in turn took 100 times as long as those of one. Waking them takes 50 microseconds. */
static void start_threadpool(commandr_backends * backends, ggml_backend_dev_t cpu, int32_t n_threads) {
    threadpool_new_fn create = (threadpool_new_fn) proc(cpu, "ggml_threadpool_new");
    set_threadpool_fn attach = (set_threadpool_fn) proc(cpu, "ggml_backend_cpu_set_threadpool");
    if (create && attach) {
        struct ggml_threadpool_params params = ggml_threadpool_params_default(n_threads);
        params.poll                          = 0;
        backends->threadpool                 = create(&params);
        if (backends->threadpool) {
            attach(backends->list[backends->n - 1], backends->threadpool);
        }
    }
}

/* Where the host keeps what goes to and from the devices: memory that a card can copy from by itself, where one of them
 * has such (CUDA calls it pinned), which is the CPU's memory as well. */
static ggml_backend_buffer_type_t host_buffer_type(const commandr_model * model) {
    for (int32_t i = 0; i < model->n_devs; i++) {
        ggml_backend_buffer_type_t type = ggml_backend_dev_host_buffer_type(model->devs[i]);
        if (type) {
            return type;
        }
    }
    return ggml_backend_dev_buffer_type(commandr_device_cpu());
}

static ggml_backend_sched_t new_sched(commandr_backends * backends, const commandr_model * model, size_t max_nodes) {
    ggml_backend_buffer_type_t types[COMMANDR_MAX_BACKENDS];
    for (int32_t i = 0; i < backends->n; i++) {
        types[i] =
            i < backends->n - 1 ? ggml_backend_get_default_buffer_type(backends->list[i]) : host_buffer_type(model);
    }
    return ggml_backend_sched_new(backends->list, types, backends->n, max_nodes, false, true);
}

commandr_status commandr_backends_init(commandr_backends * backends, const commandr_model * model, int32_t n_threads,
                                       size_t max_nodes, ggml_abort_callback abort, void * user_data) {
    memset(backends, 0, sizeof(*backends));
    ggml_backend_dev_t cpu    = commandr_device_cpu();
    commandr_status    status = COMMANDR_OK;
    for (int32_t i = 0; i < model->n_devs && status == COMMANDR_OK; i++) {
        status = add(backends, model->devs[i], n_threads);
    }
    for (size_t i = 0; i < ggml_backend_dev_count() && status == COMMANDR_OK; i++) {
        ggml_backend_dev_t dev = ggml_backend_dev_get(i);
        if (ggml_backend_dev_type(dev) == GGML_BACKEND_DEVICE_TYPE_ACCEL) {
            status = add(backends, dev, n_threads);
        }
    }
    if (status == COMMANDR_OK) {
        status = add(backends, cpu, n_threads);
    }
    if (status == COMMANDR_OK) {
        start_threadpool(backends, cpu, n_threads);
        ggml_backend_set_abort_callback_t set_abort =
            (ggml_backend_set_abort_callback_t) proc(cpu, "ggml_backend_set_abort_callback");
        if (set_abort) {
            set_abort(backends->list[backends->n - 1], abort, user_data);
        }
        backends->sched = new_sched(backends, model, max_nodes);
        if (!backends->sched) {
            status = commandr_fail(COMMANDR_ERROR_MEMORY, "out of memory for the graph scheduler");
        }
    }
    if (status != COMMANDR_OK) {
        commandr_backends_free(backends);
    }
    return status;
}

void commandr_backends_free(commandr_backends * backends) {
    if (backends->sched) {
        commandr_sched_free(backends->sched);
    }
    for (int32_t i = 0; i < backends->n; i++) {
        ggml_backend_free(backends->list[i]);
    }
    threadpool_free_fn destroy = (threadpool_free_fn) proc(commandr_device_cpu(), "ggml_threadpool_free");
    if (backends->threadpool && destroy) {
        destroy(backends->threadpool);
    }
    memset(backends, 0, sizeof(*backends));
}
