#include "host-memory.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { PATH_SIZE = 4352 };

/* The number behind a name in a file of lines "name number"; -1 when there is none. name: NULL for a file that is one
 * number. */
static int64_t read_number(const char * dir, const char * file_name, const char * name) {
    char path[PATH_SIZE];
    snprintf(path, sizeof(path), "%s/%s", dir, file_name);
    FILE * file = fopen(path, "r");
    if (!file) {
        return -1;
    }
    int64_t number = -1;
    char    line[256];
    while (number < 0 && fgets(line, sizeof(line), file)) {
        const size_t length = name ? strlen(name) : 0;
        if ((!name || strncmp(line, name, length) == 0) && sscanf(line + length, "%" SCNd64, &number) != 1) {
            number = -1; /* "max" */
        }
    }
    fclose(file);
    return number;
}

/* What a control group's limit leaves; -1: it has none. dir: its folder */
static int64_t left_in(const char * dir, bool is_v2) {
    const int64_t limit = read_number(dir, is_v2 ? "memory.max" : "memory.limit_in_bytes", NULL);
    const int64_t used  = read_number(dir, is_v2 ? "memory.current" : "memory.usage_in_bytes", NULL);
    if (limit < 0 || used < 0) {
        return -1;
    }
    const int64_t cached = read_number(dir, "memory.stat", is_v2 ? "inactive_file " : "total_inactive_file ");
    const int64_t left   = limit - used + (cached > 0 ? cached : 0);
    return left > 0 ? left : 0;
}

static int64_t smaller(int64_t a, int64_t b) {
    return b < 0 || (a >= 0 && a <= b) ? a : b;
}

/* The least that a group and those around it leave. A container often sees only its own part of the hierarchy: then the
 * folders of the group's name are not there and the root decides. */
static int64_t left_in_all(const char * root, const char * mount, char * group, bool is_v2) {
    int64_t left = -1;
    for (char * slash = group + strlen(group); slash; slash = strrchr(group, '/')) {
        *slash = '\0';
        char dir[PATH_SIZE - 64];
        snprintf(dir, sizeof(dir), "%s%s%s", root, mount, group);
        left = smaller(left, left_in(dir, is_v2));
    }
    return left;
}

/* What the control groups of this process leave; -1 when they do not limit it. */
static int64_t left_in_groups(const char * root) {
    char path[PATH_SIZE];
    snprintf(path, sizeof(path), "%s/proc/self/cgroup", root);
    FILE *  file = fopen(path, "r");
    int64_t left = -1;
    char    line[4096]; /* "0::/group" (version 2), "9:memory:/group" (version 1) */
    while (file && fgets(line, sizeof(line), file)) {
        line[strcspn(line, "\n")] = '\0';
        char * controllers        = strchr(line, ':');
        char * group              = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group) {
            continue;
        }
        *controllers++ = '\0';
        *group++       = '\0';
        if (*controllers == '\0') {
            left = smaller(left, left_in_all(root, "/sys/fs/cgroup", group, true));
        } else if (strcmp(controllers, "memory") == 0) {
            left = smaller(left, left_in_all(root, "/sys/fs/cgroup/memory", group, false));
        }
    }
    if (file) {
        fclose(file);
    }
    return left;
}

int64_t commandr_host_memory_read(const char * root) {
    char dir[PATH_SIZE - 64];
    snprintf(dir, sizeof(dir), "%s/proc", root);
    const int64_t kib = read_number(dir, "meminfo", "MemAvailable:");
    return smaller(kib < 0 ? -1 : kib * 1024, left_in_groups(root));
}

/* What a limit of `ulimit` leaves beside what the process has; -1: there is none. name: of that in /proc/self/status */
static int64_t left_of_limit(int resource, const char * name) {
    struct rlimit limit;
    const int64_t kib = read_number("/proc/self", "status", name);
    if (kib < 0 || getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
        return -1;
    }
    const int64_t left = (int64_t) limit.rlim_cur - kib * 1024;
    return left > 0 ? left : 0;
}

int64_t commandr_host_memory_for_addresses(void) {
    const long pages     = sysconf(_SC_PHYS_PAGES);
    int64_t    available = commandr_host_memory_read("");
    if (available < 0) {
        available = pages > 0 ? (int64_t) pages * sysconf(_SC_PAGESIZE) : INT64_MAX;
    }
    return smaller(available, left_of_limit(RLIMIT_DATA, "VmData:"));
}

int64_t commandr_host_memory_available(void) {
    return smaller(commandr_host_memory_for_addresses(), left_of_limit(RLIMIT_AS, "VmSize:"));
}
