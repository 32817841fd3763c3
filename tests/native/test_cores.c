/* test_cores ROOT CPU...: prints the cores that count where these CPUs are allowed, then the quota. */
#include "cores.h"

#include <stdio.h>
#include <stdlib.h>

enum { N_CPUS = 64 };

int main(int argc, char ** argv) {
    bool allowed[N_CPUS] = { false };
    for (int i = 2; i < argc; i++) {
        allowed[atoi(argv[i])] = true;
    }
    printf("%d %d\n", commandr_count_cores(argv[1], allowed, N_CPUS), commandr_cgroup_quota(argv[1]));
    return 0;
}
