/* Saving a sequence to a state file, and restoring it from one. */
#include "error.h"
#include "mapping.h"
#include "state-layout.h"
#include "threads.h"
#include "worker-guard.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static commandr_state_header make_header(const commandr_session * s, int32_t seq_id) {
    const commandr_hparams *  hp     = &s->model->hparams;
    const commandr_kv_cache * window = &s->caches[COMMANDR_CACHE_WINDOW];
    const int64_t             n      = s->seqs[seq_id].n;
    commandr_state_header     header = commandr_state_header_make();
    header.type_k                    = (uint32_t) s->params.type_k;
    header.type_v                    = (uint32_t) s->params.type_v;
    header.fingerprint               = s->model->gguf->fingerprint;
    header.n_layer                   = hp->n_layer;
    header.n_embd_kv                 = hp->n_head_kv * hp->head_dim;
    header.n_tokens                  = n;
    header.window_first              = window->size > 0 ? commandr_kv_cache_first(window, seq_id, n) : 0;
    return header;
}

/* ---- saving ---- */

typedef struct saving {
    const commandr_session * session;
    int32_t                  seq_id;
    const char *             path;
} saving;

/* The sequence's cells by position: from first on, [n_tokens - first]. */
static void list_cells(const commandr_kv_cache * cache, int32_t seq_id, int64_t first, int64_t n_tokens,
                       int64_t * cells) {
    for (int64_t c = 0; c < cache->n_seen; c++) {
        if ((cache->seqs[c] >> seq_id & 1) && cache->pos[c] >= first && cache->pos[c] < n_tokens) {
            cells[cache->pos[c] - first] = c;
        }
    }
}

static commandr_status write_all(const commandr_state_header * h, const int32_t * tokens, commandr_state_layout * l,
                                 const char * path, FILE * file) {
    uint8_t * buffer = malloc((size_t) l->max_piece + 1);
    if (!buffer) {
        return commandr_fail(COMMANDR_ERROR_MEMORY, "%s: out of memory", path);
    }
    bool ok = fwrite(h, sizeof(*h), 1, file) == 1 &&
              fwrite(tokens, sizeof(*tokens), (size_t) h->n_tokens, file) == (size_t) h->n_tokens;
    for (int64_t i = 0; i < l->n_pieces && ok; i++) {
        commandr_state_gather(&l->pieces[i], buffer);
        l->pieces[i].hash = commandr_state_hash(buffer, commandr_state_piece_size(&l->pieces[i]));
        ok                = fwrite(buffer, commandr_state_piece_size(&l->pieces[i]), 1, file) == 1;
    }
    free(buffer);
    const uint64_t hash = commandr_state_checksum(h, tokens, l);
    return ok && fwrite(&hash, sizeof(hash), 1, file) == 1
               ? COMMANDR_OK
               : commandr_fail(COMMANDR_ERROR_IO, "%s: cannot be written: %s", path, strerror(errno));
}

static commandr_status save_to(void * ctx, FILE * file) {
    const saving *              job    = ctx;
    const commandr_session *    s      = job->session;
    const commandr_state_header header = make_header(s, job->seq_id);
    commandr_state_layout       l;
    commandr_status             status = commandr_state_layout_init(s, &header, job->path, &l);
    if (status != COMMANDR_OK) {
        return status;
    }
    list_cells(&s->caches[0], job->seq_id, 0, header.n_tokens, l.cells[0]);
    list_cells(&s->caches[1], job->seq_id, header.window_first, header.n_tokens, l.cells[1]);
    commandr_guard guard; /* here, so that the unfinished file goes away */
    if (COMMANDR_GUARD_BEGIN(guard)) {
        status = write_all(&header, s->seqs[job->seq_id].tokens, &l, job->path, file);
        commandr_guard_end(&guard);
    } else {
        status = commandr_model_lost(s->model);
    }
    commandr_state_layout_free(&l);
    return status;
}

