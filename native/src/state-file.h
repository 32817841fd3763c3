/* State files: one sequence's tokens, keys and values.
 *
 *   1. header (struct below, native byte order: little-endian on every machine ggml knows)
 *   2. the tokens, int32 [n_tokens]
 *   3. for each layer, first the layers that see everything, then those with a window:
 *        K rows [n_rows][row size of type_k], V rows [n_rows][row size of type_v], in order of position;
 *        n_rows is n_tokens, or n_tokens - window_first in layers with a window
 *   4. a checksum, uint64: of the checksums of 1, 2, and the rows of 3 in pieces of COMMANDR_STATE_PIECE bytes at most
 *      (whole rows, or one that is larger), so that pieces can be read by several threads
 *
 * Behind the header of a file with another encoding than raw stands something else that 2 to 4 can be had from; those
 * who made it know how. */
#ifndef COMMANDR_SRC_STATE_FILE_H
#define COMMANDR_SRC_STATE_FILE_H

#include "commandr.h"

#include <stddef.h>
#include <stdio.h>

#define COMMANDR_STATE_PIECE ((int64_t) 1 << 20)

typedef struct commandr_state_header {
    char     magic[8];
    uint32_t version;
    uint32_t type_k;
    uint32_t type_v;
    uint32_t reserved;    /* 0 */
    uint64_t fingerprint; /* of the model */
    int64_t  n_layer;
    int64_t  n_embd_kv;
    int64_t  n_tokens;
    int64_t  window_first; /* first position kept in layers with a window */
    uint32_t encoding;     /* 0: raw */
    uint32_t reserved_too; /* 0 */
    int64_t  reserved_end; /* 0 */
} commandr_state_header;

/* A header with magic and version, and else zeros. */
commandr_state_header commandr_state_header_make(void);

/* Whether what a file begins with is a header that can be read, and of the wanted model and cache types. model_path:
 * for the message */
commandr_status commandr_state_header_check(const commandr_state_header * header, const commandr_state_header * want,
                                            const char * path, const char * model_path);

/* The checksum of a piece, and that of a piece and all before it: 0 for none. */
uint64_t commandr_state_hash(const void * data, size_t size);
uint64_t commandr_state_hash_join(uint64_t before, uint64_t piece);

/* Lets write make the file: under another name, which becomes path when all is written. */
typedef commandr_status (*commandr_state_write_fn)(void * ctx, FILE * file);
commandr_status commandr_state_file_replace(const char * path, commandr_state_write_fn write, void * ctx);

#endif
