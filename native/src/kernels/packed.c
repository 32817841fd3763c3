#include "kernels/packed.h"

#include <string.h>

enum { LANES = COMMANDR_LANES, BLOCK = COMMANDR_SUPER_BLOCK };

/* Where the words of a block are in the file's layout. */
typedef struct block_layout {
    int32_t size; /* bytes of a block */
    int32_t n;    /* blocks of 256 weights: 1 or even */
    int32_t words_at;
    int32_t n_words;
    int32_t half_at; /* offset of the 16-bit number; -1 when there is none */
} block_layout;

static const block_layout * layout_of(enum ggml_type type) {
    static const block_layout q4_k = { 144, 1, 0, 36, -1 };  /* d, dmin, 12 bytes of scales, 128 of quants */
    static const block_layout q5_k = { 176, 1, 0, 44, -1 };  /* d, dmin, 12 of scales, 32 and 128 of quants */
    static const block_layout q6_k = { 210, 1, 0, 52, 208 }; /* 128 and 64 of quants, 16 of scales, d */
    static const block_layout q8_0 = { 34, 8, 2, 8, 0 };     /* d, 32 of quants */
    static const block_layout q4_0 = { 18, 8, 2, 4, 0 };     /* d, 16 of quants */
    static const block_layout bf16 = { 512, 1, 0, 128, -1 };
    switch ((int) type) {
        case GGML_TYPE_BF16: return &bf16;
        case GGML_TYPE_Q4_K: return &q4_k;
        case GGML_TYPE_Q5_K: return &q5_k;
        case GGML_TYPE_Q6_K: return &q6_k;
        case GGML_TYPE_Q8_0: return &q8_0;
        case GGML_TYPE_Q4_0: return &q4_0;
        default: return NULL;
    }
}

size_t commandr_tile_size(enum ggml_type type) {
    return LANES * ggml_row_size(type, BLOCK);
}

/* Where they are in a tile. */
static size_t word_at(enum ggml_type type, size_t k, size_t i, size_t lane) {
    return commandr_packed_words_at(type) + 4 * (LANES * commandr_packed_word_at(type, k, i) + lane);
}

static size_t half_at(size_t k, size_t lane) {
    return 2 * (LANES * k + lane);
}

typedef uint32_t words4 __attribute__((vector_size(16)));

#if defined(__clang__)
#define SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, (words4) { i, j, k, l })
#endif

static words4 words_at(const uint8_t * at) {
    words4 w;
    memcpy(&w, at, sizeof(w));
    return w;
}

/* A tile of words alone, in their order; 4 of 4 rows at a time. n_words: a multiple of 4 */
static void pack_words(const uint8_t * rows, size_t row_size, size_t last, size_t n_words, uint8_t * to) {
    for (size_t lane = 0; lane < LANES; lane += 4) {
        const uint8_t * from[4];
        for (size_t k = 0; k < 4; k++) {
            from[k] = rows + (lane + k < last ? lane + k : last) * row_size;
        }
        for (size_t i = 0; i < 4 * n_words; i += 16) {
            const words4 a = words_at(from[0] + i), b = words_at(from[1] + i);
            const words4 c = words_at(from[2] + i), d = words_at(from[3] + i);

            const words4 ab_low = SHUFFLE(a, b, 0, 4, 1, 5), ab_high = SHUFFLE(a, b, 2, 6, 3, 7);
            const words4 cd_low = SHUFFLE(c, d, 0, 4, 1, 5), cd_high = SHUFFLE(c, d, 2, 6, 3, 7);
            const words4 columns[4] = { SHUFFLE(ab_low, cd_low, 0, 1, 4, 5), SHUFFLE(ab_low, cd_low, 2, 3, 6, 7),
                                        SHUFFLE(ab_high, cd_high, 0, 1, 4, 5), SHUFFLE(ab_high, cd_high, 2, 3, 6, 7) };
            for (size_t k = 0; k < 4; k++) {
                memcpy(to + LANES * i + 4 * (LANES * k + lane), &columns[k], sizeof(columns[k]));
            }
        }
    }
}

