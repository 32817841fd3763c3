/* ggml's devices through its registry: the only way in, so that any build of ggml drops in. */
#ifndef COMMANDR_SRC_DEVICES_H
#define COMMANDR_SRC_DEVICES_H

#include "commandr.h"
#include "ggml-backend.h"

/* Registers every backend of the installed ggml. Call before any other function here; only the first call works. */
void commandr_devices_init(void);

ggml_backend_dev_t commandr_device_cpu(void);

/* Graphics devices in registry order, discrete before integrated. Returns how many there are; devs may be NULL. */
int32_t commandr_device_gpus(ggml_backend_dev_t * devs, int32_t capacity);

/* ggml's type of a device, but IGPU for what works in the host's memory on Apple's processors, too. */
enum ggml_backend_dev_type commandr_device_type(ggml_backend_dev_t dev);

/* The CPU's buffer types beyond the plain one (repacked weights, AMX): a NULL-terminated list, or NULL. */
ggml_backend_buffer_type_t * commandr_device_extra_bufts(void);

#endif
