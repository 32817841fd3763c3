/* The tensors a model must have: their names, shapes and where each belongs in commandr_model. */
#ifndef COMMANDR_SRC_TENSORS_H
#define COMMANDR_SRC_TENSORS_H

#include "model.h"

typedef struct commandr_slot {
    const commandr_tensor_info * info;      /* of the file's handle */
    bool                         is_matrix; /* the weight of a product: may be quantized and repacked */
    struct ggml_tensor **        target;    /* where the loader puts the tensor */
    ggml_backend_dev_t           dev;
} commandr_slot;

/* Checks every tensor of the file against what the architecture has. The model's layers must be allocated. *slots is
 * malloc'ed; free it with free. */
commandr_status commandr_tensors_list(commandr_model * model, commandr_slot ** slots, int64_t * n_slots);

#endif
