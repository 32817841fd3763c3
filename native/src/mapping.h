/* A file mapped read-only, and advice to the kernel on memory. */
#ifndef COMMANDR_SRC_MAPPING_H
#define COMMANDR_SRC_MAPPING_H

#include "commandr.h"

#include <stddef.h>

typedef struct commandr_mapping {
    uint8_t * data;
    int64_t   size;     /* bytes */
    int64_t   mtime_ns; /* when the file was last modified: nanoseconds since 1970 */
} commandr_mapping;

commandr_status commandr_mapping_open(const char * path, commandr_mapping * mapping);
commandr_status commandr_mapping_of(int fd, const char * path, commandr_mapping * mapping); /* fd: may be closed then */
void            commandr_mapping_close(commandr_mapping * mapping); /* a zeroed one is allowed */

/* Tells the kernel that a range will be read soon, or that its pages need not stay resident: they can be read again. */
void commandr_mapping_prefetch(const commandr_mapping * mapping, int64_t offset, int64_t size);
void commandr_mapping_drop(const commandr_mapping * mapping, int64_t offset, int64_t size);

/* Asks for large pages for memory that will be read in long runs. */
void commandr_memory_huge(void * data, size_t size);

#endif
