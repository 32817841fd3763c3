/* State files: one sequence's tokens, keys and values.
 *
 *   1. header (struct below, native byte order: little-endian on every machine ggml knows)
 *   2. the tokens, int32 [n_tokens]
 *   3. for each layer, first the layers that see everything, then those with a window:
 *        K rows [n_rows][row size of type_k], V rows [n_rows][row size of type_v], in order of position;
 *        n_rows is n_tokens, or n_tokens - window_first in layers with a window
 *   4. a checksum of all bytes before, taken over 64-bit words, uint64
 */
#include "error.h"
#include "session.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char MAGIC[8] = "CMDRSTAT";
#define STATE_VERSION 1

typedef struct state_header {
    char     magic[8];
    uint32_t version;
    uint32_t type_k;
    uint32_t type_v;
    uint32_t reserved;
    uint64_t fingerprint; /* of the model */
    int64_t  n_layer;
    int64_t  n_embd_kv;
    int64_t  n_tokens;
    int64_t  window_first; /* first position kept in layers with a window */
} state_header;

/* A file with a running checksum. */
typedef struct stream {
    FILE *       file;
    const char * path;
    uint64_t     hash;
    uint64_t     word; /* bytes not hashed yet */
    int          n_word;
    bool         failed;
} stream;

/* One step of the checksum. The shift brings high bits down, which a product alone never does: without it two flips
 * of a word's top bit would cancel. */
static uint64_t mix(uint64_t hash, uint64_t word) {
    hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 32;
}

static void hash_bytes(stream * st, const void * data, size_t size) {
    const uint8_t * bytes = data;
    for (size_t i = 0; i < size;) {
        if (st->n_word == 0 && size - i >= 8) {
            memcpy(&st->word, bytes + i, 8);
            st->hash = mix(st->hash, st->word);
            st->word = 0;
            i += 8;
            continue;
        }
        st->word |= (uint64_t) bytes[i++] << (8 * st->n_word++);
        if (st->n_word == 8) {
            st->hash   = mix(st->hash, st->word);
            st->word   = 0;
            st->n_word = 0;
        }
    }
}

static uint64_t hash_end(const stream * st) {
    return mix(st->hash, st->word);
}

static void put(stream * st, const void * data, size_t size) {
    hash_bytes(st, data, size);
    st->failed = st->failed || fwrite(data, 1, size, st->file) != size;
}

static void get(stream * st, void * data, size_t size) {
    st->failed = st->failed || fread(data, 1, size, st->file) != size;
    if (!st->failed) {
        hash_bytes(st, data, size);
    }
}

/* The rows of one cache tensor to or from the file, in runs of neighboring cells. cells: [n_rows] */
static void move_rows(stream * st, struct ggml_tensor * rows, const int64_t * cells, int64_t n_rows, void * buffer,
                      size_t buffer_size, bool save) {
    const size_t  row_size = rows->nb[1];
    const int64_t max_run  = (int64_t) (buffer_size / row_size);
    for (int64_t i = 0; i < n_rows && !st->failed;) {
        int64_t run = 1;
        while (i + run < n_rows && run < max_run && cells[i + run] == cells[i] + run) {
            run++;
        }
        const size_t offset = (size_t) cells[i] * row_size;
        const size_t size   = (size_t) run * row_size;
        if (save) {
            ggml_backend_tensor_get(rows, buffer, offset, size);
            put(st, buffer, size);
        } else {
            get(st, buffer, size);
            if (!st->failed) {
                ggml_backend_tensor_set(rows, buffer, offset, size);
            }
        }
        i += run;
    }
}

static commandr_status move_all(const commandr_session * s, stream * st, int64_t * const cells[2],
                                const int64_t * n_rows, bool save) {
    size_t buffer_size = (size_t) 1 << 20;
    for (int64_t il = 0; il < s->model->hparams.n_layer; il++) {
        const commandr_kv_layer *  rows = &s->caches[s->model->layers[il].has_window].memory.layers[il];
        const struct ggml_tensor * k    = rows->k;
        const struct ggml_tensor * v    = rows->v;
        buffer_size                     = k->nb[1] > buffer_size ? k->nb[1] : buffer_size;
        buffer_size                     = v->nb[1] > buffer_size ? v->nb[1] : buffer_size;
    }
    void * buffer = malloc(buffer_size);
    if (!buffer) {
        return commandr_fail(COMMANDR_ERROR_MEMORY, "%s: out of memory", st->path);
    }
    for (int which = 0; which < 2; which++) {
        const commandr_kv_memory * memory = &s->caches[which].memory;
        for (int64_t il = 0; il < memory->n_layer; il++) {
            const commandr_kv_layer * layer = &memory->layers[il];
            if (layer->k) {
                move_rows(st, layer->k, cells[which], n_rows[which], buffer, buffer_size, save);
                move_rows(st, layer->v, cells[which], n_rows[which], buffer, buffer_size, save);
            }
        }
    }
    free(buffer);
    return COMMANDR_OK;
}

