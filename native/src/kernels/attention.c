#include "kernels/attention.h"

#include "simd.h"

#include <math.h>
#include <string.h>

/* The work is cut three ways: by KV head, by tiles of query rows (a token's heads that share the KV head, token after
 * token) and by chunks of cells. A first operation computes each piece for itself (its weighted sum of values, the
 * largest score and the sum of weights), a second one joins the chunks; arXiv:1805.02867 has the rule for both. Chunks
 * begin at the same cells always, so that a token's sums do not depend on what it is computed with. */
enum {
    TILE_ROWS   = 32,  /* query rows that share a pass over the cells */
    BLOCK_CELLS = 32,  /* cells converted to floats at a time: 32 x 128 floats are 16 KiB, half a level-1 cache */
    MAX_DIM     = 256, /* of a head */
    FIRST_CHUNK = 256, /* cells; below this, joining costs more than it gains */
    SAME_CHUNKS = 16,  /* so many of a size, then as many twice as large: work for all threads and few parts to join */
    LANES       = 16
};

typedef float    f32v __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t  i32v __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t u32v __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint16_t u16v __attribute__((vector_size(2 * LANES), aligned(2)));

bool commandr_attention_needed(enum ggml_type type_k, enum ggml_type type_v, int64_t n_tokens, int64_t head_dim) {
    const bool ggml_tiles = type_k == type_v && n_tokens >= COMMANDR_ATTENTION_TILES && head_dim % LANES == 0;
    return type_v == GGML_TYPE_F16 && !ggml_tiles && head_dim <= MAX_DIM;
}

static int64_t pad(int64_t dim) {
    return (dim + LANES - 1) / LANES * LANES;
}

/* ---- rows of floats; n is a multiple of LANES ---- */

COMMANDR_INLINE float dot(const float * a, const float * b, int64_t n) {
    f32v sum = { 0 };
    for (int64_t i = 0; i < n; i += LANES) {
        sum += *(const f32v *) (a + i) * *(const f32v *) (b + i);
    }
    float total = 0.0f;
    for (int l = 0; l < LANES; l++) {
        total += sum[l];
    }
    return total;
}

COMMANDR_INLINE void scale(float * x, float a, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) {
        *(f32v *) (x + i) *= a;
    }
}

COMMANDR_INLINE void add_1(float * x, float a, const float * v, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) {
        *(f32v *) (x + i) += a * *(const f32v *) (v + i);
    }
}

/* x += a[0] v[0] + ... + a[3] v[3], the v being rows of n */
COMMANDR_INLINE void add_4(float * x, const float * a, const float * v, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) {
        f32v sum = *(const f32v *) (x + i);
        for (int j = 0; j < 4; j++) {
            sum += a[j] * *(const f32v *) (v + j * n + i);
        }
        *(f32v *) (x + i) = sum;
    }
}

/* e^x for x <= 0, relative error 2e-7; 0 below -86.6, where normal floats end. x = n ln 2 + f, and e^f by its Taylor
 * series. */
