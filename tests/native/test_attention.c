/* Our attention against softmax and sums in double precision over the same cache, for every vector width that this
 * processor has; and the same bits for a token whatever it is computed with. Exit status 1 and a line for the first
 * difference. */
#include "checks.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "kernels/attention-tile.h"
#include "kernels/attention.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_KV = 2400, N_TOKENS = 512, MAX_HEADS = 8, MAX_DIM = COMMANDR_MAX_DIM };

typedef struct shape {
    int64_t        dim;
    int64_t        n_head;
    int64_t        n_head_kv;
    int64_t        n_window; /* 0: none */
    enum ggml_type type_k;
    enum ggml_type type_v;
} shape;

static void fail(const char * what, const shape * s, int64_t n) {
    printf("%s: %lld of %lld heads of %lld, window %lld, %s and %s, %lld\n", what, (long long) s->n_head,
           (long long) s->n_head_kv, (long long) s->dim, (long long) s->n_window, ggml_type_name(s->type_k),
           ggml_type_name(s->type_v), (long long) n);
    exit(1);
}

typedef struct fixture {
    shape                 shape;
    struct ggml_context * ctx;
    struct ggml_tensor *  k; /* [dim, N_KV, n_head_kv], cells holding all heads as in the KV cache */
    struct ggml_tensor *  v;
    float *               q; /* [N_TOKENS][n_head][dim] */
} fixture;

static struct ggml_tensor * new_cache(struct ggml_context * ctx, enum ggml_type type, int64_t dim, int64_t n_head_kv) {
    struct ggml_tensor * cache = ggml_new_tensor_2d(ctx, type, dim * n_head_kv, N_KV);
    float                cell[MAX_HEADS * MAX_DIM];
    for (int64_t i = 0; i < N_KV; i++) {
        for (int64_t d = 0; d < dim * n_head_kv; d++) {
            cell[d] = 2.0f * uniform() + 0.5f;
        }
        ggml_quantize_chunk(type, cell, (char *) cache->data + (size_t) i * cache->nb[1], 0, 1, dim * n_head_kv, NULL);
    }
    return ggml_view_3d(ctx, cache, dim, N_KV, n_head_kv, cache->nb[1], ggml_row_size(type, dim), 0);
}

static fixture new_fixture(shape s) {
    fixture f = { .shape = s, .ctx = ggml_init((struct ggml_init_params) { 64 << 20, NULL, false }) };
    f.k       = new_cache(f.ctx, s.type_k, s.dim, s.n_head_kv);
    f.v       = new_cache(f.ctx, s.type_v, s.dim, s.n_head_kv);
    f.q       = malloc((size_t) (N_TOKENS * s.n_head * s.dim) * sizeof(float));
    for (int64_t i = 0; i < N_TOKENS * s.n_head * s.dim; i++) {
        f.q[i] = 8.0f * uniform();
    }
    return f;
}

static void free_fixture(fixture * f) {
    free(f->q);
    ggml_free(f->ctx);
}

/* Tokens are the last N_TOKENS before the last 100 cells, which nobody sees. Every 41st cell is empty. */
static bool sees(const shape * s, int64_t token, int64_t cell) {
    const int64_t pos = N_KV - 100 - N_TOKENS + token;
    return cell <= pos && cell % 41 != 17 && (s->n_window == 0 || pos - cell < s->n_window);
}

static void fill_mask(const shape * s, int64_t token, int64_t n_kv, ggml_fp16_t * mask) {
    for (int64_t c = 0; c < n_kv; c++) {
        mask[c] = ggml_fp32_to_fp16(sees(s, token, c) ? 0.0f : -INFINITY);
    }
}

static const char * row_of(const struct ggml_tensor * cache, int64_t cell, int64_t head) {
    return (const char *) cache->data + (size_t) cell * cache->nb[1] + (size_t) head * cache->nb[2];
}

static void to_floats(const struct ggml_tensor * cache, int64_t cell, int64_t head, float * to) {
    if (cache->type == GGML_TYPE_F32) {
        memcpy(to, row_of(cache, cell, head), (size_t) cache->ne[0] * sizeof(float));
    } else {
        ggml_get_type_traits(cache->type)->to_float(row_of(cache, cell, head), to, cache->ne[0]);
    }
}

