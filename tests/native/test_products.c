/* Our products of packed weights against sums in double precision of the same weights and the same rounded activations.
 * COMMANDR_CPU names the level, see level.h. */
#include "checks.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "kernels/level.h"
#include "kernels/matmul.h"
#include "kernels/packed.h"
#include "kernels/tile.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_COLS = 70, MAX_IN = 2304, MAX_OUT = 1040 };

static const enum ggml_type TYPES[] = { GGML_TYPE_Q4_K, GGML_TYPE_Q5_K, GGML_TYPE_Q6_K,
                                        GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, GGML_TYPE_BF16 };

/* What x becomes in 8 bits: a scale for each run of elements, as columns.h says. run 0: in bfloat16 */
static void rounded(const float * x, int64_t n, int64_t run, double * to) {
    if (run == 0) {
        for (int64_t i = 0; i < n; i++) {
            to[i] = (double) ggml_bf16_to_fp32(ggml_fp32_to_bf16(x[i]));
        }
        return;
    }
    for (int64_t i = 0; i < n; i += run) {
        float max = 0.0f;
        for (int64_t k = 0; k < run; k++) {
            max = fmaxf(max, fabsf(x[i + k]));
        }
        for (int64_t k = 0; k < run; k++) {
            to[i + k] = max > 1e-30f ? (double) nearbyintf(x[i + k] * (127.0f / max)) * (double) (max / 127.0f) : 0.0;
        }
    }
}

/* The first rows of a packed w with n_cols columns have the bits that the portable kernel gives them. */
static void check_bits(const struct ggml_tensor * w, const struct ggml_tensor * columns, int64_t n_cols) {
    static float    ours[MAX_COLS][COMMANDR_LANES], portable[MAX_COLS][COMMANDR_LANES];
    const int32_t * x = commandr_columns_units(columns);
    memset(ours, 0, sizeof(ours));
    memset(portable, 0, sizeof(portable));
    for (int64_t b = 0; b < w->ne[0] / COMMANDR_SUPER_BLOCK; b++) {
        const uint8_t * tile = (const uint8_t *) w->data + (size_t) b * commandr_tile_size(w->type);
        commandr_tile(w->type)(tile, x, n_cols, ours);
        commandr_tile_portable(w->type)(tile, x, n_cols, portable);
        x += commandr_columns_n_units(commandr_matmul_rounding(w->type)) * n_cols;
    }
    if (memcmp(ours, portable, sizeof(ours)) != 0) {
        fail_product("other bits than those of the portable kernel", w->type, w->ne, n_cols);
    }
}

typedef struct fixture {
    struct ggml_tensor * file;   /* the weights in their file's layout */
    struct ggml_tensor * packed; /* the same */
    float *              floats; /* the same: [n_out][n_in] */
    float *              x;      /* [MAX_COLS][n_in] */
    int                  n_threads;
} fixture;

/* w x of the first n_cols columns from c on: [n_cols][n_out] */
static void multiply(const fixture * f, struct ggml_tensor * w, int64_t c, int64_t n_cols, float * out) {
    ggml_backend_t        cpu  = ggml_backend_cpu_init();
    struct ggml_context * ctx  = ggml_init((struct ggml_init_params) { 64 << 20, NULL, false });
    struct ggml_tensor *  x    = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, w->ne[0], n_cols);
    commandr_columns      cols = commandr_columns_round(ctx, x, commandr_matmul_rounding(w->type));
    struct ggml_tensor *  y    = commandr_matmul(ctx, w, &cols);
    struct ggml_tensor *  same = commandr_matmul(ctx, w, &cols); /* a second reader has a counter of its own */
    struct ggml_cgraph *  g    = ggml_new_graph(ctx);
    memcpy(x->data, f->x + c * w->ne[0], ggml_nbytes(x));
    ggml_build_forward_expand(g, y);
    ggml_build_forward_expand(g, same);
    ggml_backend_cpu_set_n_threads(cpu, f->n_threads);
    ggml_backend_graph_compute(cpu, g);
    memset(y->data, 0xff, ggml_nbytes(y));
    memset(same->data, 0, ggml_nbytes(same));
    ggml_backend_graph_compute(cpu, g); /* counters begin anew */
    if (memcmp(y->data, same->data, ggml_nbytes(y)) != 0) {
        fail_product("the second product of the same columns differs", w->type, w->ne, n_cols);
    }
    memcpy(out, y->data, ggml_nbytes(y));
    if (commandr_is_packed(w) && w->ne[1] >= COMMANDR_LANES) {
        check_bits(w, cols.data, n_cols);
    }
    ggml_free(ctx);
    ggml_backend_free(cpu);
}

