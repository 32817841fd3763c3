#include "session.h"

#include "cache-size.h"
#include "devices.h"
#include "error.h"
#include "half-sums.h"
#include "threads.h"
#include "worker-guard.h"
#include "workers.h"

#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

#define REPORT_SECONDS 0.05

commandr_session_params commandr_session_default_params(void) {
    return (commandr_session_params) {
        .n_ctx              = 0,
        .n_batch            = 2048,
        .n_ubatch           = 512,
        .n_outputs          = 0,
        .n_seq_max          = 1,
        .n_threads          = 0,
        .type_k             = GGML_TYPE_F16,
        .type_v             = GGML_TYPE_F16,
        .flash_attn         = -1,
        .imatrix            = false,
        .progress           = NULL,
        .progress_user_data = NULL,
    };
}

static bool is_cache_type(int32_t type) {
    return type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16 || type == GGML_TYPE_Q8_0 ||
           type == GGML_TYPE_Q4_0;
}

/* Checks the parameters and fills in what the caller left to us. */
static commandr_status settle_params(const commandr_hparams * hp, commandr_session_params * p) {
    const struct {
        const char * name;
        int64_t      value, min, max;
    } ranges[] = {
        /* 2^31 cells are 2 TiB and more of keys and values; the bound keeps arithmetic on sizes far from 2^63 */
        { "n_ctx",      p->n_ctx,      -1, INT32_MAX            },
        { "n_batch",    p->n_batch,    1,  INT32_MAX            },
        { "n_ubatch",   p->n_ubatch,   1,  INT32_MAX            },
        { "n_outputs",  p->n_outputs,  0,  INT32_MAX            },
        { "n_seq_max",  p->n_seq_max,  1,  COMMANDR_MAX_SEQS    },
        { "n_threads",  p->n_threads,  0,  COMMANDR_MAX_THREADS },
        { "flash_attn", p->flash_attn, -1, 1                    },
    };
    for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
        if (ranges[i].value < ranges[i].min || ranges[i].value > ranges[i].max) {
            return commandr_fail(COMMANDR_ERROR_ARGUMENT, "%s is %" PRId64 ", outside %" PRId64 "..%" PRId64,
                                 ranges[i].name, ranges[i].value, ranges[i].min, ranges[i].max);
        }
    }
    const struct {
        const char * name;
        int32_t      type;
    } types[] = {
        { "type_k", p->type_k },
        { "type_v", p->type_v }
    };
    for (size_t i = 0; i < 2; i++) {
        if (!is_cache_type(types[i].type)) {
            const char * name = commandr_type_name(types[i].type);
            return commandr_fail(COMMANDR_ERROR_ARGUMENT, "%s is %s; the KV cache is F32, F16, BF16, Q8_0 or Q4_0",
                                 types[i].name, name ? name : "no ggml_type");
        }
        if (hp->head_dim % ggml_blck_size((enum ggml_type) types[i].type) != 0) {
            return commandr_fail(COMMANDR_ERROR_UNSUPPORTED,
                                 "%s %s needs heads of a multiple of 32 dimensions, not %" PRId64, types[i].name,
                                 commandr_type_name(types[i].type), hp->head_dim);
        }
    }
    p->n_ctx     = p->n_ctx > 0 ? p->n_ctx : hp->n_ctx_train;
    p->n_threads = p->n_threads ? p->n_threads : commandr_default_n_threads();
    p->n_ubatch  = p->n_ubatch < p->n_ctx ? p->n_ubatch : (int32_t) p->n_ctx;
    p->n_outputs = p->n_outputs ? p->n_outputs : 64;
    p->n_outputs = p->n_outputs < p->n_ubatch ? p->n_outputs : p->n_ubatch;
    return COMMANDR_OK;
}