/* One head of one token in double precision: [dim] */
static void expected_of(const fixture * f, int64_t token, int64_t head, double * out) {
    static double scores[N_KV];
    const shape * s       = &f->shape;
    const int64_t head_kv = head / (s->n_head / s->n_head_kv);
    const float * q       = f->q + (token * s->n_head + head) * s->dim;
    double        max = -INFINITY, sum = 0.0;
    float         row[MAX_DIM];
    for (int64_t c = 0; c < N_KV; c++) {
        to_floats(f->k, c, head_kv, row);
        scores[c] = 0.0;
        for (int64_t d = 0; d < s->dim; d++) {
            scores[c] += (double) q[d] * (double) row[d] / sqrt((double) s->dim);
        }
        max = sees(s, token, c) ? fmax(max, scores[c]) : max;
    }
    memset(out, 0, (size_t) s->dim * sizeof(double));
    for (int64_t c = 0; c < N_KV; c++) {
        const double w = sees(s, token, c) ? exp(scores[c] - max) : 0.0;
        to_floats(f->v, c, head_kv, row);
        sum += w;
        for (int64_t d = 0; d < s->dim && w != 0.0; d++) {
            out[d] += w * (double) row[d];
        }
    }
    for (int64_t d = 0; d < s->dim; d++) {
        out[d] /= sum;
    }
}

/* Results of tokens first..first+n-1 that look at the first n_kv cells: [n][n_head][dim] */
static void attend(const fixture * f, int64_t first, int64_t n, int64_t n_kv, int n_threads, float * out) {
    const shape *         s    = &f->shape;
    ggml_backend_t        cpu  = ggml_backend_cpu_init();
    struct ggml_context * ctx  = ggml_init((struct ggml_init_params) { 192 << 20, NULL, false });
    struct ggml_tensor *  q    = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, s->dim, s->n_head, n);
    struct ggml_tensor *  mask = ggml_new_tensor_2d(ctx, GGML_TYPE_F16, n_kv, n);
    struct ggml_tensor *  k    = ggml_view_3d(ctx, f->k, s->dim, n_kv, s->n_head_kv, f->k->nb[1], f->k->nb[2], 0);
    struct ggml_tensor *  v    = ggml_view_3d(ctx, f->v, s->dim, n_kv, s->n_head_kv, f->v->nb[1], f->v->nb[2], 0);
    memcpy(q->data, f->q + first * s->n_head * s->dim, ggml_nbytes(q));
    for (int64_t t = 0; t < n; t++) {
        fill_mask(s, first + t, n_kv, (ggml_fp16_t *) mask->data + t * n_kv);
    }
    q                          = ggml_permute(ctx, q, 0, 2, 1, 3);
    commandr_mask        both  = commandr_mask_summarize(ctx, mask, 2);
    struct ggml_tensor * y     = commandr_attention(ctx, q, k, v, &both);
    struct ggml_tensor * again = commandr_attention(ctx, q, k, v, &both); /* a second layer has a counter of its own */
    struct ggml_cgraph * graph = ggml_new_graph(ctx);
    ggml_build_forward_expand(graph, y);
    ggml_build_forward_expand(graph, again);
    ggml_backend_cpu_set_n_threads(cpu, n_threads);
    ggml_backend_graph_compute(cpu, graph);
    memset(y->data, 0xff, ggml_nbytes(y));
    memset(again->data, 0, ggml_nbytes(again));
    ggml_backend_graph_compute(cpu, graph); /* counters begin anew */
    if (memcmp(y->data, again->data, ggml_nbytes(y)) != 0) {
        fail("the second operation with a mask differs", s, n);
    }
    memcpy(out, y->data, ggml_nbytes(y));
    ggml_free(ctx);
    ggml_backend_free(cpu);
}

static void check_near(const fixture * f, int64_t token, int64_t head, const float * row, double bound) {
    double expected[MAX_DIM];
    expected_of(f, token, head, expected);
    for (int64_t d = 0; d < f->shape.dim; d++) {
        if (!(fabs(expected[d] - (double) row[d]) < bound)) { /* so that NaN fails */
            printf("%.9g is not %.9g, ", (double) row[d], expected[d]);
            fail("a sum is wrong", &f->shape, token);
        }
    }
}

