#include "packed-header.h"

#include "kernels/packed.h"
#include "places.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char MAGIC[8] = "CMDRPACK";
#define VERSION     (COMMANDR_PACKED_VERSION * 256 + 1)
#define ALIGNMENT   ((int64_t) 4096) /* a page */
#define SAMPLE_STEP ((int64_t) 64 << 20)

typedef struct source {
    int64_t size, mtime_ns;
} source;

static const char damaged[] = "its header is damaged";
static const char other[]   = "it is of another model";
static const char cut_off[] = "it was cut off";

static source source_of(const commandr_mapping * part) {
    return (source) { .size = part->size, .mtime_ns = part->mtime_ns };
}

static const source * sources_of(const commandr_packed_header * h) {
    return (const source *) (h + 1);
}

static const commandr_packed_entry * entries_of(const commandr_packed_header * h) {
    return (const commandr_packed_entry *) (sources_of(h) + h->n_sources);
}

static int64_t size_of(int64_t n_sources, int64_t n_entries) {
    return (int64_t) sizeof(commandr_packed_header) + n_sources * (int64_t) sizeof(source) +
           n_entries * (int64_t) sizeof(commandr_packed_entry);
}

int64_t commandr_packed_header_size(const commandr_packed_header * header) {
    return size_of(header->n_sources, header->n_entries);
}

static uint64_t hash_of(const commandr_packed_header * h) {
    const size_t   rest = (size_t) commandr_packed_header_size(h) - sizeof(*h);
    const uint64_t hash = commandr_fnv1a(COMMANDR_FNV1A_START, h, offsetof(commandr_packed_header, hash));
    return commandr_fnv1a(hash, h + 1, rest);
}

const commandr_packed_entry * commandr_packed_header_find(const commandr_packed_header * header, const char * tensor) {
    const commandr_packed_entry * entries = entries_of(header);
    for (int64_t i = 0; i < header->n_entries; i++) {
        if (strcmp(entries[i].name, tensor) == 0) {
            return &entries[i];
        }
    }
    return NULL;
}

