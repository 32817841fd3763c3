#include "kernels/matmul.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>
#include <math.h>
#include <string.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,fma")))

enum {
    BLOCK      = 256, /* elements of a super-block, in weights and activations */
    SUB        = 16,  /* elements that share a weight scale */
    N_SUBS     = BLOCK / SUB,
    LANES      = 16, /* rows of weights in one vector */
    TILE_LANES = 4,  /* vectors of rows unpacked together: 64 rows of one super-block are 16 KiB of bytes */
    COLS       = 8,  /* columns computed together, each with an integer and a float accumulator in registers */
    MIN_COLS   = 16  /* below this, unpacking costs more than it saves */
};

/* ---- the formats ---- */

/* ggml's Q6_K: weight = d * scales[i / 16] * (q - 32), q of 6 bits. In each half of 128, byte l < 64 of ql has the low
 * bits of elements l and l + 64, byte l < 32 of qh the high bits of elements l, l + 32, l + 64 and l + 96. */
typedef struct q6_k {
    uint8_t     ql[BLOCK / 2];
    uint8_t     qh[BLOCK / 4];
    int8_t      scales[N_SUBS];
    ggml_fp16_t d;
} q6_k;

/* A super-block of one column: x = d * (q - 128). Bytes above 0 are what the processor multiplies with signed ones. */
typedef struct column_block {
    uint8_t q[BLOCK];
    float   d;
    float   unused[15]; /* whole cache lines */
} column_block;

/* A super-block of 16 rows: what one vector register after the other is loaded from. */
typedef struct row_tile {
    int8_t q[BLOCK / 4][LANES][4]; /* four neighbouring elements of each row */
    float  scale[N_SUBS][LANES];
    float  offset[LANES]; /* 128 times the sum of the weights: what q - 128 instead of q takes off */
} row_tile;

/* ---- columns to bytes ---- */

/* dst: I8 [column_block x blocks, columns padded to COLS]; source: x. Columns beyond the last are 0. */
TARGET static void round_columns(struct ggml_tensor * dst, int ith, int nth, void * user_data) {
    (void) user_data;
    const struct ggml_tensor * x        = dst->src[0];
    const int64_t              n_blocks = x->ne[0] / BLOCK;
    for (int64_t c = ith; c < dst->ne[1]; c += nth) {
        column_block * out = (column_block *) ((char *) dst->data + (size_t) c * dst->nb[1]);
        const float *  in  = (const float *) ((const char *) x->data + (size_t) c * x->nb[1]);
        for (int64_t b = 0; b < n_blocks; b++, out++, in += BLOCK) {
            /* The order of positive floats is that of their bits, in which NaN comes after infinity. */
            int32_t max_bits = 0;
            for (int i = 0; c < x->ne[1] && i < BLOCK; i++) {
                int32_t bits;
                memcpy(&bits, in + i, sizeof(bits));
                bits &= INT32_MAX;
                max_bits = bits > max_bits ? bits : max_bits;
            }
            float max;
            memcpy(&max, &max_bits, sizeof(max));
            out->d = max < INFINITY ? max / 127.0f : NAN; /* what is not finite shows in the logits, as it should */
            if (max == 0.0f || !(max < INFINITY)) {
                memset(out->q, 128, BLOCK);
                continue;
            }
            const __m512 inverse = _mm512_set1_ps(127.0f / max);
            for (int i = 0; i < BLOCK; i += LANES) {
                const __m512i q =
                    _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(in + i), inverse)); /* nearest even */
                _mm_storeu_si128((__m128i *) (out->q + i),
                                 _mm512_cvtepi32_epi8(_mm512_add_epi32(q, _mm512_set1_epi32(128))));
            }
        }
    }
}

/* ---- rows to bytes ---- */

/* One lane of a tile from one super-block of a row. */
TARGET static void unpack_q6_k(const q6_k * block, row_tile * tile, int lane) {
    int8_t q[BLOCK];
    for (int half = 0; half < 2; half++) {
        const uint8_t * ql  = block->ql + 64 * half;
        const uint8_t * qh  = block->qh + 32 * half;
        int8_t *        out = q + 128 * half;
        for (int l = 0; l < 32; l++) {
            out[l]      = (int8_t) (((ql[l] & 15) | (qh[l] & 3) << 4) - 32);
            out[l + 32] = (int8_t) (((ql[l + 32] & 15) | (qh[l] >> 2 & 3) << 4) - 32);
            out[l + 64] = (int8_t) ((ql[l] >> 4 | (qh[l] >> 4 & 3) << 4) - 32);
            out[l + 96] = (int8_t) ((ql[l + 32] >> 4 | qh[l] >> 6 << 4) - 32);
        }
    }
    const float d      = ggml_fp16_to_fp32(block->d);
    float       offset = 0.0f;
    for (int s = 0; s < N_SUBS; s++) {
        int32_t sum = 0;
        for (int i = 0; i < SUB; i++) {
            sum += q[SUB * s + i];
        }
        const float scale    = d * (float) block->scales[s];
        tile->scale[s][lane] = scale;
        offset += scale * (float) (128 * sum);
    }
    tile->offset[lane] = offset;
    for (int g = 0; g < BLOCK / 4; g++) {
        memcpy(tile->q[g][lane], q + 4 * g, 4);
    }
}

/* ---- the product ---- */

