#include "split.h"

#include "error.h"
#include "gguf-file.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_PARTS 65535 /* split.count is written as a uint16 */

/* What a part says of the whole. count is 1 in a model that is not split. */
typedef struct split_keys {
    int64_t no, count, n_tensors;
} split_keys;

static commandr_status read_keys(const commandr_part * part, split_keys * keys) {
    const commandr_gguf gguf = { .path = part->path, .ctx = part->ctx };
    *keys                    = (split_keys) { .count = 1 };
    if (commandr_gguf_find(&gguf, "split.count") < 0) {
        return COMMANDR_OK;
    }
    commandr_status status = commandr_gguf_int(&gguf, "split.count", 0, MAX_PARTS, &keys->count);
    if (status == COMMANDR_OK && keys->count > 1) {
        status = commandr_gguf_int(&gguf, "split.no", 0, keys->count - 1, &keys->no);
        if (status == COMMANDR_OK) {
            status = commandr_gguf_int(&gguf, "split.tensors.count", 0, INT32_MAX, &keys->n_tensors);
        }
    }
    return status;
}

/* The end of the name of part number no, counted from 0; valid until the next call on this thread. */
static const char * name_end(int64_t no, int64_t count) {
    static _Thread_local char end[64];
    snprintf(end, sizeof(end), "-%05" PRId64 "-of-%05" PRId64 ".gguf", no + 1, count);
    return end;
}

/* Can the other parts be found from this one, and is it the first? */
static commandr_status check_first(const char * path, const split_keys * keys) {
    const char * end    = name_end(keys->no, keys->count);
    const size_t length = strlen(path);
    const size_t stem   = length - (strlen(end) < length ? strlen(end) : length);
    if (strcmp(path + stem, end) != 0) {
        return commandr_fail(COMMANDR_ERROR_FORMAT,
                             "%s: its keys make it part %" PRId64 " of %" PRId64
                             ", and the name of such a file ends in %s: the other parts cannot be found",
                             path, keys->no + 1, keys->count, end);
    }
    if (keys->no != 0) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT,
                             "%s: part %" PRId64 " of %" PRId64 " of a split model; load the first part, %.*s%s", path,
                             keys->no + 1, keys->count, (int) stem, path, name_end(0, keys->count));
    }
    return COMMANDR_OK;
}

/* Does a part other than the first carry on what the first begins? */
static commandr_status check_next(const commandr_part * part, const commandr_part * first, const split_keys * keys,
                                  int64_t no) {
    split_keys            own;
    const commandr_status status = read_keys(part, &own);
    if (status != COMMANDR_OK) {
        return status;
    }
    if (own.no != no || own.count != keys->count) {
        return commandr_fail(COMMANDR_ERROR_FORMAT,
                             "%s: its keys make it part %" PRId64 " of %" PRId64 ", and it is named as part %" PRId64
                             " of the %" PRId64 " of %s",
                             part->path, own.no + 1, own.count, no + 1, keys->count, first->path);
    }
    if (own.n_tensors != keys->n_tensors) {
        return commandr_fail(COMMANDR_ERROR_FORMAT,
                             "%s: a part of another model than %s: split.tensors.count is %" PRId64 " here and %" PRId64
                             " there",
                             part->path, first->path, own.n_tensors, keys->n_tensors);
    }
    return COMMANDR_OK;
}

/* Is every tensor there, and none twice? */
static commandr_status check_tensors(const commandr_part * parts, int32_t n_parts, int64_t n_expected) {
    int64_t n_tensors = 0;
    for (int32_t p = 0; p < n_parts; p++) {
        const int64_t n = gguf_get_n_tensors(parts[p].ctx);
        for (int64_t i = 0; i < n; i++) {
            const char * name = gguf_get_tensor_name(parts[p].ctx, i);
            for (int32_t q = 0; q < p; q++) {
                if (gguf_find_tensor(parts[q].ctx, name) >= 0) {
                    return commandr_fail(COMMANDR_ERROR_FORMAT, "%s: the tensor %s lies in %s as well", parts[p].path,
                                         name, parts[q].path);
                }
            }
        }
        n_tensors += n;
    }
    if (n_tensors != n_expected) {
        return commandr_fail(COMMANDR_ERROR_FORMAT,
                             "%s: split.tensors.count is %" PRId64 ", and the %d parts hold %" PRId64 " tensors",
                             parts[0].path, n_expected, n_parts, n_tensors);
    }
    return COMMANDR_OK;
}

/* Opens parts[1..], whose paths differ from the first one's in their number only. */
static commandr_status open_others(commandr_part * parts, const split_keys * keys) {
    const commandr_part * first = &parts[0];
    char *                path  = strdup(first->path);
    if (!path) {
        return commandr_fail(COMMANDR_ERROR_MEMORY, "%s: out of memory", first->path);
    }
    const size_t    stem   = strlen(path) - strlen(name_end(0, keys->count));
    commandr_status status = COMMANDR_OK;
    for (int64_t no = 1; no < keys->count && status == COMMANDR_OK; no++) {
        const char * end = name_end(no, keys->count);
        memcpy(path + stem, end, strlen(end));
        if (access(path, F_OK) != 0) {
            status = commandr_fail(COMMANDR_ERROR_IO,
                                   "%s: there is no such file; it is part %" PRId64 " of the %" PRId64 " of %s", path,
                                   no + 1, keys->count, first->path);
            break;
        }
        status = commandr_part_open(path, &parts[no]);
        if (status == COMMANDR_OK) {
            status = check_next(&parts[no], first, keys, no);
        }
    }
    free(path);
    return status == COMMANDR_OK ? check_tensors(parts, (int32_t) keys->count, keys->n_tensors) : status;
}

commandr_status commandr_parts_open(const char * path, commandr_part ** out, int32_t * n_out) {
    commandr_part   first;
    split_keys      keys;
    commandr_status status = commandr_part_open(path, &first);
    if (status != COMMANDR_OK) {
        return status;
    }
    status = read_keys(&first, &keys);
    if (status == COMMANDR_OK && keys.count > 1) {
        status = check_first(path, &keys);
    }
    const int32_t   n_parts = keys.count > 1 ? (int32_t) keys.count : 1;
    commandr_part * parts   = status == COMMANDR_OK ? calloc((size_t) n_parts, sizeof(*parts)) : NULL;
    if (!parts) {
        commandr_part_close(&first);
        return status != COMMANDR_OK ? status : commandr_fail(COMMANDR_ERROR_MEMORY, "%s: out of memory", path);
    }
    parts[0] = first;
    if (n_parts > 1) {
        status = open_others(parts, &keys);
    }
    if (status != COMMANDR_OK) {
        commandr_parts_close(parts, n_parts);
        return status;
    }
    *out   = parts;
    *n_out = n_parts;
    return COMMANDR_OK;
}

void commandr_parts_close(commandr_part * parts, int32_t n_parts) {
    for (int32_t i = 0; parts && i < n_parts; i++) {
        commandr_part_close(&parts[i]);
    }
    free(parts);
}
