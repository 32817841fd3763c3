/* commandr.h: Cohere Command-R models (GGUF architectures "command-r" and "cohere2") on ggml. Two handles:
 *   commandr_model     weights, hyper-parameters and devices. Immutable once loaded but for commandr_model_set_tensor;
 *                      sessions and threads share it. It lives until the caller has freed it and its last session ends.
 *   commandr_session   one KV cache, the sequences in it and the outputs of the last evaluation. One thread at a time;
 *                      only commandr_session_cancel may be called from another.
 * A session is told all that a sequence shall hold; it finds the longest prefix that it holds already and computes only
 * the rest. There is no other way to add tokens, so prompt caching, chat, regeneration and rollback need no upkeep:
 *   commandr_model_load("command-r.gguf", commandr_model_default_params(), &model);
 *   commandr_session_init(model, commandr_session_default_params(), &session);
 *   for (; n < n_max; n++) {
 *       commandr_eval_item item = { .seq_id = 0, .tokens = tokens, .n_tokens = n, .n_outputs = 1 };
 *       commandr_session_eval(session, &item, 1, COMMANDR_OUTPUT_LOGITS);
 *       commandr_sampler_sample(sampler, commandr_session_logits(session, 0, 0), tokens, n, NULL, &tokens[n]);
 *   }
 * Fallible functions return a commandr_status; the sentence that explains a failure is commandr_last_error(). Output
 * arguments are untouched on failure unless stated. The library never prints, exits or aborts. Strings are UTF-8. What
 * a pointer handed in points to must stay valid only for the call. Every *_free takes NULL. */
#ifndef COMMANDR_H
#define COMMANDR_H
#include <stdbool.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

typedef enum commandr_status {
    COMMANDR_OK                = 0,
    COMMANDR_ERROR_ARGUMENT    = 1, /* an argument is outside its stated range */
    COMMANDR_ERROR_IO          = 2, /* a file cannot be opened, read or written */
    COMMANDR_ERROR_FORMAT      = 3, /* a file is damaged or is not what it should be */
    COMMANDR_ERROR_UNSUPPORTED = 4, /* a valid file or request that this library does not handle */
    COMMANDR_ERROR_MEMORY      = 5, /* an allocation on the host or a device failed */
    COMMANDR_ERROR_CONTEXT     = 6, /* the tokens do not fit in the KV cache */
    COMMANDR_ERROR_CANCELLED   = 7, /* stopped by a callback or by commandr_session_cancel */
    COMMANDR_ERROR_BACKEND     = 8  /* a ggml backend failed to compute */
} commandr_status;

/* Why the last failing call on this thread failed; "" when none has. Valid until the next failure on this thread. */
const char * commandr_last_error(void);
const char * commandr_version(void);
const char * commandr_ggml_version(void);
/* Messages of ggml, its backends and ours. level: 1 debug, 2 info, 3 warning, 4 error. Called on any thread with one
 * line without its newline. NULL drops messages, which is the default. Process-wide. */
typedef void (*commandr_log_callback)(int32_t level, const char * text, void * user_data);
void commandr_log_set(commandr_log_callback callback, void * user_data);
/* ---- devices: IGPU works in the host's memory, ACCEL beside the CPU (BLAS) ---- */
typedef enum { COMMANDR_DEVICE_CPU, COMMANDR_DEVICE_GPU, COMMANDR_DEVICE_IGPU, COMMANDR_DEVICE_ACCEL } commandr_device;
typedef struct commandr_device_info {
    const char *    name, *description; /* as ggml names it ("CPU", "CUDA0"), and its maker */
    const char *    features;           /* of its backend, such as "AVX2 AVX512 OPENMP"; "" when it names none */
    commandr_device type;
    int64_t         memory_free, memory_total; /* bytes */
} commandr_device_info;
int64_t         commandr_device_count(void);
commandr_status commandr_device_get(int64_t index, commandr_device_info * info); /* the strings are static */
/* A device of the workers "host:port,host:port", which are connected to for it; ARGUMENT from their number on. */
commandr_status commandr_worker_get(const char * workers, int64_t index, commandr_device_info * info);
typedef struct commandr_device_speed {
    double read, compute, send, latency; /* bytes of weights, operations, bytes sent, each per second; seconds */
} commandr_device_speed;
/* Measures a device, of workers or (NULL) of this machine, with ggml's products, in a second and 220 MiB of memory. */
commandr_status commandr_device_measure(const char * workers, int64_t index, int32_t n_threads,
                                        commandr_device_speed * to);