commandr_status commandr_session_state_save(const commandr_session * s, int32_t seq_id, const char * path) {
    commandr_status status = commandr_session_check_seq(s, seq_id);
    if (status == COMMANDR_OK) {
        status = commandr_model_check(s->model);
    }
    if (status != COMMANDR_OK) {
        return status;
    }
    if (!path || s->seqs[seq_id].n == 0) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "sequence %d is empty, or path is NULL: there is nothing to save",
                             seq_id);
    }
    saving job = { .session = s, .seq_id = seq_id, .path = path };
    return commandr_state_file_replace(path, save_to, &job);
}

/* ---- restoring ---- */

/* Cells for a sequence once what it holds alone has been given up. */
static int64_t n_free_for(const commandr_session * s, int32_t seq_id) {
    const commandr_kv_cache * cache  = &s->caches[COMMANDR_CACHE_FULL];
    int64_t                   n_free = commandr_session_n_free(s);
    for (int64_t c = 0; c < cache->n_seen; c++) {
        n_free += cache->seqs[c] == (uint64_t) 1 << seq_id;
    }
    return n_free;
}

/* Gives the cells memory. */
static commandr_status make_room(commandr_session * s, int32_t seq_id, const commandr_state_header * h) {
    const int64_t n_free   = n_free_for(s, seq_id);
    const int64_t n_window = s->caches[COMMANDR_CACHE_WINDOW].n_used + commandr_state_n_rows(h, COMMANDR_CACHE_WINDOW);
    const int64_t n_cells[2] = { s->params.n_ctx - n_free + h->n_tokens, n_window };
    return commandr_session_hold(s, n_cells, 1);
}

/* Checks the header, that its tokens fit, and that the file has the size that it calls for. */
static commandr_status check_file(const commandr_session * s, int32_t seq_id, const char * path,
                                  const commandr_mapping * file, commandr_state_header * h) {
    memcpy(h, file->data, sizeof(*h));
    const commandr_state_header want   = make_header(s, seq_id);
    const commandr_status       status = commandr_state_header_check(h, &want, path, s->model->gguf->path);
    const int64_t               n_free = n_free_for(s, seq_id);
    if (status != COMMANDR_OK) {
        return status;
    }
    if (h->n_tokens > n_free) {
        return commandr_fail(COMMANDR_ERROR_CONTEXT,
                             "%s: its %" PRId64 " tokens do not fit in the context of %" PRId64 ", of which %" PRId64
                             " are free",
                             path, h->n_tokens, s->params.n_ctx, n_free);
    }
    const int64_t size = commandr_state_size(s, h);
    if (file->size != size) {
        return commandr_fail(COMMANDR_ERROR_FORMAT,
                             "%s: %" PRId64 " bytes long, and its header calls for %" PRId64 ": it %s", path,
                             file->size, size, file->size < size ? "was cut off" : "is damaged");
    }
    return COMMANDR_OK;
}

