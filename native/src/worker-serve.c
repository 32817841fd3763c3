/* Lending this machine's devices to others, through ggml's RPC server. */
#include "devices.h"
#include "error.h"
#include "ggml.h"
#include "host-memory.h"
#include "threads.h"
#include "workers.h"

#include <string.h>

typedef void (*start_server_fn)(const char * endpoint, const char * cache_dir, size_t n_threads, size_t n_devices,
                                ggml_backend_dev_t * devices);

#define MAX_LENT 16

/* What a device of ggml's begins with, as in ggml-backend-impl.h of this version. */
#define GGML_LAYOUT "0.20.2"

typedef struct device_head {
    const char * (*get_name)(ggml_backend_dev_t dev);
    const char * (*get_description)(ggml_backend_dev_t dev);
    void (*get_memory)(ggml_backend_dev_t dev, size_t * free, size_t * total);
} device_head;

static void (*ggmls_get_memory)(ggml_backend_dev_t dev, size_t * free, size_t * total);

/* ggml's server tells its clients what this says. */
static void get_memory(ggml_backend_dev_t dev, size_t * free, size_t * total) {
    ggmls_get_memory(dev, free, total);
    const size_t available = (size_t) commandr_host_memory_available();
    *free                  = available < *total ? available : *total;
}

/* Of the CPU, ggml calls all memory free. Layers would be sent here for which there is no room. */
static void tell_free_memory(ggml_backend_dev_t cpu) {
    device_head * head = (device_head *) cpu;
    if (ggmls_get_memory || strcmp(ggml_version(), GGML_LAYOUT) != 0) {
        return;
    }
    ggmls_get_memory = head->get_memory;
    head->get_memory = get_memory;
}

commandr_status commandr_rpc_serve(const char * endpoint, const char * cache_dir, int32_t n_threads) {
    start_server_fn start_server = NULL;
    if (!endpoint) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "commandr_rpc_serve: endpoint must not be NULL");
    }
    commandr_devices_init();
    start_server           = (start_server_fn) commandr_rpc_proc("ggml_backend_rpc_start_server");
    commandr_status status = start_server ? commandr_endpoint_check(endpoint) : commandr_rpc_missing();
    if (status != COMMANDR_OK) {
        return status;
    }
    ggml_backend_dev_t devs[MAX_LENT];
    int32_t            n = commandr_device_gpus(devs, MAX_LENT);
    if (n == 0) {
        devs[n++] = commandr_device_cpu();
        tell_free_memory(devs[0]);
    }
    start_server(endpoint, cache_dir, (size_t) (n_threads > 0 ? n_threads : commandr_default_n_threads()), (size_t) n,
                 devs);
    return commandr_fail(COMMANDR_ERROR_BACKEND,
                         "the worker at %s has stopped: the address cannot be listened on, or "
                         "a signal came",
                         endpoint);
}
