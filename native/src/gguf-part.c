#include "gguf-part.h"

#include "error.h"
#include "log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>

/* Tensors are used in place from the mapped file, and ggml wants them aligned to this. */
#define MIN_ALIGNMENT 32

static commandr_status check_file(const char * path, int64_t * size) {
    struct stat st;
    if (stat(path, &st) != 0) {
        return commandr_fail(COMMANDR_ERROR_IO, "%s: %s", *path ? path : "the empty path", strerror(errno));
    }
    if (!S_ISREG(st.st_mode)) {
        return commandr_fail(COMMANDR_ERROR_IO, "%s: not a file", path);
    }
    FILE * file = fopen(path, "rb");
    if (!file) {
        return commandr_fail(COMMANDR_ERROR_IO, "%s: cannot be read: %s", path, strerror(errno));
    }
    char         magic[4] = { 0 };
    const size_t n_magic  = fread(magic, 1, sizeof(magic), file);
    fclose(file);
    if (n_magic != sizeof(magic) || memcmp(magic, GGUF_MAGIC, sizeof(magic)) != 0) {
        return commandr_fail(COMMANDR_ERROR_FORMAT, "%s: not a GGUF file (it does not begin with \"GGUF\")", path);
    }
    *size = (int64_t) st.st_size;
    return COMMANDR_OK;
}

static commandr_status check_tensors(const commandr_part * part) {
    const size_t alignment = gguf_get_alignment(part->ctx);
    if (alignment % MIN_ALIGNMENT != 0) {
        return commandr_fail(COMMANDR_ERROR_UNSUPPORTED, "%s: general.alignment is %zu, not a multiple of %d",
                             part->path, alignment, MIN_ALIGNMENT);
    }
    const int64_t n_tensors = gguf_get_n_tensors(part->ctx);
    const int64_t base      = (int64_t) gguf_get_data_offset(part->ctx);
    for (int64_t i = 0; i < n_tensors; i++) {
        const int64_t end =
            base + (int64_t) (gguf_get_tensor_offset(part->ctx, i) + gguf_get_tensor_size(part->ctx, i));
        if (end < base || end > part->file_size) {
            return commandr_fail(COMMANDR_ERROR_FORMAT,
                                 "%s: the file ends at byte %" PRId64 ", inside tensor %s, which ends at byte %" PRId64
                                 ": it was cut off",
                                 part->path, part->file_size, gguf_get_tensor_name(part->ctx, i), end);
        }
    }
    return COMMANDR_OK;
}

commandr_status commandr_part_open(const char * path, commandr_part * part) {
    commandr_log_init();
    commandr_part   opened = { .path = NULL };
    commandr_status status = check_file(path, &opened.file_size);
    if (status != COMMANDR_OK) {
        return status;
    }
    opened.path = strdup(path);
    if (!opened.path) {
        return commandr_fail(COMMANDR_ERROR_MEMORY, "%s: out of memory", path);
    }
    commandr_log_clear_error();
    opened.ctx = gguf_init_from_file(path, (struct gguf_init_params) { .no_alloc = true, .ctx = NULL });
    status     = opened.ctx ? check_tensors(&opened)
                            : commandr_fail(COMMANDR_ERROR_FORMAT, "%s: damaged GGUF header: %s", path,
                                            commandr_log_first_error());
    if (status != COMMANDR_OK) {
        commandr_part_close(&opened);
        return status;
    }
    *part = opened;
    return COMMANDR_OK;
}

void commandr_part_close(commandr_part * part) {
    gguf_free(part->ctx);
    free(part->path);
    *part = (commandr_part) { .path = NULL };
}

uint64_t commandr_fnv1a(uint64_t hash, const void * data, size_t size) {
    const uint8_t * bytes = data;
    for (size_t i = 0; i < size; i++) {
        hash = (hash ^ bytes[i]) * 1099511628211u;
    }
    return hash;
}

commandr_status commandr_part_hash(const commandr_part * part, uint64_t * hash) {
    FILE * file = fopen(part->path, "rb");
    if (!file) {
        return commandr_fail(COMMANDR_ERROR_IO, "%s: cannot be opened", part->path);
    }
    uint64_t sum = commandr_fnv1a(*hash, &part->file_size, sizeof(part->file_size));
    char     buffer[4096];
    size_t   left = gguf_get_data_offset(part->ctx);
    while (left > 0) {
        const size_t n = fread(buffer, 1, left < sizeof(buffer) ? left : sizeof(buffer), file);
        if (n == 0) {
            break;
        }
        sum = commandr_fnv1a(sum, buffer, n);
        left -= n;
    }
    const int64_t n_tensors = gguf_get_n_tensors(part->ctx);
    for (int64_t i = 0; i < n_tensors; i += 1 + n_tensors / 16) {
        const size_t offset = gguf_get_data_offset(part->ctx) + gguf_get_tensor_offset(part->ctx, i);
        const size_t size   = gguf_get_tensor_size(part->ctx, i);
        if (fseeko(file, (off_t) offset, SEEK_SET) == 0) {
            sum = commandr_fnv1a(sum, buffer, fread(buffer, 1, size < 256 ? size : 256, file));
        }
    }
    fclose(file);
    *hash = sum;
    return COMMANDR_OK;
}
