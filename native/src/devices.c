#include "devices.h"

#include "error.h"
#include "ggml-cpu.h"
#include "host-memory.h"
#include "log.h"
#include "worker-guard.h"
#include "workers.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define MAX_DEVICES 64

static pthread_once_t once = PTHREAD_ONCE_INIT;
static char           features[MAX_DEVICES][512];

/* "AVX2 AVX512 OPENMP": the names of what a backend says it has. */
static void write_features(ggml_backend_dev_t dev, char * text, size_t size) {
    ggml_backend_reg_t          reg = ggml_backend_dev_backend_reg(dev);
    ggml_backend_get_features_t get =
        (ggml_backend_get_features_t) ggml_backend_reg_get_proc_address(reg, "ggml_backend_get_features");
    text[0] = '\0';
    for (const struct ggml_backend_feature * f = get ? get(reg) : NULL; f && f->name; f++) {
        if (strcmp(f->value, "0") == 0) {
            continue;
        }
        const size_t used   = strlen(text);
        const bool   is_one = strcmp(f->value, "1") == 0;
        snprintf(text + used, size - used, "%s%s%s%s", used ? " " : "", f->name, is_one ? "" : "=",
                 is_one ? "" : f->value);
    }
}

/* A ggml with loadable backends starts without any: they are taken from the folder that ggml itself was loaded from,
 * and not, as ggml_backend_load_all would, from the current one, where a stranger's file may lie. Other builds have
 * theirs linked in, and must not load a second copy. */
static void load_backends(void) {
    Dl_info info;
    char    folder[4096];
    if (ggml_backend_reg_count() > 0 || !dladdr((void *) ggml_backend_load_all_from_path, &info) || !info.dli_fname) {
        return;
    }
    snprintf(folder, sizeof(folder), "%s", info.dli_fname);
    char * slash = strrchr(folder, '/');
    if (slash) {
        *slash = '\0';
        ggml_backend_load_all_from_path(folder);
    }
}

static void init_once(void) {
    commandr_log_init();
    commandr_guard_init();
    load_backends();
    for (size_t i = 0; i < ggml_backend_dev_count() && i < MAX_DEVICES; i++) {
        write_features(ggml_backend_dev_get(i), features[i], sizeof(features[i]));
    }
}

void commandr_devices_init(void) {
    pthread_once(&once, init_once);
}

ggml_backend_dev_t commandr_device_cpu(void) {
    return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
}

int32_t commandr_device_gpus(ggml_backend_dev_t * devs, int32_t capacity) {
    static const enum ggml_backend_dev_type types[] = { GGML_BACKEND_DEVICE_TYPE_GPU, GGML_BACKEND_DEVICE_TYPE_IGPU };
    int32_t                                 n       = 0;
    for (size_t t = 0; t < sizeof(types) / sizeof(types[0]); t++) {
        for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
            ggml_backend_dev_t dev = ggml_backend_dev_get(i);
            if (ggml_backend_dev_type(dev) != types[t]) {
                continue;
            }
            if (devs && n < capacity) {
                devs[n] = dev;
            }
            n++;
        }
    }
    return devs && n > capacity ? capacity : n;
}

ggml_backend_buffer_type_t * commandr_device_extra_bufts(void) {
    ggml_backend_dev_t                 cpu = commandr_device_cpu();
    ggml_backend_dev_get_extra_bufts_t get = (ggml_backend_dev_get_extra_bufts_t) ggml_backend_reg_get_proc_address(
        ggml_backend_dev_backend_reg(cpu), "ggml_backend_dev_get_extra_bufts");
    return get ? get(cpu) : NULL;
}

/* To ggml a Mac's graphics are a card with memory of its own. */
enum ggml_backend_dev_type commandr_device_type(ggml_backend_dev_t dev) {
#if defined(__APPLE__) && defined(__aarch64__)
    if (strcmp(ggml_backend_reg_name(ggml_backend_dev_backend_reg(dev)), "MTL") == 0) {
        return GGML_BACKEND_DEVICE_TYPE_IGPU;
    }
#endif
    return ggml_backend_dev_type(dev);
}

static void describe(ggml_backend_dev_t dev, commandr_device_info * info) {
    size_t free  = 0;
    size_t total = 0;
    ggml_backend_dev_memory(dev, &free, &total);
    if (dev == commandr_device_cpu()) { /* ggml says that all of it is free */
        const size_t available = (size_t) commandr_host_memory_available();
        free                   = available < total ? available : total;
    }
    info->name         = ggml_backend_dev_name(dev);
    info->description  = ggml_backend_dev_description(dev);
    info->features     = "";
    info->memory_free  = (int64_t) free;
    info->memory_total = (int64_t) total;
    switch (commandr_device_type(dev)) {
        case GGML_BACKEND_DEVICE_TYPE_CPU: info->type = COMMANDR_DEVICE_CPU; break;
        case GGML_BACKEND_DEVICE_TYPE_IGPU: info->type = COMMANDR_DEVICE_IGPU; break;
        case GGML_BACKEND_DEVICE_TYPE_ACCEL: info->type = COMMANDR_DEVICE_ACCEL; break;
        default: info->type = COMMANDR_DEVICE_GPU; break;
    }
}

int64_t commandr_device_count(void) {
    commandr_devices_init();
    return (int64_t) ggml_backend_dev_count();
}

commandr_status commandr_device_get(int64_t index, commandr_device_info * info) {
    const int64_t n = commandr_device_count();
    if (index < 0 || index >= n || index >= MAX_DEVICES || !info) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "there is no device number %lld: there are %lld",
                             (long long) index, (long long) n);
    }
    describe(ggml_backend_dev_get((size_t) index), info);
    info->features = features[index];
    return COMMANDR_OK;
}

commandr_status commandr_worker_get(const char * workers, int64_t index, commandr_device_info * info) {
    ggml_backend_dev_t devs[MAX_DEVICES];
    int32_t            n = 0;
    if (!workers || !info) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "commandr_worker_get: workers and info must not be NULL");
    }
    commandr_devices_init();
    commandr_status status = commandr_workers_find(workers, devs, MAX_DEVICES, &n);
    if (status != COMMANDR_OK) {
        return status;
    }
    if (index < 0 || index >= n) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "there is no worker device number %lld: there are %d",
                             (long long) index, n);
    }
    commandr_guard guard;
    if (!COMMANDR_GUARD_BEGIN(guard)) {
        return commandr_workers_lost(devs, n);
    }
    describe(devs[index], info);
    commandr_guard_end(&guard);
    return COMMANDR_OK;
}
