#include "candidates.h"

#include "error.h"
#include "vocab-ops.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

enum { BLOCK = COMMANDR_VOCAB_BLOCK };

/* Exponents below it give weight 0 in commandr_vocab_exp. */
static const double LOWEST_EXPONENT = -87.0;

commandr_status commandr_candidates_alloc(struct commandr_candidates * c, int64_t n_vocab) {
    const size_t n         = (size_t) n_vocab;
    const size_t n_blocks  = (size_t) commandr_n_blocks(n_vocab);
    c->n_vocab             = n_vocab;
    c->block_max           = malloc(n_blocks * sizeof(*c->block_max));
    c->id_memory           = malloc(n * sizeof(*c->id_memory));
    c->logit_memory        = malloc(n * sizeof(*c->logit_memory));
    c->weight_memory       = malloc(n * sizeof(*c->weight_memory));
    c->key_memory          = malloc(n * sizeof(*c->key_memory));
    c->select_memory.items = malloc(n * sizeof(*c->select_memory.items));
    c->select_memory.bins  = malloc(n * sizeof(*c->select_memory.bins));
    c->block_sums          = malloc(n_blocks * sizeof(*c->block_sums));
    if (!c->block_max || !c->id_memory || !c->logit_memory || !c->weight_memory || !c->key_memory ||
        !c->select_memory.items || !c->select_memory.bins || !c->block_sums) {
        return commandr_fail(COMMANDR_ERROR_MEMORY, "cannot allocate a sampler for %lld tokens", (long long) n_vocab);
    }
    return COMMANDR_OK;
}

void commandr_candidates_free(struct commandr_candidates * c) {
    free(c->block_max);
    free(c->id_memory);
    free(c->logit_memory);
    free(c->weight_memory);
    free(c->key_memory);
    free(c->select_memory.items);
    free(c->select_memory.bins);
    free(c->block_sums);
}

commandr_status commandr_candidates_init(struct commandr_candidates * c, const float * logits) {
    c->n       = c->n_vocab;
    c->ids     = NULL;
    c->logits  = logits;
    c->weights = c->weight_memory;
    if (!commandr_vocab_max(logits, c->n, c->block_max, &c->max)) {
        int64_t i = 0;
        while (!isnan(logits[i])) {
            i++;
        }
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "the logit of token %lld is not a number", (long long) i);
    }
    if (c->max == -INFINITY) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "no token is allowed: every logit is -infinity");
    }
    return COMMANDR_OK;
}

int32_t commandr_candidates_first_max(const struct commandr_candidates * c) {
    int64_t block = 0;
    while (c->block_max[block] != c->max) {
        block++;
    }
    int64_t i = block * BLOCK;
    while (c->logits[i] != c->max) {
        i++;
    }
    return (int32_t) i;
}

/* ---- from the whole vocabulary to a list ------------------------------------------------------------------------- */

/* Lists the tokens with logits of at least bound, and their weights, if they have any yet. */
static void list_from(struct commandr_candidates * c, double bound) {
    /* A rounded bound may be too high, so the next float below; what is at -infinity never counts. */
    const float lowest = bound > -(double) FLT_MAX ? fmaxf(nextafterf((float) bound, -INFINITY), -FLT_MAX) : -FLT_MAX;

    const float * all     = c->logits;
    int32_t *     ids     = c->id_memory;
    float *       logits  = c->logit_memory;
    float *       weights = c->weight_memory;
    int64_t       n       = 0;
    for (int64_t begin = 0; begin < c->n_vocab; begin += BLOCK) {
        if (c->block_max[begin / BLOCK] < lowest) {
            continue;
        }
        const int64_t end = begin + BLOCK < c->n_vocab ? begin + BLOCK : c->n_vocab;
        for (int64_t i = begin; i < end; i++) {
            const float logit = all[i];
            ids[n]            = (int32_t) i;
            logits[n]         = logit;
            weights[n]        = weights[i]; /* n <= i */
            n += logit >= lowest;           /* without a branch: which way it would go is anyone's guess */
        }
    }
    c->n      = n;
    c->ids    = c->id_memory;
    c->logits = c->logit_memory;
}

/* A bound that at least k logits reach, and not many more: k blocks have a maximum of at least the k-th largest. */
static double top_k_bound(const struct commandr_candidates * c, int64_t k) {
    const int64_t n_blocks = commandr_n_blocks(c->n_vocab);
    if (k > n_blocks) {
        return -INFINITY;
    }
    const float spread = 8.0f; /* between the largest maxima of a usual row */
    return (double) commandr_select(c->block_max, NULL, n_blocks, (double) k, c->max, spread, &c->select_memory).key;
}

static void keep_top_k(struct commandr_candidates * c, int64_t k) {
    list_from(c, top_k_bound(c, k));
    if (c->n <= k) {
        return;
    }
    float lowest = c->max; /* of a sample */
    for (int64_t i = 0; i < c->n; i += 64) {
        lowest = c->logits[i] < lowest ? c->logits[i] : lowest;
    }
    const struct commandr_cut cut =
        commandr_select(c->logits, NULL, c->n, (double) k, c->max, c->max - lowest, &c->select_memory);
    int64_t n = 0;
    for (int64_t i = 0; i < c->n; i++) {
        const bool keep    = commandr_cut_keeps(cut, c->logit_memory[i], i);
        c->id_memory[n]    = c->id_memory[i];
        c->logit_memory[n] = c->logit_memory[i];
        n += keep;
    }
    c->n = n;
}

