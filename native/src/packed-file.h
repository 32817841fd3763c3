/* The file of packed weights beside a model: the very bytes that packing gives, so that a later load maps them.
 *
 * Nothing that goes wrong with this file is an error: the functions say it in the log and return false, and the weights
 * are packed in memory, as without it. */
#ifndef COMMANDR_SRC_PACKED_FILE_H
#define COMMANDR_SRC_PACKED_FILE_H

#include "mapping.h"
#include "packed-header.h"

#include <stdatomic.h>

/* Zeroed at first. */
typedef struct commandr_packed_file {
    char *                   path;
    commandr_packed_header * header;
    commandr_mapping         mapping;   /* of a complete file */
    char *                   temporary; /* NULL: none is being written */
    int                      fd;        /* of the temporary file */
    atomic_int               error;     /* errno of the first write that failed */
} commandr_packed_file;

/* Maps the file beside a model, when it is of the model's files as they are now and has all tensors of a context. */
bool commandr_packed_file_open(commandr_packed_file * file, const commandr_model * model,
                               struct ggml_context * tensors);

/* After open has failed: begins a new file. One process at a time can. */
bool commandr_packed_file_create(commandr_packed_file * file, const commandr_model * model,
                                 struct ggml_context * tensors);

/* Writes a part of a tensor to the new file, from a byte of it on. Any thread. */
void commandr_packed_file_write(commandr_packed_file * file, const struct ggml_tensor * tensor, int64_t from,
                                const void * data, int64_t size);

/* Puts the new file, whose tensors are complete, in the place of an older one and maps it. */
bool commandr_packed_file_finish(commandr_packed_file * file);

/* Where the bytes of a tensor are, in a file that is mapped. */
uint8_t * commandr_packed_file_data(const commandr_packed_file * file, const struct ggml_tensor * tensor);

/* Unmaps the file. One that is not finished is removed. */
void commandr_packed_file_close(commandr_packed_file * file);

#endif