commandr_status commandr_session_kv_size(const commandr_hparams * hp, commandr_session_params params, int64_t * size) {
    const commandr_status status = settle_params(hp, &params);
    if (status != COMMANDR_OK) {
        return status;
    }
    const commandr_cache_size cache = commandr_cache_size_of(hp, &params);
    *size = cache.cell * (cache.full * cache.n_full_layers + cache.window * cache.n_window_layers);
    return COMMANDR_OK;
}

/* Whether a device has flash attention for this model's heads and these cache types. A worker says that it has
 * everything; two types that differ would end one with a card of CUDA's. */
static bool has_flash_attn(ggml_backend_dev_t dev, const commandr_hparams * hp, const commandr_session_params * p) {
    if (commandr_is_worker(dev) && p->type_k != p->type_v) {
        return false;
    }
    struct ggml_context * ctx = ggml_init((struct ggml_init_params) { 8 * ggml_tensor_overhead(), NULL, true });
    if (!ctx) {
        return false;
    }
    struct ggml_tensor * q    = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, hp->head_dim, p->n_ubatch, hp->n_head);
    struct ggml_tensor * k    = ggml_new_tensor_3d(ctx, (enum ggml_type) p->type_k, hp->head_dim, 256, hp->n_head_kv);
    struct ggml_tensor * v    = ggml_new_tensor_3d(ctx, (enum ggml_type) p->type_v, hp->head_dim, 256, hp->n_head_kv);
    struct ggml_tensor * mask = ggml_new_tensor_2d(ctx, GGML_TYPE_F16, 256, p->n_ubatch);
    struct ggml_tensor * op   = ggml_flash_attn_ext(ctx, q, k, v, mask, 1.0f, 0.0f, 0.0f);
    ggml_flash_attn_ext_set_prec(op, GGML_PREC_F32);
    const bool supported = ggml_backend_dev_supports_op(dev, op);
    ggml_free(ctx);
    return supported;
}

static commandr_status choose_flash_attn(commandr_session * s) {
    const commandr_session_params * p    = &s->params;
    const char *                    lack = NULL;
    for (int64_t il = 0; il < s->model->hparams.n_layer && !lack; il++) {
        ggml_backend_dev_t dev = s->model->layers[il].dev;
        if ((il == 0 || dev != s->model->layers[il - 1].dev) && !has_flash_attn(dev, &s->model->hparams, p)) {
            lack = ggml_backend_dev_name(dev);
        }
    }
    s->flash_attn = p->flash_attn != 0 && !lack;
    if (p->flash_attn == 1 && lack) {
        return commandr_fail(COMMANDR_ERROR_UNSUPPORTED, "flash attention was asked for, and %s does not have it",
                             lack);
    }
    if (!s->flash_attn && ggml_is_quantized((enum ggml_type) p->type_v)) {
        return commandr_fail(COMMANDR_ERROR_UNSUPPORTED, "type_v %s needs flash attention, which %s",
                             commandr_type_name(p->type_v), lack ? "a device in use does not have" : "is switched off");
    }
    return COMMANDR_OK;
}

/* V in BF16, which has the size of F16, in place of it where a worker would sum its values in half precision. K, which
 * gains nothing by it, goes with V where another device may need equal types. */
static void avoid_half_sums(commandr_session * s) {
    commandr_session_params * p      = &s->params;
    int32_t                   n_half = 0;
    if (!s->flash_attn || p->type_v != GGML_TYPE_F16 || s->is_measured) {
        return;
    }
    for (int32_t i = 0; i < s->model->n_devs; i++) {
        n_half += commandr_is_worker(s->model->devs[i]) && commandr_sums_in_half(s->model->devs[i]);
    }
    if (n_half > 0) {
        p->type_v = GGML_TYPE_BF16;
        p->type_k = n_half < s->model->n_devs && p->type_k == GGML_TYPE_F16 ? GGML_TYPE_BF16 : p->type_k;
    }
}

static double now_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec + (double) t.tv_nsec * 1e-9;
}

