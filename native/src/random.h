/* Uniform random numbers: xoshiro256** (Blackman and Vigna, 2018), its state filled by splitmix64 from one seed. */
#ifndef COMMANDR_SRC_RANDOM_H
#define COMMANDR_SRC_RANDOM_H

#include "commandr.h"

struct commandr_random {
    uint64_t state[4];
};

/* COMMANDR_DEFAULT_SEED takes a seed from the operating system; IO when it has none to give. */
commandr_status commandr_random_seed(struct commandr_random * random, uint64_t seed);

/* The next number, uniform in [0, 1) in steps of 2^-53. */
double commandr_random_next(struct commandr_random * random);

#endif