static state_header make_header(const commandr_session * s, int32_t seq_id) {
    const commandr_hparams *  hp     = &s->model->hparams;
    const commandr_kv_cache * window = &s->caches[COMMANDR_CACHE_WINDOW];
    const int64_t             n      = s->seqs[seq_id].n;
    state_header              header;
    memset(&header, 0, sizeof(header));
    memcpy(header.magic, MAGIC, sizeof(header.magic));
    header.version      = STATE_VERSION;
    header.type_k       = (uint32_t) s->params.type_k;
    header.type_v       = (uint32_t) s->params.type_v;
    header.fingerprint  = s->model->gguf->fingerprint;
    header.n_layer      = hp->n_layer;
    header.n_embd_kv    = hp->n_head_kv * hp->head_dim;
    header.n_tokens     = n;
    header.window_first = window->size > 0 ? commandr_kv_cache_first(window, seq_id, n) : 0;
    return header;
}

/* The sequence's cells by position: from first on, [n_tokens - first]. */
static void list_cells(const commandr_kv_cache * cache, int32_t seq_id, int64_t first, int64_t n_tokens,
                       int64_t * cells) {
    for (int64_t c = 0; c < cache->n_seen; c++) {
        if ((cache->seqs[c] >> seq_id & 1) && cache->pos[c] >= first && cache->pos[c] < n_tokens) {
            cells[cache->pos[c] - first] = c;
        }
    }
}

static commandr_status save_to(const commandr_session * s, int32_t seq_id, const char * path, FILE * file) {
    const state_header header = make_header(s, seq_id);
    stream             st     = { .file = file, .path = path, .hash = 14695981039346656037u };
    int64_t *          cells  = calloc((size_t) header.n_tokens * 2 + 1, sizeof(*cells));
    if (!cells) {
        return commandr_fail(COMMANDR_ERROR_MEMORY, "%s: out of memory", path);
    }
    int64_t * const by_cache[2] = { cells, cells + header.n_tokens };
    const int64_t   n_rows[2]   = { header.n_tokens, header.n_tokens - header.window_first };
    list_cells(&s->caches[0], seq_id, 0, header.n_tokens, by_cache[0]);
    list_cells(&s->caches[1], seq_id, header.window_first, header.n_tokens, by_cache[1]);

    put(&st, &header, sizeof(header));
    put(&st, s->seqs[seq_id].tokens, (size_t) header.n_tokens * sizeof(int32_t));
    const commandr_status status = move_all(s, &st, by_cache, n_rows, true);
    free(cells);
    if (status != COMMANDR_OK) {
        return status;
    }
    const uint64_t hash = hash_end(&st);
    put(&st, &hash, sizeof(hash));
    if (st.failed || fflush(file) != 0 || fsync(fileno(file)) != 0) {
        return commandr_fail(COMMANDR_ERROR_IO, "%s: cannot be written: %s", path, strerror(errno));
    }
    return COMMANDR_OK;
}

commandr_status commandr_session_state_save(const commandr_session * s, int32_t seq_id, const char * path) {
    commandr_status status = commandr_session_check_seq(s, seq_id);
    if (status != COMMANDR_OK) {
        return status;
    }
    if (!path || s->seqs[seq_id].n == 0) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "sequence %d is empty, or path is NULL: there is nothing to save",
                             seq_id);
    }
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        return commandr_fail(COMMANDR_ERROR_IO, "%s: exists and is not a file",
                             path); /* nothing renames over a device */
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
    FILE * file = fopen(temporary, "wbx");
    if (!file) {
        status = commandr_fail(COMMANDR_ERROR_IO, "%s: cannot be written: %s", path, strerror(errno));
    } else {
        status = save_to(s, seq_id, path, file);
        if (fclose(file) != 0 && status == COMMANDR_OK) {
            status = commandr_fail(COMMANDR_ERROR_IO, "%s: cannot be written: %s", path, strerror(errno));
        }
        if (status == COMMANDR_OK && rename(temporary, target) != 0) {
            status = commandr_fail(COMMANDR_ERROR_IO, "%s: cannot be written: %s", path, strerror(errno));
        }
        if (status != COMMANDR_OK) {
            remove(temporary);
        }
    }
    free(temporary);
    free(real);
    return status;
}

