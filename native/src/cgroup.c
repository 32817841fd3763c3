#include "cores.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

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
static int smallest_quota(const char * root, const char * mount, char * group) {
    int smallest = 0;
    for (;;) {
        char dir[4224];
        snprintf(dir, sizeof(dir), "%s%s%s", root, mount, group);
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

int commandr_cgroup_quota(const char * root) {
    char path[4224];
    snprintf(path, sizeof(path), "%s/proc/self/cgroup", root);
    FILE * file = fopen(path, "r");
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
            quota = smallest_quota(root, "/sys/fs/cgroup", group);
        } else if (controls_cpu(controllers)) {
            quota = smallest_quota(root, "/sys/fs/cgroup/cpu", group);
        }
        if (quota > 0 && (smallest == 0 || quota < smallest)) {
            smallest = quota;
        }
    }
    fclose(file);
    return smallest;
}