static void check_sums(const fixture * f, const float * y, int64_t n_cols) {
    static double xr[MAX_IN];
    const int64_t n_in = f->file->ne[0];
    const int     how  = (int) commandr_matmul_rounding(f->file->type);
    const int64_t run  = how == COMMANDR_FLOATS ? 0 : how == COMMANDR_FINE ? 32 : 256;
    for (int64_t c = 0; c < n_cols; c++) {
        rounded(f->x + c * n_in, n_in, run, xr);
        for (int64_t row = 0; row < f->file->ne[1]; row++) {
            double sum = 0.0, size = 0.0;
            for (int64_t i = 0; i < n_in; i++) {
                sum += (double) f->floats[row * n_in + i] * xr[i];
                size += fabs((double) f->floats[row * n_in + i] * xr[i]);
            }
            /* Written so that NaN fails. What is bounded is the rounding of sums in single precision. */
            if (!(fabs(sum - (double) y[c * f->file->ne[1] + row]) <= 2e-6 * size)) {
                fail_product("a sum is wrong", f->file->type, f->file->ne, n_cols);
            }
        }
    }
}

static void check_rows(const fixture * f) {
    struct ggml_context * ctx     = ggml_init((struct ggml_init_params) { 1 << 20, NULL, false });
    struct ggml_tensor *  ids     = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, 5);
    const int32_t         n_out   = (int32_t) f->packed->ne[1];
    const int32_t         rows[5] = { n_out - 1, 0, 7 % n_out, 7 % n_out, n_out / 2 };
    memcpy(ids->data, rows, sizeof(rows));
    struct ggml_tensor * y   = commandr_packed_rows(ctx, f->packed, ids);
    struct ggml_cgraph * g   = ggml_new_graph(ctx);
    ggml_backend_t       cpu = ggml_backend_cpu_init();
    ggml_build_forward_expand(g, y);
    ggml_backend_graph_compute(cpu, g);
    const size_t size = (size_t) f->packed->ne[0] * sizeof(float);
    for (int i = 0; i < 5; i++) {
        if (memcmp((char *) y->data + (size_t) i * size, (char *) f->floats + (size_t) rows[i] * size, size) != 0) {
            fail_product("a row that is looked up differs", f->packed->type, f->packed->ne, 5);
        }
    }
    ggml_backend_free(cpu);
    ggml_free(ctx);
}

/* One column that is not finite shows in its own results and in no others. */
static void check_not_finite(fixture * f) {
    static float  y[MAX_OUT * 3];
    const float   values[3] = { INFINITY, -INFINITY, NAN };
    const int64_t n_out     = f->packed->ne[1];
    for (int i = 0; i < 3; i++) {
        const float before         = f->x[f->packed->ne[0] + 3];
        f->x[f->packed->ne[0] + 3] = values[i];
        multiply(f, f->packed, 0, 3, y);
        f->x[f->packed->ne[0] + 3] = before;
        for (int64_t row = 0; row < n_out; row++) {
            if (!isfinite(y[row]) || isfinite(y[n_out + row]) || !isfinite(y[2 * n_out + row])) {
                fail_product("what is not finite is lost or spreads", f->packed->type, f->packed->ne, 3);
            }
        }
    }
}

static void check(enum ggml_type type, int64_t n_in, int64_t n_out) {
    static float     y[MAX_COLS * MAX_OUT], other[MAX_COLS * MAX_OUT];
    static const int counts[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 32, 33, 70 };
    const int64_t    ne[2]    = { n_in, n_out };
    fixture          f        = { .n_threads = 1 };
    if (type == GGML_TYPE_BF16 && !commandr_matmul_has(type, ne)) {
        return; /* left to ggml where that is faster */
    }
    if (!commandr_matmul_has(type, ne)) {
        fail_product("there is no kernel", type, ne, 0);
    }
    struct ggml_context * ctx = ggml_init((struct ggml_init_params) { 64 << 20, NULL, false });
    f.file                    = ggml_new_tensor_2d(ctx, type, n_in, n_out);
    f.packed                  = ggml_new_tensor_2d(ctx, type, n_in, n_out);
    f.floats                  = malloc((size_t) (n_in * n_out) * sizeof(float));
    f.x                       = malloc((size_t) (n_in * MAX_COLS) * sizeof(float));
    for (int64_t i = 0; i < n_in * n_out; i++) {
        f.floats[i] = uniform() * uniform() + 0.1f; /* not around 0: minimums matter */
    }
    for (int64_t i = 0; i < n_in * MAX_COLS; i++) {
        f.x[i] = uniform() * expf(4.0f * uniform());
    }
    memset(f.x, 0, (size_t) n_in * sizeof(float) / 2); /* blocks of zeros */
    for (int64_t i = 0; i < 256; i++) {
        f.x[n_in + i] = 1e-38f; /* counts as 0 */
    }
    ggml_quantize_chunk(type, f.floats, f.file->data, 0, n_out, n_in, NULL);
    ggml_get_type_traits(type)->to_float(f.file->data, f.floats, n_in * n_out);
    commandr_mark_packed(f.packed);
    const int64_t half = n_out / 32 * 16; /* in two pieces */
    commandr_pack(f.packed, 0, half, f.file->data);
    commandr_pack(f.packed, half, n_out - half, (const uint8_t *) f.file->data + (size_t) half * f.file->nb[1]);

    multiply(&f, f.packed, 0, MAX_COLS, y);
    check_sums(&f, y, MAX_COLS);
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        const int64_t n = counts[i];
        f.n_threads     = 1 + (int) i % 3;
        /* The same bits with any number of columns, threads and either layout. */
        multiply(&f, i % 4 == 3 ? f.file : f.packed, MAX_COLS - n, n, other);
        if (memcmp(other, y + (MAX_COLS - n) * n_out, (size_t) (n * n_out) * sizeof(float)) != 0) {
            fail_product("a column depends on what it is computed with", type, ne, n);
        }
    }
    check_rows(&f);
    check_not_finite(&f);
    free(f.floats);
    free(f.x);
    ggml_free(ctx);
}

