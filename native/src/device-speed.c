/* How fast a device reads weights, computes and is reached: measured on it, by graphs like those of a model. */
#include "devices.h"
#include "error.h"
#include "ggml.h"
#include "log.h"
#include "worker-guard.h"
#include "workers.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    N_IN      = 4096,
    N_OUT     = 49152, /* 204 MiB of Q8_0: more than caches hold */
    N_SQUARE  = 4096,  /* rows for the product of many columns */
    N_COLUMNS = 512,
    ROUNDS    = 3
};

#define LONG_SECONDS 0.5 /* for one round of several */

typedef struct measured {
    ggml_backend_t        backend;
    struct ggml_context * ctx;
    ggml_backend_buffer_t buffer;
    struct ggml_tensor *  x; /* F32 [N_IN, N_COLUMNS] */
    struct ggml_cgraph *  graphs[2];
    struct ggml_tensor *  results[2];
} measured;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec + (double) t.tv_nsec * 1e-9;
}

static bool prepare(measured * m, ggml_backend_dev_t dev, int32_t n_threads) {
    m->backend = ggml_backend_dev_init(dev, NULL);
    m->ctx =
        ggml_init((struct ggml_init_params) { 8 * ggml_tensor_overhead() + 2 * ggml_graph_overhead(), NULL, true });
    if (!m->backend || !m->ctx) {
        return false;
    }
    ggml_backend_set_n_threads_t set_fn = (ggml_backend_set_n_threads_t) ggml_backend_reg_get_proc_address(
        ggml_backend_dev_backend_reg(dev), "ggml_backend_set_n_threads");
    if (set_fn) {
        set_fn(m->backend, n_threads > 0 ? n_threads : commandr_default_n_threads());
    }
    struct ggml_tensor * w      = ggml_new_tensor_2d(m->ctx, GGML_TYPE_Q8_0, N_IN, N_OUT);
    struct ggml_tensor * square = ggml_view_2d(m->ctx, w, N_IN, N_SQUARE, w->nb[1], 0);
    m->x                        = ggml_new_tensor_2d(m->ctx, GGML_TYPE_F32, N_IN, N_COLUMNS);
    struct ggml_tensor * one    = ggml_view_2d(m->ctx, m->x, N_IN, 1, m->x->nb[1], 0);
    m->results[0]               = ggml_mul_mat(m->ctx, w, one);
    m->results[1]               = ggml_mul_mat(m->ctx, square, m->x);
    m->buffer                   = ggml_backend_alloc_ctx_tensors(m->ctx, m->backend);
    if (!m->buffer) {
        return false;
    }
    for (int i = 0; i < 2; i++) {
        m->graphs[i] = ggml_new_graph_custom(m->ctx, 8, false);
        ggml_build_forward_expand(m->graphs[i], m->results[i]);
    }
    ggml_backend_buffer_clear(m->buffer, 0); /* pages that were never written to are not read from memory */
    return true;
}

/* Seconds that a graph takes, its result's first number fetched: the fastest of a few rounds behind one to begin with,
 * in which programs may be compiled. What takes long is exact enough at once. */
static double seconds_of(const measured * m, int graph) {
    double best = 0.0;
    for (int i = 0; i <= ROUNDS; i++) {
        float        first;
        const double begin = now();
        if (ggml_backend_graph_compute(m->backend, m->graphs[graph]) != GGML_STATUS_SUCCESS) {
            return 0.0;
        }
        ggml_backend_tensor_get(m->results[graph], &first, 0, sizeof(first));
        const double taken = now() - begin;
        if (i > 0) {
            best = best == 0.0 || taken < best ? taken : best;
            if (taken > LONG_SECONDS) {
                break;
            }
        }
    }
    return best;
}

/* Seconds for size bytes there and one number back. */
static double seconds_to_send(const measured * m, const float * data, size_t size) {
    double best = 0.0;
    for (int i = 0; i < 4 * ROUNDS; i++) {
        float        first;
        const double begin = now();
        ggml_backend_tensor_set(m->x, data, 0, size);
        ggml_backend_tensor_get(m->x, &first, 0, sizeof(first));
        const double taken = now() - begin;
        best               = best == 0.0 || taken < best ? taken : best;
    }
    return best;
}

static commandr_status measure(measured * m, ggml_backend_dev_t dev, int32_t n_threads, commandr_device_speed * speed) {
    commandr_log_clear_error();
    float * data = calloc((size_t) N_IN * N_COLUMNS, sizeof(float));
    if (!data || !prepare(m, dev, n_threads)) {
        free(data);
        return commandr_fail(COMMANDR_ERROR_MEMORY, "%s: memory for a measurement cannot be allocated: %s",
                             ggml_backend_dev_name(dev), commandr_log_first_error());
    }
    const size_t size    = (size_t) N_IN * N_COLUMNS * sizeof(float);
    const double latency = seconds_to_send(m, data, sizeof(float));
    const double sending = seconds_to_send(m, data, size) - latency;
    const double read    = seconds_of(m, 0) - latency;
    const double product = seconds_of(m, 1) - latency;
    free(data);
    const double weights = (double) ggml_row_size(GGML_TYPE_Q8_0, N_IN) * N_OUT;
    *speed               = (commandr_device_speed) {
        .read    = read > 0.0 ? weights / read : 0.0,
        .compute = product > 0.0 ? 2.0 * N_IN * N_SQUARE * N_COLUMNS / product : 0.0,
        .send    = sending > 0.0 ? (double) size / sending : 0.0,
        .latency = latency,
    };
    return COMMANDR_OK;
}

commandr_status commandr_device_measure(const char * workers, int64_t index, int32_t n_threads,
                                        commandr_device_speed * to) {
    ggml_backend_dev_t devs[64];
    int32_t            n = 0;
    if (!to) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "commandr_device_measure: to must not be NULL");
    }
    commandr_devices_init();
    if (workers) {
        const commandr_status found = commandr_workers_find(workers, devs, 64, &n);
        if (found != COMMANDR_OK) {
            return found;
        }
    } else {
        for (size_t i = 0; i < ggml_backend_dev_count() && n < 64; i++) {
            devs[n++] = ggml_backend_dev_get(i);
        }
    }
    if (index < 0 || index >= n) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "there is no device number %lld: there are %d", (long long) index,
                             n);
    }
    measured        m = { 0 };
    commandr_guard  guard;
    commandr_status status;
    if (COMMANDR_GUARD_BEGIN(guard)) {
        status = measure(&m, devs[index], n_threads, to);
        commandr_guard_end(&guard);
    } else {
        status = commandr_workers_lost(&devs[index], 1);
    }
    if (m.buffer) {
        commandr_buffer_free(m.buffer);
    }
    if (m.backend) {
        ggml_backend_free(m.backend);
    }
    ggml_free(m.ctx);
    return status;
}
