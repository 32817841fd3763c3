/* One file of a model, opened and checked: most models are one file, split ones several (split.h). */
#ifndef COMMANDR_SRC_GGUF_PART_H
#define COMMANDR_SRC_GGUF_PART_H

#include "commandr.h"
#include "gguf.h"

typedef struct commandr_part {
    char *                path;
    struct gguf_context * ctx;
    int64_t               file_size;
} commandr_part;

/* Checks that ggml can read the header and that the data of every tensor lies inside the file. */
commandr_status commandr_part_open(const char * path, commandr_part * part);
void            commandr_part_close(commandr_part * part); /* a zeroed one is allowed */

/* Goes on with an FNV-1a hash, which begins with COMMANDR_FNV1A_START. */
#define COMMANDR_FNV1A_START 14695981039346656037u
uint64_t commandr_fnv1a(uint64_t hash, const void * data, size_t size);

/* Goes on with such a hash over what tells two models apart without reading gigabytes: the header, the file's size,
 * and the first bytes of some tensors, which are all that differs between fine-tunes of one name. */
commandr_status commandr_part_hash(const commandr_part * part, uint64_t * hash);

#endif
