/* Seconds of one attention operation over a long context, ours and ggml's flash attention, for attention.py.
 *
 *     attention TYPE N_HEAD N_HEAD_KV N_WINDOW N_TOKENS N_KV N_THREADS ROUNDS
 *
 * The last N_TOKENS of N_KV tokens attend to all before them, or to the last N_WINDOW (0: all). Heads have 128
 * dimensions. Prints the best seconds of ours and of ggml's, and the largest difference of a result. */
#include "kernels/attention.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DIM = 128 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
}

static uint32_t seed = 1;

static float normal(void) { /* nearly */
    float sum = 0.0f;
    for (int i = 0; i < 4; i++) {
        seed = seed * 1664525u + 1013904223u;
        sum += (float) (seed >> 8) / (float) (1 << 24) - 0.5f;
    }
    return 1.7f * sum;
}

/* A layer's cache and the view of its heads that attention has: [DIM, n_kv, n_head_kv] */
static struct ggml_tensor * new_cache(struct ggml_context * ctx, enum ggml_type type, int64_t n_head_kv, int64_t n_kv) {
    struct ggml_tensor * cache = ggml_new_tensor_2d(ctx, type, DIM * n_head_kv, n_kv);
    float                cell[4096];
    for (int64_t i = 0; i < n_kv; i++) {
        for (int64_t d = 0; d < 4096; d++) {
            cell[d] = i < 64 || d % 64 == 0 ? normal() : cell[d];
        }
        for (int64_t head = 0; head < n_head_kv; head++) {
            ggml_quantize_chunk(
                type, cell, (char *) cache->data + (size_t) i * cache->nb[1] + (size_t) head * ggml_row_size(type, DIM),
                0, 1, DIM, NULL);
            memmove(cell, cell + 1, sizeof(cell) - sizeof(float));
        }
    }
    return ggml_view_3d(ctx, cache, DIM, n_kv, n_head_kv, cache->nb[1], ggml_row_size(type, DIM), 0);
}

int main(int argc, char ** argv) {
    if (argc != 9) {
        return 2;
    }
    const enum ggml_type type      = (enum ggml_type) atoi(argv[1]);
    const int64_t        n_head    = atoll(argv[2]);
    const int64_t        n_head_kv = atoll(argv[3]);
    const int64_t        n_window  = atoll(argv[4]);
    const int64_t        n_tokens  = atoll(argv[5]);
    const int64_t        n_kv      = atoll(argv[6]);

    const size_t          size = (size_t) n_kv * (size_t) (8 * DIM * n_head_kv + 2 * n_tokens);
    struct ggml_context * ctx  = ggml_init((struct ggml_init_params) { size + ((size_t) 1 << 30), NULL, false });
    struct ggml_tensor *  q    = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, DIM, n_head, n_tokens);
    struct ggml_tensor *  k    = new_cache(ctx, type, n_head_kv, n_kv);
    struct ggml_tensor *  v    = new_cache(ctx, type, n_head_kv, n_kv);
    struct ggml_tensor *  mask = ggml_new_tensor_2d(ctx, GGML_TYPE_F16, n_kv, n_tokens);
    for (int64_t i = 0; i < ggml_nelements(q); i++) {
        ((float *) q->data)[i] = normal();
    }
    for (int64_t t = 0; t < n_tokens; t++) {
        const int64_t pos = n_kv - n_tokens + t;
        for (int64_t c = 0; c < n_kv; c++) {
            const bool sees                            = c <= pos && (n_window == 0 || pos - c < n_window);
            ((ggml_fp16_t *) mask->data)[t * n_kv + c] = ggml_fp32_to_fp16(sees ? 0.0f : -INFINITY);
        }
    }
    q                             = ggml_permute(ctx, q, 0, 2, 1, 3);
    commandr_mask        summary  = commandr_mask_summarize(ctx, mask, 1);
    struct ggml_tensor * outs[2]  = { commandr_attention(ctx, q, k, v, &summary),
                                      ggml_flash_attn_ext(ctx, q, k, v, mask, 1.0f / sqrtf(DIM), 0.0f, 0.0f) };
    double               best[2]  = { INFINITY, INFINITY };
    ggml_backend_t       cpu      = ggml_backend_cpu_init();
    struct ggml_cgraph * graph[2] = { ggml_new_graph(ctx), ggml_new_graph(ctx) };
    ggml_backend_cpu_set_n_threads(cpu, atoi(argv[7]));
    ggml_flash_attn_ext_set_prec(outs[1], GGML_PREC_F32);
    ggml_build_forward_expand(graph[0], outs[0]);
    ggml_build_forward_expand(graph[1], outs[1]);
    for (int round = 0; round < atoi(argv[8]); round++) {
        for (int i = 0; i < 2; i++) {
            const double begin = now();
            ggml_backend_graph_compute(cpu, graph[i]);
            best[i] = fmin(best[i], now() - begin);
        }
    }
    float difference = 0.0f;
    for (int64_t i = 0; i < ggml_nelements(outs[0]); i++) {
        difference = fmaxf(difference, fabsf(((float *) outs[0]->data)[i] - ((float *) outs[1]->data)[i]));
    }
    printf("%.6f %.6f %.1e\n", best[0], best[1], (double) difference);
    ggml_backend_free(cpu);
    ggml_free(ctx);
    return 0;
}