/* Lends this machine's GPUs, or its CPU where there are none, to others; returns only on failure or after a signal.
 * ggml's protocol has no authentication and trusts who speaks it. cache_dir: keeps large weights there. [NULL] */
commandr_status commandr_rpc_serve(const char * endpoint, const char * cache_dir, int32_t n_threads);
int32_t         commandr_default_n_threads(void); /* physical cores that this process may use; >= 1 */
/* Bytes per second that n_threads together read from memory, best of a few passes over n_bytes. 0 on failure. */
double commandr_read_bandwidth(int32_t n_threads, int64_t n_bytes);
/* ---- the header of a GGUF file, or of all files of a split model: keys and tensors, no data. Immutable ---- */
typedef struct commandr_gguf commandr_gguf;
typedef enum { COMMANDR_KIND_INT, COMMANDR_KIND_FLOAT, COMMANDR_KIND_BOOL, COMMANDR_KIND_STRING } commandr_kind;
typedef struct commandr_gguf_value {
    commandr_kind kind; /* of the value, or of each element of the array */
    int64_t       n;    /* -1 for a single value, else the length of an array */
    int64_t       i;    /* INT (uint64 beyond 2^63 wraps) and BOOL single values */
    double        f;    /* FLOAT single values */
    const char *  s;    /* STRING single values, valid as long as the handle */
} commandr_gguf_value;
typedef struct commandr_tensor_info {
    const char *name, *path;        /* path: of its file */
    int32_t     type, n_dims, part; /* part: the number of its file, 0 in a model that is not split */
    int64_t     ne[4];              /* elements per dimension, the contiguous one first */
    int64_t     offset, size;       /* bytes; offset from the start of the file */
} commandr_tensor_info;
typedef struct commandr_hparams {
    char    architecture[16]; /* "command-r" or "cohere2" */
    int64_t n_vocab, n_ctx_train, n_embd, n_ff, n_layer, n_head, n_head_kv, head_dim, n_rot;
    int64_t n_swa;      /* sliding window in positions, the token itself included; 0 = none */
    int64_t swa_period; /* every swa_period-th layer has no window (and no RoPE in cohere2); 0 = no windows */
    float   rope_freq_base, norm_eps, logit_scale;
    bool    has_qk_norm;
} commandr_hparams;
commandr_status commandr_gguf_open(const char * path, commandr_gguf ** out); /* path: of a split model, the first */
void            commandr_gguf_free(commandr_gguf * gguf);
int64_t         commandr_gguf_n_keys(const commandr_gguf * gguf);
const char *    commandr_gguf_key(const commandr_gguf * gguf, int64_t index);     /* NULL out of range */
int64_t         commandr_gguf_find(const commandr_gguf * gguf, const char * key); /* -1 when absent */
commandr_status commandr_gguf_get(const commandr_gguf * gguf, int64_t index, commandr_gguf_value * value);
/* Copies an array of n values. INT and BOOL arrays give int64_t, FLOAT arrays double: dst has n elements. A STRING
 * array gives its strings one after the other, each with its NUL: with dst NULL, *n_bytes receives the size needed. */
