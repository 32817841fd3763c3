/* Products through AMX against sums in double precision of the same weights and columns, both rounded to bfloat16. Tile
 * instructions that the processor lacks are emulated. */
#include "checks.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "kernels/amx-check.h"
#include "kernels/amx.h"
#include "kernels/packed.h"
#include "tile_emulation.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

enum { MAX_COLS = 70, MAX_IN = 1280 };

/* The nearest bfloat16, ties to even, by arithmetic of its own: 8 significant bits. */
static double nearest(double x) {
    int exponent;
    frexp(x, &exponent);
    return ldexp(nearbyint(ldexp(x, 8 - exponent)), exponent - 8);
}

/* How far the other neighbor is when x lies so close to the middle of two that float32 may take it across. */
static double doubt(double x) {
    const double error = fabs(x) * 0x1p-20;
    return fabs(nearest(x + error) - nearest(x - error));
}

typedef struct fixture {
    struct ggml_tensor * file;   /* the weights in their file's layout */
    struct ggml_tensor * packed; /* the same, packed when the type is */
    float *              floats; /* the same: [n_out][n_in] */
    float *              x;      /* [MAX_COLS][n_in] */
    int                  n_threads;
} fixture;

/* w x of n_cols columns from c on: [n_cols][n_out] */
static void multiply(const fixture * f, struct ggml_tensor * w, int64_t c, int64_t n_cols, float * out) {
    ggml_backend_t        cpu  = ggml_backend_cpu_init();
    struct ggml_context * ctx  = ggml_init((struct ggml_init_params) { 16 << 20, NULL, false });
    struct ggml_tensor *  x    = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, w->ne[0], n_cols);
    commandr_amx_columns  cols = commandr_amx_round(ctx, x);
    struct ggml_tensor *  y    = commandr_amx_matmul(ctx, w, &cols);
    struct ggml_tensor *  same = commandr_amx_matmul(ctx, w, &cols); /* a second reader has a counter of its own */
    struct ggml_cgraph *  g    = ggml_new_graph(ctx);
    memcpy(x->data, f->x + c * w->ne[0], ggml_nbytes(x));
    ggml_build_forward_expand(g, y);
    ggml_build_forward_expand(g, same);
    memset(y->data, 0xff, ggml_nbytes(y));
    memset(same->data, 0, ggml_nbytes(same));
    ggml_backend_cpu_set_n_threads(cpu, f->n_threads);
    ggml_backend_graph_compute(cpu, g);
    if (n_cols == 1) { /* once more: counters begin anew */
        memset(y->data, 0xff, ggml_nbytes(y));
        ggml_backend_graph_compute(cpu, g);
    }
    if (memcmp(y->data, same->data, ggml_nbytes(y)) != 0) {
        fail_product("the second product of the same columns differs", w->type, w->ne, n_cols);
    }
    if (tile_emulated.configured != 0) {
        fail_product("a thread's tiles stay configured", w->type, w->ne, n_cols);
    }
    memcpy(out, y->data, ggml_nbytes(y));
    ggml_free(ctx);
    ggml_backend_free(cpu);
}

static void check_sums(const fixture * f, const float * y) {
    const int64_t n_in = f->file->ne[0];
    for (int64_t row = 0; row < f->file->ne[1]; row++) {
        static double w[MAX_IN], unsure[MAX_IN];
        for (int64_t i = 0; i < n_in; i++) {
            w[i]      = nearest((double) f->floats[row * n_in + i]);
            unsure[i] = doubt((double) f->floats[row * n_in + i]);
        }
        for (int64_t c = 0; c < MAX_COLS; c++) {
            double sum = 0.0, size = 0.0, slack = 0.0;
            for (int64_t i = 0; i < n_in; i++) {
                const double x = nearest((double) f->x[c * n_in + i]);
                sum += w[i] * x;
                size += fabs(w[i] * x);
                slack += unsure[i] * fabs(x);
            }
            /* Written so that NaN fails. What is bounded is the rounding of sums in single precision. */
            if (!(fabs(sum - (double) y[c * f->file->ne[1] + row]) <= 1e-6 * size + slack)) {
                fail_product("a sum is wrong", f->file->type, f->file->ne, MAX_COLS);
            }
        }
    }
}

