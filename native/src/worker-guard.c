#include "worker-guard.h"

#include "ggml.h"

#include <pthread.h>
#include <signal.h>
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

#define MAX_SIGNALS 32
static bool restarts[MAX_SIGNALS]; /* signals whose handlers do not interrupt system calls because of us; with turn */

void commandr_guard_take_turns(void) {
    atomic_store(&takes_turns, true);
}

static struct sigaction before_interrupts;

/* The first Ctrl-C is only noted; the next one interrupts the call, which may be waiting for a worker that has stopped. */
static void on_interrupt(int number) {
    struct sigaction action;
    before_interrupts.sa_handler(number);
    if (sigaction(number, NULL, &action) == 0 && action.sa_handler == on_interrupt) {
        action.sa_flags &= ~SA_RESTART;
        sigaction(number, &action, NULL);
    }
}

/* ggml takes a receive call that a signal interrupted for a lost connection, and Python's handlers interrupt (they only
 * note the signal, for a time when Python runs). So as long as somebody has the turn, calls go on behind handlers. */
static void restart_calls(bool on) {
    for (int number = 1; number < MAX_SIGNALS; number++) {
        struct sigaction action;
        const bool       is_ours = restarts[number];
        restarts[number]         = false;
        if ((!on && !is_ours) || sigaction(number, NULL, &action) != 0 || action.sa_handler == SIG_DFL ||
            action.sa_handler == SIG_IGN || (on && (action.sa_flags & SA_RESTART))) {
            continue;
        }
        if (!on && action.sa_handler == on_interrupt) {
            sigaction(number, &before_interrupts, NULL);
            continue;
        }
        if (on && number == SIGINT && !(action.sa_flags & SA_SIGINFO)) {
            before_interrupts = action;
            action.sa_handler = on_interrupt;
        }
        action.sa_flags  = on ? action.sa_flags | SA_RESTART : action.sa_flags & ~SA_RESTART;
        restarts[number] = sigaction(number, &action, NULL) == 0 && on;
    }
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
        restart_calls(true);
    }
}

void commandr_guard_end(commandr_guard * guard) {
    innermost = guard->outer;
    if (guard->has_turn) {
        if (took_turn(guard)) {
            restart_calls(false);
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
