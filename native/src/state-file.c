#include "state-file.h"

#include "error.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char MAGIC[8] = "CMDRSTAT";
#define STATE_VERSION 2

commandr_state_header commandr_state_header_make(void) {
    commandr_state_header header;
    memset(&header, 0, sizeof(header));
    memcpy(header.magic, MAGIC, sizeof(header.magic));
    header.version = STATE_VERSION;
    return header;
}

commandr_status commandr_state_header_check(const commandr_state_header * h, const commandr_state_header * want,
                                            const char * path, const char * model_path) {
    if (memcmp(h->magic, MAGIC, sizeof(MAGIC)) != 0) {
        return commandr_fail(COMMANDR_ERROR_FORMAT, "%s: not a state file", path);
    }
    if (h->version != STATE_VERSION) {
        return commandr_fail(COMMANDR_ERROR_UNSUPPORTED, "%s: state file version %u, and only %d is known", path,
                             h->version, STATE_VERSION);
    }
    if (h->fingerprint != want->fingerprint || h->n_layer != want->n_layer || h->n_embd_kv != want->n_embd_kv) {
        return commandr_fail(COMMANDR_ERROR_FORMAT, "%s: made with another model than %s", path, model_path);
    }
    if (h->type_k != want->type_k || h->type_v != want->type_v) {
        const char * k = commandr_type_name((int32_t) h->type_k);
        const char * v = commandr_type_name((int32_t) h->type_v);
        return commandr_fail(COMMANDR_ERROR_FORMAT, "%s: its KV cache is %s and %s, this session's %s and %s", path,
                             k ? k : "?", v ? v : "?", commandr_type_name((int32_t) want->type_k),
                             commandr_type_name((int32_t) want->type_v));
    }
    if (h->n_tokens < 1 || h->n_tokens > INT32_MAX || h->window_first < 0 || h->window_first > h->n_tokens) {
        return commandr_fail(COMMANDR_ERROR_FORMAT, "%s: damaged header: %" PRId64 " tokens", path, h->n_tokens);
    }
    if (h->encoding != 0) {
        return commandr_fail(COMMANDR_ERROR_UNSUPPORTED,
                             "%s: a state file in encoding %u, which is to be unpacked first", path, h->encoding);
    }
    return COMMANDR_OK;
}

/* One step of the checksum. The shift brings high bits down, which a product alone never does: without it two flips
 * of a word's top bit would cancel. */
static uint64_t mix(uint64_t hash, uint64_t word) {
    hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 32;
}

/* Four chains, as a single one waits for its products. */
uint64_t commandr_state_hash(const void * data, size_t size) {
    const uint8_t * bytes    = data;
    uint64_t        chain[4] = { size, 1, 2, 3 };
    uint64_t        words[4];
    for (; size >= sizeof(words); size -= sizeof(words), bytes += sizeof(words)) {
        memcpy(words, bytes, sizeof(words));
        for (int i = 0; i < 4; i++) {
            chain[i] = mix(chain[i], words[i]);
        }
    }
    memset(words, 0, sizeof(words));
    memcpy(words, bytes, size);
    uint64_t hash = 14695981039346656037u;
    for (int i = 0; i < 4; i++) {
        hash = mix(hash, mix(chain[i], words[i]));
    }
    return hash;
}

uint64_t commandr_state_hash_join(uint64_t before, uint64_t piece) {
    return mix(before, piece);
}

static commandr_status fail_to_write(const char * path) {
    return commandr_fail(COMMANDR_ERROR_IO, "%s: cannot be written: %s", path, strerror(errno));
}

/* Writes to a new file, which has another name until it is whole. */
static commandr_status write_and_rename(const char * path, const char * target, const char * temporary,
                                        commandr_state_write_fn write, void * ctx) {
    FILE * file = fopen(temporary, "wbx");
    if (!file) {
        return fail_to_write(path);
    }
    commandr_status status = write(ctx, file);
    if (status == COMMANDR_OK && (fflush(file) != 0 || fsync(fileno(file)) != 0)) {
        status = fail_to_write(path);
    }
    if (fclose(file) != 0 && status == COMMANDR_OK) {
        status = fail_to_write(path);
    }
    if (status == COMMANDR_OK && rename(temporary, target) != 0) {
        status = fail_to_write(path);
    }
    if (status != COMMANDR_OK) {
        remove(temporary);
    }
    return status;
}

commandr_status commandr_state_file_replace(const char * path, commandr_state_write_fn write, void * ctx) {
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) { /* nothing renames over a device */
        return commandr_fail(COMMANDR_ERROR_IO, "%s: exists and is not a file", path);
    }
    char * const real      = realpath(path, NULL); /* NULL for a new file; what a link points to is what is replaced */
    const char * target    = real ? real : path;
    const size_t size      = strlen(target) + 64;
    char *       temporary = malloc(size);
    if (!temporary) {
        free(real);
        return commandr_fail(COMMANDR_ERROR_MEMORY, "%s: out of memory", path);
    }
    static atomic_uint n_saves; /* two threads may save to one path */
    snprintf(temporary, size, "%s.%ld.%u.tmp", target, (long) getpid(), atomic_fetch_add(&n_saves, 1));
    const commandr_status status = write_and_rename(path, target, temporary, write, ctx);
    free(temporary);
    free(real);
    return status;
}
