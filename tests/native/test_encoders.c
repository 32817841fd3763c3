/* Our encoders of every vector level that this processor has, against ggml's: the same bytes for rows of all kinds.
 * Exit status 1 and a line for each difference. */
#include "encoders/encoders.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __x86_64__
COMMANDR_DECLARE_ENCODERS(base) /* the library has it on other processors only */
#endif

enum { N = 3 * 256 * 39 }; /* 39 rows of 3 super-blocks: of both an odd number */

typedef struct encoder {
    enum ggml_type   type;
    const char *     name;
    commandr_encoder encode;
} encoder;

static uint64_t state = 88172645463325252u;

static double uniform(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (double) (state >> 11) / 9007199254740992.0;
}

static float normal(void) {
    const double u = uniform() + 1e-300;
    return (float) (sqrt(-2.0 * log(u)) * cos(6.283185307179586 * uniform()));
}

static const char * const KINDS[] = { "normal", "positive",  "negative", "sparse",    "very sparse", "zero",
                                      "whole",  "constants", "tiny",     "subnormal", "heavy tails", "far from zero",
                                      "bfloat", "halves",    "large",    "scales",    "two values" };

static void fill(float * x, int kind) {
    float factor = 1.0f;
    for (int i = 0; i < N; i++) {
        const float v = normal();
        if (i % 32 == 0) {
            factor = expf(4.0f * normal());
        }
        switch (kind) {
            case 1: x[i] = fabsf(v); break;
            case 2: x[i] = -fabsf(v); break;
            case 3: x[i] = uniform() < 0.9 ? 0.0f : v; break;
            case 4: x[i] = uniform() < 0.997 ? 0.0f : v; break;
            case 5: x[i] = 0.0f; break;
            case 6: x[i] = roundf(3.0f * v); break;
            case 7: x[i] = factor < 1000.0f ? factor : 1000.0f; break;
            case 8: x[i] = v * 1e-38f; break;
            case 9: x[i] = v * 1e-42f; break;
            case 10: x[i] = fminf(fmaxf(v / (float) (uniform() + 1e-9), -3e4f), 3e4f); break;
            case 11: x[i] = 0.001f * v - 100.0f; break;
            case 12: {
                uint32_t bits;
                memcpy(&bits, &v, sizeof(bits));
                bits &= 0xffff0000u;
                memcpy(&x[i], &bits, sizeof(bits));
                break;
            }
            case 13: x[i] = roundf(20.0f * v) / 2.0f; break;
            case 14: x[i] = fminf(fmaxf(8000.0f * v, -32752.0f), 32752.0f); break;
            case 15: x[i] = fminf(fmaxf(factor * v, -3e4f), 3e4f); break;
            case 16: x[i] = v > 0.0f ? 0.7f : -0.1f; break;
            default: x[i] = v; break;
        }
    }
}

int main(void) {
    const encoder encoders[] = {
#define LEVEL(level)                                                                                                   \
    { GGML_TYPE_Q8_0, "Q8_0 " #level, COMMANDR_JOIN(commandr_encode_q8_0, level) },                                    \
        { GGML_TYPE_Q4_K, "Q4_K " #level, COMMANDR_JOIN(commandr_encode_q4_k, level) },                                \
        { GGML_TYPE_Q5_K, "Q5_K " #level, COMMANDR_JOIN(commandr_encode_q5_k, level) },                                \
        { GGML_TYPE_Q6_K, "Q6_K " #level, COMMANDR_JOIN(commandr_encode_q6_k, level) },
        LEVEL(base)
#ifdef __x86_64__
            LEVEL(v3) LEVEL(v4)
#endif
    };
    int n = (int) (sizeof(encoders) / sizeof(*encoders));
#ifdef __x86_64__
    if (!__builtin_cpu_supports("avx512vl")) {
        n -= n / 3;
    }
#endif
    float *   x          = malloc(N * sizeof(float));
    uint8_t * ours       = malloc(N * sizeof(float));
    uint8_t * expected   = malloc(N * sizeof(float));
    float *   importance = malloc(N / 39 * sizeof(float));
    for (int i = 0; i < N / 39; i++) {
        importance[i] = i % 50 == 7 ? 0.0f : expf(2.0f * normal());
    }
    int failed = 0;
    for (int kind = 0; kind < (int) (sizeof(KINDS) / sizeof(*KINDS)); kind++) {
        fill(x, kind);
        for (int e = 0; e < n; e++) {
            const size_t size = ggml_row_size(encoders[e].type, N);
            memset(ours, 0xA5, N * sizeof(float));
            for (int weighted = 0; weighted < 2; weighted++) {
                const float * weights = weighted ? importance : NULL;
                ggml_quantize_chunk(encoders[e].type, x, expected, 0, 39, N / 39, weights);
                encoders[e].encode(x, weights, ours, 39, N / 39);
                if (memcmp(ours, expected, size) != 0 || ours[size] != 0xA5) {
                    printf("%s differs for rows that are %s%s\n", encoders[e].name, KINDS[kind],
                           weighted ? ", with an importance matrix" : "");
                    failed = 1;
                }
            }
        }
    }
    free(x);
    free(importance);
    free(ours);
    free(expected);
    return failed;
}
