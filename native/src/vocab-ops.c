#include "vocab-ops.h"

#include "simd.h"

#include <math.h>
#include <string.h>

enum { BLOCK = COMMANDR_VOCAB_BLOCK, LANES = 16 };

static const float LOWEST_EXPONENT = -87.0f; /* e^-87 is just above the smallest normal float */

/* ---- largest ----------------------------------------------------------------------------------------------------- */

/* An integer in the order of the floats: integers have a maximum that compilers vectorize, and NaN, beyond both
 * infinities in this order, needs no check of its own. */
COMMANDR_INLINE int32_t to_ordered(int32_t bits) {
    return bits ^ ((bits >> 31) & INT32_MAX);
}

static const int32_t ORDERED_INF     = 0x7f800000;
static const int32_t ORDERED_NEG_INF = ~0x7f800000;

COMMANDR_INLINE float from_ordered(int32_t ordered) {
    const int32_t bits = to_ordered(ordered); /* its own inverse */
    float         x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

COMMANDR_INLINE void block_range(const float * x, int64_t n, int32_t * lowest, int32_t * highest) {
    int32_t bits[BLOCK];
    int32_t low = INT32_MAX, high = INT32_MIN;
    memcpy(bits, x, (size_t) n * sizeof(float));
    for (int64_t i = 0; i < n; i++) {
        const int32_t ordered = to_ordered(bits[i]);
        low                   = ordered < low ? ordered : low;
        high                  = ordered > high ? ordered : high;
    }
    *lowest  = low < *lowest ? low : *lowest;
    *highest = high;
}

COMMANDR_EACH_VECTOR_WIDTH
bool commandr_vocab_max(const float * x, int64_t n, float * block_max, float * max) {
    const int64_t n_full = n / BLOCK;
    int32_t       lowest = INT32_MAX, highest = INT32_MIN, high;
    for (int64_t b = 0; b < n_full; b++) {
        block_range(x + b * BLOCK, BLOCK, &lowest, &high);
        block_max[b] = from_ordered(high);
        highest      = high > highest ? high : highest;
    }
    if (n_full * BLOCK < n) {
        block_range(x + n_full * BLOCK, n - n_full * BLOCK, &lowest, &high);
        block_max[n_full] = from_ordered(high);
        highest           = high > highest ? high : highest;
    }
    *max = from_ordered(highest);
    return lowest >= ORDERED_NEG_INF && highest <= ORDERED_INF;
}

/* ---- mask -------------------------------------------------------------------------------------------------------- */

COMMANDR_EACH_VECTOR_WIDTH
void commandr_vocab_mask(float * x, int64_t n, const uint32_t * mask) {
    uint32_t bits[32];
    for (int i = 0; i < 32; i++) {
        bits[i] = UINT32_C(1) << i;
    }
    const int64_t n_words = n / 32;
    for (int64_t word = 0; word < n_words; word++) {
        for (int i = 0; i < 32; i++) {
            x[word * 32 + i] = (mask[word] & bits[i]) != 0 ? x[word * 32 + i] : -INFINITY;
        }
    }
    for (int64_t i = n_words * 32; i < n; i++) {
        x[i] = (mask[n_words] & bits[i % 32]) != 0 ? x[i] : -INFINITY;
    }
}

/* ---- exponentials and sums --------------------------------------------------------------------------------------- */

/* e^t for t <= 0. t = k ln 2 + r with |r| <= ln(2) / 2; e^r is a polynomial fitted to the smallest relative error. */
COMMANDR_INLINE float exp_nonpositive(float t) {
    const float log2_e   = 0x1.715476p+0f;
    const float ln2_high = 0x1.62e4p-1f; /* few bits, so that k times it is exact */
    const float ln2_low  = 0x1.7f7d1cp-20f;
    const float round    = 0x1.8p+23f; /* adding it leaves an integer in the low bits */

    const float s       = t > LOWEST_EXPONENT ? t : LOWEST_EXPONENT;
    const float shifted = s * log2_e + round;
    const float k       = shifted - round;
    const float r       = (s - k * ln2_high) - k * ln2_low;

    float p = 0x1.6a242cp-10f;
    p       = p * r + 0x1.1239e4p-7f;
    p       = p * r + 0x1.5558f2p-5f;
    p       = p * r + 0x1.555492p-3f;
    p       = p * r + 0x1.fffffcp-2f;
    p       = p * r + 1.0f;
    p       = p * r + 1.0f;

    uint32_t bits; /* their low end is k; with the exponent's bias added and moved into its place they are 2^k */
    float    power;
    memcpy(&bits, &shifted, sizeof(bits));
    bits = (bits + 127) << 23;
    memcpy(&power, &bits, sizeof(power));
    return t >= LOWEST_EXPONENT ? p * power : 0.0f;
}

/* The order of the additions is fixed by the lanes, so every vector width gives the same sum. */
COMMANDR_INLINE double sum_of_lanes(double * lanes) {
    for (int half = LANES / 2; half > 0; half /= 2) {
        for (int lane = 0; lane < half; lane++) {
            lanes[lane] += lanes[lane + half];
        }
    }
    return lanes[0];
}

COMMANDR_INLINE double block_sum(const float * w) {
    double lanes[LANES] = { 0.0 };
    for (int i = 0; i < BLOCK; i += LANES) {
        for (int lane = 0; lane < LANES; lane++) {
            lanes[lane] += (double) w[i + lane];
        }
    }
    return sum_of_lanes(lanes);
}

COMMANDR_INLINE void block_exp(const float * x, float max, float scale, float * w) {
    for (int i = 0; i < BLOCK; i++) {
        w[i] = exp_nonpositive((x[i] - max) * scale);
    }
}

COMMANDR_EACH_VECTOR_WIDTH
double commandr_vocab_exp(const float * x, int64_t n, float max, float scale, float * w, double * block_sums) {
    const int64_t n_full = n / BLOCK;
    double        sum    = 0.0;
    for (int64_t b = 0; b < n_full; b++) {
        block_exp(x + b * BLOCK, max, scale, w + b * BLOCK);
        block_sums[b] = block_sum(w + b * BLOCK);
        sum += block_sums[b];
    }
    const int64_t n_rest = n - n_full * BLOCK;
    if (n_rest > 0) {
        float rest[BLOCK];
        for (int i = 0; i < BLOCK; i++) {
            rest[i] = i < n_rest ? x[n_full * BLOCK + i] : -INFINITY;
        }
        block_exp(rest, max, scale, rest);
        memcpy(w + n_full * BLOCK, rest, (size_t) n_rest * sizeof(float));
        block_sums[n_full] = block_sum(rest);
        sum += block_sums[n_full];
    }
    return sum;
}

COMMANDR_EACH_VECTOR_WIDTH
double commandr_vocab_sum(const float * w, int64_t n, double * block_sums) {
    const int64_t n_full = n / BLOCK;
    double        sum    = 0.0;
    for (int64_t b = 0; b < n_full; b++) {
        block_sums[b] = block_sum(w + b * BLOCK);
        sum += block_sums[b];
    }
    const int64_t n_rest = n - n_full * BLOCK;
    if (n_rest > 0) {
        float rest[BLOCK] = { 0.0f };
        memcpy(rest, w + n_full * BLOCK, (size_t) n_rest * sizeof(float));
        block_sums[n_full] = block_sum(rest);
        sum += block_sums[n_full];
    }
    return sum;
}

/* ---- for the filters --------------------------------------------------------------------------------------------- */

COMMANDR_EACH_VECTOR_WIDTH
double commandr_vocab_moment(const float * x, const float * w, int64_t n, float origin) {
    double        lanes[LANES] = { 0.0 };
    const int64_t n_lanes      = n / LANES * LANES;
    for (int64_t i = 0; i < n_lanes; i += LANES) {
        for (int lane = 0; lane < LANES; lane++) {
            lanes[lane] += (double) w[i + lane] * ((double) x[i + lane] - (double) origin);
        }
    }
    double sum = sum_of_lanes(lanes);
    for (int64_t i = n_lanes; i < n; i++) {
        sum += (double) w[i] * ((double) x[i] - (double) origin);
    }
    return sum;
}

COMMANDR_EACH_VECTOR_WIDTH
void commandr_vocab_closeness(const float * x, int64_t n, double center, float * keys) {
    for (int64_t i = 0; i < n; i++) {
        keys[i] = -(float) fabs((double) x[i] - center);
    }
}

COMMANDR_EACH_VECTOR_WIDTH
void commandr_vocab_bins(const float * keys, int64_t n, float highest, float per_key, int32_t last, int32_t * bins) {
    const float limit = (float) last;
    for (int64_t i = 0; i < n; i++) {
        const float bin = (highest - keys[i]) * per_key;
        bins[i]         = (int32_t) (bin < limit ? bin : limit); /* limit also for NaN, which is infinity times 0 */
    }
}

COMMANDR_EACH_VECTOR_WIDTH
void commandr_vocab_drop(const float * keys, int64_t n, float lowest, float * w) {
    for (int64_t i = 0; i < n; i++) {
        w[i] = keys[i] >= lowest ? w[i] : 0.0f;
    }
}
