#include "kernels/attention.h"

#include "kernels/attention-tile.h"
#include "kernels/columns.h"
#include "kernels/level.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

/* The work is cut by KV head and by tiles of query rows (a token's heads that share the KV head, token after token).
 * Cells come in chunks; what they give (a weighted sum of values, the largest score, the sum of weights) is joined from
 * the first chunk to the last; arXiv:1805.02867 has the rule. Chunks begin at the same cells always, so that a token's
 * sums do not depend on what it is computed with. When a head has one tile only, there is one token or a few: then
 * chunks are computed as pieces of their own, for work for all threads, and joined by a second operation. */
enum {
    TILE_ROWS   = COMMANDR_ATTENTION_ROWS,
    BLOCK       = COMMANDR_BLOCK_CELLS,
    FIRST_CHUNK = 256, /* cells; below this, joining costs more than it gains */
    SAME_CHUNKS = 16   /* so many of a size, then as many twice as large: work for all threads and few parts to join */
};

bool commandr_attention_has(int64_t head_dim) {
    return head_dim <= COMMANDR_MAX_DIM;
}

int64_t commandr_attention_max_parts(int64_t n_head, int64_t n_head_kv) {
    return TILE_ROWS / (n_head / n_head_kv);
}

commandr_attention_fn commandr_attention_find(void) {
    switch (commandr_level_chosen()) {
#if defined(__x86_64__) && defined(__GNUC__)
        case COMMANDR_LEVEL_AVX2:
        case COMMANDR_LEVEL_AVXVNNI: return commandr_attend_avx2;
        case COMMANDR_LEVEL_AVX512:
        case COMMANDR_LEVEL_AMX: return commandr_attend_avx512;
#endif
        default: return commandr_attend_portable;
    }
}

/* ---- the mask ---- */

static int64_t count_blocks(int64_t n_kv) {
    return (n_kv + BLOCK - 1) / BLOCK;
}

/* Looks at n cells of a token. */
static uint8_t look(const ggml_fp16_t * mask, int64_t n) {
    uint32_t any_hidden  = 0;
    uint32_t any_visible = 0;
    for (int64_t i = 0; i < n; i++) {
        any_hidden |= mask[i];
        any_visible |= mask[i] ^ 0x8000u;
    }
    if (!(any_visible & 0x8000)) {
        return COMMANDR_SEES_NONE;
    }
    return n == BLOCK && !(any_hidden & 0x8000) ? COMMANDR_SEES_ALL : COMMANDR_SEES_SOME;
}

/* dst: as commandr_mask.blocks; source: the mask; user_data: max_readers. */
static void summarize(struct ggml_tensor * dst, int ith, int nth, void * user_data) {
    const struct ggml_tensor * mask      = dst->src[0];
    const int64_t              n_readers = (intptr_t) user_data;
    const int64_t              n_tokens  = mask->ne[1];
    commandr_counter *         counters  = dst->data;
    uint8_t *                  sees      = (uint8_t *) (counters + n_readers);
    for (int64_t i = 0; i < n_readers && ith == 0; i++) {
        atomic_store_explicit(&counters[i].next, 0, memory_order_relaxed);
    }
    for (int64_t token = ith; token < n_tokens; token += nth) {
        const ggml_fp16_t * row = (const ggml_fp16_t *) mask->data + token * mask->ne[0];
        for (int64_t cell = 0; cell < mask->ne[0]; cell += BLOCK) {
            const int64_t n                       = mask->ne[0] - cell < BLOCK ? mask->ne[0] - cell : BLOCK;
            sees[cell / BLOCK * n_tokens + token] = look(row + cell, n);
        }
    }
}

