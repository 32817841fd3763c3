#include "worker-link.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define MAX_HOST  256
#define MAX_FILES 65536

#ifndef MSG_NOSIGNAL
#    define MSG_NOSIGNAL 0
#endif

/* ggml's RPC protocol: a command, the size of its argument, the argument. This command is 14 in all versions; its
 * argument says what the connection can do besides TCP: nothing. */
enum { HELLO = 14, HELLO_SIZE = 24 };

/* IPv4, which is all that ggml connects to. */
static bool resolve(const char * endpoint, struct sockaddr_in * address) {
    const char * port = strchr(endpoint, ':');
    char         host[MAX_HOST];
    if (!port || port - endpoint >= MAX_HOST) {
        return false;
    }
    snprintf(host, sizeof(host), "%.*s", (int) (port - endpoint), endpoint);
    const struct addrinfo hints = { .ai_family = AF_INET, .ai_socktype = SOCK_STREAM };
    struct addrinfo *     found = NULL;
    if (getaddrinfo(host, port + 1, &hints, &found) != 0) {
        return false;
    }
    memcpy(address, found->ai_addr, sizeof(*address));
    freeaddrinfo(found);
    return true;
}

/* A socket whose calls end after a time; -1 when there is none, and *state why. */
static int open_link(const char * endpoint, int milliseconds, commandr_link_state * state) {
    struct sockaddr_in   address;
    const struct timeval limit = { milliseconds / 1000, milliseconds % 1000 * 1000 };
    *state                     = COMMANDR_LINK_NO_HOST;
    if (!resolve(endpoint, &address)) {
        return -1;
    }
    *state       = COMMANDR_LINK_REFUSED;
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0) {
        return -1;
    }
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    if (connect(fd, (const struct sockaddr *) &address, sizeof(address)) != 0) {
        const bool is_late = errno == EINPROGRESS || errno == EAGAIN || errno == ETIMEDOUT || errno == EINTR;
        *state             = is_late ? COMMANDR_LINK_SILENT : COMMANDR_LINK_REFUSED;
        close(fd);
        return -1;
    }
    *state = COMMANDR_LINK_ANSWERS;
    return fd;
}

commandr_link_state commandr_link_connect(const char * endpoint, int milliseconds) {
    commandr_link_state state;
    const int           fd = open_link(endpoint, milliseconds, &state);
    if (fd >= 0) {
        close(fd);
    }
    return state;
}

commandr_link_state commandr_link_greet(const char * endpoint, int milliseconds) {
    commandr_link_state state;
    const int           fd = open_link(endpoint, milliseconds, &state);
    if (fd < 0) {
        return state;
    }
    uint8_t        hello[1 + sizeof(uint64_t) + HELLO_SIZE] = { HELLO };
    const uint64_t size                                     = HELLO_SIZE;
    memcpy(hello + 1, &size, sizeof(size)); /* ggml sends numbers as they lie in memory */
    uint8_t answer;
    ssize_t n = send(fd, hello, sizeof(hello), MSG_NOSIGNAL);
    if (n == (ssize_t) sizeof(hello)) {
        do {
            n = recv(fd, &answer, 1, 0);
        } while (n < 0 && errno == EINTR);
    }
    /* One that hangs up is there, and ggml will find out what is wrong with it. */
    state = n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? COMMANDR_LINK_SILENT : COMMANDR_LINK_ANSWERS;
    close(fd);
    return state;
}

static void set_option(int fd, int level, int name, int value) {
    setsockopt(fd, level, name, &value, sizeof(value));
}

/* A quarter of the time without a word, then three questions; and the same time for what was sent to be received. */
static bool watch(int fd) {
    const int quarter = COMMANDR_LINK_SECONDS / 4;
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
#if defined(TCP_KEEPIDLE)
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, quarter);
#elif defined(TCP_KEEPALIVE)
    set_option(fd, IPPROTO_TCP, TCP_KEEPALIVE, quarter);
#endif
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, quarter);
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
#if defined(TCP_USER_TIMEOUT)
    set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, COMMANDR_LINK_SECONDS * 1000);
#elif defined(TCP_RXT_CONNDROPTIME)
    set_option(fd, IPPROTO_TCP, TCP_RXT_CONNDROPTIME, COMMANDR_LINK_SECONDS);
#endif
    return true;
}

/* Calls a function with each of this process's sockets whose other end is the endpoint: ggml does not tell its own.
 * Whether the function said true of one. */
static bool for_each_link(const char * endpoint, bool (*each)(int fd)) {
    struct sockaddr_in address;
    const long         limit = sysconf(_SC_OPEN_MAX);
    const int          n     = limit > 0 && limit < MAX_FILES ? (int) limit : MAX_FILES;
    bool               found = false;
    if (!resolve(endpoint, &address)) {
        return false;
    }
    for (int fd = 0; fd < n; fd++) {
        struct sockaddr_in peer;
        socklen_t          size = sizeof(peer);
        if (getpeername(fd, (struct sockaddr *) &peer, &size) == 0 && peer.sin_family == AF_INET &&
            peer.sin_port == address.sin_port && peer.sin_addr.s_addr == address.sin_addr.s_addr) {
            found = each(fd) || found;
        }
    }
    return found;
}

void commandr_link_watch(const char * endpoint) {
    for_each_link(endpoint, watch);
}

static bool is_broken(int fd) {
    uint8_t       byte;
    const ssize_t n = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK);
}

static bool shut(int fd) {
    return shutdown(fd, SHUT_RDWR) == 0;
}

void commandr_link_break(const char * endpoint) {
    if (!for_each_link(endpoint, is_broken)) {
        for_each_link(endpoint, shut);
    }
}
