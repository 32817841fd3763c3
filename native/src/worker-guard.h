/* ggml's RPC client aborts the process when a worker that it talks to is gone. A guard makes that an error of the
 * function that talked: its frames, ggml's C++ ones among them, are unwound as they would be by an exception, so that
 * locks are released and what they own is freed.
 *
 *     commandr_guard guard;
 *     if (COMMANDR_GUARD_BEGIN(guard)) {
 *         status = ...;
 *         commandr_guard_end(&guard);
 *     } else {
 *         status = the worker is lost; the guard has ended
 *     }
 *
 * Local variables that are written in between and read after a loss must be volatile, as for setjmp.
 *
 * ggml has one connection to a worker for all threads and does not lock it. So once a process uses workers, what is
 * guarded takes turns. */
#ifndef COMMANDR_SRC_WORKER_GUARD_H
#define COMMANDR_SRC_WORKER_GUARD_H

#include <setjmp.h>
#include <stdbool.h>

typedef struct commandr_guard {
    jmp_buf                 env;
    struct commandr_guard * outer;    /* of the same thread */
    bool                    has_turn; /* no other thread is inside a guard */
} commandr_guard;

#define COMMANDR_GUARD_BEGIN(guard) (commandr_guard_enter(&(guard)), setjmp((guard).env) == 0)

void commandr_guard_enter(commandr_guard * guard); /* by COMMANDR_GUARD_BEGIN only */
void commandr_guard_end(commandr_guard * guard);

/* From now on guards take turns. */
void commandr_guard_take_turns(void);

/* Takes ggml's abort callback. What is not a lost worker, or happens outside of a guard, aborts as before. */
void commandr_guard_init(void);

#endif
