#include "candidates.h"
#include "error.h"
#include "random.h"
#include "vocab-ops.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Everything is allocated at the start, so that sampling cannot fail for want of memory; pages of steps that are
 * never used are never touched. */
struct commandr_sampler {
    commandr_sampling_params   params;
    int64_t                    n_vocab;
    struct commandr_random     random;
    struct commandr_candidates candidates;
    float *                    adjusted; /* [n_vocab]: the logits after penalties, bias and mask */
    int32_t *                  counts;   /* [n_vocab]: all 0 between calls */
    int32_t *                  bias_ids; /* [n_bias] */
    float *                    biases;   /* [n_bias] */
    int64_t                    n_bias;
};

commandr_sampling_params commandr_sampling_default_params(void) {
    const commandr_sampling_params params = {
        .temperature    = 1.0f,
        .top_p          = 1.0f,
        .typical_p      = 1.0f,
        .repeat_penalty = 1.0f,
        .penalty_last_n = 64,
        .seed           = COMMANDR_DEFAULT_SEED,
    };
    return params;
}

static commandr_status check_params(const commandr_sampling_params * p) {
    const struct {
        const char * name;
        float        value, low, high;
        const char * range;
    } checks[] = {
        { "temperature",       p->temperature,            0.0f,         FLT_MAX, "0 or more"  },
        { "top_k",             (float) p->top_k,          0.0f,         FLT_MAX, "0 or more"  },
        { "top_p",             p->top_p,                  0.0f,         1.0f,    "0 to 1"     },
        { "min_p",             p->min_p,                  0.0f,         1.0f,    "0 to 1"     },
        { "typical_p",         p->typical_p,              0.0f,         1.0f,    "0 to 1"     },
        { "repeat_penalty",    p->repeat_penalty,         FLT_TRUE_MIN, FLT_MAX, "above 0"    },
        { "frequency_penalty", p->frequency_penalty,      -FLT_MAX,     FLT_MAX, "finite"     },
        { "presence_penalty",  p->presence_penalty,       -FLT_MAX,     FLT_MAX, "finite"     },
        { "penalty_last_n",    (float) p->penalty_last_n, -1.0f,        FLT_MAX, "-1 or more" },
    };
    for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
        if (!(checks[i].value >= checks[i].low && checks[i].value <= checks[i].high)) { /* true of NaN, too */
            return commandr_fail(COMMANDR_ERROR_ARGUMENT, "%s is %g; it must be %s", checks[i].name,
                                 (double) checks[i].value, checks[i].range);
        }
    }
    return COMMANDR_OK;
}

commandr_status commandr_sampler_init(int64_t n_vocab, commandr_sampling_params params, commandr_sampler ** out) {
    if (out == NULL) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "out is NULL");
    }
    if (n_vocab < 1 || n_vocab > INT32_MAX) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "n_vocab is %lld; it must be 1 to %d", (long long) n_vocab,
                             INT32_MAX);
    }
    commandr_status status = check_params(&params);
    if (status != COMMANDR_OK) {
        return status;
    }
    commandr_sampler * sampler = calloc(1, sizeof(*sampler));
    if (sampler == NULL) {
        return commandr_fail(COMMANDR_ERROR_MEMORY, "cannot allocate a sampler");
    }
    sampler->params   = params;
    sampler->n_vocab  = n_vocab;
    sampler->adjusted = malloc((size_t) n_vocab * sizeof(*sampler->adjusted));
    sampler->counts   = calloc((size_t) n_vocab, sizeof(*sampler->counts));
    status            = commandr_candidates_alloc(&sampler->candidates, n_vocab);
    if (status == COMMANDR_OK && (sampler->adjusted == NULL || sampler->counts == NULL)) {
        status = commandr_fail(COMMANDR_ERROR_MEMORY, "cannot allocate a sampler for %lld tokens", (long long) n_vocab);
    }
    if (status == COMMANDR_OK) {
        status = commandr_random_seed(&sampler->random, params.seed);
    }
    if (status != COMMANDR_OK) {
        commandr_sampler_free(sampler);
        return status;
    }
    *out = sampler;
    return COMMANDR_OK;
}

void commandr_sampler_free(commandr_sampler * sampler) {
    if (sampler == NULL) {
        return;
    }
    commandr_candidates_free(&sampler->candidates);
    free(sampler->adjusted);
    free(sampler->counts);
    free(sampler->bias_ids);
    free(sampler->biases);
    free(sampler);
}

/* ARGUMENT unless all ids are of the vocabulary; what names the list. */
static commandr_status check_tokens(const char * what, const int32_t * ids, int64_t n, int64_t n_vocab) {
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= n_vocab) {
            return commandr_fail(COMMANDR_ERROR_ARGUMENT,
                                 "token %d at place %lld of the %s is outside the vocabulary of %lld", ids[i],
                                 (long long) i, what, (long long) n_vocab);
        }
    }
    return COMMANDR_OK;
}

