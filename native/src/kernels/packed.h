/* Weights for our products: 16 rows side by side, so that one vector register holds the same place of each.
 *
 * 256 weights of a row in one of ggml's quantized types are one block or several, and a block is a few 32-bit words
 * and at most one 16-bit number; 256 weights in bfloat16 are 128 words. A packed tile takes them of 16 rows. It puts
 * the 16-bit numbers of all rows side by side, then word after word, in the order in which the product reads them
 * (memory gives half its speed to any other): the same bytes in another order, so that a packed tensor has its type
 * and size. Tiles follow one another along the rows, then down the matrix; rows beyond the last 16 whole ones stay as
 * they are in the file. */
#ifndef COMMANDR_SRC_KERNELS_PACKED_H
#define COMMANDR_SRC_KERNELS_PACKED_H

#include "ggml.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* To be raised whenever the order of the bytes changes: files of packed weights then are written anew. */
#define COMMANDR_PACKED_VERSION 2

enum {
    COMMANDR_SUPER_BLOCK = 256,                 /* weights of a row in a tile, and elements of a column */
    COMMANDR_LANES       = 16,                  /* rows of a tile */
    COMMANDR_MAX_TILE    = 512 * COMMANDR_LANES /* bytes, of weights of 16 bits */
};

/* Bytes of a tile. */
size_t commandr_tile_size(enum ggml_type type);

/* Bytes of the 16-bit numbers, behind which a tile has its words. */
static inline size_t commandr_packed_words_at(enum ggml_type type) {
    const size_t n_halves = type == GGML_TYPE_Q8_0 || type == GGML_TYPE_Q4_0 ? 8 : type == GGML_TYPE_Q6_K ? 1 : 0;
    return 2 * COMMANDR_LANES * n_halves;
}

/* Where word i of block k of 256 weights is in a tile, in words of all lanes from the first word on. */
static inline size_t commandr_packed_word_at(enum ggml_type type, size_t k, size_t i) {
    if (type == GGML_TYPE_Q8_0 || type == GGML_TYPE_Q4_0) { /* two blocks taking turns */
        return (type == GGML_TYPE_Q8_0 ? 16 : 8) * (k / 2) + 2 * i + k % 2;
    }
    if (type == GGML_TYPE_Q5_K && i >= 4 && i < 20) { /* fifth bits, each word behind the first that needs it */
        return i < 12 ? 2 * i - 3 : 2 * i - 20;
    }
    if (type == GGML_TYPE_Q6_K) { /* scales first; then the same with the upper two bits, for each half */
        if (i >= 48) {
            return i - 48;
        }
        if (i >= 32) {
            return 4 + 24 * ((i - 32) / 8) + 2 * (i % 8) + 1;
        }
        return 4 + 24 * (i / 16) + (i % 16 < 8 ? 2 * (i % 16) : i % 16 + 8);
    }
    return i;
}

/* One tile from 256 weights of n_rows rows (1 to 16; the last one stands for those that are missing) in the file's
 * layout, row_size bytes apart. */
void commandr_pack_tile(enum ggml_type type, const uint8_t * rows, size_t row_size, int64_t n_rows, uint8_t * to);

/* Fills n_rows rows of a matrix w: [n_in, n_out] from first_row on, a multiple of 16, from rows in the file's layout.
 */
void commandr_pack(struct ggml_tensor * w, int64_t first_row, int64_t n_rows, const uint8_t * from);

/* Marks a tensor as packed: from then on only the operations below understand its bytes. */
void commandr_mark_packed(struct ggml_tensor * w);
bool commandr_is_packed(const struct ggml_tensor * w);

/* The rows of a packed matrix that the I32 tensor ids names, like ggml_get_rows: F32 [n_in, n_ids] */
struct ggml_tensor * commandr_packed_rows(struct ggml_context * ctx, struct ggml_tensor * w, struct ggml_tensor * ids);

#endif
