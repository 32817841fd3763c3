#include "encoders/encoders.h"
#include "error.h"
#include "simd.h"
#include "threads.h"

#include <float.h>
#include <ggml.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Elements handed to a thread at a time: as floats they stay in a level-2 cache. Also far below 2^31, because several
 * encoders of ggml count the elements of one call in an int. */
enum { CHUNK_ELEMENTS = 1 << 16 };

/* Blocks keep their scales and minima in 16-bit floats, and encoders that fit them overshoot by some percent: half
 * the largest 16-bit float is safe. On infinities and NaN some encoders abort. */
static const float LARGEST_BLOCK_VALUE = 32752.0f;
static const float LARGEST_F16         = 65504.0f;
/* Above it the encoders' weighted sums overflow to NaN, likewise. */
static const float LARGEST_IMATRIX_VALUE = 1e20f;

struct job {
    enum ggml_type  src_type;
    enum ggml_type  dst_type;
    const uint8_t * src;
    uint8_t *       dst;
    int64_t         n_per_row;
    int64_t         src_row_size; /* bytes */
    int64_t         dst_row_size;
    const float *   imatrix;
    float           largest;         /* magnitude that dst_type holds */
    bool            keeps_nonfinite; /* as they are; else they become 0 */
    _Atomic int64_t n_nonfinite;
    _Atomic int64_t first_bad; /* index of the first finite value beyond `largest`; INT64_MAX: none found */
    _Atomic bool    no_memory;
};

static int64_t rows_in_chunk(int64_t n_per_row) {
    return n_per_row < CHUNK_ELEMENTS ? CHUNK_ELEMENTS / n_per_row : 1;
}

COMMANDR_EACH_VECTOR_WIDTH
static bool all_within(const float * x, int64_t n, float largest) {
    int32_t n_bad = 0;
    for (int64_t i = 0; i < n; i++) {
        n_bad |= !(fabsf(x[i]) <= largest); /* also true of NaN */
    }
    return n_bad == 0;
}

static bool is_float(enum ggml_type type) {
    return type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
}

/* Counts what is no number and finds what is too large; `first` is the index of x[0]. */
static void note_bad(struct job * job, const float * x, int64_t n, int64_t first) {
    int64_t n_nonfinite = 0;
    int64_t bad         = INT64_MAX;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) {
            n_nonfinite++;
        } else if (fabsf(x[i]) > job->largest && bad == INT64_MAX) {
            bad = first + i;
        }
    }
    atomic_fetch_add(&job->n_nonfinite, n_nonfinite);
    int64_t seen = atomic_load(&job->first_bad);
    while (bad < seen && !atomic_compare_exchange_weak(&job->first_bad, &seen, bad)) {
    }
}

/* Half to single precision: the exponent's bias is mended by a product, which is exact for subnormal numbers, too.
 * ggml's own is not vectorized. */
COMMANDR_EACH_VECTOR_WIDTH
static void widen_f16(const uint16_t * src, float * dst, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const uint32_t shifted = (uint32_t) (src[i] & 0x7fff) << 13;
        float          value;
        uint32_t       bits;
        memcpy(&value, &shifted, sizeof(value));
        value *= 0x1p112f;
        memcpy(&bits, &value, sizeof(bits));
        bits = shifted >= 0x7c00u << 13 ? shifted | 0x7f800000u : bits; /* infinities and NaN */
        bits |= (uint32_t) (src[i] & 0x8000) << 16;
        memcpy(&dst[i], &bits, sizeof(bits));
    }
}

static void widen(const struct job * job, const uint8_t * src, float * dst, int64_t n_rows) {
    if (job->src_type == GGML_TYPE_F16) {
        widen_f16((const uint16_t *) (const void *) src, dst, n_rows * job->n_per_row);
        return;
    }
    const ggml_to_float_t to_float = ggml_get_type_traits(job->src_type)->to_float;
    for (int64_t i = 0; i < n_rows; i++) {
        to_float(src + i * job->src_row_size, dst + i * job->n_per_row, job->n_per_row);
    }
}

static void encode(const struct job * job, const uint8_t * src, const float * x, uint8_t * dst, int64_t n_rows) {
    if (job->dst_type == job->src_type) {
        memcpy(dst, src, (size_t) (n_rows * job->dst_row_size));
        return;
    }
    if (job->dst_type == GGML_TYPE_F32) {
        memcpy(dst, x, (size_t) (n_rows * job->dst_row_size));
        return;
    }
    const commandr_encoder ours = commandr_encoder_find(job->dst_type);
    if (ours) {
        ours(x, job->imatrix, dst, n_rows, job->n_per_row);
    } else {
        ggml_quantize_chunk(job->dst_type, x, dst, 0, n_rows, job->n_per_row, job->imatrix);
    }
}

