#include "worker-signals.h"

#include <signal.h>

#define MAX_SIGNALS 32

static bool             restarts[MAX_SIGNALS]; /* whether a signal's handler does not interrupt calls because of us */
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

void commandr_signals_let_calls_go_on(bool on) {
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
