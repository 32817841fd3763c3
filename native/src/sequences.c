/* The sequences of a session: their tokens, and the cells that hold their keys and values. */
#include "error.h"
#include "session.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

commandr_status commandr_session_check_seq(const commandr_session * s, int32_t seq_id) {
    if (seq_id < 0 || seq_id >= s->params.n_seq_max) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "seq_id %d is outside 0..%d", seq_id, s->params.n_seq_max - 1);
    }
    return COMMANDR_OK;
}

void commandr_session_drop_outputs(commandr_session * s) {
    s->n_items = 0;
}

commandr_status commandr_sequence_reserve(commandr_sequence * seq, int64_t n) {
    if (n > seq->capacity) {
        const int64_t capacity = n + n / 2 + 256;
        int32_t *     tokens   = realloc(seq->tokens, (size_t) capacity * sizeof(*tokens));
        if (!tokens) {
            return commandr_fail(COMMANDR_ERROR_MEMORY, "out of memory for %" PRId64 " tokens", n);
        }
        seq->tokens   = tokens;
        seq->capacity = capacity;
    }
    return COMMANDR_OK;
}

int64_t commandr_session_keepable(const commandr_session * s, int32_t seq_id, int64_t n) {
    const commandr_kv_cache * window = &s->caches[COMMANDR_CACHE_WINDOW];
    if (n >= s->seqs[seq_id].n) {
        return s->seqs[seq_id].n;
    }
    /* When what position n would see has made room for newer positions, there is no way but from the start. */
    return window->size == 0 || commandr_kv_cache_complete(window, seq_id, n) ? n : 0;
}

void commandr_session_truncate(commandr_session * s, int32_t seq_id, int64_t n_keep) {
    n_keep = commandr_session_keepable(s, seq_id, n_keep);
    if (n_keep < s->seqs[seq_id].n) {
        commandr_kv_cache_seq_rm(&s->caches[COMMANDR_CACHE_FULL], seq_id, n_keep);
        commandr_kv_cache_seq_rm(&s->caches[COMMANDR_CACHE_WINDOW], seq_id, n_keep);
        s->seqs[seq_id].n = n_keep;
    }
}

commandr_status commandr_session_seq_rm(commandr_session * s, int32_t seq_id, int64_t n_keep) {
    const commandr_status status = commandr_session_check_seq(s, seq_id);
    if (status != COMMANDR_OK) {
        return status;
    }
    if (n_keep < 0) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "n_keep is %" PRId64 "; it is 0 or more", n_keep);
    }
    commandr_session_drop_outputs(s);
    commandr_session_truncate(s, seq_id, n_keep);
    return COMMANDR_OK;
}

commandr_status commandr_session_seq_cp(commandr_session * s, int32_t src, int32_t dst) {
    commandr_status status = commandr_session_check_seq(s, src);
    if (status == COMMANDR_OK) {
        status = commandr_session_check_seq(s, dst);
    }
    if (status == COMMANDR_OK && src != dst) {
        status = commandr_sequence_reserve(&s->seqs[dst], s->seqs[src].n);
    }
    if (status != COMMANDR_OK || src == dst) {
        return status;
    }
    commandr_session_drop_outputs(s);
    commandr_session_truncate(s, dst, 0);
    for (int which = 0; which < 2; which++) {
        commandr_kv_cache_seq_cp(&s->caches[which], src, dst);
    }
    if (s->seqs[src].n > 0) {
        memcpy(s->seqs[dst].tokens, s->seqs[src].tokens, (size_t) s->seqs[src].n * sizeof(int32_t));
    }
    s->seqs[dst].n = s->seqs[src].n;
    return COMMANDR_OK;
}

commandr_status commandr_session_seq_keep(commandr_session * s, int32_t seq_id) {
    const commandr_status status = commandr_session_check_seq(s, seq_id);
    if (status != COMMANDR_OK) {
        return status;
    }
    commandr_session_drop_outputs(s);
    for (int32_t i = 0; i < s->params.n_seq_max; i++) {
        if (i != seq_id) {
            commandr_session_truncate(s, i, 0);
        }
    }
    return COMMANDR_OK;
}

int64_t commandr_session_seq_length(const commandr_session * s, int32_t seq_id) {
    return seq_id >= 0 && seq_id < s->params.n_seq_max ? s->seqs[seq_id].n : -1;
}

const int32_t * commandr_session_seq_tokens(const commandr_session * s, int32_t seq_id) {
    return commandr_session_seq_length(s, seq_id) > 0 ? s->seqs[seq_id].tokens : NULL;
}