/* Asked between graph nodes on the evaluating thread. */
static bool should_stop(void * user_data) {
    commandr_session * s = user_data;
    if (s->params.progress) {
        const double now = now_seconds();
        if (now - s->last_report >= REPORT_SECONDS) {
            s->last_report = now;
            if (!s->params.progress(s->n_done, s->n_total, s->params.progress_user_data)) {
                return true;
            }
        }
    }
    return atomic_load_explicit(&s->cancelled, memory_order_relaxed);
}

static commandr_status allocate(commandr_session * s) {
    const commandr_session_params * p     = &s->params;
    const commandr_model *          model = s->model;
    /* The full cache counts the cells of the whole session, also when no layer has rows in it. */
    const commandr_cache_size size   = commandr_cache_size_of(&model->hparams, p);
    commandr_status           status = commandr_kv_cache_init(&s->caches[COMMANDR_CACHE_FULL], model, false, size.full,
                                                              (enum ggml_type) p->type_k, (enum ggml_type) p->type_v);
    if (status == COMMANDR_OK && size.n_window_layers > 0) {
        status = commandr_kv_cache_init(&s->caches[COMMANDR_CACHE_WINDOW], model, true, size.window,
                                        (enum ggml_type) p->type_k, (enum ggml_type) p->type_v);
    }
    if (status == COMMANDR_OK) {
        const size_t max_nodes = commandr_graph_max_nodes(model);
        s->graph_memory_size   = max_nodes * ggml_tensor_overhead() + ggml_graph_overhead_custom(max_nodes, false);
        status                 = commandr_backends_init(&s->backends, model, p->n_threads, max_nodes, should_stop, s);
    }
    if (status != COMMANDR_OK) {
        return status;
    }
    if (p->imatrix) {
        s->imatrix = commandr_imatrix_init(model);
        if (!s->imatrix) {
            return commandr_fail(COMMANDR_ERROR_MEMORY, "out of memory for an importance matrix");
        }
    }
    const size_t n  = (size_t) p->n_ubatch;
    s->graph_memory = malloc(s->graph_memory_size);
    s->batch_tokens = calloc(n, sizeof(*s->batch_tokens));
    s->batch_pos    = calloc(n, sizeof(*s->batch_pos));
    s->batch_seq    = calloc(n, sizeof(*s->batch_seq));
    s->batch_rows   = calloc(n, sizeof(*s->batch_rows));
    for (int which = 0; which < 2; which++) {
        s->batch_cells[which] = calloc(n, sizeof(*s->batch_cells[which]));
    }
    if (!s->graph_memory || !s->batch_tokens || !s->batch_pos || !s->batch_seq || !s->batch_rows ||
        !s->batch_cells[0] || !s->batch_cells[1]) {
        return commandr_fail(COMMANDR_ERROR_MEMORY, "out of memory for a session of %" PRId64 " cells", p->n_ctx);
    }
    return commandr_ubatch_reserve(s);
}

commandr_status commandr_session_init(commandr_model * model, commandr_session_params params, commandr_session ** out) {
    if (!model || !out) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "commandr_session_init: model and out must not be NULL");
    }
    const bool      is_fitted = params.n_ctx < 0;
    commandr_status status    = settle_params(&model->hparams, &params);
    if (status != COMMANDR_OK) {
        return status;
    }
    commandr_session * s = calloc(1, sizeof(*s));
    if (!s) {
        return commandr_fail(COMMANDR_ERROR_MEMORY, "out of memory for a session");
    }
    commandr_model_retain(model);
    s->model       = model;
    s->params      = params;
    s->is_measured = model->is_measured;
    atomic_init(&s->cancelled, false);
    status = commandr_model_check(model);
    commandr_guard guard;
    if (status == COMMANDR_OK && COMMANDR_GUARD_BEGIN(guard)) {
        status = choose_flash_attn(s);
        if (status == COMMANDR_OK) {
            avoid_half_sums(s);
        }
        if (status == COMMANDR_OK && is_fitted) {
            s->params.n_ctx = commandr_cache_fit(model, &s->params, s->flash_attn);
            status          = settle_params(&model->hparams, &s->params);
        }
        if (status == COMMANDR_OK) {
            status = allocate(s);
        }
        commandr_guard_end(&guard);
    } else if (status == COMMANDR_OK) {
        status = commandr_model_lost(model);
    }
    if (status != COMMANDR_OK) {
        commandr_session_free(s);
        return status;
    }
    *out = s;
    return COMMANDR_OK;
}