static commandr_status check_header(const commandr_session * s, int32_t seq_id, const char * path,
                                    const state_header * h) {
    const state_header want = make_header(s, seq_id);
    if (memcmp(h->magic, MAGIC, sizeof(MAGIC)) != 0) {
        return commandr_fail(COMMANDR_ERROR_FORMAT, "%s: not a state file", path);
    }
    if (h->version != STATE_VERSION) {
        return commandr_fail(COMMANDR_ERROR_UNSUPPORTED, "%s: state file version %u, and only %d is known", path,
                             h->version, STATE_VERSION);
    }
    if (h->fingerprint != want.fingerprint || h->n_layer != want.n_layer || h->n_embd_kv != want.n_embd_kv) {
        return commandr_fail(COMMANDR_ERROR_FORMAT, "%s: made with another model than %s", path, s->model->gguf->path);
    }
    if (h->type_k != want.type_k || h->type_v != want.type_v) {
        const char * k = commandr_type_name((int32_t) h->type_k);
        const char * v = commandr_type_name((int32_t) h->type_v);
        return commandr_fail(COMMANDR_ERROR_FORMAT, "%s: its KV cache is %s and %s, this session's %s and %s", path,
                             k ? k : "?", v ? v : "?", commandr_type_name(s->params.type_k),
                             commandr_type_name(s->params.type_v));
    }
    if (h->n_tokens < 1 || h->n_tokens > INT32_MAX || h->window_first < 0 || h->window_first > h->n_tokens) {
        return commandr_fail(COMMANDR_ERROR_FORMAT, "%s: damaged header: %" PRId64 " tokens", path, h->n_tokens);
    }
    return COMMANDR_OK;
}

/* Makes sure that the tokens fit, and have memory, once what the sequence holds alone has been given up. */
static commandr_status make_room(commandr_session * s, int32_t seq_id, const char * path, const state_header * h) {
    const commandr_kv_cache * cache  = &s->caches[COMMANDR_CACHE_FULL];
    int64_t                   n_free = commandr_session_n_free(s);
    for (int64_t c = 0; c < cache->n_seen; c++) {
        n_free += cache->seqs[c] == (uint64_t) 1 << seq_id;
    }
    if (h->n_tokens > n_free) {
        return commandr_fail(COMMANDR_ERROR_CONTEXT,
                             "%s: its %" PRId64 " tokens do not fit in the context of %" PRId64 ", of which %" PRId64
                             " are free",
                             path, h->n_tokens, s->params.n_ctx, n_free);
    }
    const int64_t n_window   = s->caches[COMMANDR_CACHE_WINDOW].n_used + h->n_tokens - h->window_first;
    const int64_t n_cells[2] = { s->params.n_ctx - n_free + h->n_tokens, n_window };
    return commandr_session_hold(s, n_cells, 1);
}

/* The size that a file with this header must have. */
static int64_t file_size(const commandr_session * s, const state_header * h) {
    int64_t size = (int64_t) sizeof(*h) + h->n_tokens * (int64_t) sizeof(int32_t) + (int64_t) sizeof(uint64_t);
    for (int which = 0; which < 2; which++) {
        size += (h->n_tokens - (which ? h->window_first : 0)) * (int64_t) s->caches[which].memory.cell_size;
    }
    return size;
}

static commandr_status check_size(FILE * file, const char * path, int64_t want) {
    const long at = ftell(file);
    if (at < 0 || fseek(file, 0, SEEK_END) != 0) {
        return commandr_fail(COMMANDR_ERROR_IO, "%s: cannot be read: %s", path, strerror(errno));
    }
    const long size = ftell(file);
    if (size != want) {
        return commandr_fail(COMMANDR_ERROR_FORMAT,
                             "%s: %ld bytes long, and its header calls for %" PRId64 ": it was cut off", path, size,
                             want);
    }
    return fseek(file, at, SEEK_SET) == 0
               ? COMMANDR_OK
               : commandr_fail(COMMANDR_ERROR_IO, "%s: cannot be read: %s", path, strerror(errno));
}

