/* Passes over a vocabulary of 256,000 logits in tens of microseconds: plain loops that compilers turn into vector
 * instructions. Rows are cut into blocks, so that later steps can skip what cannot matter. */
#ifndef COMMANDR_SRC_VOCAB_OPS_H
#define COMMANDR_SRC_VOCAB_OPS_H

#include <stdbool.h>
#include <stdint.h>

enum { COMMANDR_VOCAB_BLOCK = 128 };

/* Blocks of a row of n; the last one may be shorter. */
static inline int64_t commandr_n_blocks(int64_t n) {
    return (n + COMMANDR_VOCAB_BLOCK - 1) / COMMANDR_VOCAB_BLOCK;
}

/* Largest of each block in block_max [commandr_n_blocks(n)], largest of all in *max. False when a logit is NaN. */
bool commandr_vocab_max(const float * x, int64_t n, float * block_max, float * max);

/* Sets x[i] to -infinity where bit (i % 32) of mask[i / 32] is 0. */
void commandr_vocab_mask(float * x, int64_t n, const uint32_t * mask);

/* w[i] = exp((x[i] - max) * scale) with a relative error below 2e-7 plus that of rounding the exponent; 0 below e^-87.
 * max is finite, scale positive. Returns the sum of w; the sums of its blocks go to block_sums. x and w may be one. */
double commandr_vocab_exp(const float * x, int64_t n, float max, float scale, float * w, double * block_sums);

/* The sum of w, and those of its blocks in block_sums. */
double commandr_vocab_sum(const float * w, int64_t n, double * block_sums);

/* The sum of w[i] * (x[i] - origin). x is finite. */
double commandr_vocab_moment(const float * x, const float * w, int64_t n, float origin);

/* keys[i] = -|x[i] - center|, correctly rounded. */
void commandr_vocab_closeness(const float * x, int64_t n, double center, float * keys);

/* bins[i] = (highest - keys[i]) * per_key rounded down, at most last. No key is above highest; 0 <= per_key. */
void commandr_vocab_bins(const float * keys, int64_t n, float highest, float per_key, int32_t last, int32_t * bins);

/* Sets w[i] to 0 where keys[i] is below lowest. */
void commandr_vocab_drop(const float * keys, int64_t n, float lowest, float * w);

#endif
