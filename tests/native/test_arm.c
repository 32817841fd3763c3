/* Our products for ARM: packed tiles of random blocks with random columns, against sums in double precision that follow
 * ggml's description of the types; prints the level and a hash of all results. There is no ggml to link with when this
 * is compiled on another processor: the few of its functions that the kernels call stand here. COMMANDR_CPU names the
 * level, see level.h. */
#include "kernels/level.h"
#include "kernels/matmul.h"
#include "kernels/packed.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_IN = 768, N_OUT = 35, MAX_COLS = 40, MAX_ROW = N_IN / 256 * 272 };

/* ---- what the kernels need of ggml ---- */

size_t ggml_row_size(enum ggml_type type, int64_t n) {
    const int64_t size = type == GGML_TYPE_Q4_K   ? 144
                         : type == GGML_TYPE_Q5_K ? 176
                         : type == GGML_TYPE_Q6_K ? 210
                         : type == GGML_TYPE_Q4_0 ? 8 * 18
                                                  : 8 * 34;
    return (size_t) (n / 256 * size);
}

float ggml_fp16_to_fp32(ggml_fp16_t bits) {
    __fp16 half;
    memcpy(&half, &bits, sizeof(half));
    return (float) half;
}

const struct ggml_type_traits * ggml_get_type_traits(enum ggml_type type) {
    (void) type;
    abort(); /* for looking up rows alone */
}

void ggml_abort(const char * file, int line, const char * text, ...) {
    printf("%s:%d: %s\n", file, line, text);
    exit(1);
}

/* Computes at once, on two threads that take turns. */
struct ggml_tensor * ggml_custom_4d(struct ggml_context * ctx, enum ggml_type type, int64_t ne0, int64_t ne1,
                                    int64_t ne2, int64_t ne3, struct ggml_tensor ** args, int n_args,
                                    ggml_custom_op_t compute, int n_tasks, void * user_data) {
    struct ggml_tensor * t    = calloc(1, sizeof(*t));
    const size_t         size = type == GGML_TYPE_F32 ? 4 : 1;
    (void) ctx;
    (void) n_tasks;
    t->type  = type;
    t->ne[0] = ne0;
    t->ne[1] = ne1;
    t->nb[0] = size;
    t->nb[1] = size * (size_t) ne0;
    t->data  = aligned_alloc(64, (t->nb[1] * (size_t) (ne1 * ne2 * ne3) + 63) / 64 * 64);
    memcpy(t->src, args, (size_t) n_args * sizeof(*args));
    compute(t, 0, 2, user_data);
    compute(t, 1, 2, user_data);
    return t;
}

struct ggml_tensor * ggml_view_2d(struct ggml_context * ctx, struct ggml_tensor * a, int64_t ne0, int64_t ne1,
                                  size_t nb1, size_t offset) {
    (void) ctx, (void) a, (void) ne0, (void) ne1, (void) nb1, (void) offset;
    abort(); /* for several products at once alone */
}

/* ---- the types, element by element ---- */

static double half_at(const uint8_t * p) {
    const int    bits     = p[0] | p[1] << 8;
    const int    exponent = bits >> 10 & 31;
    const double size     = exponent ? ldexp(1024 + (bits & 1023), exponent - 25) : ldexp(bits & 1023, -24);
    return bits >> 15 ? -size : size;
}

/* Element i of a row is *scaled - *min. */
static void element(enum ggml_type type, const uint8_t * row, int i, double * scaled, double * min) {
    const uint8_t * block = row + (size_t) (i / 256) * ggml_row_size(type, 256);
    const int       e     = i % 256;
    *min                  = 0.0;
    if (type == GGML_TYPE_Q8_0) {
        block += e / 32 * 34;
        *scaled = half_at(block) * (int8_t) block[2 + e % 32];
        return;
    }
    if (type == GGML_TYPE_Q4_0) {
        block += e / 32 * 18;
        *scaled = half_at(block) * ((block[2 + e % 16] >> e % 32 / 16 * 4 & 15) - 8);
        return;
    }
    if (type == GGML_TYPE_Q6_K) {
        const int half    = e / 128;
        const int quarter = e % 128 / 32;
        const int low     = block[64 * half + e % 64] >> 4 * (quarter / 2) & 15;
        const int high    = block[128 + 32 * half + e % 32] >> 2 * quarter & 3;
        *scaled           = half_at(block + 208) * (int8_t) block[192 + e / 16] * ((high << 4 | low) - 32);
        return;
    }
    const int       s      = e / 32;
    const uint8_t * scales = block + 4;
    const int       scale  = s < 4 ? scales[s] & 63 : (scales[s + 4] & 15) | scales[s - 4] >> 6 << 4;
    const int       least  = s < 4 ? scales[s + 4] & 63 : scales[s + 4] >> 4 | scales[s] >> 6 << 4;
    const uint8_t * quants = block + (type == GGML_TYPE_Q5_K ? 48 : 16);
    const int       low    = quants[s / 2 * 32 + e % 32] >> 4 * (s % 2) & 15;
    const int       fifth  = type == GGML_TYPE_Q5_K ? block[16 + e % 32] >> s & 1 : 0;
    *scaled                = half_at(block) * scale * (fifth << 4 | low);
    *min                   = half_at(block + 2) * least;
}

/* ---- the test ---- */

static uint32_t random_bits(void) {
    static uint32_t state = 1;
    state                 = state * 1664525u + 1013904223u;
    return state >> 8;
}