/* All batches give the same bits, and the right ones. */
static void check_batches(shape s) {
    static const int64_t counts[] = { 1, 7, 64, 65, 200 };
    fixture              f        = new_fixture(s);
    const int64_t        size     = s.n_head * s.dim; /* of a token */
    float *              all      = malloc((size_t) (2 * N_TOKENS * size) * sizeof(float));
    float *              some     = all + N_TOKENS * size;
    attend(&f, 0, N_TOKENS, N_KV, 2, all);
    for (int64_t token = 0; token < N_TOKENS; token += 73) {
        check_near(&f, token, token % s.n_head, all + token * size + token % s.n_head * s.dim, 2e-6);
    }
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        for (int64_t first = 0; first + counts[i] <= N_TOKENS; first += 301) {
            /* Cells that nobody sees change nothing: half the time those behind the last token are left out. */
            const int64_t last = N_KV - 100 - N_TOKENS + first + counts[i];
            attend(&f, first, counts[i], first % 2 ? last : N_KV, 1 + (int) i % 3, some);
            if (memcmp(some, all + first * size, (size_t) (counts[i] * size) * sizeof(float)) != 0) {
                fail("a token depends on what it is computed with", &s, counts[i]);
            }
        }
    }
    free(all);
    free_fixture(&f);
}

/* ---- one tile, for each vector width ---- */

typedef struct width {
    const char *          name;
    commandr_attention_fn attend;
} width;

static int find_widths(width * to) {
    int n   = 0;
    to[n++] = (width) { "portable", commandr_attend_portable };
#if defined(__x86_64__) && defined(__GNUC__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        to[n++] = (width) { "avx2", commandr_attend_avx2 };
    }
    if (commandr_attention_find() == commandr_attend_avx512) {
        to[n++] = (width) { "avx512", commandr_attend_avx512 };
    }
#endif
    return n;
}

/* Cells 0..N_KV-1 for a row of each of n_heads KV heads, `head` the first, of n tokens first, first + stride, ... */
static void attend_heads(const fixture * f, const width * w, int64_t head, int64_t n_heads, int64_t first,
                         int64_t stride, int64_t n, commandr_attention_tile * t) {
    static ggml_fp16_t masks[COMMANDR_ATTENTION_ROWS][N_KV];
    static uint8_t     seen[(N_KV + COMMANDR_BLOCK_CELLS - 1) / COMMANDR_BLOCK_CELLS * COMMANDR_ATTENTION_ROWS];
    const shape *      s = &f->shape;
    memset(seen, COMMANDR_SEES_SOME, sizeof(seen));
    *t = (commandr_attention_tile) {
        .k = f->k, .v = f->v, .head = head, .n_heads = n_heads, .n_rows = n_heads * n, .n_tokens = n, .sees = seen
    };
    t->dim_pad = (s->dim + COMMANDR_DIM_PAD - 1) / COMMANDR_DIM_PAD * COMMANDR_DIM_PAD;
    for (int64_t r = 0; r < n_heads * n; r++) {
        const int64_t token = first + r % n * stride;
        const int64_t h     = (head + r / n) * (s->n_head / s->n_head_kv);
        fill_mask(s, token, N_KV, masks[r]);
        for (int64_t d = 0; d < s->dim; d++) {
            t->q[r * t->dim_pad + d] = f->q[(token * s->n_head + h) * s->dim + d] / sqrtf((float) s->dim);
        }
        t->mask[r]  = masks[r];
        t->token[r] = r % n;
    }
    w->attend(t, 0, N_KV);
}

static void attend_tile(const fixture * f, const width * w, int64_t first, int64_t stride, int64_t n,
                        commandr_attention_tile * t) {
    attend_heads(f, w, 0, 1, first, stride, n, t);
}

static void check_tile(shape s, const width * w) {
    static commandr_attention_tile all, one;
    static const int64_t           counts[] = { 1, 3, 8, 9, 30 };
    fixture                        f        = new_fixture(s);
    attend_tile(&f, w, 5, 7, COMMANDR_ATTENTION_ROWS, &all);
    for (int64_t r = 0; r < COMMANDR_ATTENTION_ROWS; r += 9) {
        float row[MAX_DIM];
        for (int64_t d = 0; d < s.dim; d++) {
            row[d] = all.acc[r * all.dim_pad + d] / all.sum[r];
        }
        check_near(&f, 5 + 7 * r, 0, row, 2e-5); /* all cells are one chunk here */
    }
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        attend_tile(&f, w, 5 + 7 * 11, 7, counts[i], &one);
        for (int64_t r = 0; r < counts[i]; r++) {
            if (one.max[r] != all.max[11 + r] || one.sum[r] != all.sum[11 + r] ||
                memcmp(one.acc + r * one.dim_pad, all.acc + (11 + r) * all.dim_pad, (size_t) s.dim * sizeof(float))) {
                fail(w->name, &s, counts[i]);
            }
        }
    }
    free_fixture(&f);
}

static bool is_finite_row(const commandr_attention_tile * t, int64_t r) {
    bool finite = isfinite(t->sum[r]);
    for (int64_t d = 0; d < t->dim_pad; d++) {
        finite = finite && isfinite(t->acc[r * t->dim_pad + d]);
    }
    return finite;
}

