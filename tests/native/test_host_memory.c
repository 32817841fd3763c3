/* Prints what the files of a system say of free memory, in bytes; -1 for nothing. test_host_memory ROOT */
#include "host-memory.h"

#include <stdio.h>

int main(int argc, char ** argv) {
    printf("%lld\n", (long long) (argc == 2 ? commandr_host_memory_read(argv[1]) : commandr_host_memory_available()));
    return 0;
}