/* Takes cells for the positions of a sequence that is empty. */
static commandr_status take_cells(commandr_session * s, int32_t seq_id, const commandr_state_header * h,
                                  int64_t * const cells[2]) {
    int64_t next_pos[COMMANDR_MAX_SEQS];
    for (int32_t i = 0; i < COMMANDR_MAX_SEQS; i++) {
        next_pos[i] = s->seqs[i].n;
    }
    for (int which = 0; which < 2; which++) {
        for (int64_t i = 0; i < commandr_state_n_rows(h, which) && s->caches[which].size > 0; i++) {
            const int64_t pos = h->n_tokens - commandr_state_n_rows(h, which) + i;
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

typedef struct reading {
    commandr_state_layout * layout;
    uint8_t *               data; /* of the file */
} reading;

static void read_pieces(void * ctx, int64_t begin, int64_t end) {
    const reading * job = ctx;
    for (int64_t i = begin; i < end; i++) {
        commandr_state_piece * p    = &job->layout->pieces[i];
        uint8_t *              data = job->data + p->offset;
        p->hash                     = commandr_state_hash(data, commandr_state_piece_size(p));
        commandr_state_scatter(p, data);
    }
}

static bool are_tokens(const commandr_session * s, const int32_t * tokens, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= s->model->hparams.n_vocab) {
            return false;
        }
    }
    return true;
}

/* Reads what stands behind the header into a sequence that is empty, and leaves it so or with all of the tokens. */
static commandr_status read_rest(commandr_session * s, int32_t seq_id, const char * path,
                                 const commandr_state_header * h, const commandr_mapping * file) {
    commandr_sequence *   seq    = &s->seqs[seq_id];
    commandr_status       status = commandr_sequence_reserve(seq, h->n_tokens);
    commandr_state_layout l;
    if (status == COMMANDR_OK) {
        status = commandr_state_layout_init(s, h, path, &l);
    }
    if (status != COMMANDR_OK) {
        return status;
    }
    status = take_cells(s, seq_id, h, l.cells);
    if (status == COMMANDR_OK) {
        seq->n = h->n_tokens; /* so that truncating the sequence gives the cells back */
        memcpy(seq->tokens, file->data + sizeof(*h), (size_t) h->n_tokens * sizeof(int32_t));
        reading job = { .layout = &l, .data = file->data };
        /* Drivers of other devices are not asked by several threads at once. */
        commandr_parallel_for(s->model->n_devs > 0 ? 1 : s->params.n_threads, l.n_pieces, 4, read_pieces, &job);
        uint64_t want;
        memcpy(&want, file->data + l.end, sizeof(want));
        if (commandr_state_checksum(h, seq->tokens, &l) != want || !are_tokens(s, seq->tokens, h->n_tokens)) {
            status = commandr_fail(COMMANDR_ERROR_FORMAT, "%s: damaged: its checksum is wrong", path);
            commandr_session_truncate(s, seq_id, 0);
        }
    }
    commandr_state_layout_free(&l);
    return status;
}

/* Gives the sequence the file's tokens in place of its own, which it keeps where there is no memory. */
static commandr_status fill_sequence(commandr_session * s, int32_t seq_id, const char * path,
                                     const commandr_state_header * h, const commandr_mapping * file) {
    const commandr_status status = make_room(s, seq_id, h);
    if (status != COMMANDR_OK) {
        return status;
    }
    commandr_session_drop_outputs(s);
    commandr_session_truncate(s, seq_id, 0);
    return read_rest(s, seq_id, path, h, file);
}

/* Maps a file that is large enough for a header. */
static commandr_status open_file(const char * path, commandr_mapping * file) {
    struct stat st;
    if (!path || stat(path, &st) != 0) {
        return commandr_fail(COMMANDR_ERROR_IO, "%s: cannot be opened: %s", path ? path : "NULL", strerror(errno));
    }
    if (!S_ISREG(st.st_mode)) {
        return commandr_fail(COMMANDR_ERROR_IO, "%s: not a file", path);
    }
    if (st.st_size < (off_t) sizeof(commandr_state_header)) {
        return commandr_fail(COMMANDR_ERROR_FORMAT, "%s: not a state file", path);
    }
    return commandr_mapping_open(path, file);
}

commandr_status commandr_session_state_load(commandr_session * s, int32_t seq_id, const char * path) {
    commandr_mapping file   = { .data = NULL };
    commandr_status  status = commandr_session_check_seq(s, seq_id);
    if (status == COMMANDR_OK) {
        status = commandr_model_check(s->model);
    }
    if (status == COMMANDR_OK) {
        status = open_file(path, &file);
    }
    if (status != COMMANDR_OK) {
        return status;
    }
    commandr_mapping_prefetch(&file, 0, file.size);
    commandr_state_header header;
    status = check_file(s, seq_id, path, &file, &header);
    if (status == COMMANDR_OK) {
        commandr_guard guard;
        if (COMMANDR_GUARD_BEGIN(guard)) {
            status = fill_sequence(s, seq_id, path, &header, &file);
            commandr_guard_end(&guard);
        } else {
            status = commandr_model_lost(s->model);
        }
    }
    commandr_mapping_close(&file);
    return status;
}
