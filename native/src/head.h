/* Which rows of the head an evaluation computes: all, or those of the few tokens that a grammar allows next. */
#ifndef COMMANDR_SRC_HEAD_H
#define COMMANDR_SRC_HEAD_H

#include "kernels/packed.h"
#include "model.h"

enum {
    COMMANDR_HEAD_GROUP = COMMANDR_LANES, /* rows */
    /* Groups that a graph computes: one of these numbers, or all. A grammar that lets one of some words, digits or
     * signs follow allows about 10 tokens, or 100 where each may also go on in another way; free text nearly all. */
    COMMANDR_HEAD_FEW  = 16,
    COMMANDR_HEAD_MANY = 128
};

/* Groups of rows, padded with one of them to one of the numbers above. */
typedef struct commandr_head_list {
    int64_t n; /* 0: the whole head */
    int64_t n_padded;
    int32_t ids[COMMANDR_HEAD_MANY];
} commandr_head_list;

/* The most groups of the head's rows that a graph computes by themselves. 0: never any, because a device computes the
 * head or it has few rows. */
int64_t commandr_head_most(const commandr_model * model);

/* The groups that the items' masks ask for; the whole head when an item with outputs has none or they are too many. */
void commandr_head_choose(const commandr_model * model, const commandr_eval_item * items, int32_t n_items,
                          commandr_head_list * list);

/* Copies n rows of logits from a graph's output, the first one being `row`, to `to`: [n][n_vocab]. Tokens that were
 * not computed get -infinity. */
void commandr_head_read(const commandr_head_list * list, const struct ggml_tensor * logits, int64_t row, int64_t n,
                        int64_t n_vocab, float * to);

#endif
