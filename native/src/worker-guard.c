#include "worker-guard.h"

#include "ggml.h"
#include "worker-signals.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unwind.h>

static _Thread_local commandr_guard *         innermost;
static _Thread_local struct _Unwind_Exception unwinding;
static ggml_abort_callback_t                  previous;

static atomic_bool     takes_turns;
static pthread_mutex_t turn;

void commandr_guard_take_turns(void) {
    atomic_store(&takes_turns, true);
}

/* Whether this guard is the one that got the turn, and not one that lies inside it. */
static bool took_turn(const commandr_guard * guard) {
    return guard->has_turn && !(guard->outer && guard->outer->has_turn);
}

void commandr_guard_enter(commandr_guard * guard) {
    guard->has_turn = atomic_load(&takes_turns) && pthread_mutex_lock(&turn) == 0;
    guard->outer    = innermost;
    innermost       = guard;
    if (took_turn(guard)) {
        commandr_signals_let_calls_go_on(true);
    }
}

void commandr_guard_end(commandr_guard * guard) {
    innermost = guard->outer;
    if (guard->has_turn) {
        if (took_turn(guard)) {
            commandr_signals_let_calls_go_on(false);
        }
        pthread_mutex_unlock(&turn);
    }
}

/* Asked before each frame is unwound: the frame that the guard lies in is where to stop. */
static _Unwind_Reason_Code at_frame(int version, _Unwind_Action actions, _Unwind_Exception_Class kind,
                                    struct _Unwind_Exception * exception, struct _Unwind_Context * context,
                                    void * user_data) {
    (void) version;
    (void) kind;
    (void) exception;
    commandr_guard * guard = user_data;
    if ((actions & _UA_END_OF_STACK) || (uintptr_t) _Unwind_GetCFA(context) > (uintptr_t) guard) {
        commandr_guard_end(guard);
        longjmp(guard->env, 1);
    }
    return _URC_NO_REASON;
}

static void on_abort(const char * message) {
    /* ggml has no code for it: this is what its RPC client says of a connection that broke. */
    if (innermost && strstr(message, "Remote RPC server crashed or returned malformed response")) {
        memset(&unwinding, 0, sizeof(unwinding));
        _Unwind_ForcedUnwind(&unwinding, at_frame, innermost);
    }
    if (previous) {
        previous(message);
    } else {
        fprintf(stderr, "%s\n", message);
    }
}

void commandr_guard_init(void) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE); /* guards lie inside guards */
    pthread_mutex_init(&turn, &attributes);
    pthread_mutexattr_destroy(&attributes);
    previous = ggml_set_abort_callback(on_abort);
}