/* Rows begin..end-1 as floats in memory that stays in a level-2 cache, looked through, encoded. */
static void convert_chunk(void * ctx, int64_t begin, int64_t end) {
    struct job *    job     = ctx;
    const int64_t   n       = (end - begin) * job->n_per_row;
    const uint8_t * src     = job->src + begin * job->src_row_size;
    const float *   x       = (const float *) (const void *) src;
    float *         scratch = NULL;
    if (job->src_type != GGML_TYPE_F32 || !job->keeps_nonfinite) {
        scratch = malloc((size_t) n * sizeof(float));
        if (!scratch) {
            atomic_store(&job->no_memory, true);
            return;
        }
    }
    if (job->src_type != GGML_TYPE_F32) {
        widen(job, src, scratch, end - begin);
        x = scratch;
    }
    bool fits = true;
    if (!all_within(x, n, job->largest)) {
        note_bad(job, x, n, begin * job->n_per_row);
        fits = atomic_load(&job->first_bad) == INT64_MAX;
        for (int64_t i = 0; i < n && fits && !job->keeps_nonfinite; i++) {
            scratch[i] = isfinite(x[i]) ? x[i] : 0.0f;
        }
        x = job->keeps_nonfinite ? x : scratch;
    }
    if (fits) {
        encode(job, src, x, job->dst + begin * job->dst_row_size, end - begin);
    }
    free(scratch);
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
        case GGML_TYPE_F32: return FLT_MAX;
        case GGML_TYPE_BF16: return 0x1.fep+127f;
        case GGML_TYPE_F16: return LARGEST_F16;
        default: return LARGEST_BLOCK_VALUE;
    }
}

static commandr_status check_types(int32_t src_type, int32_t dst_type) {
    const int32_t types[2] = { src_type, dst_type };
    for (int i = 0; i < 2; i++) {
        if (commandr_type_name(types[i]) == NULL) {
            return commandr_fail(COMMANDR_ERROR_ARGUMENT, "there is no ggml type %d", types[i]);
        }
    }
    if (src_type != GGML_TYPE_F32 && ggml_get_type_traits((enum ggml_type) src_type)->to_float == NULL) {
        return commandr_fail(COMMANDR_ERROR_UNSUPPORTED, "%s cannot be turned into floats",
                             commandr_type_name(src_type));
    }
    if (!can_quantize(dst_type)) {
        return commandr_fail(COMMANDR_ERROR_UNSUPPORTED, "%s is not a type that floats can be quantized to",
                             commandr_type_name(dst_type));
    }
    return COMMANDR_OK;
}

static commandr_status check_shape(int32_t src_type, const void * src, int32_t dst_type, const void * dst,
                                   int64_t n_rows, int64_t n_per_row) {
    if (n_rows < 0) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "n_rows is %lld; it must not be negative", (long long) n_rows);
    }
    /* The encoders count the blocks and elements of a row in an int. */
    if (n_per_row < 1 || n_per_row > INT32_MAX) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "n_per_row is %lld; it must be 1 to %d", (long long) n_per_row,
                             INT32_MAX);
    }
    const int32_t types[2] = { src_type, dst_type };
    for (int i = 0; i < 2; i++) {
        if (n_per_row % commandr_type_block_size(types[i]) != 0) {
            return commandr_fail(
                COMMANDR_ERROR_ARGUMENT, "rows of %lld elements are not whole blocks of %s, which have %lld",
                (long long) n_per_row, commandr_type_name(types[i]), (long long) commandr_type_block_size(types[i]));
        }
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

/* What the chunks found, once all are done. */
static commandr_status check_job(const struct job * job, int64_t * n_nonfinite) {
    if (atomic_load(&job->no_memory)) {
        return commandr_fail(COMMANDR_ERROR_MEMORY, "out of memory for rows of %lld elements",
                             (long long) job->n_per_row);
    }
    const int64_t i = atomic_load(&job->first_bad);
    if (i != INT64_MAX) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT,
                             "the value at row %lld, column %lld is beyond %g, the largest that %s can hold",
                             (long long) (i / job->n_per_row), (long long) (i % job->n_per_row), (double) job->largest,
                             commandr_type_name((int32_t) job->dst_type));
    }
    const int64_t n = atomic_load(&job->n_nonfinite);
    if (n > 0 && n_nonfinite == NULL) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "%lld values are NaN or infinite", (long long) n);
    }
    if (n_nonfinite) {
        *n_nonfinite = n;
    }
    return COMMANDR_OK;
}

commandr_status commandr_convert_rows(int32_t src_type, const void * src, int32_t dst_type, void * dst, int64_t n_rows,
                                      int64_t n_per_row, const float * imatrix, int32_t n_threads,
                                      int64_t * n_nonfinite) {
    commandr_status status = check_types(src_type, dst_type);
    if (status == COMMANDR_OK) {
        status = check_shape(src_type, src, dst_type, dst, n_rows, n_per_row);
    }
    if (status == COMMANDR_OK) {
        status = check_imatrix(dst_type, imatrix, n_per_row);
    }
    if (status != COMMANDR_OK) {
        return status;
    }
    struct job job = {
        .src_type     = (enum ggml_type) src_type,
        .dst_type     = (enum ggml_type) dst_type,
        .src          = src,
        .dst          = dst,
        .n_per_row    = n_per_row,
        .src_row_size = commandr_type_row_size(src_type, n_per_row),
        .dst_row_size = commandr_type_row_size(dst_type, n_per_row),
        .imatrix      = imatrix,
        /* A copy holds what it held. */
        .largest         = src_type == dst_type ? FLT_MAX : largest_value(dst_type),
        .keeps_nonfinite = is_float((enum ggml_type) dst_type) || src_type == dst_type,
    };
    atomic_init(&job.n_nonfinite, 0);
    atomic_init(&job.first_bad, INT64_MAX);
    atomic_init(&job.no_memory, false);
    /* Builds tables of some types under ggml's own lock, once; here so that the threads do not wait for each other. */
    ggml_quantize_init(job.dst_type);
    commandr_parallel_for(n_threads, n_rows, rows_in_chunk(n_per_row), convert_chunk, &job);
    return check_job(&job, n_nonfinite);
}
