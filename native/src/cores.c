#include "cores.h"

#include <stdio.h>
#include <stdlib.h>

#define MAX_CAPACITY 1024 /* of the fastest core of a machine, as the kernel scales it */

/* A number from a file of one CPU, or `otherwise`. */
static size_t read_number(const char * root, size_t cpu, const char * name, size_t otherwise) {
    char path[4352];
    snprintf(path, sizeof(path), "%s/sys/devices/system/cpu/cpu%zu/%s", root, cpu, name);
    size_t number = 0;
    FILE * file   = fopen(path, "r");
    bool   found  = false;
    if (file != NULL) {
        found = fscanf(file, "%zu", &number) == 1;
        fclose(file);
    }
    return found ? number : otherwise;
}

/* Marks the performance cores' CPUs in Intel's list, such as "0-7,16"; marks none when there is no such file. */
static void read_list(const char * root, bool * listed, size_t n_cpus) {
    char path[4352];
    snprintf(path, sizeof(path), "%s/sys/devices/cpu_core/cpus", root);
    FILE * file = fopen(path, "r");
    if (file == NULL) {
        return;
    }
    size_t first;
    while (fscanf(file, "%zu", &first) == 1) {
        size_t last = first;
        int    next = fgetc(file);
        if (next == '-') {
            next = fscanf(file, "%zu", &last) == 1 ? fgetc(file) : EOF;
        }
        for (size_t cpu = first; cpu <= last && cpu < n_cpus; cpu++) {
            listed[cpu] = true;
        }
        if (next != ',') {
            break;
        }
    }
    fclose(file);
}

/* Marks the fast CPUs among those allowed; there is at least one if any is allowed. */
static void find_fast(const char * root, const bool * allowed, size_t n_cpus, bool * fast) {
    bool any = false;
    read_list(root, fast, n_cpus);
    for (size_t cpu = 0; cpu < n_cpus; cpu++) {
        fast[cpu] = fast[cpu] && allowed[cpu];
        any       = any || fast[cpu];
    }
    if (any) {
        return;
    }
    size_t largest = 0;
    for (size_t cpu = 0; cpu < n_cpus; cpu++) {
        const size_t capacity = allowed[cpu] ? read_number(root, cpu, "cpu_capacity", MAX_CAPACITY) : 0;
        largest               = capacity > largest ? capacity : largest;
    }
    for (size_t cpu = 0; cpu < n_cpus; cpu++) {
        fast[cpu] = allowed[cpu] && 4 * read_number(root, cpu, "cpu_capacity", MAX_CAPACITY) >= 3 * largest;
    }
}

int commandr_count_cores(const char * root, const bool * allowed, size_t n_cpus) {
    bool * fast    = calloc(n_cpus, sizeof(bool));
    bool * seen    = calloc(n_cpus, sizeof(bool));
    int    n_cores = 0;
    if (fast != NULL && seen != NULL) {
        find_fast(root, allowed, n_cpus, fast);
        for (size_t cpu = 0; cpu < n_cpus; cpu++) {
            /* The lowest CPU of a core names the core, though it may not be allowed itself. */
            const size_t core = fast[cpu] ? read_number(root, cpu, "topology/thread_siblings_list", cpu) : n_cpus;
            if (core < n_cpus && !seen[core]) {
                seen[core] = true;
                n_cores++;
            }
        }
    }
    free(fast);
    free(seen);
    return n_cores;
}