commandr_mask commandr_mask_summarize(struct ggml_context * ctx, struct ggml_tensor * cells, int64_t max_readers) {
    const int64_t size = max_readers * (int64_t) sizeof(commandr_counter) + count_blocks(cells->ne[0]) * cells->ne[1];
    return (commandr_mask) {
        .cells       = cells,
        .blocks      = ggml_custom_4d(ctx, GGML_TYPE_I8, size, 1, 1, 1, &cells, 1, summarize, GGML_N_TASKS_MAX,
                                      (void *) (intptr_t) max_readers),
        .max_readers = max_readers,
    };
}

/* ---- chunks ---- */

/* The first cell of chunk c. */
static int64_t chunk_begin(int64_t c) {
    const int64_t size = FIRST_CHUNK << (c / SAME_CHUNKS);
    return SAME_CHUNKS * (size - FIRST_CHUNK) + c % SAME_CHUNKS * size;
}

static int64_t count_chunks(int64_t n_kv) {
    int64_t n = 1;
    while (chunk_begin(n) < n_kv) {
        n++;
    }
    return n;
}

/* The result of a row for some cells. acc is apart: [dim]. */
typedef struct row_state {
    float max;
    float sum;
} row_state;

static const row_state EMPTY = { -INFINITY, 0.0f };

/* Adds the result of later cells to that of earlier ones. */
static void join_later(float * acc, row_state * state, const float * later, row_state with, int64_t dim) {
    if (with.sum == 0.0f) {
        return; /* the row sees none of the cells */
    }
    const float max   = with.max > state->max ? with.max : state->max;
    const float scale = state->sum == 0.0f ? 0.0f : expf(state->max - max);
    const float add   = expf(with.max - max);
    for (int64_t d = 0; d < dim; d++) {
        acc[d] = acc[d] * scale + later[d] * add;
    }
    *state = (row_state) { max, state->sum * scale + with.sum * add };
}

static void divide(float * acc, row_state state, int64_t dim) {
    for (int64_t d = 0; d < dim && state.sum != 0.0f; d++) {
        acc[d] /= state.sum;
    }
}

/* ---- the operations ---- */

static int64_t pad(int64_t dim) {
    return (dim + COMMANDR_DIM_PAD - 1) / COMMANDR_DIM_PAD * COMMANDR_DIM_PAD;
}

static int64_t count_tiles(const struct ggml_tensor * q, const struct ggml_tensor * k) {
    return (q->ne[1] * (q->ne[2] / k->ne[2]) + TILE_ROWS - 1) / TILE_ROWS;
}

/* Appends rows first.. of a KV head, as many as there is room for, to the tile. dst: of an operation. */
static void add_rows(commandr_attention_tile * t, const struct ggml_tensor * dst, int64_t head, int64_t first) {
    const struct ggml_tensor * q     = dst->src[0];
    const struct ggml_tensor * mask  = dst->src[3];
    const int64_t              dim   = q->ne[0];
    const int64_t              group = q->ne[2] / t->k->ne[2];
    const float                scale = 1.0f / sqrtf((float) dim);
    for (int64_t i = first; i < q->ne[1] * group && t->n_rows < TILE_ROWS; i++) {
        const int64_t r     = t->n_rows++;
        const int64_t token = i / group;
        const int64_t h     = head * group + i % group;
        const float * row =
            (const float *) ((const char *) q->data + (size_t) token * q->nb[1] + (size_t) h * q->nb[2]);
        float * to = t->q + r * t->dim_pad;
        for (int64_t d = 0; d < t->dim_pad; d++) {
            to[d] = d < dim ? row[d] * scale : 0.0f;
        }
        t->token[r]  = token;
        t->q_head[r] = h;
        t->mask[r]   = (const ggml_fp16_t *) mask->data + token * mask->ne[0];
    }
}

static void set_head(commandr_attention_tile * t, int64_t head) {
    t->head    = head;
    t->n_heads = 1;
    t->n_rows  = 0;
}

