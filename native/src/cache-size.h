/* How large the caches of a session are, and how large they can be. */
#ifndef COMMANDR_SRC_CACHE_SIZE_H
#define COMMANDR_SRC_CACHE_SIZE_H

#include "model.h"

typedef struct commandr_cache_size {
    int64_t full;   /* cells that layers without a window have at most */
    int64_t window; /* cells of the others */
    int64_t n_full_layers;
    int64_t n_window_layers;
    int64_t cell; /* bytes of a cell in one layer */
} commandr_cache_size;

/* params: of a session, every default filled in. */
commandr_cache_size commandr_cache_size_of(const commandr_hparams * hp, const commandr_session_params * params);

/* The tokens whose keys and values fit beside the weights: in half of what is free now of the host's memory, which
 * others need too, and in three quarters of each GPU's. At least 4096, and at most what the model was trained for. */
int64_t commandr_cache_fit(const commandr_model * model, const commandr_session_params * params, bool flash_attn);

#endif