/* One column that is not finite shows in its own results and in no others: infinities, and a NaN all of whose payload
 * is in the bits that rounding takes off. */
static void check_not_finite(fixture * f) {
    const uint32_t values[3] = { 0x7f800000, 0xff800000, 0x7f800001 };
    const int64_t  n_out     = f->packed->ne[1];
    float *        at        = f->x + f->packed->ne[0] + 3;
    const float    before    = *at;
    float *        y         = malloc((size_t) (3 * n_out) * sizeof(float));
    for (int i = 0; i < 3; i++) {
        memcpy(at, &values[i], sizeof(*at));
        multiply(f, f->packed, 0, 3, y);
        for (int64_t row = 0; row < n_out; row++) {
            if (!isfinite(y[row]) || isfinite(y[n_out + row]) || !isfinite(y[2 * n_out + row])) {
                fail_product("what is not finite is lost or spreads", f->packed->type, f->packed->ne, 3);
            }
        }
    }
    *at = before;
    free(y);
}

/* Each C tile takes one product for 32 elements and no more; weight rows come in strips of two tiles. */
static void check_work(const fixture * f) {
    const int64_t cols   = (MAX_COLS + 15) / 16;
    const int64_t strips = (f->file->ne[1] + 31) / 32;
    const int64_t needed = 2 * strips * cols * (f->file->ne[0] / 32) * 2; /* two readers */
    if (tile_emulated.products != 0 && tile_emulated.products != needed) {
        fail_product("more or fewer products than there are tiles", f->file->type, f->file->ne, MAX_COLS);
    }
}

static void check(enum ggml_type type, int64_t n_in, int64_t n_out) {
    static const int counts[] = { 1, 15, 16, 17, 32, 33, 70 };
    const int64_t    ne[2]    = { n_in, n_out };
    fixture          f        = { .n_threads = 1 };
    const bool       packs    = type == GGML_TYPE_Q4_K || type == GGML_TYPE_Q5_K || type == GGML_TYPE_Q6_K ||
                                type == GGML_TYPE_Q8_0 || type == GGML_TYPE_Q4_0;
    const size_t     n_sums   = (size_t) (MAX_COLS * n_out);
    float *          y        = malloc(n_sums * sizeof(float));
    float *          other    = malloc(n_sums * sizeof(float));

    struct ggml_context * ctx = ggml_init((struct ggml_init_params) { 16 << 20, NULL, false });
    f.file                    = ggml_new_tensor_2d(ctx, type, n_in, n_out);
    f.packed                  = packs ? ggml_new_tensor_2d(ctx, type, n_in, n_out) : f.file;
    f.floats                  = malloc((size_t) (n_in * n_out) * sizeof(float));
    f.x                       = malloc((size_t) (n_in * MAX_COLS) * sizeof(float));
    for (int64_t i = 0; i < n_in * n_out; i++) {
        f.floats[i] = uniform() * uniform() + 0.1f; /* not around 0: minimums matter */
    }
    for (int64_t i = 0; i < n_in * MAX_COLS; i++) {
        f.x[i] = uniform() * expf(4.0f * uniform());
    }
    f.x[5] = 0x1.01p0f; /* in the middle of two: to the even one */
    f.x[6] = 0x1.03p0f;
    ggml_quantize_chunk(type, f.floats, f.file->data, 0, n_out, n_in, NULL);
    ggml_get_type_traits(type)->to_float(f.file->data, f.floats, n_in * n_out);
    if (packs) {
        commandr_mark_packed(f.packed);
        commandr_pack(f.packed, 0, n_out, f.file->data);
    }
    tile_emulated.products = 0;
    multiply(&f, f.packed, 0, MAX_COLS, y);
    check_work(&f);
    check_sums(&f, y);
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        const int64_t n = counts[i];
        f.n_threads     = 1 + (int) i % 3;
        /* The same bits with any number of columns, threads and either layout. */
        multiply(&f, i % 4 == 3 ? f.file : f.packed, MAX_COLS - n, n, other);
        if (memcmp(other, y + (MAX_COLS - n) * n_out, (size_t) (n * n_out) * sizeof(float)) != 0) {
            fail_product("a column depends on what it is computed with", type, ne, n);
        }
    }
    check_not_finite(&f);
    free(f.floats);
    free(f.x);
    free(y);
    free(other);
    ggml_free(ctx);
}

