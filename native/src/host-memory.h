/* What the system says about its memory. */
#ifndef COMMANDR_SRC_HOST_MEMORY_H
#define COMMANDR_SRC_HOST_MEMORY_H

#include <stdint.h>

/* Bytes that this process can take without making others give theirs up: what Linux says is available, and what the
 * limits of the process's control groups and of `ulimit` leave. Files that are only cached count as free. Without these facts all of
 * the machine's memory. */
int64_t commandr_host_memory_available(void);

/* The same for memory whose addresses are set aside already: `ulimit -v` has counted them. */
int64_t commandr_host_memory_for_addresses(void);

/* The same of a system whose files lie below root: "" but in tests. -1: it does not say. */
int64_t commandr_host_memory_read(const char * root);

#endif
