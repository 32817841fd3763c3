#include "worker-signals.h"

#include <pthread.h>
#include <signal.h>

#define MAX_SIGNALS 32

static bool             restarts[MAX_SIGNALS]; /* whether a signal's handler does not interrupt calls because of us */
static struct sigaction before;                /* of SIGINT */
static pthread_t        waiting;

/* The first Ctrl-C is only noted; the next one interrupts the call, which may be waiting for a worker that stands still,
 * in whichever thread that is. */
static void on_interrupt(int number) {
    struct sigaction action;
    before.sa_handler(number);
    if (sigaction(number, NULL, &action) != 0 || action.sa_handler != on_interrupt) {
        return;
    }
    if (action.sa_flags & SA_RESTART) {
        action.sa_flags &= ~SA_RESTART;
        sigaction(number, &action, NULL);
    } else if (!pthread_equal(pthread_self(), waiting)) {
        pthread_kill(waiting, number);
    }
}

static void let_go_on(int number) {
    struct sigaction action;
    if (sigaction(number, NULL, &action) != 0 || action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN ||
        (action.sa_flags & SA_RESTART)) {
        return;
    }
    if (number == SIGINT && !(action.sa_flags & SA_SIGINFO) && action.sa_handler != on_interrupt) {
        before            = action;
        action.sa_handler = on_interrupt;
    }
    action.sa_flags |= SA_RESTART;
    restarts[number] = sigaction(number, &action, NULL) == 0;
}

static void let_interrupt(int number) {
    struct sigaction action;
    if (restarts[number] && sigaction(number, NULL, &action) == 0) {
        action.sa_flags &= ~SA_RESTART;
        sigaction(number, action.sa_handler == on_interrupt ? &before : &action, NULL);
    }
    restarts[number] = false;
}

void commandr_signals_let_calls_go_on(bool on) {
    waiting = pthread_self();
    for (int number = 1; number < MAX_SIGNALS; number++) {
        if (number == SIGTERM || number == SIGHUP) { /* the program is to end: what it waits for is lost with it */
            continue;
        }
        if (on) {
            let_go_on(number);
        } else {
            let_interrupt(number);
        }
    }
}