commandr_packed_header * commandr_packed_header_make(const commandr_model * model, struct ggml_context * tensors,
                                                     int64_t * file_size) {
    const int32_t n_sources = model->gguf->n_parts;
    int64_t       n_entries = 0;
    for (struct ggml_tensor * t = ggml_get_first_tensor(tensors); t; t = ggml_get_next_tensor(tensors, t)) {
        n_entries++;
    }
    int64_t                  end = size_of(n_sources, n_entries);
    commandr_packed_header * h   = calloc(1, (size_t) end);
    if (!h) {
        return NULL;
    }
    memcpy(h->magic, MAGIC, sizeof(MAGIC));
    h->version       = VERSION;
    h->n_sources     = n_sources;
    h->n_entries     = n_entries;
    h->fingerprint   = model->gguf->fingerprint;
    source * sources = (source *) (h + 1);
    for (int32_t i = 0; i < n_sources; i++) {
        sources[i] = source_of(&model->weights->mappings[i]);
    }
    commandr_packed_entry * e = (commandr_packed_entry *) (sources + n_sources);
    for (struct ggml_tensor * t = ggml_get_first_tensor(tensors); t; t = ggml_get_next_tensor(tensors, t), e++) {
        snprintf(e->name, sizeof(e->name), "%s", t->name);
        e->type   = t->type;
        e->ne[0]  = t->ne[0];
        e->ne[1]  = t->ne[1];
        e->size   = (int64_t) ggml_nbytes(t);
        e->offset = (end + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        end       = e->offset + e->size;
    }
    *file_size = end;
    return h;
}

static bool read_at(int fd, int64_t offset, void * data, int64_t size) {
    int64_t done = 0;
    while (done < size) {
        const ssize_t n = pread(fd, (char *) data + done, (size_t) (size - done), (off_t) (offset + done));
        if (n == 0 || (n < 0 && errno != EINTR)) {
            return false;
        }
        done += n > 0 ? n : 0;
    }
    return true;
}

/* Adds up to a page of an entry's bytes to its sample. */
static bool add_page(int fd, const commandr_packed_entry * e, int64_t at, uint64_t * sample) {
    uint8_t       page[ALIGNMENT];
    const int64_t size = e->size - at < ALIGNMENT ? e->size - at : ALIGNMENT;
    if (!read_at(fd, e->offset + at, page, size)) {
        return false;
    }
    *sample = commandr_fnv1a(*sample, page, (size_t) size);
    return true;
}

static bool take_sample(int fd, const commandr_packed_entry * e, uint64_t * sample) {
    *sample   = COMMANDR_FNV1A_START;
    bool read = true;
    for (int64_t at = 0; at < e->size && read; at += SAMPLE_STEP) {
        read = add_page(fd, e, at, sample);
    }
    return read && add_page(fd, e, e->size > ALIGNMENT ? e->size - ALIGNMENT : 0, sample);
}

bool commandr_packed_header_seal(commandr_packed_header * h, int fd) {
    commandr_packed_entry * entries = (commandr_packed_entry *) ((source *) (h + 1) + h->n_sources);
    bool                    read    = true;
    for (int64_t i = 0; i < h->n_entries && read; i++) {
        read = take_sample(fd, &entries[i], &entries[i].sample);
    }
    h->hash = hash_of(h);
    return read;
}

static const char * check_entry(int fd, const commandr_packed_entry * e, const commandr_gguf * gguf, int64_t first,
                                int64_t file_size) {
    if (!memchr(e->name, '\0', sizeof(e->name)) || e->offset < first || e->offset % ALIGNMENT != 0) {
        return damaged;
    }
    const commandr_tensor_info * info = commandr_gguf_find_tensor(gguf, e->name);
    if (!info || e->type != info->type || e->ne[0] != info->ne[0] || e->ne[1] != info->ne[1] || e->size != info->size) {
        return other;
    }
    if (e->size > file_size || e->offset > file_size - e->size) {
        return cut_off;
    }
    uint64_t sample;
    return take_sample(fd, e, &sample) && sample == e->sample ? NULL : "its weights are damaged";
}

static const char * check_all(int fd, const commandr_packed_header * h, const commandr_model * model,
                              int64_t file_size) {
    const commandr_gguf * gguf = model->gguf;
    if (h->hash != hash_of(h)) {
        return damaged;
    }
    if (h->fingerprint != gguf->fingerprint) {
        return other;
    }
    for (int32_t i = 0; i < h->n_sources; i++) {
        const source now = source_of(&model->weights->mappings[i]);
        if (memcmp(&sources_of(h)[i], &now, sizeof(now)) != 0) {
            return "the model's file has changed since";
        }
    }
    const int64_t first = commandr_packed_header_size(h);
    const char *  wrong = NULL;
    for (int64_t i = 0; i < h->n_entries && !wrong; i++) {
        wrong = check_entry(fd, &entries_of(h)[i], gguf, first, file_size);
    }
    return wrong;
}

const char * commandr_packed_header_read(int fd, const commandr_model * model, commandr_packed_header ** out) {
    struct stat            st;
    commandr_packed_header fixed;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || !read_at(fd, 0, &fixed, sizeof(fixed)) ||
        memcmp(fixed.magic, MAGIC, sizeof(MAGIC)) != 0) {
        return "it is no file of packed weights";
    }
    if (fixed.version != VERSION) {
        return "it was written by another version of this program";
    }
    if (fixed.n_sources != model->gguf->n_parts || fixed.n_entries < 1 || fixed.n_entries > model->gguf->n_tensors) {
        return other;
    }
    const int64_t            size  = commandr_packed_header_size(&fixed);
    commandr_packed_header * h     = malloc((size_t) size);
    const char *             wrong = NULL;
    if (!h) {
        return "out of memory";
    }
    if (!read_at(fd, 0, h, size)) {
        wrong = cut_off;
    } else if (memcmp(h, &fixed, sizeof(fixed)) != 0) { /* changed between the two reads: the counts must be checked */
        wrong = damaged;
    } else {
        wrong = check_all(fd, h, model, (int64_t) st.st_size);
    }
    if (wrong) {
        free(h);
        return wrong;
    }
    *out = h;
    return NULL;
}
