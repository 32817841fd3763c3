/* What the system says about processors. root is put before every path: "" but in tests. */
#ifndef COMMANDR_SRC_CORES_H
#define COMMANDR_SRC_CORES_H

#include <stdbool.h>
#include <stddef.h>

/* Cores with at least one allowed CPU. allowed: [n_cpus]. Where cores differ, only the fast ones among them count: a
 * slow one gets the same share of the work as the others, which then wait for it. From Linux's sysfs: on Intel
 * devices/cpu_core/cpus lists the performance cores; elsewhere cores belong to the fast ones that have at least 3/4 of
 * the largest devices/system/cpu/cpu<N>/cpu_capacity. Without these files all cores count. */
int commandr_count_cores(const char * root, const bool * allowed, size_t n_cpus);

/* CPUs that the control groups of this process grant it, rounded up; 0 when they do not limit it. */
int commandr_cgroup_quota(const char * root);

#endif
