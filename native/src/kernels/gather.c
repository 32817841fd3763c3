#include "kernels/gather.h"

#include "kernels/packed.h"

#include <string.h>

/* dst: of w's type, [n_in, n * LANES]; sources: w, ids. A group's bytes are its own in either layout: packed, they are
 * the tiles of its rows. */
static void gather(struct ggml_tensor * dst, int ith, int nth, void * user_data) {
    (void) user_data;
    const struct ggml_tensor * w    = dst->src[0];
    const int32_t *            ids  = dst->src[1]->data;
    const size_t               size = COMMANDR_LANES * w->nb[1];
    for (int64_t i = ith; i < dst->src[1]->ne[0]; i += nth) {
        memcpy((char *) dst->data + (size_t) i * size, (const char *) w->data + (size_t) ids[i] * size, size);
    }
}

struct ggml_tensor * commandr_gather(struct ggml_context * ctx, struct ggml_tensor * w, struct ggml_tensor * ids) {
    struct ggml_tensor * args[2] = { w, ids };
    struct ggml_tensor * rows    = ggml_custom_4d(ctx, w->type, w->ne[0], ids->ne[0] * COMMANDR_LANES, 1, 1, args, 2,
                                                  gather, GGML_N_TASKS_MAX, NULL);
    if (commandr_is_packed(w)) {
        commandr_mark_packed(rows);
    }
    return rows;
}
