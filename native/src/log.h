/* Messages to the caller's callback, ggml's and ours. Errors of ggml are kept so that our own can quote them. */
#ifndef COMMANDR_SRC_LOG_H
#define COMMANDR_SRC_LOG_H

#include <stdint.h>

/* Routes ggml's messages here. Every entry point that reaches ggml calls it first; only the first call does
 * anything. */
void commandr_log_init(void);

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
/* A line of our own. level: as in commandr_log_callback */
void commandr_log(int32_t level, const char * format, ...);

/* The first error ggml has logged on this thread since the last clear; "no reason given" when none. */
const char * commandr_log_first_error(void);
void         commandr_log_clear_error(void);

#endif
