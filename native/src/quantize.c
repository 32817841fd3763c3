#include "error.h"
#include "threads.h"

#include <ggml.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

/* Elements handed to a thread at a time: a few milliseconds of the slowest encoder. Also far below 2^31, because
 * several encoders of ggml count the elements of one call in an int. */
enum { CHUNK_ELEMENTS = 1 << 17 };

/* Blocks keep their scales and minima in 16-bit floats, and encoders that fit them overshoot by some percent: half
 * the largest 16-bit float is safe. On infinities and NaN some encoders abort. */
static const float LARGEST_BLOCK_VALUE = 32752.0f;
static const float LARGEST_F16         = 65504.0f;
/* Above it the encoders' weighted sums overflow to NaN, likewise. */
static const float LARGEST_IMATRIX_VALUE = 1e20f;

struct rows {
    enum ggml_type  type;
    const char *    src;
    char *          dst;
    int64_t         n_per_row;
    int64_t         src_row_size; /* bytes */
    int64_t         dst_row_size;
    const float *   imatrix;
    ggml_to_float_t to_float; /* NULL for F32 */
};

/* A search for the first element beyond what the type can hold. */
struct range_check {
    const float *   src;
    int64_t         n_per_row;
    float           largest;
    _Atomic int64_t first_bad; /* index of an element; INT64_MAX: none found */
};

static int64_t rows_in_chunk(int64_t n_per_row) {
    return n_per_row < CHUNK_ELEMENTS ? CHUNK_ELEMENTS / n_per_row : 1;
}

static bool all_within(const float * x, int64_t n, float largest) {
    int64_t n_bad = 0;
    for (int64_t i = 0; i < n; i++) {
        n_bad += !(fabsf(x[i]) <= largest); /* also true of NaN */
    }
    return n_bad == 0;
}

static void check_rows(void * ctx, int64_t begin, int64_t end) {
    struct range_check * check = ctx;
    const int64_t        first = begin * check->n_per_row;
    const int64_t        last  = end * check->n_per_row;
    if (all_within(check->src + first, last - first, check->largest)) {
        return;
    }
    int64_t i = first;
    while (fabsf(check->src[i]) <= check->largest) {
        i++;
    }
    int64_t seen = atomic_load(&check->first_bad);
    while (i < seen && !atomic_compare_exchange_weak(&check->first_bad, &seen, i)) {
    }
}

static void quantize_chunk(void * ctx, int64_t begin, int64_t end) {
    const struct rows * r = ctx;
    ggml_quantize_chunk(r->type, (const float *) (const void *) (r->src + begin * r->src_row_size),
                        r->dst + begin * r->dst_row_size, 0, end - begin, r->n_per_row, r->imatrix);
}

static void dequantize_chunk(void * ctx, int64_t begin, int64_t end) {
    const struct rows * r = ctx;
    for (int64_t i = begin; i < end; i++) {
        const char * src = r->src + i * r->src_row_size;
        char *       dst = r->dst + i * r->dst_row_size;
        if (r->to_float == NULL) {
            memcpy(dst, src, (size_t) r->dst_row_size);
        } else {
            r->to_float(src, (float *) (void *) dst, r->n_per_row);
        }
    }
}

/* Whether ggml has an encoder: on a type without one it would abort. */
static bool can_quantize(int32_t type) {
    switch (type) {
        case GGML_TYPE_Q8_1: /* intermediate formats of dot products */
        case GGML_TYPE_Q8_K:
        case GGML_TYPE_F64:
        case GGML_TYPE_I8:
        case GGML_TYPE_I16:
        case GGML_TYPE_I32:
        case GGML_TYPE_I64: return false;
        default: return true;
    }
}

/* The largest magnitude that the type holds. */
static float largest_value(int32_t type) {
    switch (type) {
        case GGML_TYPE_F32: return 0x1.fffffep+127f;
        case GGML_TYPE_BF16: return 0x1.fep+127f;
        case GGML_TYPE_F16: return LARGEST_F16;
        default: return LARGEST_BLOCK_VALUE;
    }
}

static commandr_status check_shape(int32_t type, const void * src, const void * dst, int64_t n_rows,
                                   int64_t n_per_row) {
    const char * name = commandr_type_name(type);
    if (name == NULL) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "there is no ggml type %d", type);
    }
    if (n_rows < 0) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "n_rows is %lld; it must not be negative", (long long) n_rows);
    }
    /* The encoders count the blocks and elements of a row in an int. */
    if (n_per_row < 1 || n_per_row > INT32_MAX) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "n_per_row is %lld; it must be 1 to %d", (long long) n_per_row,
                             INT32_MAX);
    }
    const int64_t block_size = commandr_type_block_size(type);
    if (n_per_row % block_size != 0) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT,
                             "rows of %lld elements are not whole blocks of %s, which have %lld", (long long) n_per_row,
                             name, (long long) block_size);
    }
    if (n_rows > INT64_MAX / 8 / n_per_row) { /* no type takes more than 8 bytes an element */
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "%lld rows of %lld elements are more than memory can hold",
                             (long long) n_rows, (long long) n_per_row);
    }
    if (n_rows > 0 && (src == NULL || dst == NULL)) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "%s is NULL", src == NULL ? "src" : "dst");
    }
    return COMMANDR_OK;
}

