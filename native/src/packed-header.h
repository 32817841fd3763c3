/* What stands at the start of a file of packed weights:
 *
 *   1. header (struct below, native byte order: little-endian on every machine ggml knows)
 *   2. of each file of the model its size and time, source [n_sources]
 *   3. the tensors in it, entry [n_entries]
 *
 * The bytes of the tensors follow, each from a multiple of 4096 on, in the order that kernels/packed.h describes. */
#ifndef COMMANDR_SRC_PACKED_HEADER_H
#define COMMANDR_SRC_PACKED_HEADER_H

#include "model.h"

typedef struct commandr_packed_entry {
    char     name[GGML_MAX_NAME];
    int64_t  type, ne[2], offset, size; /* as in commandr_tensor_info */
    uint64_t sample;                    /* FNV-1a of a page of the bytes every 64 MiB, and of the last page */
} commandr_packed_entry;

typedef struct commandr_packed_header {
    char     magic[8];
    uint32_t version; /* COMMANDR_PACKED_VERSION * 256 + that of this header, 1 */
    int32_t  n_sources;
    int64_t  n_entries;
    uint64_t fingerprint; /* of the model */
    uint64_t hash;        /* FNV-1a of all of 1 to 3 but this field */
} commandr_packed_header;

/* Lays the tensors of a context out one after the other. *file_size receives the bytes of the whole file. To be sealed
 * and freed; NULL when out of memory. */
commandr_packed_header * commandr_packed_header_make(const commandr_model * model, struct ggml_context * tensors,
                                                     int64_t * file_size);

/* Fills in the samples of an open file whose tensors are complete, and the hash. False when it cannot be read. */
bool commandr_packed_header_seal(commandr_packed_header * header, int fd);

/* Bytes of 1 to 3. */
int64_t commandr_packed_header_size(const commandr_packed_header * header);

/* Reads and checks 1 to 3 of an open file, which may say anything. Returns what is wrong with it; NULL when it was made
 * of the model's files as they are now, every entry is a tensor of the model, lies inside the file and has its sample: a
 * file that was cut short or whose tensors were never written is noticed at the cost of a few reads, a page lost between
 * the samples is not. *out is to be freed. */
const char * commandr_packed_header_read(int fd, const commandr_model * model, commandr_packed_header ** out);

/* NULL when there is none of this name. */
const commandr_packed_entry * commandr_packed_header_find(const commandr_packed_header * header, const char * tensor);

#endif
