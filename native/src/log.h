/* ggml's messages: to the caller's callback, and its errors kept so that our own can quote them. */
#ifndef COMMANDR_SRC_LOG_H
#define COMMANDR_SRC_LOG_H

/* Routes ggml's messages here. Every entry point that reaches ggml calls it first; only the first call does
 * anything. */
void commandr_log_init(void);

/* The first error ggml has logged on this thread since the last clear; "no reason given" when none. */
const char * commandr_log_first_error(void);
void         commandr_log_clear_error(void);

#endif
