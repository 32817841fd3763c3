/* Work spread over short-lived threads. For jobs of milliseconds and more: every call starts its threads anew. */
#ifndef COMMANDR_SRC_THREADS_H
#define COMMANDR_SRC_THREADS_H

#include <stdbool.h>
#include <stdint.h>

/* What ggml can use, and far beyond any machine's cores. */
enum { COMMANDR_MAX_THREADS = 512 };

/* Does items begin..end-1. Runs on several threads at once, each time with a range of its own. */
typedef void (*commandr_work_fn)(void * ctx, int64_t begin, int64_t end);

/* Hands out the items 0..n_items-1 in ranges of at most chunk (>= 1) to n_threads threads, the calling one included;
 * n_threads <= 0 means commandr_default_n_threads(). Returns when all are done. When the system refuses a thread the
 * others do its share, so the work is always done. */
void commandr_parallel_for(int32_t n_threads, int64_t n_items, int64_t chunk, commandr_work_fn work, void * ctx);

#endif
