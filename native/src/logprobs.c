#include "error.h"
#include "vocab-ops.h"

#include <math.h>
#include <stdlib.h>

enum { BLOCK = COMMANDR_VOCAB_BLOCK };

/* The top list while it is built: a heap of tokens whose first is the least likely. */
struct top {
    int32_t * ids;    /* [n] */
    float *   logits; /* [n] */
    int64_t   n;
};

/* Of equally likely tokens the one that comes first in the vocabulary ranks higher. */
static bool ranks_below(const struct top * top, int64_t a, int64_t b) {
    return top->logits[a] < top->logits[b] || (top->logits[a] == top->logits[b] && top->ids[a] > top->ids[b]);
}

static void swap(struct top * top, int64_t a, int64_t b) {
    const int32_t id    = top->ids[a];
    const float   logit = top->logits[a];
    top->ids[a]         = top->ids[b];
    top->logits[a]      = top->logits[b];
    top->ids[b]         = id;
    top->logits[b]      = logit;
}

/* Moves item i of the first n down to where it belongs. */
static void sift_down(struct top * top, int64_t i, int64_t n) {
    for (;;) {
        int64_t       least = i;
        const int64_t left = 2 * i + 1, right = 2 * i + 2;
        least = left < n && ranks_below(top, left, least) ? left : least;
        least = right < n && ranks_below(top, right, least) ? right : least;
        if (least == i) {
            return;
        }
        swap(top, i, least);
        i = least;
    }
}

static void sift_up(struct top * top, int64_t i) {
    for (int64_t parent; i > 0 && ranks_below(top, i, parent = (i - 1) / 2); i = parent) {
        swap(top, i, parent);
    }
}

static void find_top(struct top * top, int64_t n_top, const float * logits, int64_t n, const float * block_max) {
    for (int64_t begin = 0; begin < n; begin += BLOCK) {
        if (top->n == n_top && block_max[begin / BLOCK] <= top->logits[0]) {
            continue;
        }
        const int64_t end = begin + BLOCK < n ? begin + BLOCK : n;
        for (int64_t i = begin; i < end; i++) {
            if (top->n < n_top) {
                top->ids[top->n]    = (int32_t) i;
                top->logits[top->n] = logits[i];
                sift_up(top, top->n++);
            } else if (logits[i] > top->logits[0]) {
                top->ids[0]    = (int32_t) i;
                top->logits[0] = logits[i];
                sift_down(top, 0, n_top);
            }
        }
    }
    for (int64_t i = n_top - 1; i > 0; i--) { /* the rest of a heapsort: falling order */
        swap(top, 0, i);
        sift_down(top, 0, i);
    }
}

/* Tokens at +infinity share the probability among themselves. */
static float logprob(float logit, float max, double log_total) {
    if (max == INFINITY) {
        return logit == INFINITY ? (float) -log_total : -INFINITY;
    }
    return (float) ((double) logit - (double) max - log_total);
}

/* log(sum over the vocabulary of exp(logit - max)). */
static double log_of_total(const float * logits, int64_t n, float max) {
    enum { PIECE = 32 * BLOCK };
    float  weights[PIECE];
    double block_sums[PIECE / BLOCK];
    double total = 0.0;
    for (int64_t begin = 0; begin < n && max < INFINITY; begin += PIECE) {
        const int64_t length = n - begin < PIECE ? n - begin : PIECE;
        total += commandr_vocab_exp(logits + begin, length, max, 1.0f, weights, block_sums);
    }
    for (int64_t i = 0; i < n && max == INFINITY; i++) {
        total += logits[i] == INFINITY ? 1.0 : 0.0;
    }
    return log(total);
}

commandr_status commandr_logprobs(const float * logits, int64_t n_vocab, int32_t token, float * token_logprob,
                                  int32_t n_top, int32_t * top_ids, float * top_logprobs) {
    if (n_vocab < 1 || n_vocab > INT32_MAX || logits == NULL || token_logprob == NULL) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "logprobs needs 1 to %d logits and a place for the result",
                             INT32_MAX);
    }
    if (token < 0 || token >= n_vocab) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "token %d is outside the vocabulary of %lld", token,
                             (long long) n_vocab);
    }
    if (n_top < 0 || n_top > n_vocab || (n_top > 0 && (top_ids == NULL || top_logprobs == NULL))) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT,
                             "n_top is %d; it must be 0 to %lld, with places for as many results", n_top,
                             (long long) n_vocab);
    }
    float * block_max = malloc((size_t) commandr_n_blocks(n_vocab) * sizeof(*block_max));
    if (block_max == NULL) {
        return commandr_fail(COMMANDR_ERROR_MEMORY, "cannot allocate logprobs of %lld tokens", (long long) n_vocab);
    }
    commandr_status status = COMMANDR_OK;
    float           max;
    if (!commandr_vocab_max(logits, n_vocab, block_max, &max)) {
        status = commandr_fail(COMMANDR_ERROR_ARGUMENT, "a logit is not a number");
    } else if (max == -INFINITY) {
        status = commandr_fail(COMMANDR_ERROR_ARGUMENT, "every logit is -infinity");
    } else {
        const double log_total = log_of_total(logits, n_vocab, max);
        if (n_top > 0) {
            struct top top = { .ids = top_ids, .logits = top_logprobs };
            find_top(&top, n_top, logits, n_vocab, block_max);
        }
        for (int64_t i = 0; i < n_top; i++) {
            top_logprobs[i] = logprob(top_logprobs[i], max, log_total);
        }
        *token_logprob = logprob(logits[token], max, log_total);
    }
    free(block_max);
    return status;
}
