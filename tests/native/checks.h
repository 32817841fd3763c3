/* What C tests of products share: numbers to compute with, and the line that a difference ends them with. */
#ifndef COMMANDR_TESTS_NATIVE_CHECKS_H
#define COMMANDR_TESTS_NATIVE_CHECKS_H

#include "ggml.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* The next of a fixed sequence of numbers from -0.5 to 0.5: a linear congruential generator's upper 24 bits. */
static inline float uniform(void) {
    static uint32_t seed = 1;
    seed                 = seed * 1664525u + 1013904223u;
    return (float) (seed >> 8) / (float) (1 << 24) - 0.5f;
}

/* Prints what is wrong with a product of weights of a type: [ne[0], ne[1]], and ends with exit code 1. */
static inline void fail_product(const char * what, enum ggml_type type, const int64_t * ne, int64_t n_cols) {
    printf("%s: %s [%lld, %lld], %lld columns\n", what, ggml_type_name(type), (long long) ne[0], (long long) ne[1],
           (long long) n_cols);
    exit(1);
}

#endif
