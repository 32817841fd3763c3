/* The header of a GGUF file: what commandr.h shows of it, and typed look-ups for the loader. */
#ifndef COMMANDR_SRC_GGUF_FILE_H
#define COMMANDR_SRC_GGUF_FILE_H

#include "commandr.h"
#include "gguf.h"

struct commandr_gguf {
    struct gguf_context * ctx;
    char *                path;
    int64_t               file_size;
    uint64_t              fingerprint; /* FNV-1a of the header, the file's size and the first bytes of some tensors */
};

/* The look-ups fail with a sentence that names the file and the key when the key is absent or of another kind. */
commandr_status commandr_gguf_int(const commandr_gguf * gguf, const char * key, int64_t min, int64_t max,
                                  int64_t * out);
commandr_status commandr_gguf_float(const commandr_gguf * gguf, const char * key, float * out);
commandr_status commandr_gguf_string(const commandr_gguf * gguf, const char * key, const char ** out);

#endif
