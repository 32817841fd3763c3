/* Whether a worker's flash attention sums values in half precision. */
#ifndef COMMANDR_SRC_HALF_SUMS_H
#define COMMANDR_SRC_HALF_SUMS_H

#include "ggml-backend.h"

#include <stdbool.h>

/* ggml's attention on a CPU does so with values of an F16 cache, whatever precision it is asked for: sums stand still at
 * 2048 times a value, and overflow beyond 65504. Nothing tells what a worker computes with, so it computes an average
 * whose result is known: that of 65536 equal values. False where it cannot be computed. Call it inside a guard. */
bool commandr_sums_in_half(ggml_backend_dev_t dev);

#endif
