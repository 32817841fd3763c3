/* Where weights lie: in place in a mapped file, or in a buffer of a device. */
#ifndef COMMANDR_SRC_PLACES_H
#define COMMANDR_SRC_PLACES_H

#include "packed-file.h"
#include "tensors.h"

/* Tensors that share a buffer. */
typedef struct commandr_place {
    const commandr_mapping *   mapped; /* in place in this file; NULL: in a buffer of the type buft */
    ggml_backend_buffer_type_t buft;
    struct ggml_context *      ctx;
    ggml_backend_buffer_t      buffer;
    bool                       packed;  /* for our products */
    bool                       on_host; /* any thread may fill it */
    const char *               device;
    const char *               what; /* as in commandr_memory_info */
} commandr_place;

struct commandr_weights {
    commandr_mapping *   mappings; /* [n_parts]: of the model's files */
    int32_t              n_parts;
    commandr_packed_file packed_file; /* of cache_packed */
    commandr_place *     places;      /* [n_places] */
    int32_t              n_places;
};

/* Maps the model's files. The places come with the tensors. On failure the model holds what was opened until then. */
commandr_status commandr_places_init(commandr_model * model);

/* Describes a tensor in the place that suits it on a device, or on the CPU when the device cannot compute with it. Its
 * memory comes later. NULL when out of memory. */
struct ggml_tensor * commandr_place_tensor(commandr_model * model, const commandr_model_params * params,
                                           const commandr_slot * slot, ggml_backend_dev_t dev,
                                           const commandr_place ** place);

/* The place of packed tensors, or NULL. It is in memory until it is put into the model's packed file, which must be
 * mapped and have all its tensors. */
commandr_place * commandr_places_packed(commandr_weights * weights);
void             commandr_place_use_file(commandr_place * place, const commandr_weights * weights);

/* Gives every tensor its memory; those in place in a file are complete then. */
commandr_status commandr_places_allocate(commandr_model * model);

/* Gives tensors without memory an empty buffer of this type, so that ggml's scheduler takes them for allocated where
 * that is. NULL when out of memory. */
ggml_backend_buffer_t commandr_empty_buffer(struct ggml_context * tensors, ggml_backend_buffer_type_t buft);

#endif