/* Takes cells for the positions of a sequence that is empty. */
static commandr_status take_cells(commandr_session * s, int32_t seq_id, const state_header * h,
                                  int64_t * const cells[2], const int64_t * n_rows) {
    int64_t next_pos[COMMANDR_MAX_SEQS];
    for (int32_t i = 0; i < COMMANDR_MAX_SEQS; i++) {
        next_pos[i] = s->seqs[i].n;
    }
    for (int which = 0; which < 2; which++) {
        for (int64_t i = 0; i < n_rows[which] && s->caches[which].size > 0; i++) {
            const int64_t pos = i + (which ? h->window_first : 0);
            cells[which][i]   = commandr_kv_cache_take(&s->caches[which], next_pos, seq_id, pos);
            if (cells[which][i] < 0) {
                for (int w = 0; w < 2; w++) {
                    commandr_kv_cache_seq_rm(&s->caches[w], seq_id, 0);
                }
                return commandr_fail(COMMANDR_ERROR_CONTEXT,
                                     "%" PRId64 " tokens do not fit beside what the other sequences hold", h->n_tokens);
            }
        }
    }
    return COMMANDR_OK;
}

static commandr_status load_rest(commandr_session * s, int32_t seq_id, stream * st, const state_header * h) {
    commandr_sequence * seq    = &s->seqs[seq_id];
    commandr_status     status = commandr_sequence_reserve(seq, h->n_tokens);
    int64_t *           cells  = calloc((size_t) h->n_tokens * 2, sizeof(*cells));
    if (status == COMMANDR_OK && !cells) {
        status = commandr_fail(COMMANDR_ERROR_MEMORY, "%s: out of memory", st->path);
    }
    if (status == COMMANDR_OK) {
        int64_t * const by_cache[2] = { cells, cells + h->n_tokens };
        const int64_t   n_rows[2]   = { h->n_tokens, h->n_tokens - h->window_first };
        get(st, seq->tokens, (size_t) h->n_tokens * sizeof(int32_t));
        status = take_cells(s, seq_id, h, by_cache, n_rows);
        if (status == COMMANDR_OK) {
            seq->n = h->n_tokens; /* so that truncating the sequence gives the cells back */
            status = move_all(s, st, by_cache, n_rows, false);
        }
    }
    free(cells);
    if (status != COMMANDR_OK) {
        return status;
    }
    const uint64_t want = hash_end(st);
    uint64_t       hash = 0;
    get(st, &hash, sizeof(hash));
    for (int64_t i = 0; i < h->n_tokens && hash == want; i++) {
        if (seq->tokens[i] < 0 || seq->tokens[i] >= s->model->hparams.n_vocab) {
            hash = want + 1;
        }
    }
    return st->failed || hash != want
               ? commandr_fail(COMMANDR_ERROR_FORMAT, "%s: damaged: its checksum is wrong", st->path)
               : COMMANDR_OK;
}

commandr_status commandr_session_state_load(commandr_session * s, int32_t seq_id, const char * path) {
    commandr_status status = commandr_session_check_seq(s, seq_id);
    if (status != COMMANDR_OK) {
        return status;
    }
    FILE * file = path ? fopen(path, "rb") : NULL;
    if (!file) {
        return commandr_fail(COMMANDR_ERROR_IO, "%s: cannot be opened: %s", path ? path : "NULL", strerror(errno));
    }
    stream       st = { .file = file, .path = path, .hash = 14695981039346656037u };
    state_header header;
    get(&st, &header, sizeof(header));
    status = st.failed ? commandr_fail(COMMANDR_ERROR_FORMAT, "%s: not a state file", path)
                       : check_header(s, seq_id, path, &header);
    if (status == COMMANDR_OK) {
        status = check_size(file, path, file_size(s, &header));
    }
    if (status == COMMANDR_OK) {
        status = make_room(s, seq_id, path, &header);
    }
    if (status == COMMANDR_OK) {
        commandr_session_drop_outputs(s);
        commandr_session_truncate(s, seq_id, 0);
        status = load_rest(s, seq_id, &st, &header);
        if (status != COMMANDR_OK) {
            commandr_session_truncate(s, seq_id, 0);
        }
    }
    fclose(file);
    return status;
}
