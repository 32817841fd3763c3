#include "commandr.h"
#include "cores.h"

#include <stdlib.h>
#include <unistd.h>

#if defined(__linux__)
#include <sched.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#if defined(__linux__)

/* Cores in the affinity mask of this process; 0 when unknown. */
static int count_cores(void) {
    enum { MAX_CPUS = 1 << 16 };
    for (size_t n_cpus = 1024; n_cpus <= MAX_CPUS; n_cpus *= 2) { /* the kernel refuses masks shorter than its own */
        const size_t size    = CPU_ALLOC_SIZE(n_cpus);
        cpu_set_t *  mask    = CPU_ALLOC(n_cpus);
        bool *       allowed = calloc(n_cpus, sizeof(bool));
        int          n_cores = 0;
        const bool   known   = mask != NULL && allowed != NULL && sched_getaffinity(0, size, mask) == 0;
        if (known) {
            for (size_t cpu = 0; cpu < n_cpus; cpu++) {
                allowed[cpu] = CPU_ISSET_S(cpu, size, mask);
            }
            n_cores = commandr_count_cores("", allowed, n_cpus);
        }
        CPU_FREE(mask);
        free(allowed);
        if (known) {
            return n_cores;
        }
    }
    return 0;
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

#else

static int count_cores(void) {
    return 0;
}

#endif

int32_t commandr_default_n_threads(void) {
    long n = count_cores();
    if (n <= 0) {
        n = sysconf(_SC_NPROCESSORS_ONLN);
    }
    const int quota = commandr_cgroup_quota(""); /* there are no such files where there are no control groups */
    n               = quota > 0 && quota < n ? quota : n;
    return n >= 1 && n <= INT32_MAX ? (int32_t) n : 1;
}
