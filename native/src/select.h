/* Where to cut a list so that the items with the largest keys, and as few of them as possible, reach a given weight. */
#ifndef COMMANDR_SRC_SELECT_H
#define COMMANDR_SRC_SELECT_H

#include <stdbool.h>
#include <stdint.h>

struct commandr_weighted_key {
    float key;
    float weight;
};

struct commandr_select_scratch { /* as many elements each as the longest list */
    struct commandr_weighted_key * items;
    int32_t *                      bins;
};

/* Item i is in when its key is above, or equal with i <= last_tie: of equal keys the first ones count as larger. */
struct commandr_cut {
    float   key;
    int64_t last_tie;
};

static inline bool commandr_cut_keeps(struct commandr_cut cut, float key, int64_t i) {
    return key > cut.key || (key == cut.key && i <= cut.last_tie);
}

/* keys, weights: [n], n >= 1, no NaN, no negative weight; weights NULL means 1 each. The items kept weigh at least
 * target, or are all of them when that is too much; at least one is kept. highest: no key is above it. spread: most
 * keys that matter are within it below highest; a bad guess costs time only. Takes time linear in n. */
struct commandr_cut commandr_select(const float * keys, const float * weights, int64_t n, double target, float highest,
                                    float spread, const struct commandr_select_scratch * scratch);

#endif
