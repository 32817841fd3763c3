#include "half-sums.h"

#include "ggml.h"
#include "workers.h"

enum {
    N_DIM  = 64,
    N_KEYS = 65536 /* shared out to 32 threads, each one still meets 2048 of them */
};

/* Every byte of keys and values: 1.06 as an F16. */
#define BYTE 0x3c

static bool computes_wrong(ggml_backend_t backend, struct ggml_context * ctx) {
    struct ggml_tensor * q     = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, N_DIM, 1, 1);
    struct ggml_tensor * k     = ggml_new_tensor_3d(ctx, GGML_TYPE_F16, N_DIM, N_KEYS, 1);
    struct ggml_tensor * v     = ggml_new_tensor_3d(ctx, GGML_TYPE_F16, N_DIM, N_KEYS, 1);
    struct ggml_tensor * mean  = ggml_flash_attn_ext(ctx, q, k, v, NULL, 1.0f, 0.0f, 0.0f);
    struct ggml_cgraph * graph = ggml_new_graph_custom(ctx, 8, false);
    ggml_flash_attn_ext_set_prec(mean, GGML_PREC_F32);
    ggml_build_forward_expand(graph, mean);
    ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors(ctx, backend);
    if (!buffer) {
        return false;
    }
    float             found    = 0.0f;
    const ggml_fp16_t value    = BYTE << 8 | BYTE;
    const float       expected = ggml_fp16_to_fp32(value);
    ggml_backend_buffer_clear(buffer, BYTE); /* equal keys: the query is any small one */
    const bool is_computed = ggml_backend_graph_compute(backend, graph) == GGML_STATUS_SUCCESS;
    if (is_computed) {
        ggml_backend_tensor_get(mean, &found, 0, sizeof(found));
    }
    commandr_buffer_free(buffer);
    return is_computed && !(found > 0.75f * expected && found < 1.25f * expected);
}

bool commandr_sums_in_half(ggml_backend_dev_t dev) {
    const size_t          size    = 8 * ggml_tensor_overhead() + ggml_graph_overhead_custom(8, false);
    ggml_backend_t        backend = ggml_backend_dev_init(dev, NULL);
    struct ggml_context * ctx     = backend ? ggml_init((struct ggml_init_params) { size, NULL, true }) : NULL;
    const bool            result  = ctx && computes_wrong(backend, ctx);
    ggml_free(ctx);
    ggml_backend_free(backend);
    return result;
}
