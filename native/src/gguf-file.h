/* The header of a GGUF file, or of the files of a split model: what commandr.h shows of it, and typed look-ups for the
 * loader. */
#ifndef COMMANDR_SRC_GGUF_FILE_H
#define COMMANDR_SRC_GGUF_FILE_H

#include "commandr.h"
#include "gguf-part.h"

struct commandr_gguf {
    struct gguf_context *  ctx;  /* of the first part, which has the keys */
    const char *           path; /* of the first part */
    commandr_part *        parts;
    int32_t                n_parts;
    commandr_tensor_info * tensors; /* of all parts, in their order */
    int64_t                n_tensors;
    uint64_t               fingerprint; /* FNV-1a, see commandr_part_hash; over all parts */
};

const commandr_tensor_info * commandr_gguf_find_tensor(const commandr_gguf * gguf, const char * name); /* or NULL */

/* The look-ups fail with a sentence that names the file and the key when the key is absent or of another kind. */
commandr_status commandr_gguf_int(const commandr_gguf * gguf, const char * key, int64_t min, int64_t max,
                                  int64_t * out);
commandr_status commandr_gguf_float(const commandr_gguf * gguf, const char * key, float * out);
commandr_status commandr_gguf_string(const commandr_gguf * gguf, const char * key, const char ** out);

#endif
