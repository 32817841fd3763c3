/* Signals while ggml waits for a worker. */
#ifndef COMMANDR_SRC_WORKER_SIGNALS_H
#define COMMANDR_SRC_WORKER_SIGNALS_H

#include <stdbool.h>

/* ggml takes a receive call that a signal interrupted for a lost connection, and Python's handlers interrupt: they only
 * note the signal, for a time when Python runs. From true to false, calls go on behind all handlers that are there,
 * but for the second Ctrl-C: the call may be waiting for a worker that stands still. One thread at a time. */
void commandr_signals_let_calls_go_on(bool on);

#endif
