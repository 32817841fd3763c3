#include "placement.h"

#include "devices.h"
#include "error.h"
#include "workers.h"

#define MAX_GPUS ((int32_t) (sizeof(((commandr_model *) 0)->devs) / sizeof(ggml_backend_dev_t)))

/* The share of the offloaded layers that each GPU takes: as told, else all on one, else by free memory. */
static commandr_status read_shares(const commandr_model_params * params, const ggml_backend_dev_t * gpus,
                                   int32_t n_gpus, double * shares) {
    double sum = 0.0;
    for (int32_t g = 0; g < n_gpus; g++) {
        if (params->tensor_split) {
            shares[g] = g < params->n_tensor_split ? (double) params->tensor_split[g] : 0.0;
            if (!(shares[g] >= 0.0)) {
                return commandr_fail(COMMANDR_ERROR_ARGUMENT, "tensor_split[%d] is %g; shares are not negative", g,
                                     shares[g]);
            }
        } else if (params->main_device >= 0) {
            shares[g] = g == params->main_device ? 1.0 : 0.0;
        } else {
            size_t free  = 0;
            size_t total = 0;
            ggml_backend_dev_memory(gpus[g], &free, &total);
            shares[g] = (double) free;
        }
        sum += shares[g];
    }
    if (!(sum > 0.0)) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "tensor_split gives every GPU a share of 0");
    }
    for (int32_t g = 0; g < n_gpus; g++) {
        shares[g] /= sum;
    }
    return COMMANDR_OK;
}

commandr_status commandr_placement_choose(commandr_model * model, const commandr_model_params * params) {
    const int64_t      n_layer = model->hparams.n_layer;
    ggml_backend_dev_t cpu     = commandr_device_cpu();
    for (int64_t i = 0; i < n_layer; i++) {
        model->layers[i].dev = cpu;
    }
    model->head_dev = cpu;
    model->n_devs   = 0;

    ggml_backend_dev_t gpus[sizeof(model->devs) / sizeof(model->devs[0])];
    int32_t            n_gpus = 0;
    if (params->workers) {
        const commandr_status found = commandr_workers_find(params->workers, gpus, MAX_GPUS, &n_gpus);
        if (found != COMMANDR_OK) {
            return found;
        }
    }
    n_gpus += commandr_device_gpus(gpus + n_gpus, MAX_GPUS - n_gpus);
    if (params->n_gpu_layers < -1 || params->main_device < -1) {
        const bool is_layers = params->n_gpu_layers < -1;
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "%s must be -1 or more, not %d",
                             is_layers ? "n_gpu_layers" : "main_device",
                             is_layers ? params->n_gpu_layers : params->main_device);
    }
    if (params->n_tensor_split < 0) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT, "n_tensor_split must be 0 or more, not %d",
                             params->n_tensor_split);
    }
    if (params->n_gpu_layers == 0 || n_gpus == 0) {
        return COMMANDR_OK;
    }
    if (params->main_device >= n_gpus || (params->tensor_split && params->n_tensor_split > n_gpus)) {
        return commandr_fail(COMMANDR_ERROR_ARGUMENT,
                             "main_device or tensor_split names a GPU that is not there: there are %d", n_gpus);
    }
    double                shares[sizeof(model->devs) / sizeof(model->devs[0])];
    const commandr_status status = read_shares(params, gpus, n_gpus, shares);
    if (status != COMMANDR_OK) {
        return status;
    }

    /* The head counts as one more layer after the last. */
    const bool    all       = params->n_gpu_layers == -1 || params->n_gpu_layers > n_layer;
    const int64_t n_offload = all ? n_layer : params->n_gpu_layers;
    const int64_t first     = n_layer - n_offload;
    int32_t       gpu       = 0;
    double        upto      = shares[0];
    for (int64_t i = first; i < n_layer; i++) {
        while (gpu + 1 < n_gpus && (double) (i - first) + 0.5 > upto * (double) n_offload) {
            upto += shares[++gpu];
        }
        model->layers[i].dev = gpus[gpu];
    }
    if (all) {
        model->head_dev = params->main_device >= 0 ? gpus[params->main_device] : model->layers[n_layer - 1].dev;
    }
    for (int32_t g = 0; g < n_gpus; g++) {
        bool used = model->head_dev == gpus[g];
        for (int64_t i = first; i < n_layer && !used; i++) {
            used = model->layers[i].dev == gpus[g];
        }
        if (used) {
            model->devs[model->n_devs++] = gpus[g];
        }
    }
    return COMMANDR_OK;
}