COMMANDR_INLINE f32v exp_of(f32v x) {
    const f32v magic = { 0 };
    const f32v n     = x * 1.44269504f + (magic + 0x1.8p23f) - 0x1.8p23f; /* rounds to a whole number */
    const f32v f     = (x - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;
    f32v       p     = f * (1.0f / 720) + 1.0f / 120;
    p                = p * f + 1.0f / 24;
    p                = p * f + 1.0f / 6;
    p                = p * f + 0.5f;
    p                = p * f + 1.0f;
    p                = p * f + 1.0f;
    /* times 2^n, by adding n to the exponent; where that leaves the normal floats (x = -inf too), 0. As integers:
     * GCC 12 cannot compile a comparison of vectors here. */
    const i32v exponent = __builtin_convertvector(n, i32v);
    i32v       bits;
    memcpy(&bits, &p, sizeof(bits));
    bits = (i32v) ((u32v) bits + ((u32v) exponent << 23)) & ~((exponent + 125) >> 31);
    memcpy(&p, &bits, sizeof(p));
    return p;
}

/* Half floats to floats: the bits moved to their places give the number times 2^-112. Returns whether one is
 * infinite or NaN, which it stays. */
COMMANDR_INLINE bool f16_to_f32(const ggml_fp16_t * x, float * y, int64_t n) {
    i32v any_special = { 0 };
    for (int64_t i = 0; i < n; i += LANES) {
        const u32v half = __builtin_convertvector(*(const u16v *) (x + i), u32v);
        u32v       bits = (half & 0x7fff) << 13;
        f32v       f;
        memcpy(&f, &bits, sizeof(f));
        f *= 0x1p112f;
        memcpy(&bits, &f, sizeof(bits));
        const i32v special = (0x7bff - (i32v) (half & 0x7fff)) >> 31; /* all ones above the largest finite number */
        bits |= (half & 0x8000) << 16 | ((u32v) special & 0x7f800000);
        any_special |= special;
        memcpy(y + i, &bits, sizeof(bits));
    }
    int32_t any = 0;
    for (int l = 0; l < LANES; l++) {
        any |= any_special[l];
    }
    return any != 0;
}

/* Cells first..first+n-1 of one head as floats: rows [n][dim_pad], 0 beyond the head's dimensions. Returns whether
 * there may be numbers that are not finite. */
COMMANDR_INLINE bool read_rows(const struct ggml_tensor * cache, int64_t head, int64_t first, int64_t n, float * rows) {
    const int64_t dim     = cache->ne[0];
    const int64_t dim_pad = pad(dim);
    bool          special = cache->type != GGML_TYPE_F16 || dim != dim_pad;
    for (int64_t i = 0; i < n; i++, rows += dim_pad) {
        const char * row =
            (const char *) cache->data + (size_t) (first + i) * cache->nb[1] + (size_t) head * cache->nb[2];
        if (cache->type == GGML_TYPE_F16 && dim == dim_pad) {
            special |= f16_to_f32((const ggml_fp16_t *) row, rows, dim);
            continue;
        }
        memset(rows, 0, (size_t) dim_pad * sizeof(float));
        if (cache->type == GGML_TYPE_F32) {
            memcpy(rows, row, (size_t) dim * sizeof(float));
        } else {
            ggml_get_type_traits(cache->type)->to_float(row, rows, dim);
        }
    }
    return special;
}

/* ---- one piece: a tile of query rows over a chunk of cells ---- */

typedef struct tile {
    const struct ggml_tensor * k;
    const struct ggml_tensor * v;
    int64_t                    head; /* of k and v */
    int64_t                    dim_pad;
    int64_t                    n_rows;
    const ggml_fp16_t *        mask[TILE_ROWS]; /* [n_kv] of the row's token: 0 or -inf */
    float *                    acc[TILE_ROWS];  /* [dim_pad], and after it the largest score and the sum of weights */
    float                      q[TILE_ROWS * MAX_DIM];
} tile;

static bool any_visible(const tile * t, int64_t first, int64_t n) {
    for (int64_t r = 0; r < t->n_rows; r++) {
        for (int64_t i = 0; i < n; i++) {
            if (t->mask[r][first + i] == 0) {
                return true;
            }
        }
    }
    return false;
}

/* Turns the scores of a block's cells into weights relative to the row's largest score so far, which may rise. */
COMMANDR_INLINE void weigh(float * acc, int64_t dim_pad, float * w) {
    float * const max       = &acc[dim_pad];
    float * const sum       = &acc[dim_pad + 1];
    float         block_max = -INFINITY;
    for (int i = 0; i < BLOCK_CELLS; i++) {
        block_max = w[i] > block_max || w[i] != w[i] ? w[i] : block_max;
    }
    if (block_max != block_max || block_max == INFINITY) {
        *sum = NAN; /* shows in the logits, as it should */
        return;
    }
    if (!(block_max > -INFINITY)) {
        memset(w, 0, BLOCK_CELLS * sizeof(float)); /* the row sees none of these cells */
        return;
    }
    if (block_max > *max) {
        const float shrink = expf(*max - block_max);
        scale(acc, shrink, dim_pad);
        *sum *= shrink;
        *max = block_max;
    }
    for (int i = 0; i < BLOCK_CELLS; i += LANES) {
        const f32v e = exp_of(*(const f32v *) (w + i) - *max);
        for (int l = 0; l < LANES; l++) {
            *sum += e[l];
        }
        *(f32v *) (w + i) = e;
    }
}

COMMANDR_EACH_VECTOR_WIDTH
static void attend_piece(const tile * t, int64_t begin, int64_t end) {
    float         block[BLOCK_CELLS * MAX_DIM];
    float         weights[TILE_ROWS][BLOCK_CELLS];
    const int64_t dim_pad = t->dim_pad;
    for (int64_t first = begin; first < end; first += BLOCK_CELLS) {
        const int64_t n = end - first < BLOCK_CELLS ? end - first : BLOCK_CELLS;
        if (!any_visible(t, first, n)) {
            continue;
        }
        read_rows(t->k, t->head, first, n, block);
        for (int64_t r = 0; r < t->n_rows; r++) {
            float * w = weights[r];
            for (int64_t i = 0; i < BLOCK_CELLS; i++) {
                const bool visible = i < n && t->mask[r][first + i] == 0;
                w[i]               = visible ? dot(t->q + r * dim_pad, block + i * dim_pad, dim_pad) : -INFINITY;
            }
            weigh(t->acc[r], dim_pad, w);
        }
        const bool special = read_rows(t->v, t->head, first, n, block);
        memset(block + n * dim_pad, 0, (size_t) ((BLOCK_CELLS - n) * dim_pad) * sizeof(float));
        for (int64_t r = 0; r < t->n_rows; r++) {
            for (int64_t i = 0; i < BLOCK_CELLS && !special; i += 4) {
                add_4(t->acc[r], weights[r] + i, block + i * dim_pad, dim_pad);
            }
            for (int64_t i = 0; i < n && special; i++) {
                if (weights[r][i] !=
                    0.0f) { /* what is infinite in a cell that the row does not see must not reach it */
                    add_1(t->acc[r], weights[r][i], block + i * dim_pad, dim_pad);
                }
            }
        }
    }
}

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

/* First operation. dst: F32 [dim_pad + 2, n_head, n_tokens, n_chunks]; sources: q, k, v, mask. */
static void attend(struct ggml_tensor * dst, int ith, int nth, void * user_data) {
    (void) user_data;
    const struct ggml_tensor * q        = dst->src[0];
    const struct ggml_tensor * k        = dst->src[1];
    const struct ggml_tensor * mask     = dst->src[3];
    const int64_t              dim      = q->ne[0];
    const int64_t              n_kv     = k->ne[1];
    const int64_t              n_chunks = dst->ne[3];
    const int64_t              group    = q->ne[2] / k->ne[2];
    const int64_t              n_rows   = q->ne[1] * group; /* that share a KV head */
    const int64_t              n_tiles  = (n_rows + TILE_ROWS - 1) / TILE_ROWS;
    const float                q_scale  = 1.0f / sqrtf((float) dim);

    tile t = { .k = k, .v = dst->src[2], .dim_pad = pad(dim) };
    for (int64_t piece = ith; piece < k->ne[2] * n_tiles * n_chunks; piece += nth) {
        const int64_t c         = piece % n_chunks;
        const int64_t first_row = piece / n_chunks % n_tiles * TILE_ROWS;
        t.head                  = piece / n_chunks / n_tiles;
        t.n_rows                = n_rows - first_row < TILE_ROWS ? n_rows - first_row : TILE_ROWS;
        memset(t.q, 0, sizeof(t.q));
        for (int64_t r = 0; r < t.n_rows; r++) {
            const int64_t token = (first_row + r) / group;
            const int64_t head  = t.head * group + (first_row + r) % group;
            const float * q_row =
                (const float *) ((const char *) q->data + (size_t) token * q->nb[1] + (size_t) head * q->nb[2]);
            for (int64_t d = 0; d < dim; d++) {
                t.q[r * t.dim_pad + d] = q_row[d] * q_scale;
            }
            t.mask[r] = (const ggml_fp16_t *) mask->data + token * mask->ne[0];
            t.acc[r]  = (float *) ((char *) dst->data + (size_t) head * dst->nb[1] + (size_t) token * dst->nb[2] +
                                   (size_t) c * dst->nb[3]);
            memset(t.acc[r], 0, dst->nb[1]);
            t.acc[r][t.dim_pad] = -INFINITY;
        }
        const int64_t end = chunk_begin(c + 1) < n_kv ? chunk_begin(c + 1) : n_kv;
        attend_piece(&t, chunk_begin(c), end);
    }
}

/* Second operation. dst: F32 [head_dim, n_head, n_tokens]; source: the result of the first. */
static void join(struct ggml_tensor * dst, int ith, int nth, void * user_data) {
    (void) user_data;
    const struct ggml_tensor * parts    = dst->src[0];
    const int64_t              dim      = dst->ne[0];
    const int64_t              max_at   = parts->ne[0] - 2;
    const int64_t              n_chunks = parts->ne[3];
    for (int64_t row = ith; row < dst->ne[1] * dst->ne[2]; row += nth) {
        const char * first = (const char *) parts->data + (size_t) row * parts->nb[1];
        float *      out   = (float *) ((char *) dst->data + (size_t) row * dst->nb[1]);
        float        max   = -INFINITY;
        float        sum   = 0.0f;
        for (int64_t c = 0; c < n_chunks; c++) {
            const float * part = (const float *) (first + (size_t) c * parts->nb[3]);
            max                = part[max_at] > max ? part[max_at] : max;
        }
        memset(out, 0, (size_t) dim * sizeof(float));
        for (int64_t c = 0; c < n_chunks; c++) {
            const float * part = (const float *) (first + (size_t) c * parts->nb[3]);
            if (part[max_at + 1] == 0.0f) {
                continue; /* a chunk of which the row sees no cell */
            }
            const float weight = expf(part[max_at] - max);
            sum += part[max_at + 1] * weight;
            for (int64_t d = 0; d < dim; d++) {
                out[d] += part[d] * weight;
            }
        }
        for (int64_t d = 0; d < dim && sum != 0.0f; d++) {
            out[d] /= sum;
        }
    }
}

struct ggml_tensor * commandr_attention(struct ggml_context * ctx, struct ggml_tensor * q, struct ggml_tensor * k,
                                        struct ggml_tensor * v, struct ggml_tensor * mask) {
    const int64_t n_tokens = q->ne[1];
    const int64_t n_head   = q->ne[2];
    const int64_t n_chunks = count_chunks(k->ne[1]);

    struct ggml_tensor * args[4] = { q, k, v, mask };
    struct ggml_tensor * parts = ggml_custom_4d(ctx, GGML_TYPE_F32, pad(q->ne[0]) + 2, n_head, n_tokens, n_chunks, args,
                                                4, attend, GGML_N_TASKS_MAX, NULL);
    return ggml_custom_4d(ctx, GGML_TYPE_F32, q->ne[0], n_head, n_tokens, 1, &parts, 1, join, GGML_N_TASKS_MAX, NULL);
}
