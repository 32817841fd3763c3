#include "select.h"

#include <float.h>
#include <math.h>
#include <stddef.h>

enum { N_BINS = 2048, SMALL = 4096 }; /* lists up to SMALL are not worth a histogram */

struct bins {
    float  highest;
    float  per_key; /* bins in one unit of key */
    double weight[N_BINS];
};

/* The bin of a key, the first for the highest; never lower for a smaller key, whatever the rounding. */
static int bin_of(const struct bins * bins, float key) {
    const float bin = (bins->highest - key) * bins->per_key;
    return bin < (float) (N_BINS - 1) ? (int) bin : N_BINS - 1;
}

/* The bin in which the weight of the bins so far reaches *target, which is reduced by that of the bins before. */
static int find_bin(struct bins * bins, const float * keys, const float * weights, int64_t n, double * target) {
    for (int64_t i = 0; i < n; i++) {
        bins->weight[bin_of(bins, keys[i])] += weights != NULL ? (double) weights[i] : 1.0;
    }
    int last = 0; /* with any weight: where the search ends when rounding leaves it short of the target */
    for (int bin = 0; bin < N_BINS; bin++) {
        last = bins->weight[bin] > 0.0 ? bin : last;
    }
    int bin = 0;
    while (bin < last && (bins->weight[bin] < *target || bins->weight[bin] == 0.0)) {
        *target -= bins->weight[bin++];
    }
    return bin;
}

/* Copies the items of the bin (of all bins if negative) that have any weight. */
static int64_t collect(const struct bins * bins, int bin, const float * keys, const float * weights, int64_t n,
                       struct commandr_weighted_key * out) {
    int64_t m = 0;
    for (int64_t i = 0; i < n; i++) {
        const struct commandr_weighted_key item = { keys[i], weights != NULL ? weights[i] : 1.0f };
        out[m]                                  = item;
        m += item.weight > 0.0f && (bin < 0 || bin_of(bins, item.key) == bin);
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
                                    float spread, struct commandr_weighted_key * scratch) {
    struct bins bins = { .highest = highest, .per_key = (float) N_BINS / fmaxf(spread, FLT_MIN * N_BINS) };
    const int   bin  = n > SMALL ? find_bin(&bins, keys, weights, n, &target) : -1;
    const int64_t m  = collect(&bins, bin, keys, weights, n, scratch);

    struct commandr_cut cut = { .key = -INFINITY, .last_tie = n - 1 };
    if (m == 0) {
        return cut;
    }
    int64_t n_ties;
    cut.key = select_key(scratch, m, &target, &n_ties);
    if (n_ties == 1) {
        return cut;
    }
    double weight = 0.0;
    for (int64_t i = 0; i < n; i++) {
        if (keys[i] == cut.key) {
            weight += weights != NULL ? (double) weights[i] : 1.0;
            if (weight > 0.0 && weight >= target) {
                cut.last_tie = i;
                break;
            }
        }
    }
    return cut;
}