/* What is not finite in a cell shows in the rows that see it and in no others. */
static void check_not_finite(const width * w, int64_t n_rows, bool in_keys) {
    static commandr_attention_tile t;
    const shape                    s        = { 128, 2, 1, 300, GGML_TYPE_F16, GGML_TYPE_F16 };
    const float                    values[] = { INFINITY, -INFINITY, NAN };
    fixture                        f        = new_fixture(s);
    const int64_t                  cell     = N_KV - 100 - N_TOKENS + 20; /* the 20th token's own: later ones see it */
    for (int i = 0; i < 3; i++) {
        ggml_fp16_t * at = (ggml_fp16_t *) (uintptr_t) row_of(in_keys ? f.k : f.v, cell, 0) + 77;
        *at              = ggml_fp32_to_fp16(values[i]);
        attend_tile(&f, w, 20 - n_rows / 2, 1, n_rows, &t);
        for (int64_t r = 0; r < n_rows; r++) {
            if (is_finite_row(&t, r) == sees(&s, 20 - n_rows / 2 + r, cell)) {
                fail("what is not finite is lost or spreads", &s, n_rows);
            }
        }
    }
    free_fixture(&f);
}

/* Rows of several KV heads have the bits that they have alone, also when a value is not finite: in a cell that nobody
 * sees it changes nothing, in one that is seen it shows in its head only. */
static void check_heads(const width * w, enum ggml_type type, bool visible) {
    enum { HEADS = 7, TOKENS = 3 };
    static commandr_attention_tile all, one;
    const shape                    s                       = { 128, HEADS, HEADS, 300, type, GGML_TYPE_F16 };
    fixture                        f                       = new_fixture(s);
    const int64_t                  cell                    = visible ? N_KV - 100 - N_TOKENS + 10 : N_KV - 50;
    ((ggml_fp16_t *) (uintptr_t) row_of(f.v, cell, 4))[77] = ggml_fp32_to_fp16(NAN);
    attend_heads(&f, w, 0, HEADS, 20, 1, TOKENS, &all);
    for (int64_t h = 0; h < HEADS; h++) {
        attend_heads(&f, w, h, 1, 20, 1, TOKENS, &one);
        for (int64_t r = 0; r < TOKENS; r++) {
            const int64_t row = h * TOKENS + r;
            if (is_finite_row(&all, row) != (h != 4 || !visible)) {
                fail("what is not finite is lost or spreads over heads", &s, h);
            }
            if (is_finite_row(&one, r) && (one.max[r] != all.max[row] || one.sum[r] != all.sum[row] ||
                                           memcmp(one.acc + r * 128, all.acc + row * 128, 128 * sizeof(float)) != 0)) {
                fail("a head depends on those it is computed with", &s, h);
            }
        }
    }
    free_fixture(&f);
}

int main(void) {
    static const shape shapes[] = {
        { 128, 4, 4, 0,   GGML_TYPE_F16,  GGML_TYPE_F16  },
        { 128, 8, 2, 0,   GGML_TYPE_F16,  GGML_TYPE_F16  },
        { 128, 8, 2, 0,   GGML_TYPE_Q8_0, GGML_TYPE_Q8_0 },
        { 128, 4, 4, 300, GGML_TYPE_Q8_0, GGML_TYPE_F16  },
        { 64,  6, 2, 70,  GGML_TYPE_F16,  GGML_TYPE_F16  },
        { 40,  8, 1, 0,   GGML_TYPE_F32,  GGML_TYPE_BF16 },
        { 256, 2, 1, 0,   GGML_TYPE_F32,  GGML_TYPE_F32  },
        { 96,  8, 8, 0,   GGML_TYPE_Q4_0, GGML_TYPE_F16  },
    };
    width     widths[3];
    const int n_widths = find_widths(widths);
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        check_batches(shapes[i]);
        for (int w = 0; w < n_widths; w++) {
            check_tile(shapes[i], &widths[w]);
        }
    }
    for (int w = 0; w < n_widths; w++) {
        for (int i = 0; i < 4; i++) {
            check_heads(&widths[w], i % 2 ? GGML_TYPE_F16 : GGML_TYPE_Q8_0, i / 2);
        }
        for (int64_t n_rows = 4; n_rows <= 40; n_rows += 36) {
            check_not_finite(&widths[w], n_rows, true);
            check_not_finite(&widths[w], n_rows, false);
        }
    }
    return 0;
}
