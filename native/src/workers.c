#include "workers.h"

#include "devices.h"
#include "error.h"
#include "log.h"
#include "worker-guard.h"
#include "worker-link.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_ENDPOINT  256
#define GREET_SECONDS 5
#define LOST_TRIES    10
#define MAX_LOST      100 /* zeros before a port */

typedef ggml_backend_reg_t (*add_server_fn)(const char * endpoint);

/* What we know of a worker. ggml keeps the connection to an endpoint for good once a buffer there could not be freed,
 * also when it is broken. Another spelling of the same endpoint, with one more zero before the port, is a new one. */
typedef struct worker {
    struct worker * next;

    char    endpoint[MAX_ENDPOINT];
    int32_t n_lost;
    int32_t n_models; /* that lie there by this connection: ggml keeps it as long */
} worker;

static const char ZEROS[MAX_LOST] =
    "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000";

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static worker *        known; /* for good: pointers to them are used without the lock */

void * commandr_rpc_proc(const char * name) {
    ggml_backend_reg_t reg = ggml_backend_reg_by_name("RPC");
    return reg ? ggml_backend_reg_get_proc_address(reg, name) : NULL;
}

commandr_status commandr_rpc_missing(void) {
    return commandr_fail(COMMANDR_ERROR_UNSUPPORTED,
                         "this ggml is built without RPC; `make setup GGML=source` builds one with it");
}

static const char * port_of(const char * endpoint) {
    const char * colon = strchr(endpoint, ':');
    return colon ? colon + 1 : "";
}

commandr_status commandr_endpoint_check(const char * endpoint) {
    const char * port  = port_of(endpoint);
    char *       end   = NULL;
    const long   value = strtol(port, &end, 10);
    if (port <= endpoint + 1 || *port < '0' || *port > '9' || *end || value < 1 || value > 65535) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "a worker is given as host:port, not '%s'", endpoint);
    }
    return COMMANDR_OK;
}

/* Whether nobody listens there any more: one that is busy is not gone. */
static bool is_gone(const char * endpoint) {
    return commandr_link_connect(endpoint, 100) >= COMMANDR_LINK_REFUSED;
}

/* Appends a text, cut to the size of to. */
static void append(char * to, size_t size, const char * text, size_t length) {
    const size_t used = strlen(to);
    const size_t n    = length < size - 1 - used ? length : size - 1 - used;
    memcpy(to + used, text, n);
    to[used + n] = '\0';
}

/* NULL without memory. The caller has the lock. */
static worker * find_known(const char * endpoint) {
    for (worker * w = known; w; w = w->next) {
        if (strcmp(w->endpoint, endpoint) == 0) {
            return w;
        }
    }
    worker * w = calloc(1, sizeof(*w));
    if (w) {
        append(w->endpoint, sizeof(w->endpoint), endpoint, strlen(endpoint));
        w->next = known;
        known   = w;
    }
    return w;
}

static commandr_status connect_to(const char * endpoint, ggml_backend_reg_t * reg) {
    add_server_fn   add_server = (add_server_fn) commandr_rpc_proc("ggml_backend_rpc_add_server");
    commandr_status status     = add_server ? commandr_endpoint_check(endpoint) : commandr_rpc_missing();
    if (status != COMMANDR_OK) {
        return status;
    }
    char spelled[MAX_ENDPOINT + MAX_LOST];
    bool is_connected = false;
    pthread_mutex_lock(&lock);
    const worker * w = find_known(endpoint);
    if (w) {
        is_connected = w->n_models > 0;
        snprintf(spelled, sizeof(spelled), "%.*s%.*s%s", (int) (port_of(endpoint) - endpoint), endpoint,
                 (int) w->n_lost, ZEROS, port_of(endpoint));
    }
    pthread_mutex_unlock(&lock);
    if (!w) {
        return commandr_fail(COMMANDR_ERROR_MEMORY, "out of memory for the worker %s", endpoint);
    }
    if (!is_connected) { /* one that serves us answers to nobody else */
        const commandr_link_state state = commandr_link_greet(endpoint, GREET_SECONDS * 1000);
        if (state != COMMANDR_LINK_ANSWERS) {
            static const char * const why[] = {
                [COMMANDR_LINK_SILENT]  = "it serves another program, and one at a time, or is no worker, or its host "
                                          "is down",
                [COMMANDR_LINK_REFUSED] = "is `commandr rpc-serve` running there?",
                [COMMANDR_LINK_NO_HOST] = "there is no host of that name",
            };
            return commandr_fail(COMMANDR_ERROR_BACKEND, "no worker answers at %s: %s", endpoint, why[state]);
        }
    }
    commandr_log_clear_error();
    *reg = add_server(spelled);
    return *reg ? COMMANDR_OK
                : commandr_fail(COMMANDR_ERROR_BACKEND, "the worker at %s cannot be used: %s", endpoint,
                                commandr_log_first_error());
}

static commandr_status find_all(const char * list, ggml_backend_dev_t * devs, int32_t capacity, int32_t * n) {
    *n = 0;
    for (const char * at = list; *at;) {
        char         endpoint[MAX_ENDPOINT];
        const size_t length = strcspn(at, ",");
        snprintf(endpoint, sizeof(endpoint), "%.*s", (int) (length < MAX_ENDPOINT ? length : MAX_ENDPOINT - 1), at);
        at += length + (at[length] == ',');
        ggml_backend_reg_t    reg    = NULL;
        const commandr_status status = connect_to(endpoint, &reg);
        if (status != COMMANDR_OK) {
            return status;
        }
        for (size_t i = 0; i < ggml_backend_reg_dev_count(reg); i++) {
            if (*n == capacity) {
                return commandr_fail(COMMANDR_ERROR_UNSUPPORTED, "the workers have more than %d devices", capacity);
            }
            devs[(*n)++] = ggml_backend_reg_dev_get(reg, i);
        }
    }
    return COMMANDR_OK;
}