/* A half float that is finite, now and then a subnormal one. */
static void put_half(uint8_t * p) {
    const uint32_t exponent = random_bits() % 8;
    const uint32_t bits     = (random_bits() & 1) << 15 | (exponent ? exponent + 7 : 0) << 10 | (random_bits() & 1023);
    p[0]                    = (uint8_t) bits;
    p[1]                    = (uint8_t) (bits >> 8);
}

static void fill(enum ggml_type type, uint8_t * rows) {
    const size_t size = N_OUT * ggml_row_size(type, N_IN);
    for (size_t i = 0; i < size; i++) {
        rows[i] = (uint8_t) (random_bits() >> 4);
    }
    const size_t n    = (commandr_matmul_rounding(type) == COMMANDR_FINE) ? 8 : 1; /* blocks of 256 weights */
    const size_t step = ggml_row_size(type, 256) / n;
    for (size_t at = 0; at < size; at += step) {
        put_half(rows + at + (type == GGML_TYPE_Q6_K ? 208 : 0));
        if (type == GGML_TYPE_Q4_K || type == GGML_TYPE_Q5_K) {
            put_half(rows + at + 2);
        }
    }
}

/* What x becomes in 8 bits: a scale for each run of elements, as columns.h says. */
static void rounded(const float * x, int run, double * to) {
    for (int i = 0; i < N_IN; i += run) {
        float max = 0.0f;
        for (int k = 0; k < run; k++) {
            max = fmaxf(max, fabsf(x[i + k]));
        }
        for (int k = 0; k < run; k++) {
            to[i + k] = (double) nearbyintf(x[i + k] * (127.0f / max)) * (double) (max / 127.0f);
        }
    }
}

static void check_sums(enum ggml_type type, const uint8_t * rows, const float * x, const float * y) {
    double xr[N_IN];
    for (int c = 0; c < MAX_COLS; c++) {
        rounded(x + c * N_IN, (commandr_matmul_rounding(type) == COMMANDR_FINE) ? 32 : 256, xr);
        for (int row = 0; row < N_OUT; row++) {
            double sum = 0.0, size = 0.0;
            for (int i = 0; i < N_IN; i++) {
                double scaled, min;
                element(type, rows + (size_t) row * ggml_row_size(type, N_IN), i, &scaled, &min);
                sum += (scaled - min) * xr[i];
                size += (fabs(scaled) + fabs(min)) * fabs(xr[i]);
            }
            /* Written so that NaN fails. What is bounded is the rounding of sums in single precision. */
            if (!(fabs(sum - (double) y[c * N_OUT + row]) <= 1e-6 * size)) {
                printf("type %d, column %d, row %d: %g instead of %g\n", (int) type, c, row, y[c * N_OUT + row], sum);
                exit(1);
            }
        }
    }
}

/* w x of n columns: [n][N_OUT] */
static void multiply(struct ggml_tensor * w, float * x, int n, float * out) {
    struct ggml_tensor in = {
        .type = GGML_TYPE_F32, .ne = { N_IN, n, 1, 1 },
             .data = x
    };
    in.nb[1]                  = N_IN * sizeof(float);
    commandr_columns     cols = commandr_columns_round(NULL, &in, commandr_matmul_rounding(w->type));
    struct ggml_tensor * y    = commandr_matmul(NULL, w, &cols);
    memcpy(out, y->data, (size_t) (n * N_OUT) * sizeof(float));
    free(y->data);
    free(y);
    free(cols.data->data);
    free(cols.data);
}

/* Of all results so far. FNV-1a. */
static uint64_t hash_of(const float * y, size_t n) {
    static uint64_t hash = 0xcbf29ce484222325;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, y + i, sizeof(bits));
        hash = (hash ^ bits) * 0x100000001b3;
    }
    return hash;
}

static void check(enum ggml_type type) {
    static const int   counts[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 33 };
    static float       x[MAX_COLS * N_IN], y[MAX_COLS * N_OUT], other[MAX_COLS * N_OUT];
    static uint8_t     rows[N_OUT * MAX_ROW], packed[N_OUT * MAX_ROW];
    struct ggml_tensor w = {
        .type = type, .ne = { N_IN, N_OUT, 1, 1 },
             .data = packed
    };
    w.nb[1] = ggml_row_size(type, N_IN);
    fill(type, rows);
    for (int i = 0; i < MAX_COLS * N_IN; i++) {
        x[i] = ((float) random_bits() / (float) (1 << 24) - 0.5f) * ldexpf(1.0f, (int) (random_bits() % 8));
    }
    commandr_mark_packed(&w);
    commandr_pack(&w, 0, N_OUT, rows);
    multiply(&w, x, MAX_COLS, y);
    check_sums(type, rows, x, y);
    hash_of(y, MAX_COLS * N_OUT);
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        const int first = MAX_COLS - counts[i];
        multiply(&w, x + first * N_IN, counts[i], other);
        if (memcmp(other, y + first * N_OUT, (size_t) (counts[i] * N_OUT) * sizeof(float)) != 0) {
            printf("type %d: a column depends on what it is computed with, %d columns\n", (int) type, counts[i]);
            exit(1);
        }
    }
}

int main(void) {
    if (commandr_level_choose() != COMMANDR_OK) {
        printf("%s\n", commandr_last_error());
        return 2;
    }
    check(GGML_TYPE_Q4_K);
    check(GGML_TYPE_Q5_K);
    check(GGML_TYPE_Q6_K);
    check(GGML_TYPE_Q8_0);
    check(GGML_TYPE_Q4_0);
    printf("%d %016llx\n", (int) commandr_level_chosen(), (unsigned long long) hash_of(NULL, 0));
    return 0;
}
