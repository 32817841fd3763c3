/* Proof that AMX works before it is used. */
#ifndef COMMANDR_SRC_KERNELS_AMX_CHECK_H
#define COMMANDR_SRC_KERNELS_AMX_CHECK_H

#include <stdbool.h>

/* Computes a known product through tiles and compares it. The calling process must have AMX and the permission. */
bool commandr_amx_check(void);

/* Asks for the permission and does the above in a child process: false as well when the child stops at an illegal
 * instruction. The calling process sees no signal of it. */
bool commandr_amx_check_in_child(void);

#endif