commandr_status commandr_workers_find(const char * list, ggml_backend_dev_t * devs, int32_t capacity, int32_t * n) {
    commandr_guard_take_turns();
    commandr_guard guard;
    if (!COMMANDR_GUARD_BEGIN(guard)) {
        return commandr_fail(COMMANDR_ERROR_BACKEND, "what answers at one of %s is no worker of this ggml's version",
                             list);
    }
    const commandr_status status = find_all(list, devs, capacity, n);
    commandr_guard_end(&guard);
    return status;
}

bool commandr_is_worker(ggml_backend_dev_t dev) {
    return strcmp(ggml_backend_reg_name(ggml_backend_dev_backend_reg(dev)), "RPC") == 0;
}

/* The known worker of a device, NULL of any other; *n_zeros: before the port, as ggml knows it. With the lock. */
static worker * worker_of(ggml_backend_dev_t dev, int32_t * n_zeros) {
    if (!dev || !commandr_is_worker(dev)) {
        return NULL;
    }
    /* ggml describes such a device by its endpoint, as we spelled it. */
    const char * spelled                = ggml_backend_dev_description(dev);
    const char * port                   = port_of(spelled);
    char         endpoint[MAX_ENDPOINT] = "";
    *n_zeros                            = (int32_t) strspn(port, "0");
    append(endpoint, sizeof(endpoint), spelled, (size_t) (port - spelled));
    append(endpoint, sizeof(endpoint), port + *n_zeros, strlen(port + *n_zeros));
    return find_known(endpoint);
}

/* Ends the connection to the device's worker; the next one is new. */
static void give_up(ggml_backend_dev_t dev) {
    int32_t n_zeros = 0;
    pthread_mutex_lock(&lock);
    worker *   w      = worker_of(dev, &n_zeros);
    const bool is_now = w && w->n_lost == n_zeros; /* else it was given up before, and there may be a new one */
    if (is_now) {
        w->n_lost   = w->n_lost < MAX_LOST - 1 ? w->n_lost + 1 : w->n_lost;
        w->n_models = 0;
    }
    pthread_mutex_unlock(&lock);
    if (is_now) {
        commandr_link_break(w->endpoint);
    }
}

void commandr_workers_use(const ggml_backend_dev_t * devs, int32_t n_devs, int32_t n_models) {
    for (int32_t i = 0; i < n_devs; i++) {
        int32_t n_zeros = 0;
        pthread_mutex_lock(&lock);
        worker * w = worker_of(devs[i], &n_zeros);
        if (w && w->n_lost == n_zeros && w->n_models + n_models >= 0) { /* those of a lost connection do not count */
            w->n_models += n_models;
        }
        pthread_mutex_unlock(&lock);
    }
}

void commandr_workers_watch(const ggml_backend_dev_t * devs, int32_t n_devs) {
    for (int32_t i = 0; i < n_devs; i++) {
        int32_t n_zeros = 0;
        pthread_mutex_lock(&lock);
        const worker * w = worker_of(devs[i], &n_zeros);
        pthread_mutex_unlock(&lock);
        if (w) {
            commandr_link_watch(w->endpoint);
        }
    }
}

void commandr_buffer_free(ggml_backend_buffer_t buffer) {
    ggml_backend_dev_t dev = buffer ? ggml_backend_buft_get_device(ggml_backend_buffer_get_type(buffer)) : NULL;
    commandr_guard     guard;
    if (COMMANDR_GUARD_BEGIN(guard)) {
        ggml_backend_buffer_free(buffer);
        commandr_guard_end(&guard);
    } else {
        give_up(dev);
    }
}

void commandr_sched_free(ggml_backend_sched_t sched) {
    commandr_guard guard;
    if (COMMANDR_GUARD_BEGIN(guard)) {
        ggml_backend_sched_free(sched);
        commandr_guard_end(&guard);
    }
}

/* Gives up those of these devices' workers that are gone, or all, and writes their endpoints with commas. */
static void give_up_some(const ggml_backend_dev_t * devs, int32_t n_devs, bool all, char * text, size_t text_size) {
    for (int32_t i = 0; i < n_devs; i++) {
        int32_t n_zeros = 0;
        pthread_mutex_lock(&lock);
        const worker * w = worker_of(devs[i], &n_zeros);
        pthread_mutex_unlock(&lock);
        if (w && (all || is_gone(w->endpoint))) {
            give_up(devs[i]);
            if (!strstr(text, w->endpoint)) { /* it may lend several devices */
                append(text, text_size, ", ", *text ? 2 : 0);
                append(text, text_size, w->endpoint, strlen(w->endpoint));
            }
        }
    }
}

commandr_status commandr_workers_lost(const ggml_backend_dev_t * devs, int32_t n_devs) {
    char text[1024] = "";
    give_up_some(devs, n_devs, false, text, sizeof(text));
    for (int32_t i = 0; i < LOST_TRIES && !text[0]; i++) { /* a process that ends closes one socket after the other */
        nanosleep(&(struct timespec) { .tv_nsec = 50 * 1000 * 1000 }, NULL);
        give_up_some(devs, n_devs, false, text, sizeof(text));
    }
    const bool is_known = text[0] != '\0';
    if (!is_known) { /* it runs again, or its host is silent */
        give_up_some(devs, n_devs, true, text, sizeof(text));
    }
    return commandr_fail(COMMANDR_ERROR_BACKEND,
                         "a worker was lost: %s%s; its layers and what the sessions held are gone with it: close the "
                         "model and load it again",
                         is_known || !strchr(text, ',') ? "" : "one of ", text);
}