void commandr_session_free(commandr_session * s) {
    if (!s) {
        return;
    }
    commandr_backends_free(&s->backends);
    commandr_imatrix_free(s->imatrix);
    ggml_free(s->graph_ctx);
    for (int which = 0; which < 2; which++) {
        commandr_kv_cache_free(&s->caches[which]);
        free(s->batch_cells[which]);
    }
    for (int32_t i = 0; i < COMMANDR_MAX_SEQS; i++) {
        free(s->seqs[i].tokens);
    }
    free(s->graph_memory);
    free(s->batch_tokens);
    free(s->batch_pos);
    free(s->batch_seq);
    free(s->batch_rows);
    free(s->logits);
    free(s->hidden);
    commandr_model_free(s->model);
    free(s);
}

/* ---- facts ---- */

int64_t commandr_session_n_ctx(const commandr_session * s) {
    return s->params.n_ctx;
}

int64_t commandr_session_n_free(const commandr_session * s) {
    return s->params.n_ctx - s->caches[COMMANDR_CACHE_FULL].n_used;
}

void commandr_session_cancel(commandr_session * s, bool cancelled) {
    atomic_store(&s->cancelled, cancelled);
}

static int64_t cache_bytes(const commandr_session * s, ggml_backend_dev_t dev,
                           int64_t (*bytes)(const commandr_kv_memory *, ggml_backend_dev_t)) {
    return bytes(&s->caches[COMMANDR_CACHE_FULL].memory, dev) + bytes(&s->caches[COMMANDR_CACHE_WINDOW].memory, dev);
}

commandr_status commandr_session_memory(const commandr_session * s, int64_t index, commandr_memory_info * info) {
    if (!info) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "commandr_session_memory: info must not be NULL");
    }
    int64_t i = index;
    for (int32_t d = 0; d <= s->model->n_devs; d++) {
        ggml_backend_dev_t dev   = d < s->model->n_devs ? s->model->devs[d] : commandr_device_cpu();
        const int64_t      limit = cache_bytes(s, dev, commandr_kv_memory_limit);
        if (limit == 0) {
            continue;
        }
        if (i == 0 || i == 1) {
            const int64_t held = cache_bytes(s, dev, commandr_kv_memory_held);
            info->device       = ggml_backend_dev_name(dev);
            info->what         = i == 0 ? "kv" : "kv-reserved";
            info->size         = i == 0 ? held : limit - held;
            return COMMANDR_OK;
        }
        i -= 2;
    }
    if (i >= 0 && i < s->backends.n) {
        info->device = ggml_backend_dev_name(ggml_backend_get_device(s->backends.list[i]));
        info->what   = "compute";
        info->size =
            (int64_t) (s->is_measured ? s->compute_sizes[i]
                                      : ggml_backend_sched_get_buffer_size(s->backends.sched, s->backends.list[i]));
        return COMMANDR_OK;
    }
    if (i == s->backends.n) {
        info->device = ggml_backend_dev_name(commandr_device_cpu());
        info->what   = "output";
        info->size   = (s->logits_capacity + s->hidden_capacity) * (int64_t) sizeof(float);
        return COMMANDR_OK;
    }
    return commandr_fail(COMMANDR_ERROR_ARGUMENT, "there is no memory place number %" PRId64, index);
}
