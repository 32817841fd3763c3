#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* for sched_getaffinity and the CPU_* macros of glibc */
#endif
#include "commandr.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__linux__)
#include <sched.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#if defined(__linux__)

/* The lowest CPU that shares a core with this one, which names the core; cpu itself when the kernel does not say. */
static size_t first_sibling(size_t cpu) {
    char path[96];
    snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%zu/topology/thread_siblings_list", cpu);
    size_t first = cpu;
    FILE * file  = fopen(path, "r");
    if (file != NULL) {
        if (fscanf(file, "%zu", &first) != 1) {
            first = cpu;
        }
        fclose(file);
    }
    return first;
}

/* Cores with at least one CPU in the affinity mask of this process; 0 when unknown. */
static int count_cores(void) {
    enum { MAX_CPUS = 1 << 16 };
    for (size_t n_cpus = 1024; n_cpus <= MAX_CPUS; n_cpus *= 2) { /* the kernel refuses masks shorter than its own */
        const size_t size    = CPU_ALLOC_SIZE(n_cpus);
        cpu_set_t *  allowed = CPU_ALLOC(n_cpus);
        bool *       seen    = calloc(n_cpus, sizeof(bool));
        int          n_cores = 0;
        const bool   known   = allowed != NULL && seen != NULL && sched_getaffinity(0, size, allowed) == 0;
        for (size_t cpu = 0; known && cpu < n_cpus; cpu++) {
            if (CPU_ISSET_S(cpu, size, allowed)) {
                const size_t core = first_sibling(cpu);
                if (core < n_cpus && !seen[core]) {
                    seen[core] = true;
                    n_cores++;
                }
            }
        }
        CPU_FREE(allowed);
        free(seen);
        if (known) {
            return n_cores;
        }
    }
    return 0;
}

/* Up to two numbers from the file dir/name; how many there were, -1 when there is no such file. */
static int read_numbers(const char * dir, const char * name, long long numbers[2]) {
    char path[4352];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE * file = fopen(path, "r");
    if (file == NULL) {
        return -1;
    }
    const int n = fscanf(file, "%lld %lld", &numbers[0], &numbers[1]);
    fclose(file);
    return n == EOF ? 0 : n;
}

/* The quota in the control group folder dir, in CPUs rounded up; 0 when there is none. */
static int read_quota(const char * dir) {
    long long quota[2]  = { 0, 0 }; /* microseconds, in so many microseconds */
    long long period[2] = { 0, 0 };
    int       n         = read_numbers(dir, "cpu.max", quota);        /* version 2: "max 100000" or "150000 100000" */
    if (n < 0 && read_numbers(dir, "cpu.cfs_quota_us", quota) == 1) { /* version 1: -1 for none */
        n        = 1 + read_numbers(dir, "cpu.cfs_period_us", period);
        quota[1] = period[0];
    }
    if (n != 2 || quota[0] <= 0 || quota[1] <= 0 || quota[0] / quota[1] > 1 << 16) {
        return 0;
    }
    return (int) ((quota[0] + quota[1] - 1) / quota[1]);
}

/* Whether a comma-separated list of version 1 controllers has the one that limits CPU time. */
static bool controls_cpu(const char * controllers) {
    for (const char * name = controllers; name != NULL; name = strchr(name, ',')) {
        name += *name == ',';
        if (strcmp(name, "cpu") == 0 || strncmp(name, "cpu,", 4) == 0) {
            return true;
        }
    }
    return false;
}

/* The smallest quota from the group up to the root of the hierarchy. A container often sees its host's name of its
 * group but only its own part of the hierarchy: then the folders of that name are not there and the root decides. */
static int smallest_quota(const char * mount, char * group) {
    int smallest = 0;
    for (;;) {
        char dir[4224];
        snprintf(dir, sizeof(dir), "%s%s", mount, group);
        const int quota = read_quota(dir);
        if (quota > 0 && (smallest == 0 || quota < smallest)) {
            smallest = quota;
        }
        char * slash = strrchr(group, '/');
        if (slash == NULL) {
            return smallest;
        }
        *slash = '\0';
    }
}

/* CPUs that the control groups of this process grant it; 0 when they do not limit it. */
static int cgroup_quota(void) {
    FILE * file = fopen("/proc/self/cgroup", "r");
    if (file == NULL) {
        return 0;
    }
    int  smallest = 0;
    char line[4096]; /* "0::/group" (version 2), "4:cpu,cpuacct:/group" (version 1) */
    while (fgets(line, sizeof(line), file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        char * controllers        = strchr(line, ':');
        char * group              = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
        if (group == NULL) {
            continue;
        }
        *controllers++ = '\0';
        *group++       = '\0';
        int quota      = 0;
        if (*controllers == '\0') {
            quota = smallest_quota("/sys/fs/cgroup", group);
        } else if (controls_cpu(controllers)) {
            quota = smallest_quota("/sys/fs/cgroup/cpu", group);
        }
        if (quota > 0 && (smallest == 0 || quota < smallest)) {
            smallest = quota;
        }
    }
    fclose(file);
    return smallest;
}

#elif defined(__APPLE__)

static int count_cores(void) {
    int    n    = 0;
    size_t size = sizeof(n);
    /* The fast cores of Apple silicon: waiting for a slow one costs more than it brings. */
    if (sysctlbyname("hw.perflevel0.physicalcpu", &n, &size, NULL, 0) != 0 &&
        sysctlbyname("hw.physicalcpu", &n, &size, NULL, 0) != 0) {
        return 0;
    }
    return n;
}

static int cgroup_quota(void) {
    return 0;
}

#else

static int count_cores(void) {
    return 0;
}

static int cgroup_quota(void) {
    return 0;
}

#endif

int32_t commandr_default_n_threads(void) {
    long n = count_cores();
    if (n <= 0) {
        n = sysconf(_SC_NPROCESSORS_ONLN);
    }
    const int quota = cgroup_quota();
    n               = quota > 0 && quota < n ? quota : n;
    return n >= 1 && n <= INT32_MAX ? (int32_t) n : 1;
}
