#include "error.h"
#include "threads.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WORDS_IN_CHUNK = 1 << 17, N_PASSES = 5 }; /* a chunk of 1 MiB keeps the threads equally busy */

struct buffer {
    uint64_t *       words;
    _Atomic uint64_t sum; /* used afterwards, so that the compiler cannot leave the reading out */
};

static void fill_words(void * ctx, int64_t begin, int64_t end) {
    struct buffer * buffer = ctx;
    memset(buffer->words + begin, 0x5a, (size_t) (end - begin) * sizeof(uint64_t));
}

static void sum_words(void * ctx, int64_t begin, int64_t end) {
    struct buffer *  buffer = ctx;
    const uint64_t * words  = buffer->words;
    uint64_t         sum    = 0;
    for (int64_t i = begin; i < end; i++) {
        sum += words[i];
    }
    atomic_fetch_add_explicit(&buffer->sum, sum, memory_order_relaxed);
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
}

double commandr_read_bandwidth(int32_t n_threads, int64_t n_bytes) {
    const int64_t n_words = n_bytes / (int64_t) sizeof(uint64_t);
    if (n_threads < 0 || n_words < 1) {
        commandr_fail(COMMANDR_ERROR_ARGUMENT, "cannot measure the reading of %lld bytes by %d threads",
                      (long long) n_bytes, n_threads);
        return 0.0;
    }
    struct buffer buffer = { .words = malloc((size_t) n_words * sizeof(uint64_t)) };
    if (buffer.words == NULL) {
        commandr_fail(COMMANDR_ERROR_MEMORY, "cannot allocate %lld bytes to measure reading", (long long) n_bytes);
        return 0.0;
    }
    atomic_init(&buffer.sum, 0);
    /* By the threads that will read: where memory belongs to sockets, a page goes to the one that touches it first. */
    commandr_parallel_for(n_threads, n_words, WORDS_IN_CHUNK, fill_words, &buffer);

    double best = 0.0;
    for (int pass = 0; pass < N_PASSES; pass++) {
        const double start = seconds();
        commandr_parallel_for(n_threads, n_words, WORDS_IN_CHUNK, sum_words, &buffer);
        const double rate = (double) n_words * sizeof(uint64_t) / (seconds() - start + 1e-9);
        best              = rate > best ? rate : best;
    }
    /* Every pass sums the same words, so any other value means that they were not all read. */
    const uint64_t expected = (uint64_t) N_PASSES * (uint64_t) n_words * UINT64_C(0x5a5a5a5a5a5a5a5a);
    const bool     complete = atomic_load(&buffer.sum) == expected;
    free(buffer.words);
    return complete ? best : 0.0;
}