commandr_status commandr_gguf_get_array(const commandr_gguf * gguf, int64_t index, void * dst, int64_t * n_bytes);
int64_t         commandr_gguf_n_tensors(const commandr_gguf * gguf);
commandr_status commandr_gguf_tensor(const commandr_gguf * gguf, int64_t index, commandr_tensor_info * info);
commandr_status commandr_gguf_hparams(const commandr_gguf * gguf, commandr_hparams * hparams); /* errors name the key */
/* ---- model ---- */
typedef struct commandr_model commandr_model;
typedef bool (*commandr_load_callback)(float fraction, void * user_data); /* 0..1 of the work; false cancels */
typedef struct commandr_model_params {
    int32_t       n_gpu_layers;   /* layers on GPUs, from the last; > n_layer: the head too; -1: all. [0] */
    int32_t       main_device;    /* GPU of the head, and of all without tensor_split; -1: by free memory. [-1] */
    const float * tensor_split;   /* share of the offloaded layers per GPU, any scale. [NULL] */
    int32_t       n_tensor_split; /* length of tensor_split */
    int32_t       n_threads;      /* for packing weights; 0 = commandr_default_n_threads(). [0] */
    bool          use_mmap;       /* use CPU weights in place, mapped from the file. [true] */
    bool          repack; /* copy CPU weights into the layouts that are computed fastest, where there is one. [true] */
    bool          cache_packed; /* keep what we pack in the file path + ".packed"; needs use_mmap and repack. [false] */
    const char *  workers;      /* "host:port,host:port": their devices count as GPUs before the local ones. [NULL] */
    commandr_load_callback progress; /* [NULL] */
    void *                 progress_user_data;
} commandr_model_params;
commandr_model_params commandr_model_default_params(void); /* the values in brackets above */
/* path: of a split model, the first file. What ggml would abort on is checked first: errors name the key or tensor. */
commandr_status          commandr_model_load(const char * path, commandr_model_params params, commandr_model ** out);
void                     commandr_model_free(commandr_model * model);
const commandr_hparams * commandr_model_hparams(const commandr_model * model);
const commandr_gguf *    commandr_model_gguf(const commandr_model * model);
int64_t commandr_model_max_masked(const commandr_model * model); /* an item's mask of more tokens saves nothing */
/* For measurements: overwrites a weight by its GGUF name, wherever it is kept. data: size bytes in the file's type and
 * layout. Only while no session evaluates, and only in a model loaded without use_mmap and repack, else UNSUPPORTED. */
commandr_status commandr_model_set_tensor(commandr_model * model, const char * name, const void * data, int64_t size);
/* Bytes by place: index 0.. until ARGUMENT. what: mapped (the file), packed (by us), packed-mapped (from the file of
 * cache_packed), repacked (by ggml), weights, kv, kv-reserved (more, up to n_ctx cells), compute, output. */
typedef struct commandr_memory_info {
    const char *device, *what;
    int64_t     size;
} commandr_memory_info;
commandr_status commandr_model_memory(const commandr_model * model, int64_t index, commandr_memory_info * info);
/* ---- session ---- */
typedef struct commandr_session commandr_session;
/* n_done of n_total tokens computed. Called on the thread that called commandr_session_eval, after each ubatch and
 * about every 50 ms inside one that runs on the CPU. Return false to cancel what is left. */
