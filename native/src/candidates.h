/* The tokens that a draw may still pick: from all of a vocabulary down to what the filters leave. */
#ifndef COMMANDR_SRC_CANDIDATES_H
#define COMMANDR_SRC_CANDIDATES_H

#include "commandr.h"
#include "select.h"

struct commandr_candidates {
    int64_t         n_vocab;
    int64_t         n;       /* candidates, in rising order of token */
    const int32_t * ids;     /* [n]; NULL: candidate i is token i */
    const float *   logits;  /* [n] */
    float *         weights; /* [n]: proportional to their probabilities; 0 when a filter has dropped one */
    double          total;   /* of the weights, after the filters */

    /* Of the whole vocabulary, by commandr_candidates_init. */
    float   max;
    float * block_max;

    /* Memory of n_vocab elements each, of commandr_n_blocks(n_vocab) for the blocks. */
    int32_t *                      id_memory;
    float *                        logit_memory;
    float *                        weight_memory;
    float *                        key_memory;
    struct commandr_select_scratch select_memory;
    double *                       block_sums; /* of the weights, after the filters */
};

/* MEMORY on failure; commandr_candidates_free is due in any case. */
commandr_status commandr_candidates_alloc(struct commandr_candidates * c, int64_t n_vocab);
void            commandr_candidates_free(struct commandr_candidates * c);

/* All tokens with these logits [n_vocab], which must stay. ARGUMENT when one is NaN or none is above -infinity. */
commandr_status commandr_candidates_init(struct commandr_candidates * c, const float * logits);

/* The first token with the largest logit. */
int32_t commandr_candidates_first_max(const struct commandr_candidates * c);

/* Applies top_k, typical_p, top_p and min_p at this temperature (> 0). The largest logit is finite. */
void commandr_candidates_filter(struct commandr_candidates * c, const commandr_sampling_params * params);

/* The token at the point uniform (0 <= uniform < 1) of the cumulative probability. Only after the filters. */
int32_t commandr_candidates_draw(const struct commandr_candidates * c, double uniform);

#endif