/* Three matrices in one operation, with rests of rows and of two types, are what each is alone. */
static void check_all(enum ggml_type type, enum ggml_type other) {
    enum { N_IN = 512, N = 3 };
    static const int64_t  n_out[N] = { 279, 1040, 16 };
    static const int64_t  counts[] = { 1, 5, 40 };
    struct ggml_context * ctx      = ggml_init((struct ggml_init_params) { 64 << 20, NULL, false });
    struct ggml_tensor *  w[N];
    float *               floats = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, N_IN, 1040)->data;
    for (int i = 0; i < N; i++) {
        w[i] = ggml_new_tensor_2d(ctx, i == 1 ? other : type, N_IN, n_out[i]);
        for (int64_t k = 0; k < N_IN * n_out[i]; k++) {
            floats[k] = uniform();
        }
        ggml_quantize_chunk(w[i]->type, floats, w[i]->data, 0, n_out[i], N_IN, NULL);
    }
    for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
        ggml_backend_t        cpu = ggml_backend_cpu_init();
        struct ggml_context * own = ggml_init((struct ggml_init_params) { 64 << 20, NULL, false });
        struct ggml_tensor *  x   = ggml_new_tensor_2d(own, GGML_TYPE_F32, N_IN, counts[c]);
        struct ggml_tensor *  y[N], *alone[N];
        struct ggml_cgraph *  g = ggml_new_graph(own);
        for (int64_t k = 0; k < N_IN * counts[c]; k++) {
            ((float *) x->data)[k] = uniform();
        }
        commandr_columns cols = commandr_columns_round(own, x, commandr_matmul_rounding(type));
        commandr_matmul_all(own, w, N, &cols, y);
        for (int i = 0; i < N; i++) {
            alone[i] = commandr_matmul(own, w[i], &cols);
            ggml_build_forward_expand(g, y[i]);
            ggml_build_forward_expand(g, alone[i]);
        }
        ggml_backend_cpu_set_n_threads(cpu, 1 + 2 * (int) (c % 2)); /* one alone draws many tiles at a time */
        memset(y[0]->data, 0xff, ggml_nbytes(y[0]->view_src));
        ggml_backend_graph_compute(cpu, g);
        for (int i = 0; i < N; i++) {
            if (!ggml_is_contiguous(y[i]) || ggml_nbytes(y[i]) != ggml_nbytes(alone[i]) ||
                memcmp(y[i]->data, alone[i]->data, ggml_nbytes(y[i])) != 0) {
                fail_product("a product differs when computed with others", w[i]->type, w[i]->ne, counts[c]);
            }
        }
        ggml_free(own);
        ggml_backend_free(cpu);
    }
    ggml_free(ctx);
}

int main(void) {
    if (commandr_level_choose() != COMMANDR_OK) {
        printf("COMMANDR_CPU is no level of this processor\n");
        return 1;
    }
    for (size_t t = 0; t < sizeof(TYPES) / sizeof(TYPES[0]); t++) {
        check(TYPES[t], 256, 16);
        check(TYPES[t], 768, 48);
        check(TYPES[t], MAX_IN, MAX_OUT);
        check(TYPES[t], 512, 279);
        check(TYPES[t], 256, 3);
    }
    check_all(GGML_TYPE_Q4_K, GGML_TYPE_Q6_K);
    check_all(GGML_TYPE_Q8_0, GGML_TYPE_Q4_0);
    if (commandr_matmul_has(GGML_TYPE_BF16, (const int64_t[]) { 256, 1 })) {
        check_all(GGML_TYPE_BF16, GGML_TYPE_BF16);
    }
    return 0;
}