/* Adds the product of a tile with COLS columns' super-blocks to out: [COLS] columns of LANES floats, the first n
 * written. columns: of the first column; the next is column_size bytes on. */
TARGET static void multiply_tile(const row_tile * tile, const char * columns, size_t column_size, float * out,
                                 size_t out_stride, int64_t n) {
    __m512 sums[COLS];
    for (int c = 0; c < COLS; c++) {
        sums[c] = _mm512_setzero_ps();
    }
    for (int s = 0; s < N_SUBS; s++) {
        __m512i dots[COLS];
        for (int c = 0; c < COLS; c++) {
            dots[c] = _mm512_setzero_si512();
        }
        for (int g = s * SUB / 4; g < (s + 1) * SUB / 4; g++) {
            const __m512i w = _mm512_loadu_si512(tile->q[g]);
            for (int c = 0; c < COLS; c++) {
                int32_t four;
                memcpy(&four, columns + (size_t) c * column_size + 4 * g, 4);
                dots[c] = _mm512_dpbusd_epi32(dots[c], _mm512_set1_epi32(four), w);
            }
        }
        const __m512 scale = _mm512_loadu_ps(tile->scale[s]);
        for (int c = 0; c < COLS; c++) {
            sums[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[c]), scale, sums[c]);
        }
    }
    const __m512 offset = _mm512_loadu_ps(tile->offset);
    for (int c = 0; c < COLS; c++) {
        if (c < n) {
            const float  d   = ((const column_block *) (columns + (size_t) c * column_size))->d;
            float *      to  = out + (size_t) c * out_stride;
            const __m512 sum = _mm512_sub_ps(sums[c], offset);
            _mm512_storeu_ps(to, _mm512_fmadd_ps(sum, _mm512_set1_ps(d), _mm512_loadu_ps(to)));
        }
    }
}

/* dst: F32 [n_out, n_cols]; sources: w, the rounded columns. Each thread takes groups of rows for itself. */
TARGET static void multiply(struct ggml_tensor * dst, int ith, int nth, void * user_data) {
    (void) user_data;
    const struct ggml_tensor * w        = dst->src[0];
    const struct ggml_tensor * x        = dst->src[1];
    const int64_t              n_blocks = w->ne[0] / BLOCK;
    const int64_t              n_lanes  = dst->ne[0] / LANES; /* vectors of rows */
    const int64_t              group    = n_lanes >= (int64_t) TILE_LANES * nth ? TILE_LANES : 1;
    row_tile                   tiles[TILE_LANES];
    for (int64_t first = ith * group; first < n_lanes; first += nth * group) {
        const int64_t n_tiles = n_lanes - first < group ? n_lanes - first : group;
        for (int64_t c = 0; c < dst->ne[1]; c++) {
            memset((char *) dst->data + (size_t) c * dst->nb[1] + (size_t) first * LANES * sizeof(float), 0,
                   (size_t) (n_tiles * LANES) * sizeof(float));
        }
        for (int64_t b = 0; b < n_blocks; b++) {
            for (int64_t row = 0; row < n_tiles * LANES; row++) {
                const char * rows = (const char *) w->data + (size_t) (first * LANES + row) * w->nb[1];
                unpack_q6_k((const q6_k *) rows + b, &tiles[row / LANES], (int) (row % LANES));
            }
            for (int64_t c = 0; c < dst->ne[1]; c += COLS) {
                const char * columns =
                    (const char *) x->data + (size_t) c * x->nb[1] + (size_t) b * sizeof(column_block);
                float * out = (float *) ((char *) dst->data + (size_t) c * dst->nb[1]) + first * LANES;
                for (int64_t t = 0; t < n_tiles; t++) {
                    multiply_tile(&tiles[t], columns, x->nb[1], out + t * LANES, dst->nb[1] / sizeof(float),
                                  dst->ne[1] - c);
                }
            }
        }
    }
}

bool commandr_matmul_wanted(const struct ggml_tensor * w, int64_t n_cols) {
    return w->type == GGML_TYPE_Q6_K && n_cols >= MIN_COLS && w->ne[1] % LANES == 0 && w->ne[2] * w->ne[3] == 1 &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw");
}

struct ggml_tensor * commandr_matmul(struct ggml_context * ctx, struct ggml_tensor * w, struct ggml_tensor * x) {
    const int64_t        size  = w->ne[0] / BLOCK * (int64_t) sizeof(column_block);
    const int64_t        n_pad = (x->ne[1] + COLS - 1) / COLS * COLS;
    struct ggml_tensor * columns =
        ggml_custom_4d(ctx, GGML_TYPE_I8, size, n_pad, 1, 1, &x, 1, round_columns, GGML_N_TASKS_MAX, NULL);
    struct ggml_tensor * args[2] = { w, columns };
    return ggml_custom_4d(ctx, GGML_TYPE_F32, w->ne[1], x->ne[1], 1, 1, args, 2, multiply, GGML_N_TASKS_MAX, NULL);
}

#else

bool commandr_matmul_wanted(const struct ggml_tensor * w, int64_t n_cols) {
    (void) w;
    (void) n_cols;
    return false;
}

struct ggml_tensor * commandr_matmul(struct ggml_context * ctx, struct ggml_tensor * w, struct ggml_tensor * x) {
    return ggml_mul_mat(ctx, w, x);
}

#endif
