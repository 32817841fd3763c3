#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE /* for getentropy of glibc */
#endif
#include "random.h"

#include "error.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#if defined(__APPLE__)
#include <sys/random.h>
#endif

static uint64_t rotate_left(uint64_t x, int n) {
    return (x << n) | (x >> (64 - n));
}

commandr_status commandr_random_seed(struct commandr_random * random, uint64_t seed) {
    if (seed == COMMANDR_DEFAULT_SEED && getentropy(&seed, sizeof(seed)) != 0) {
        return commandr_fail(COMMANDR_ERROR_IO, "the operating system gave no random seed: %s", strerror(errno));
    }
    for (int i = 0; i < 4; i++) {
        seed += UINT64_C(0x9e3779b97f4a7c15);
        uint64_t z       = seed;
        z                = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z                = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        random->state[i] = z ^ (z >> 31);
    }
    return COMMANDR_OK;
}

double commandr_random_next(struct commandr_random * random) {
    uint64_t *     s      = random->state;
    const uint64_t result = rotate_left(s[1] * 5, 7) * 9;
    const uint64_t t      = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return (double) (result >> 11) * 0x1p-53;
}