commandr_status commandr_sampler_set_bias(commandr_sampler * sampler, const int32_t * ids, const float * biases,
                                          int64_t n) {
    if (sampler == NULL || n < 0 || (n > 0 && (ids == NULL || biases == NULL))) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "set_bias needs a sampler and n >= 0 ids and biases");
    }
    const commandr_status status = check_tokens("logit bias", ids, n, sampler->n_vocab);
    if (status != COMMANDR_OK) {
        return status;
    }
    for (int64_t i = 0; i < n; i++) {
        if (!(biases[i] <= FLT_MAX)) {
            return commandr_fail(COMMANDR_ERROR_ARGUMENT,
                                 "the logit bias of token %d is %g; it must be finite or -infinity", ids[i],
                                 (double) biases[i]);
        }
    }
    int32_t * new_ids    = NULL;
    float *   new_biases = NULL;
    if (n > 0) {
        new_ids    = malloc((size_t) n * sizeof(*new_ids));
        new_biases = malloc((size_t) n * sizeof(*new_biases));
        if (new_ids == NULL || new_biases == NULL) {
            free(new_ids);
            free(new_biases);
            return commandr_fail(COMMANDR_ERROR_MEMORY, "cannot allocate a logit bias for %lld tokens", (long long) n);
        }
        memcpy(new_ids, ids, (size_t) n * sizeof(*ids));
        memcpy(new_biases, biases, (size_t) n * sizeof(*biases));
    }
    free(sampler->bias_ids);
    free(sampler->biases);
    sampler->bias_ids = new_ids;
    sampler->biases   = new_biases;
    sampler->n_bias   = n;
    return COMMANDR_OK;
}

/* tokens: [n], those that count, all of the vocabulary. */
static void apply_penalties(commandr_sampler * sampler, const int32_t * tokens, int64_t n) {
    const commandr_sampling_params * params = &sampler->params;
    for (int64_t i = 0; i < n; i++) {
        sampler->counts[tokens[i]] += 1;
    }
    for (int64_t i = 0; i < n; i++) {
        const int32_t token = tokens[i];
        const int32_t count = sampler->counts[token];
        if (count == 0) {
            continue; /* seen earlier in this loop */
        }
        float logit = sampler->adjusted[token];
        logit       = logit > 0.0f ? logit / params->repeat_penalty : logit * params->repeat_penalty;
        logit -= (float) count * params->frequency_penalty + params->presence_penalty;
        sampler->adjusted[token] = logit;
        sampler->counts[token]   = 0;
    }
}

static void apply_bias(commandr_sampler * sampler) {
    for (int64_t i = 0; i < sampler->n_bias; i++) {
        float * logit = &sampler->adjusted[sampler->bias_ids[i]];
        /* Forbidden is forbidden, were the logit infinite or not a number. */
        *logit = sampler->biases[i] == -INFINITY ? -INFINITY : *logit + sampler->biases[i];
    }
}

commandr_status commandr_sampler_sample(commandr_sampler * sampler, const float * logits, const int32_t * history,
                                        int64_t n_history, const uint32_t * mask, int32_t * token) {
    if (sampler == NULL || logits == NULL || token == NULL) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "sampling needs a sampler, logits and a place for the token");
    }
    if (n_history < 0 || (n_history > 0 && history == NULL)) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "a history of %lld tokens is not there", (long long) n_history);
    }
    const commandr_sampling_params * params = &sampler->params;
    struct commandr_candidates *     c      = &sampler->candidates;

    const bool has_penalties =
        params->repeat_penalty != 1.0f || params->frequency_penalty != 0.0f || params->presence_penalty != 0.0f;
    const bool    whole       = params->penalty_last_n < 0 || params->penalty_last_n > n_history;
    const int64_t n_penalized = !has_penalties ? 0 : whole ? n_history : params->penalty_last_n;
    if (n_penalized > 0 || sampler->n_bias > 0 || mask != NULL) {
        memcpy(sampler->adjusted, logits, (size_t) sampler->n_vocab * sizeof(*logits));
        logits = sampler->adjusted;
    }
    if (n_penalized > 0) {
        const int32_t *       tokens = history + (n_history - n_penalized);
        const commandr_status status = check_tokens("history", tokens, n_penalized, sampler->n_vocab);
        if (status != COMMANDR_OK) {
            return status;
        }
        apply_penalties(sampler, tokens, n_penalized);
    }
    apply_bias(sampler);
    if (mask != NULL) {
        commandr_vocab_mask(sampler->adjusted, sampler->n_vocab, mask);
    }

    commandr_status status = commandr_candidates_init(c, logits);
    if (status == COMMANDR_OK && params->temperature > 0.0f && c->max == INFINITY) {
        /* Tokens at +infinity share the probability among themselves. */
        for (int64_t i = 0; i < sampler->n_vocab; i++) {
            sampler->adjusted[i] = logits[i] == INFINITY ? 0.0f : -INFINITY;
        }
        status = commandr_candidates_init(c, sampler->adjusted);
    }
    if (status != COMMANDR_OK) {
        return status;
    }
    if (params->temperature == 0.0f) {
        *token = commandr_candidates_first_max(c);
    } else {
        commandr_candidates_filter(c, params);
        *token = commandr_candidates_draw(c, commandr_random_next(&sampler->random));
    }
    return COMMANDR_OK;
}
