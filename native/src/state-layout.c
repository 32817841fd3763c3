#include "state-layout.h"

#include "error.h"

#include <stdlib.h>
#include <string.h>

void commandr_state_layout_free(commandr_state_layout * l) {
    free(l->cells[0]);
    free(l->cells[1]);
    free(l->pieces);
}

int64_t commandr_state_n_rows(const commandr_state_header * h, int which) {
    return h->n_tokens - (which == COMMANDR_CACHE_WINDOW ? h->window_first : 0);
}

/* The size that a file with this header must have. */
int64_t commandr_state_size(const commandr_session * s, const commandr_state_header * h) {
    int64_t size = (int64_t) sizeof(*h) + h->n_tokens * (int64_t) sizeof(int32_t) + (int64_t) sizeof(uint64_t);
    for (int which = 0; which < 2; which++) {
        size += commandr_state_n_rows(h, which) * (int64_t) s->caches[which].memory.cell_size;
    }
    return size;
}

static void add_rows(commandr_state_layout * l, struct ggml_tensor * rows, const int64_t * cells, int64_t n) {
    const int64_t row_size = (int64_t) rows->nb[1];
    const int64_t n_piece  = row_size < COMMANDR_STATE_PIECE ? COMMANDR_STATE_PIECE / row_size : 1;
    for (int64_t first = 0; first < n; first += n_piece) {
        const int64_t n_now = n - first < n_piece ? n - first : n_piece;
        l->pieces[l->n_pieces++] =
            (commandr_state_piece) { .rows = rows, .cells = cells + first, .n = n_now, .offset = l->end };
        l->max_piece = n_now * row_size > l->max_piece ? n_now * row_size : l->max_piece;
        l->end += n_now * row_size;
    }
}

/* cells are to be filled in before the pieces are used. */
commandr_status commandr_state_layout_init(const commandr_session * s, const commandr_state_header * h,
                                           const char * path, commandr_state_layout * l) {
    /* A tensor has at most one piece that is not full. */
    const int64_t most = commandr_state_size(s, h) / (COMMANDR_STATE_PIECE / 2) + 2 * s->model->hparams.n_layer + 1;
    memset(l, 0, sizeof(*l));
    l->pieces = calloc((size_t) most, sizeof(*l->pieces));
    l->end    = (int64_t) sizeof(*h) + h->n_tokens * (int64_t) sizeof(int32_t);
    for (int which = 0; which < 2; which++) {
        l->cells[which] = calloc((size_t) commandr_state_n_rows(h, which) + 1, sizeof(int64_t));
    }
    if (!l->pieces || !l->cells[0] || !l->cells[1]) {
        commandr_state_layout_free(l);
        return commandr_fail(COMMANDR_ERROR_MEMORY, "%s: out of memory", path);
    }
    for (int which = 0; which < 2; which++) {
        const commandr_kv_memory * memory = &s->caches[which].memory;
        for (int64_t il = 0; il < memory->n_layer; il++) {
            const commandr_kv_layer * layer = &memory->layers[il];
            if (layer->k) {
                add_rows(l, layer->k, l->cells[which], commandr_state_n_rows(h, which));
                add_rows(l, layer->v, l->cells[which], commandr_state_n_rows(h, which));
            }
        }
    }
    return COMMANDR_OK;
}

/* Moves a run of neighboring cells. offset, size: bytes in the tensor; data: the run's place in the piece. */
typedef void (*move_fn)(struct ggml_tensor * rows, void * data, size_t offset, size_t size);

static void move_rows(const commandr_state_piece * p, uint8_t * data, move_fn move) {
    const size_t row_size = p->rows->nb[1];
    for (int64_t i = 0; i < p->n;) {
        int64_t run = 1;
        while (i + run < p->n && p->cells[i + run] == p->cells[i] + run) {
            run++;
        }
        move(p->rows, data + (size_t) i * row_size, (size_t) p->cells[i] * row_size, (size_t) run * row_size);
        i += run;
    }
}

static void from_cache(struct ggml_tensor * rows, void * data, size_t offset, size_t size) {
    ggml_backend_tensor_get(rows, data, offset, size);
}

static void to_cache(struct ggml_tensor * rows, void * data, size_t offset, size_t size) {
    ggml_backend_tensor_set(rows, data, offset, size);
}

void commandr_state_gather(const commandr_state_piece * piece, uint8_t * data) {
    move_rows(piece, data, from_cache);
}

void commandr_state_scatter(const commandr_state_piece * piece, const uint8_t * data) {
    move_rows(piece, (uint8_t *) data, to_cache); /* which only reads */
}

size_t commandr_state_piece_size(const commandr_state_piece * p) {
    return (size_t) p->n * p->rows->nb[1];
}

uint64_t commandr_state_checksum(const commandr_state_header * h, const int32_t * tokens,
                                 const commandr_state_layout * l) {
    uint64_t hash = commandr_state_hash_join(0, commandr_state_hash(h, sizeof(*h)));
    hash          = commandr_state_hash_join(hash, commandr_state_hash(tokens, (size_t) h->n_tokens * sizeof(*tokens)));
    for (int64_t i = 0; i < l->n_pieces; i++) {
        hash = commandr_state_hash_join(hash, l->pieces[i].hash);
    }
    return hash;
}
