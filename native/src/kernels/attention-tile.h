/* Attention of a tile of query rows over a chunk of cells: what a processor does for kernels/attention.c.
 *
 * A query row is one head of one token. Rows of a tile share a KV head, so that they share the conversion of its cells
 * to floats; few rows of each of several heads, so that these are read as they lie in a cell. A row's result does not
 * depend on the other rows. */
#ifndef COMMANDR_SRC_KERNELS_ATTENTION_TILE_H
#define COMMANDR_SRC_KERNELS_ATTENTION_TILE_H

#include "ggml.h"

#include <stdint.h>

enum {
    COMMANDR_ATTENTION_ROWS = 64,
    COMMANDR_FEW_ROWS       = 32,  /* of a KV head: more are quicker with the keys transposed */
    COMMANDR_BLOCK_CELLS    = 64,  /* looked at together */
    COMMANDR_MAX_DIM        = 256, /* of a head */
    COMMANDR_DIM_PAD        = 16   /* rows of floats are zero up to a multiple of it */
};

/* What a token sees of a block of cells. */
enum { COMMANDR_SEES_NONE = 0, COMMANDR_SEES_SOME = 1, COMMANDR_SEES_ALL = 2 };

typedef struct commandr_attention_tile {
    const struct ggml_tensor * k;       /* [dim, n_kv, n_head_kv] */
    const struct ggml_tensor * v;       /* the same */
    int64_t                    head;    /* the first of k and v */
    int64_t                    n_heads; /* more than 1: at most COMMANDR_FEW_ROWS rows each */
    int64_t                    dim_pad;
    int64_t                    n_rows;   /* the same number for each head, one after another */
    int64_t                    n_tokens; /* of the batch */
    const uint8_t *            sees;     /* [blocks][n_tokens]: COMMANDR_SEES_* */
    int64_t                    token[COMMANDR_ATTENTION_ROWS];
    int64_t                    q_head[COMMANDR_ATTENTION_ROWS];
    const ggml_fp16_t *        mask[COMMANDR_ATTENTION_ROWS];                 /* [n_kv] of the row's token: 0 or -inf */
    float                      q[COMMANDR_ATTENTION_ROWS * COMMANDR_MAX_DIM]; /* rows of dim_pad, scaled */
    float acc[COMMANDR_ATTENTION_ROWS * COMMANDR_MAX_DIM];                    /* rows of dim_pad: the weighted values */
    float max[COMMANDR_ATTENTION_ROWS]; /* the largest score, -inf when the row sees no cell */
    float sum[COMMANDR_ATTENTION_ROWS]; /* of exp(score - max); NaN when a score is not finite */
    /* What a chunk is worked on in: too large for the stack that every C library gives a thread. */
    float rows[COMMANDR_BLOCK_CELLS * COMMANDR_MAX_DIM];       /* keys or values of a block of cells */
    float columns[COMMANDR_BLOCK_CELLS * COMMANDR_MAX_DIM];    /* keys transposed */
    float ordered[COMMANDR_ATTENTION_ROWS * COMMANDR_MAX_DIM]; /* q in the order of columns */
    float weights[COMMANDR_ATTENTION_ROWS][COMMANDR_BLOCK_CELLS];
} commandr_attention_tile;

/* Computes acc, max and sum for cells begin..end-1; begin is a multiple of COMMANDR_BLOCK_CELLS. */
typedef void (*commandr_attention_fn)(commandr_attention_tile * tile, int64_t begin, int64_t end);

void commandr_attend_portable(commandr_attention_tile * tile, int64_t begin, int64_t end);
#if defined(__x86_64__) && defined(__GNUC__)
void commandr_attend_avx2(commandr_attention_tile * tile, int64_t begin, int64_t end); /* needs FMA and F16C, too */
void commandr_attend_avx512(commandr_attention_tile * tile, int64_t begin, int64_t end);
#endif

/* That of the level chosen, see level.h. */
commandr_attention_fn commandr_attention_find(void);

#endif