typedef bool (*commandr_eval_callback)(int64_t n_done, int64_t n_total, void * user_data);
typedef struct commandr_session_params {
    int64_t n_ctx;     /* most KV cells, shared by all sequences; 0 = the model's context length, -1 = what fits. [0] */
    int32_t n_batch;   /* most outputs of one evaluation, all items together. [2048] */
    int32_t n_ubatch;  /* most tokens in one graph. [512] */
    int32_t n_outputs; /* most outputs in one graph, each n_vocab floats of compute buffer; 0 = 64. [0] */
    int32_t n_seq_max; /* sequences, 1..64. [1] */
    int32_t n_threads; /* CPU threads, at most 512; 0 = commandr_default_n_threads(). [0] */
    int32_t type_k;    /* ggml_type of the K cache: F32 F16 BF16 Q8_0 Q4_0. [F16] */
    int32_t type_v;    /* of the V cache; quantized needs flash attention. [F16] */
    int32_t flash_attn;              /* 1 on, 0 off, -1 where every device in use has it. [-1] */
    bool    imatrix;                 /* sum up squared inputs; one that is not finite fails with BACKEND. [false] */
    commandr_eval_callback progress; /* [NULL] */
    void *                 progress_user_data;
} commandr_session_params;
typedef struct commandr_eval_item {
    int32_t          seq_id;    /* 0..n_seq_max-1, each at most once in an evaluation */
    const int32_t *  tokens;    /* [n_tokens]: all that the sequence shall hold; the position of tokens[i] is i */
    int64_t          n_tokens;  /* >= 1 */
    int64_t          n_outputs; /* outputs for the last n_outputs positions, 0..n_tokens */
    const uint32_t * mask;      /* as for sampling, of the tokens whose logits are needed: others may get -infinity */
} commandr_eval_item;
#define COMMANDR_OUTPUT_LOGITS 1
#define COMMANDR_OUTPUT_HIDDEN 2
commandr_session_params commandr_session_default_params(void); /* the values in brackets above */
/* Allocates the compute buffers of the largest graph; the KV cache grows with the cells in use, up to kv_size bytes. */
commandr_status commandr_session_init(commandr_model * model, commandr_session_params params, commandr_session ** out);
commandr_status commandr_session_kv_size(const commandr_hparams * hp, commandr_session_params params, int64_t * size);
void            commandr_session_free(commandr_session * session);
/* Makes each item's sequence hold its tokens and computes the outputs asked for (COMMANDR_OUTPUT_*), all items in
 * common graphs. On failure no outputs are held. ARGUMENT and CONTEXT leave every sequence as it was; so may MEMORY, or
 * each holds a prefix of its item as after CANCELLED and BACKEND: the same call again goes on where this stopped. */
commandr_status commandr_session_eval(commandr_session * session, const commandr_eval_item * items, int32_t n_items,
                                      int32_t outputs);
/* Rows of the last evaluation, valid until the session changes; NULL when there is none.
 * i: 0..n_outputs-1 of the item, the last one belonging to its last token; the item's rows are contiguous. */
const float * commandr_session_logits(const commandr_session * session, int32_t item, int64_t i); /* [n_vocab] */
const float * commandr_session_hidden(const commandr_session * session, int32_t item, int64_t i); /* [n_embd], normed */
int64_t       commandr_session_n_reused(const commandr_session * session, int32_t item); /* tokens not computed */
/* rm keeps n_keep positions, or none if a window cannot go on there; cp: dst shares src's cells; keep: only seq_id. */
commandr_status commandr_session_seq_rm(commandr_session * session, int32_t seq_id, int64_t n_keep);
commandr_status commandr_session_seq_cp(commandr_session * session, int32_t src, int32_t dst);
commandr_status commandr_session_seq_keep(commandr_session * session, int32_t seq_id);
int64_t         commandr_session_seq_length(const commandr_session * session, int32_t seq_id); /* -1: no such id */
/* The tokens held, [seq_length]; NULL when empty. Valid until the session changes. */
const int32_t * commandr_session_seq_tokens(const commandr_session * session, int32_t seq_id);
int64_t         commandr_session_n_ctx(const commandr_session * session);
int64_t         commandr_session_n_free(const commandr_session * session); /* KV cells in use by no sequence */
commandr_status commandr_session_memory(const commandr_session * session, int64_t index, commandr_memory_info * info);
/* What commandr_model_memory and, unless it is NULL, commandr_session_memory would tell after a load and an init with
 * these parameters, with nothing read and no memory taken; errors are theirs. to: [*n]; *n receives how many there are. */
commandr_status commandr_gguf_measure(const commandr_gguf * gguf, const commandr_model_params * model,
                                      const commandr_session_params * session, commandr_memory_info * to, int64_t * n);
void commandr_session_cancel(commandr_session * session, bool cancelled); /* while true, evaluations stop: CANCELLED */
/* A sequence's tokens and KV rows to and from a file. Load checks magic, version, model, cache types, length and
 * checksum; the sequence stays when the header is refused, else a failure empties it. Save replaces path at its end. */
commandr_status commandr_session_state_save(const commandr_session * session, int32_t seq_id, const char * path);
commandr_status commandr_session_state_load(commandr_session * session, int32_t seq_id, const char * path);
/* For a session with imatrix: sums of the squared inputs of a weight matrix, by its GGUF name, for each of its n
 * columns, over all n_tokens that the session has computed since it began; a graph that failed adds nothing. */
