#include "select.h"

#include "vocab-ops.h"

#include <float.h>
#include <math.h>
#include <stddef.h>

enum { N_BINS = 1024, SMALL = 4096 }; /* lists up to SMALL are not worth a histogram */

static double weight_of(const float * weights, int64_t i) {
    return weights != NULL ? (double) weights[i] : 1.0;
}

/* The bin in which the weight of the bins so far reaches *target, which is reduced by that of the bins before. */
static int32_t find_bin(const int32_t * bins, const float * weights, int64_t n, double * target) {
    double totals[N_BINS][2] = { { 0.0 } }; /* of every other item: neighbors in one bin do not wait for each other */
    for (int64_t i = 0; i < n; i++) {
        totals[bins[i]][i % 2] += weight_of(weights, i);
    }
    int32_t last = 0; /* with any weight: where the search ends when rounding leaves it short of the target */
    for (int32_t bin = 0; bin < N_BINS; bin++) {
        totals[bin][0] += totals[bin][1];
        last = totals[bin][0] > 0.0 ? bin : last;
    }
    int32_t bin = 0;
    while (bin < last && (totals[bin][0] < *target || totals[bin][0] <= 0.0)) {
        *target -= totals[bin++][0];
    }
    return bin;
}

/* Copies the items of the bin (all items if bins is NULL) that have any weight. */
static int64_t collect(const float * keys, const float * weights, int64_t n, const int32_t * bins, int32_t bin,
                       struct commandr_weighted_key * out) {
    int64_t m = 0;
    for (int64_t i = 0; i < n; i++) {
        if (bins == NULL || bins[i] == bin) {
            out[m].key    = keys[i];
            out[m].weight = (float) weight_of(weights, i);
            m += out[m].weight > 0.0f;
        }
    }
    return m;
}

static float median(float a, float b, float c) {
    return fmaxf(fminf(a, b), fminf(fmaxf(a, b), c));
}

static void swap(struct commandr_weighted_key * a, struct commandr_weighted_key * b) {
    const struct commandr_weighted_key t = *a;
    *a                                   = *b;
    *b                                   = t;
}

/* Quickselect by weight. Returns the key at which the target is reached; *target becomes what the items with that key
 * still have to weigh, *n_ties their number. */
static float select_key(struct commandr_weighted_key * items, int64_t n, double * target, int64_t * n_ties) {
    for (;;) {
        const float pivot = median(items[0].key, items[n / 2].key, items[n - 1].key);
        int64_t     above = 0, i = 0, below = n; /* [0, above) > pivot, [above, i) = pivot, [below, n) < pivot */
        double      weight_above = 0.0, weight_equal = 0.0;
        while (i < below) {
            if (items[i].key > pivot) {
                weight_above += (double) items[i].weight;
                swap(&items[above++], &items[i++]);
            } else if (items[i].key < pivot) {
                swap(&items[i], &items[--below]);
            } else {
                weight_equal += (double) items[i++].weight;
            }
        }
        if (above > 0 && weight_above >= *target) {
            n = above;
        } else if (below == n || weight_above + weight_equal >= *target) {
            *target -= weight_above;
            *n_ties = below - above;
            return pivot;
        } else {
            *target -= weight_above + weight_equal;
            items += below;
            n -= below;
        }
    }
}

struct commandr_cut commandr_select(const float * keys, const float * weights, int64_t n, double target, float highest,
                                    float spread, const struct commandr_select_scratch * scratch) {
    const int32_t * bins = NULL;
    int32_t         bin  = 0;
    if (n > SMALL) {
        const float per_key = (float) N_BINS / fmaxf(spread, FLT_MIN * N_BINS);
        commandr_vocab_bins(keys, n, highest, per_key, N_BINS - 1, scratch->bins);
        bins = scratch->bins;
        bin  = find_bin(bins, weights, n, &target);
    }
    const int64_t m = collect(keys, weights, n, bins, bin, scratch->items);

    struct commandr_cut cut = { .key = -INFINITY, .last_tie = n - 1 };
    if (m == 0) {
        return cut;
    }
    int64_t n_ties;
    cut.key = select_key(scratch->items, m, &target, &n_ties);
    if (n_ties == 1) {
        return cut;
    }
    double weight = 0.0;
    for (int64_t i = 0; i < n; i++) {
        if (keys[i] == cut.key) {
            weight += weight_of(weights, i);
            if (weight > 0.0 && weight >= target) {
                cut.last_tie = i;
                break;
            }
        }
    }
    return cut;
}