static void attend_chunk(commandr_attention_tile * t, int64_t c) {
    const int64_t n_kv = t->k->ne[1];
    const int64_t end  = chunk_begin(c + 1) < n_kv ? chunk_begin(c + 1) : n_kv;
    commandr_attention_find()(t, chunk_begin(c), end);
}

/* Where the result of row r of a tile goes in an operation's [.., n_head, n_tokens]. */
static float * out_of(const struct ggml_tensor * dst, const commandr_attention_tile * t, int64_t r) {
    return (float *) ((char *) dst->data + (size_t) t->q_head[r] * dst->nb[1] + (size_t) t->token[r] * dst->nb[2]);
}

/* This thread's tile, with what all tiles of an operation have in common. */
static commandr_attention_tile * open_tile(const struct ggml_tensor * dst) {
    static _Thread_local commandr_attention_tile of_thread;

    commandr_attention_tile *  t      = &of_thread;
    const struct ggml_tensor * blocks = dst->src[4];
    t->k                              = dst->src[1];
    t->v                              = dst->src[2];
    t->dim_pad                        = pad(dst->src[0]->ne[0]);
    t->n_tokens                       = dst->src[0]->ne[1];
    t->sees = (const uint8_t *) blocks->data + blocks->ne[0] - count_blocks(t->k->ne[1]) * t->n_tokens;
    return t;
}

/* Threads draw pieces of an operation until there are none left. */
static int64_t next_piece(const struct ggml_tensor * dst, const void * reader) {
    commandr_counter * counters = dst->src[4]->data;
    return atomic_fetch_add_explicit(&counters[(intptr_t) reader].next, 1, memory_order_relaxed);
}

/* dst: F32 [head_dim, n_head, n_tokens]; sources: q, k, v, the mask and its summary; user_data: the counter. */
static void attend(struct ggml_tensor * dst, int ith, int nth, void * user_data) {
    (void) ith;
    (void) nth;
    const int64_t             dim      = dst->ne[0];
    const int64_t             n_tiles  = count_tiles(dst->src[0], dst->src[1]);
    const int64_t             n_pieces = n_tiles * dst->src[1]->ne[2];
    const int64_t             n_chunks = count_chunks(dst->src[1]->ne[1]);
    commandr_attention_tile * t        = open_tile(dst);
    for (int64_t piece = next_piece(dst, user_data); piece < n_pieces; piece = next_piece(dst, user_data)) {
        const int64_t first_row = (n_tiles - 1 - piece % n_tiles) * TILE_ROWS; /* the last tokens see most: first */
        row_state     states[TILE_ROWS];
        set_head(t, piece / n_tiles);
        add_rows(t, dst, piece / n_tiles, first_row);
        for (int64_t r = 0; r < t->n_rows; r++) {
            memset(out_of(dst, t, r), 0, dst->nb[1]);
            states[r] = EMPTY;
        }
        for (int64_t c = 0; c < n_chunks; c++) {
            attend_chunk(t, c);
            for (int64_t r = 0; r < t->n_rows; r++) {
                const row_state later = { t->max[r], t->sum[r] };
                join_later(out_of(dst, t, r), &states[r], t->acc + r * t->dim_pad, later, dim);
            }
        }
        for (int64_t r = 0; r < t->n_rows; r++) {
            divide(out_of(dst, t, r), states[r], dim);
        }
    }
}

/* How many KV heads of a chunk make a piece of attend_parts: as many as a tile has room for, for reading the cache in
 * one go, if that leaves pieces enough for all threads. */
static int64_t heads_together(const struct ggml_tensor * dst, int64_t n_rows, int nth) {
    const int64_t n_head_kv = dst->src[1]->ne[2];
    int64_t       n         = n_rows > COMMANDR_FEW_ROWS ? 1 : TILE_ROWS / n_rows;
    n                       = n < n_head_kv ? n : n_head_kv;
    while (n > 1 && (n_head_kv + n - 1) / n * dst->ne[3] < 4 * nth) {
        n = (n + 1) / 2;
    }
    const int64_t n_pieces = (n_head_kv + n - 1) / n;
    return (n_head_kv + n_pieces - 1) / n_pieces; /* alike */
}

