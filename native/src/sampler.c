#include "candidates.h"
#include "error.h"
#include "random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Everything is allocated at the start, so that sampling cannot fail for want of memory. Pages of steps that are
 * never used are never touched. */
struct commandr_sampler {
    commandr_sampling_params   params;
    int64_t                    n_vocab;
    struct commandr_random     random;
    struct commandr_candidates candidates;
    float *                    adjusted; /* [n_vocab]: the logits after penalties, bias and mask */
    int32_t *                  counts;   /* [n_vocab]: all 0 between calls */
    int32_t *                  bias_ids; /* [n_bias] */
    float *                    biases;
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

static commandr_status check_range(const char * name, float value, float low, float high) {
    if (value >= low && value <= high) {
        return COMMANDR_OK;
    }
    if (high == HUGE_VALF) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "%s is %g; it must be at least %g", name, (double) value,
                             (double) low);
    }
    return commandr_fail(COMMANDR_ERROR_ARGUMENT, "%s is %g; it must be %g to %g", name, (double) value, (double) low,
                         (double) high);
}
