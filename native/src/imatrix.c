#include "imatrix.h"

#include "error.h"
#include "session.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* A layer's matrices, and which input each reads. */
static const struct {
    size_t field; /* of commandr_layer */
    int    input; /* COMMANDR_INPUT_* */
} MATRICES[] = {
    { offsetof(commandr_layer, attn_q),      COMMANDR_INPUT_NORM        },
    { offsetof(commandr_layer, attn_k),      COMMANDR_INPUT_NORM        },
    { offsetof(commandr_layer, attn_v),      COMMANDR_INPUT_NORM        },
    { offsetof(commandr_layer, ffn_gate),    COMMANDR_INPUT_NORM        },
    { offsetof(commandr_layer, ffn_up),      COMMANDR_INPUT_NORM        },
    { offsetof(commandr_layer, attn_output), COMMANDR_INPUT_ATTN_OUTPUT },
    { offsetof(commandr_layer, ffn_down),    COMMANDR_INPUT_FFN_DOWN    },
};
enum { N_MATRICES = sizeof(MATRICES) / sizeof(MATRICES[0]) };

/* What one input's columns sum up to. */
typedef struct input_sums {
    const char *         tensor; /* the first matrix that reads it */
    int64_t              n;      /* columns */
    int64_t              first;  /* its place in the buffers */
    struct ggml_tensor * node;   /* F32 [n], in the graph that was built last */
} input_sums;

struct commandr_imatrix {
    const commandr_model * model;
    input_sums *           inputs; /* [n_inputs]: those of each layer, then the head's */
    int64_t                n_inputs;
    int64_t                n_columns; /* of all inputs */
    double *               sums;      /* [n_columns] */
    float *                graph;     /* [n_columns]: of one graph */
    int64_t                n_tokens;
};

void commandr_imatrix_free(commandr_imatrix * imatrix) {
    if (imatrix) {
        free(imatrix->inputs);
        free(imatrix->sums);
        free(imatrix->graph);
        free(imatrix);
    }
}

static const struct ggml_tensor * matrix(const commandr_model * model, int64_t il, int i) {
    return *(struct ggml_tensor * const *) ((const char *) &model->layers[il] + MATRICES[i].field);
}

static void name_input(input_sums * input, const struct ggml_tensor * w) {
    if (!input->tensor) {
        input->tensor = w->name;
        input->n      = w->ne[0];
    }
}

static void list_inputs(commandr_imatrix * imatrix) {
    for (int64_t il = 0; il < imatrix->model->hparams.n_layer; il++) {
        for (int i = 0; i < N_MATRICES; i++) {
            name_input(&imatrix->inputs[il * COMMANDR_INPUTS_PER_LAYER + MATRICES[i].input],
                       matrix(imatrix->model, il, i));
        }
    }
    name_input(&imatrix->inputs[imatrix->n_inputs - 1], imatrix->model->head);
    for (int64_t i = 0; i < imatrix->n_inputs; i++) {
        imatrix->inputs[i].first = imatrix->n_columns;
        imatrix->n_columns += imatrix->inputs[i].n;
    }
}

commandr_imatrix * commandr_imatrix_init(const commandr_model * model) {
    commandr_imatrix * imatrix = calloc(1, sizeof(*imatrix));
    if (!imatrix) {
        return NULL;
    }
    imatrix->model    = model;
    imatrix->n_inputs = model->hparams.n_layer * COMMANDR_INPUTS_PER_LAYER + 1;
    imatrix->inputs   = calloc((size_t) imatrix->n_inputs, sizeof(*imatrix->inputs));
    if (imatrix->inputs) {
        list_inputs(imatrix);
        imatrix->sums  = calloc((size_t) imatrix->n_columns, sizeof(*imatrix->sums));
        imatrix->graph = calloc((size_t) imatrix->n_columns, sizeof(*imatrix->graph));
    }
    if (!imatrix->sums || !imatrix->graph) {
        commandr_imatrix_free(imatrix);
        return NULL;
    }
    return imatrix;
}

void commandr_imatrix_observe(commandr_imatrix * imatrix, struct ggml_context * ctx, struct ggml_cgraph * cgraph,
                              int64_t il, int input, struct ggml_tensor * x) {
    /* The gradient of a repetition is the sum over what was repeated: here, of one column vector for all tokens. */
    struct ggml_tensor * one  = ggml_view_1d(ctx, x, x->ne[0], 0);
    struct ggml_tensor * sums = ggml_repeat_back(ctx, ggml_sqr(ctx, x), one);
    ggml_set_output(sums); /* its memory is nobody else's until it is read */
    ggml_build_forward_expand(cgraph, sums);
    imatrix->inputs[il * COMMANDR_INPUTS_PER_LAYER + input].node = sums;
}

commandr_status commandr_imatrix_add(commandr_imatrix * imatrix, int64_t n_tokens) {
    for (int64_t i = 0; i < imatrix->n_inputs; i++) {
        const input_sums * input = &imatrix->inputs[i];
        float *            sums  = imatrix->graph + input->first;
        ggml_backend_tensor_get(input->node, sums, 0, (size_t) input->n * sizeof(*sums));
        for (int64_t c = 0; c < input->n; c++) {
            if (!isfinite(sums[c])) {
                return commandr_fail(COMMANDR_ERROR_BACKEND,
                                     "column %" PRId64 " of the input of %s is not finite, or its square is not", c,
                                     input->tensor);
            }
        }
    }
    for (int64_t c = 0; c < imatrix->n_columns; c++) {
        imatrix->sums[c] += (double) imatrix->graph[c];
    }
    imatrix->n_tokens += n_tokens;
    return COMMANDR_OK;
}

/* The input that a matrix reads, NULL when there is no such matrix. */
static const input_sums * find(const commandr_imatrix * imatrix, const char * tensor) {
    for (int64_t il = 0; il < imatrix->model->hparams.n_layer; il++) {
        for (int i = 0; i < N_MATRICES; i++) {
            if (strcmp(matrix(imatrix->model, il, i)->name, tensor) == 0) {
                return &imatrix->inputs[il * COMMANDR_INPUTS_PER_LAYER + MATRICES[i].input];
            }
        }
    }
    const input_sums * head = &imatrix->inputs[imatrix->n_inputs - 1];
    return strcmp(head->tensor, tensor) == 0 ? head : NULL;
}

commandr_status commandr_session_imatrix(const commandr_session * s, const char * tensor, double * sums, int64_t n,
                                         int64_t * n_tokens) {
    if (!tensor || !sums || !n_tokens) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "commandr_session_imatrix: no argument may be NULL");
    }
    if (!s->imatrix) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "the session was not made to collect an importance matrix");
    }
    const input_sums * input = find(s->imatrix, tensor);
    if (!input) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "the model has no matrix %s", tensor);
    }
    if (input->n != n) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "%s has %" PRId64 " columns, not %" PRId64, tensor, input->n, n);
    }
    memcpy(sums, s->imatrix->sums + input->first, (size_t) n * sizeof(*sums));
    *n_tokens = s->imatrix->n_tokens;
    return COMMANDR_OK;
}