commandr_status commandr_session_imatrix(const commandr_session * session, const char * tensor, double * sums,
                                         int64_t n, int64_t * n_tokens);
/* ---- sampling, one thread at a time ---- */
typedef struct commandr_sampler commandr_sampler;
#define COMMANDR_DEFAULT_SEED 0xFFFFFFFFFFFFFFFF /* take one from the operating system */
/* Applied in this order: penalties; logit bias; mask; temperature; top_k; typical_p; top_p; min_p. */
typedef struct commandr_sampling_params {
    float    temperature;       /* 0 = greedy: the first largest logit after penalties, bias and mask. [1] */
    int32_t  top_k;             /* 0 = all. [0] */
    float    top_p;             /* nucleus: the fewest tokens whose probabilities sum to top_p. [1] */
    float    min_p;             /* drop what is less likely than min_p times the most likely. [0] */
    float    typical_p;         /* locally typical sampling, arXiv:2202.00666. [1] */
    float    repeat_penalty;    /* divides positive, multiplies negative logits of tokens in the history. [1] */
    float    frequency_penalty; /* subtracted once per occurrence. [0] */
    float    presence_penalty;  /* subtracted once. [0] */
    int32_t  penalty_last_n;    /* how much of the history's end counts; -1 = all. [64] */
    uint64_t seed;              /* [COMMANDR_DEFAULT_SEED] */
} commandr_sampling_params;
commandr_sampling_params commandr_sampling_default_params(void); /* the values in brackets above */
commandr_status commandr_sampler_init(int64_t n_vocab, commandr_sampling_params params, commandr_sampler ** out);
void            commandr_sampler_free(commandr_sampler * sampler);
/* Replaces the bias list: by[i] is added to the logit of ids[i]; -INFINITY forbids a token. */
commandr_status commandr_sampler_set_bias(commandr_sampler * sampler, const int32_t * ids, const float * by, int64_t n);
/* Picks a token. logits: [n_vocab], not changed. history: [n_history] tokens, oldest first; NULL when n_history is 0.
 * mask: bit (i % 32) of word i / 32 allows token i, (n_vocab + 31) / 32 words; NULL allows all. ARGUMENT when nothing
 * is allowed or an allowed logit is NaN. */
commandr_status commandr_sampler_sample(commandr_sampler * sampler, const float * logits, const int32_t * history,
                                        int64_t n_history, const uint32_t * mask, int32_t * token);
/* Natural logarithms of softmax(logits): of token, and of the n_top most likely in falling order. */
commandr_status commandr_logprobs(const float * logits, int64_t n_vocab, int32_t token, float * token_logprob,
                                  int32_t n_top, int32_t * top_ids, float * top_logprobs);
/* ---- types and quantization ---- */
const char * commandr_type_name(int32_t type);                /* "Q4_K"; NULL when there is no such ggml_type */
int32_t      commandr_type_find(const char * name);           /* -1 when there is none of this name */
int64_t      commandr_type_block_size(int32_t type);          /* elements; 0: no such type */
int64_t      commandr_type_row_size(int32_t type, int64_t n); /* bytes of n elements; 0: not whole blocks */
bool         commandr_type_needs_imatrix(int32_t type);
/* Rows of one ggml_type to rows of another, on n_threads threads (0 = default). src, dst: [n_rows][n_per_row];
 * n_per_row: a multiple of both block sizes below 2^31. imatrix: [n_per_row] weights of the columns, or NULL. Values
 * reach to 32752 in blocks and 65504 in F16, else ARGUMENT with dst undefined. n_nonfinite: NaN and infinities found;
 * F32, F16 and BF16 keep them, blocks get 0. NULL: any is ARGUMENT. UNSUPPORTED: ggml cannot read or write the type. */
commandr_status commandr_convert_rows(int32_t src_type, const void * src, int32_t dst_type, void * dst, int64_t n_rows,
                                      int64_t n_per_row, const float * imatrix, int32_t n_threads,
                                      int64_t * n_nonfinite);
#ifdef __cplusplus
}
#endif
#endif
