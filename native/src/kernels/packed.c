#include "kernels/packed.h"

#include <string.h>

enum { LANES = COMMANDR_LANES, MAX_BLOCK = 256 /* bytes */ };

const commandr_block_layout * commandr_block_layout_of(enum ggml_type type) {
    static const commandr_block_layout q4_k = { 144, 0, 36, -1 };  /* d and dmin, 12 bytes of scales, 128 of quants */
    static const commandr_block_layout q5_k = { 176, 0, 44, -1 };  /* d and dmin, 12 of scales, 32 and 128 of quants */
    static const commandr_block_layout q6_k = { 210, 0, 52, 208 }; /* 128 and 64 of quants, 16 of scales, d */
    switch ((int) type) {
        case GGML_TYPE_Q4_K: return &q4_k;
        case GGML_TYPE_Q5_K: return &q5_k;
        case GGML_TYPE_Q6_K: return &q6_k;
        default: return NULL;
    }
}

void commandr_pack_tile(const commandr_block_layout * layout, const uint8_t * blocks, size_t row_size, uint8_t * to) {
    const uint8_t * words = blocks + layout->words_at;
    for (size_t i = 0; i < (size_t) layout->n_words; i++, words += 4) {
        for (size_t lane = 0; lane < LANES; lane++, to += 4) {
            memcpy(to, words + lane * row_size, 4);
        }
    }
    for (size_t lane = 0; lane < LANES && layout->half_at >= 0; lane++, to += 2) {
        memcpy(to, blocks + lane * row_size + layout->half_at, 2);
    }
}

void commandr_pack(struct ggml_tensor * w, int64_t first_row, int64_t n_rows, const uint8_t * from) {
    const commandr_block_layout * layout   = commandr_block_layout_of(w->type);
    const int64_t                 n_blocks = w->ne[0] / ggml_blck_size(w->type);
    const size_t                  row_size = ggml_row_size(w->type, w->ne[0]);
    uint8_t *                     to       = (uint8_t *) w->data + (size_t) first_row * row_size;
    for (int64_t row = 0; row < n_rows; row += LANES) {
        const uint8_t * rows = from + (size_t) row * row_size;
        for (int64_t b = 0; b < n_blocks; b++) {
            commandr_pack_tile(layout, rows + b * layout->size, row_size, to);
            to += LANES * layout->size;
        }
    }
}

/* One block of one row in the file's layout. */
static void unpack_block(const commandr_block_layout * layout, const uint8_t * tile, size_t lane, uint8_t * to) {
    for (size_t i = 0; i < (size_t) layout->n_words; i++) {
        memcpy(to + (size_t) layout->words_at + 4 * i, tile + 4 * (LANES * i + lane), 4);
    }
    if (layout->half_at >= 0) {
        memcpy(to + layout->half_at, tile + 4 * LANES * (size_t) layout->n_words + 2 * lane, 2);
    }
}

static const char packed_mark;

void commandr_mark_packed(struct ggml_tensor * w) {
    w->extra = (void *) &packed_mark;
}

bool commandr_is_packed(const struct ggml_tensor * w) {
    return w->extra == &packed_mark;
}

/* dst: F32 [n_in, n_ids]; sources: w, ids. */
static void get_rows(struct ggml_tensor * dst, int ith, int nth, void * user_data) {
    (void) user_data;
    const struct ggml_tensor *    w        = dst->src[0];
    const int32_t *               ids      = dst->src[1]->data;
    const commandr_block_layout * layout   = commandr_block_layout_of(w->type);
    const ggml_to_float_t         to_float = ggml_get_type_traits(w->type)->to_float;
    const int64_t                 block    = ggml_blck_size(w->type);
    const size_t                  tile     = (size_t) (LANES * layout->size);
    for (int64_t i = ith; i < dst->ne[1]; i += nth) {
        const uint8_t * tiles = (const uint8_t *) w->data + (size_t) (ids[i] / LANES * (w->ne[0] / block)) * tile;
        float *         out   = (float *) ((char *) dst->data + (size_t) i * dst->nb[1]);
        for (int64_t at = 0; at < w->ne[0]; at += block, tiles += tile) {
            _Alignas(8) uint8_t one[MAX_BLOCK];
            unpack_block(layout, tiles, (size_t) (ids[i] % LANES), one);
            to_float(one, out + at, block);
        }
    }
}

struct ggml_tensor * commandr_packed_rows(struct ggml_context * ctx, struct ggml_tensor * w, struct ggml_tensor * ids) {
    struct ggml_tensor * args[2] = { w, ids };
    return ggml_custom_4d(ctx, GGML_TYPE_F32, w->ne[0], ids->ne[0], 1, 1, args, 2, get_rows, GGML_N_TASKS_MAX, NULL);
}