void commandr_pack_tile(enum ggml_type type, const uint8_t * rows, size_t row_size, int64_t n_rows, uint8_t * to) {
    const block_layout * layout = layout_of(type);
    const size_t         last   = (size_t) n_rows - 1;
    if (type == GGML_TYPE_BF16) {
        pack_words(rows, row_size, last, (size_t) layout->n_words, to);
        return;
    }
    for (size_t k = 0; k < (size_t) layout->n; k++, rows += layout->size) {
        for (size_t i = 0; i < (size_t) layout->n_words; i++) {
            const uint8_t * from  = rows + (size_t) layout->words_at + 4 * i;
            uint8_t *       words = to + word_at(type, k, i, 0);
            for (size_t lane = 0; lane < LANES; lane++) {
                memcpy(words + 4 * lane, from + (lane < last ? lane : last) * row_size, 4);
            }
        }
        for (size_t lane = 0; lane < LANES && layout->half_at >= 0; lane++) {
            const uint8_t * from = rows + (lane < last ? lane : last) * row_size;
            memcpy(to + half_at(k, lane), from + layout->half_at, 2);
        }
    }
}

void commandr_pack(struct ggml_tensor * w, int64_t first_row, int64_t n_rows, const uint8_t * from) {
    const size_t row_size   = ggml_row_size(w->type, w->ne[0]);
    const size_t piece_size = ggml_row_size(w->type, BLOCK);
    uint8_t *    to         = (uint8_t *) w->data + (size_t) first_row * row_size;
    for (; n_rows >= LANES; n_rows -= LANES, from += LANES * row_size) {
        for (size_t at = 0; at < row_size; at += piece_size, to += LANES * piece_size) {
            commandr_pack_tile(w->type, from + at, row_size, LANES, to);
        }
    }
    memcpy(to, from, (size_t) n_rows * row_size);
}

/* The weights of one row of a tile in the file's layout. */
static void unpack_lane(enum ggml_type type, const uint8_t * tile, size_t lane, uint8_t * to) {
    const block_layout * layout = layout_of(type);
    for (size_t k = 0; k < (size_t) layout->n; k++, to += layout->size) {
        for (size_t i = 0; i < (size_t) layout->n_words; i++) {
            memcpy(to + (size_t) layout->words_at + 4 * i, tile + word_at(type, k, i, lane), 4);
        }
        if (layout->half_at >= 0) {
            memcpy(to + layout->half_at, tile + half_at(k, lane), 2);
        }
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
    const struct ggml_tensor * w         = dst->src[0];
    const int32_t *            ids       = dst->src[1]->data;
    const ggml_to_float_t      to_float  = ggml_get_type_traits(w->type)->to_float;
    const size_t               tile_size = commandr_tile_size(w->type);
    for (int64_t i = ith; i < dst->ne[1]; i += nth) {
        const uint8_t * tile = (const uint8_t *) w->data + (size_t) (ids[i] / LANES * (w->ne[0] / BLOCK)) * tile_size;
        float *         out  = (float *) ((char *) dst->data + (size_t) i * dst->nb[1]);
        if (ids[i] >= w->ne[1] / LANES * LANES) {
            to_float((const uint8_t *) w->data + (size_t) ids[i] * w->nb[1], out, w->ne[0]);
            continue;
        }
        for (int64_t at = 0; at < w->ne[0]; at += BLOCK, tile += tile_size) {
            _Alignas(8) uint8_t one[COMMANDR_MAX_TILE / LANES];
            unpack_lane(w->type, tile, (size_t) (ids[i] % LANES), one);
            to_float(one, out + at, BLOCK);
        }
    }
}

struct ggml_tensor * commandr_packed_rows(struct ggml_context * ctx, struct ggml_tensor * w, struct ggml_tensor * ids) {
    struct ggml_tensor * args[2] = { w, ids };
    return ggml_custom_4d(ctx, GGML_TYPE_F32, w->ne[0], ids->ne[0], 1, 1, args, 2, get_rows, GGML_N_TASKS_MAX, NULL);
}