/* More columns than a thread takes at a time, of which a product of few is a part. */
static void check_many_columns(void) {
    enum { N = 530, N_IN = 256, N_OUT = 40 };
    static float          x[N * N_IN], y[N * N_OUT], part[16 * N_OUT];
    struct ggml_context * ctx = ggml_init((struct ggml_init_params) { 1 << 20, NULL, false });
    fixture               f   = { .x = x, .n_threads = 2 };
    f.file                    = ggml_new_tensor_2d(ctx, GGML_TYPE_BF16, N_IN, N_OUT);
    for (int64_t i = 0; i < N * N_IN; i++) {
        x[i] = uniform();
    }
    for (int64_t i = 0; i < N_IN * N_OUT; i++) {
        ((ggml_bf16_t *) f.file->data)[i] = ggml_fp32_to_bf16(uniform());
    }
    multiply(&f, f.file, 0, N, y);
    for (int64_t c = 0; c < N; c += 257) { /* in the first piece and the others */
        multiply(&f, f.file, c, 16, part);
        if (memcmp(part, y + c * N_OUT, sizeof(part)) != 0) {
            fail_product("a column depends on what it is computed with", GGML_TYPE_BF16, f.file->ne, N);
        }
    }
    ggml_free(ctx);
}

static int test_products(void) {
    static const enum ggml_type types[] = { GGML_TYPE_Q4_K, GGML_TYPE_Q5_K, GGML_TYPE_Q6_K,  GGML_TYPE_Q8_0,
                                            GGML_TYPE_Q4_0, GGML_TYPE_BF16, GGML_TYPE_IQ4_XS };
    tile_emulation_start();
    for (size_t t = 0; t < sizeof(types) / sizeof(types[0]); t++) {
        check(types[t], 256, 3);
        check(types[t], 768, 48);
        check(types[t], MAX_IN, 34);
    }
    check(GGML_TYPE_Q4_K, 512, 519); /* enough rows for pieces of several strips */
    check_many_columns();
    return 0;
}

static volatile sig_atomic_t n_signals;

static void count(int number) {
    (void) number;
    n_signals++;
}

/* The program's argument says what it should find: yes or no. */
static int test_self_test(const char * expected) {
    signal(SIGILL, count);
    signal(SIGCHLD, count);
    const bool found = commandr_amx_check_in_child();
    if (found != (strcmp(expected, "yes") == 0) || commandr_amx_available() != found) {
        printf("AMX: %d in a child, %d in all\n", found, commandr_amx_available());
        return 1;
    }
    if (n_signals != 0 || waitpid(-1, NULL, __WALL) != -1) {
        puts("the process noticed its child");
        return 1;
    }
    return 0;
}

static int test_check(void) {
    tile_emulation_start();
    if (!commandr_amx_check()) {
        puts("a right product counts as wrong");
        return 1;
    }
    tile_emulation_is_wrong = true;
    if (tile_emulated.products > 0 && commandr_amx_check()) {
        puts("a wrong product counts as right");
        return 1;
    }
    return 0;
}

int main(int argc, char ** argv) {
    if (argc == 3 && strcmp(argv[1], "self-test") == 0) {
        return test_self_test(argv[2]);
    }
    return argc == 2 && strcmp(argv[1], "check") == 0 ? test_check() : test_products();
}
