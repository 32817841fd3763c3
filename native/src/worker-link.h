/* The TCP connections to workers, which ggml opens and keeps to itself. */
#ifndef COMMANDR_SRC_WORKER_LINK_H
#define COMMANDR_SRC_WORKER_LINK_H

typedef enum commandr_link_state {
    COMMANDR_LINK_ANSWERS,
    COMMANDR_LINK_SILENT,  /* something listens, or its host is down: nothing came in time */
    COMMANDR_LINK_REFUSED, /* nobody listens there */
    COMMANDR_LINK_NO_HOST
} commandr_link_state;

/* Connects and hangs up. endpoint: "host:port". */
commandr_link_state commandr_link_connect(const char * endpoint, int milliseconds);

/* Connects, greets the worker in ggml's protocol, waits for the beginning of its answer, and hangs up. A worker serves
 * one connection after the other: it is silent while it serves another program. */
commandr_link_state commandr_link_greet(const char * endpoint, int milliseconds);

/* Lets this process's connections to endpoint break when the other host says nothing for COMMANDR_LINK_SECONDS, not
 * even what its system says of itself; a worker that computes for long is no such case, as long as nothing is sent to it
 * meanwhile that its system has no room for. */
void commandr_link_watch(const char * endpoint);

#define COMMANDR_LINK_SECONDS 20

/* Ends the connections to endpoint: after a call that did not come to its end, its answer would be taken for that of a
 * later one, or be waited for. */
void commandr_link_break(const char * endpoint);

#endif