/* ---- filters that drop by setting weights to 0 ------------------------------------------------------------------- */

static void drop_outside(struct commandr_candidates * c, const float * keys, struct commandr_cut cut) {
    commandr_vocab_drop(keys, c->n, cut.key, c->weights);
    for (int64_t i = cut.last_tie + 1; i < c->n; i++) {
        if (keys[i] == cut.key) {
            c->weights[i] = 0.0f;
        }
    }
}

/* Keeps those whose surprise, -log p, is closest to its mean, the entropy. With log p = (logit - max) / temperature -
 * log total, the difference of the two is that of the scaled logit and its mean: no logarithm is needed. */
static void keep_typical(struct commandr_candidates * c, float typical_p, double temperature, double total) {
    const double moment = commandr_vocab_moment(c->logits, c->weights, c->n, c->max);
    commandr_vocab_closeness(c->logits, c->n, moment / total + (double) c->max, c->key_memory);
    const float               spread = (float) (16.0 * temperature);
    const struct commandr_cut cut =
        commandr_select(c->key_memory, c->weights, c->n, (double) typical_p * total, 0.0f, spread, &c->select_memory);
    drop_outside(c, c->key_memory, cut);
}

static void keep_top_p(struct commandr_candidates * c, float top_p, double total, float spread) {
    const struct commandr_cut cut =
        commandr_select(c->logits, c->weights, c->n, (double) top_p * total, c->max, spread, &c->select_memory);
    drop_outside(c, c->logits, cut);
}

/* The largest logit that has any weight. */
static float largest_left(struct commandr_candidates * c) {
    float max_weight, max = -FLT_MAX;
    commandr_vocab_max(c->weights, c->n, c->key_memory, &max_weight);
    for (int64_t i = 0; i < c->n; i++) {
        if (c->weights[i] == max_weight && c->logits[i] > max) {
            max = c->logits[i];
        }
    }
    return max;
}

static void keep_min_p(struct commandr_candidates * c, float min_p, double temperature) {
    const double bound  = (double) largest_left(c) + temperature * log((double) min_p);
    const float  lowest = bound > -(double) FLT_MAX ? (float) bound : -FLT_MAX;
    const bool   below  = (double) lowest < bound; /* then lowest itself is too unlikely, but nothing above it is */
    commandr_vocab_drop(c->logits, c->n, below ? nextafterf(lowest, INFINITY) : lowest, c->weights);
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

static float inverse(float temperature) {
    const float scale = 1.0f / temperature;
    return scale <= FLT_MAX ? scale : FLT_MAX; /* a subnormal temperature */
}

void commandr_candidates_filter(struct commandr_candidates * c, const commandr_sampling_params * params) {
    const double temperature = (double) params->temperature;
    const float  scale       = inverse(params->temperature);
    const bool   by_rank     = params->top_k > 0 && params->top_k < c->n_vocab;
    const bool   typical     = params->typical_p < 1.0f;
    const bool   nucleus     = params->top_p < 1.0f;
    const bool   floor       = params->min_p > 0.0f;

    double lowest = LOWEST_EXPONENT; /* of the exponents that may matter to the later filters */
    if (floor && !typical) {
        lowest = fmax(lowest, log((double) params->min_p));
    }
    if (by_rank) {
        keep_top_k(c, params->top_k);
    } else if (floor && !typical && !nucleus) {
        list_from(c, (double) c->max + temperature * lowest);
    }
    double total = commandr_vocab_exp(c->logits, c->n, c->max, scale, c->weights, c->block_sums);
    if (!by_rank && (typical || nucleus)) {
        if (!typical) {
            /* All tokens below this weight together have less than what top_p leaves out. */
            const double weight = 0.5 * (1.0 - (double) params->top_p) * total / (double) c->n_vocab;
            lowest              = fmax(lowest, log(weight));
        }
        list_from(c, (double) c->max + temperature * lowest);
    }
    if (typical) {
        keep_typical(c, params->typical_p, temperature, total);
        total = commandr_vocab_sum(c->weights, c->n, c->block_sums);
    }
    if (nucleus) {
        keep_top_p(c, params->top_p, total, (float) (-temperature * lowest));
    }
    if (floor) {
        keep_min_p(c, params->min_p, temperature);
    }
    c->total = nucleus || floor ? commandr_vocab_sum(c->weights, c->n, c->block_sums) : total;
}

int32_t commandr_candidates_draw(const struct commandr_candidates * c, double uniform) {
    const int64_t n_blocks = commandr_n_blocks(c->n);
    double        left     = uniform * c->total;
    int64_t       block = 0, last = 0; /* last: with any weight, should rounding carry the search past the end */
    for (; block < n_blocks && left >= c->block_sums[block]; block++) {
        left -= c->block_sums[block];
        last = c->block_sums[block] > 0.0 ? block : last;
    }
    if (block == n_blocks) {
        block = last;
        left  = INFINITY;
    }
    const int64_t end    = (block + 1) * BLOCK < c->n ? (block + 1) * BLOCK : c->n;
    int64_t       chosen = block * BLOCK;
    for (int64_t i = block * BLOCK; i < end && left >= 0.0; i++) {
        if (c->weights[i] > 0.0f) {
            chosen = i;
            left -= (double) c->weights[i];
        }
    }
    return c->ids != NULL ? c->ids[chosen] : (int32_t) chosen;
}