static commandr_status check_imatrix(int32_t type, const float * imatrix, int64_t n_per_row) {
    if (imatrix == NULL && commandr_type_needs_imatrix(type)) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "%s needs an importance matrix", commandr_type_name(type));
    }
    if (imatrix == NULL) {
        return COMMANDR_OK;
    }
    for (int64_t i = 0; i < n_per_row; i++) {
        if (!(imatrix[i] >= 0.0f && imatrix[i] <= LARGEST_IMATRIX_VALUE)) {
            return commandr_fail(COMMANDR_ERROR_ARGUMENT,
                                 "the importance matrix has %g at column %lld; it must be 0 to %g", (double) imatrix[i],
                                 (long long) i, (double) LARGEST_IMATRIX_VALUE);
        }
    }
    return COMMANDR_OK;
}

static commandr_status check_values(int32_t type, const float * src, int64_t n_rows, int64_t n_per_row,
                                    int32_t n_threads) {
    struct range_check check = { .src = src, .n_per_row = n_per_row, .largest = largest_value(type) };
    atomic_init(&check.first_bad, INT64_MAX);
    commandr_parallel_for(n_threads, n_rows, rows_in_chunk(n_per_row), check_rows, &check);
    const int64_t i = atomic_load(&check.first_bad);
    if (i == INT64_MAX) {
        return COMMANDR_OK;
    }
    return commandr_fail(COMMANDR_ERROR_ARGUMENT, "the value %g at row %lld, column %lld is not one that %s can hold",
                         (double) src[i], (long long) (i / n_per_row), (long long) (i % n_per_row),
                         commandr_type_name(type));
}

commandr_status commandr_quantize_rows(int32_t type, const float * src, int64_t n_rows, int64_t n_per_row,
                                       const float * imatrix, void * dst, int32_t n_threads) {
    commandr_status status = check_shape(type, src, dst, n_rows, n_per_row);
    if (status == COMMANDR_OK && !can_quantize(type)) {
        status = commandr_fail(COMMANDR_ERROR_UNSUPPORTED, "%s is not a type that floats can be quantized to",
                               commandr_type_name(type));
    }
    if (status == COMMANDR_OK) {
        status = check_imatrix(type, imatrix, n_per_row);
    }
    if (status == COMMANDR_OK) {
        status = check_values(type, src, n_rows, n_per_row, n_threads);
    }
    if (status != COMMANDR_OK || n_rows == 0) {
        return status;
    }
    struct rows rows = {
        .type         = (enum ggml_type) type,
        .src          = (const char *) src,
        .dst          = dst,
        .n_per_row    = n_per_row,
        .src_row_size = n_per_row * (int64_t) sizeof(float),
        .dst_row_size = commandr_type_row_size(type, n_per_row),
        .imatrix      = imatrix,
    };
    /* Builds tables of some types under ggml's own lock, once; here so that the threads do not wait for each other. */
    ggml_quantize_init(rows.type);
    commandr_parallel_for(n_threads, n_rows, rows_in_chunk(n_per_row), quantize_chunk, &rows);
    return COMMANDR_OK;
}

commandr_status commandr_dequantize_rows(int32_t type, const void * src, int64_t n_rows, int64_t n_per_row, float * dst,
                                         int32_t n_threads) {
    const commandr_status status = check_shape(type, src, dst, n_rows, n_per_row);
    if (status != COMMANDR_OK) {
        return status;
    }
    struct rows rows = {
        .type         = (enum ggml_type) type,
        .src          = src,
        .dst          = (char *) dst,
        .n_per_row    = n_per_row,
        .src_row_size = commandr_type_row_size(type, n_per_row),
        .dst_row_size = n_per_row * (int64_t) sizeof(float),
        .to_float     = ggml_get_type_traits((enum ggml_type) type)->to_float,
    };
    if (rows.to_float == NULL && type != GGML_TYPE_F32) {
        return commandr_fail(COMMANDR_ERROR_UNSUPPORTED, "%s cannot be turned into floats", commandr_type_name(type));
    }
    commandr_parallel_for(n_threads, n_rows, rows_in_chunk(n_per_row), dequantize_chunk, &rows);
    return COMMANDR_OK;
}