/* The same before chunks are joined. dst: F32 [head_dim + 2, n_head, n_tokens, n_chunks], the row's state behind its
 * sum. */
static void attend_parts(struct ggml_tensor * dst, int ith, int nth, void * user_data) {
    (void) ith;
    const int64_t             dim       = dst->ne[0] - 2;
    const int64_t             n_head_kv = dst->src[1]->ne[2];
    const int64_t             together  = heads_together(dst, dst->ne[1] * dst->ne[2] / n_head_kv, nth);
    const int64_t             n_pieces  = (n_head_kv + together - 1) / together;
    commandr_attention_tile * t         = open_tile(dst);
    for (int64_t piece = next_piece(dst, user_data); piece < n_pieces * dst->ne[3];
         piece         = next_piece(dst, user_data)) {
        const int64_t c     = piece / n_pieces; /* heads of a cell lie side by side */
        const int64_t first = piece % n_pieces * together;
        set_head(t, first);
        t->n_heads = n_head_kv - first < together ? n_head_kv - first : together;
        for (int64_t head = first; head < first + t->n_heads; head++) {
            add_rows(t, dst, head, 0);
        }
        attend_chunk(t, c);
        for (int64_t r = 0; r < t->n_rows; r++) {
            float * part = (float *) ((char *) out_of(dst, t, r) + (size_t) c * dst->nb[3]);
            memcpy(part, t->acc + r * t->dim_pad, (size_t) dim * sizeof(float));
            part[dim]     = t->max[r];
            part[dim + 1] = t->sum[r];
        }
    }
}

/* dst: F32 [head_dim, n_head, n_tokens]; source: the result of attend_parts. */
static void join(struct ggml_tensor * dst, int ith, int nth, void * user_data) {
    (void) user_data;
    const struct ggml_tensor * parts = dst->src[0];
    const int64_t              dim   = dst->ne[0];
    for (int64_t row = ith; row < dst->ne[1] * dst->ne[2]; row += nth) {
        float *   out   = (float *) ((char *) dst->data + (size_t) row * dst->nb[1]);
        row_state state = EMPTY;
        memset(out, 0, dst->nb[1]);
        for (int64_t c = 0; c < parts->ne[3]; c++) {
            const float * part =
                (const float *) ((const char *) parts->data + (size_t) row * parts->nb[1] + (size_t) c * parts->nb[3]);
            join_later(out, &state, part, (row_state) { part[dim], part[dim + 1] }, dim);
        }
        divide(out, state, dim);
    }
}

struct ggml_tensor * commandr_attention(struct ggml_context * ctx, struct ggml_tensor * q, struct ggml_tensor * k,
                                        struct ggml_tensor * v, commandr_mask * mask) {
    GGML_ASSERT(mask->n_readers < mask->max_readers);
    void * const         reader  = (void *) (intptr_t) mask->n_readers++;
    struct ggml_tensor * args[5] = { q, k, v, mask->cells, mask->blocks };
    const int64_t        dim     = q->ne[0];
    if (count_tiles(q, k) > 1) {
        return ggml_custom_4d(ctx, GGML_TYPE_F32, dim, q->ne[2], q->ne[1], 1, args, 5, attend, GGML_N_TASKS_MAX,
                              reader);
    }
    struct ggml_tensor * parts = ggml_custom_4d(ctx, GGML_TYPE_F32, dim + 2, q->ne[2], q->ne[1], count_chunks(k->ne[1]),
                                                args, 5, attend_parts, GGML_N_TASKS_MAX, reader);
    return ggml_custom_4d(ctx, GGML_TYPE_F32, dim, q->ne[2], q->ne[1], 1, &parts, 1, join, GGML_N_TASKS_MAX, NULL);
}
