/* Which device holds which layer. */
#ifndef COMMANDR_SRC_PLACEMENT_H
#define COMMANDR_SRC_PLACEMENT_H

#include "model.h"

/* Fills in the model's devs, head_dev and each layer's dev from n_gpu_layers, main_device and tensor_split. */
commandr_status commandr_placement_choose(commandr_model * model, const commandr_model_params * params);

#endif
