#include "worker-link.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
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

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t) t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Waits for what a socket is to be ready for; false when the time has come. Signals do not end it. */
static bool wait_for(int fd, short events, int64_t end) {
    for (;;) {
        const int64_t left = end - now_ms();
        struct pollfd p    = { .fd = fd, .events = events };
        const int     n    = poll(&p, 1, left > 0 ? (int) left : 0);
        if (n > 0) {
            return true;
        }
        if (n == 0 || errno != EINTR) {
            return false;
        }
    }
}

/* A connected socket that does not block; -1 when there is none, and *state why. */
static int open_link(const char * endpoint, int64_t end, commandr_link_state * state) {
    struct sockaddr_in address;
    *state = COMMANDR_LINK_NO_HOST;
    if (!resolve(endpoint, &address)) {
        return -1;
    }
    *state       = COMMANDR_LINK_REFUSED;
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0) {
        return -1;
    }
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    int       error = connect(fd, (const struct sockaddr *) &address, sizeof(address)) == 0 ? 0 : errno;
    socklen_t size  = sizeof(error);
    if (error == EINPROGRESS || error == EINTR) {
        const bool is_ready = wait_for(fd, POLLOUT, end);
        error               = is_ready && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : ETIMEDOUT;
    }
    if (error) {
        *state = error == ETIMEDOUT ? COMMANDR_LINK_SILENT : COMMANDR_LINK_REFUSED;
        close(fd);
        return -1;
    }
    *state = COMMANDR_LINK_ANSWERS;
    return fd;
}

commandr_link_state commandr_link_connect(const char * endpoint, int milliseconds) {
    commandr_link_state state;
    const int           fd = open_link(endpoint, now_ms() + milliseconds, &state);
    if (fd >= 0) {
        close(fd);
    }
    return state;
}

commandr_link_state commandr_link_greet(const char * endpoint, int milliseconds) {
    const int64_t       end = now_ms() + milliseconds;
    commandr_link_state state;
    const int           fd = open_link(endpoint, end, &state);
    if (fd < 0) {
        return state;
    }
    uint8_t        hello[1 + sizeof(uint64_t) + HELLO_SIZE] = { HELLO };
    const uint64_t size                                     = HELLO_SIZE;
    memcpy(hello + 1, &size, sizeof(size)); /* ggml sends numbers as they lie in memory */
    const bool is_sent = send(fd, hello, sizeof(hello), MSG_NOSIGNAL) == (ssize_t) sizeof(hello);
    /* One that hangs up is there, and ggml will find out what is wrong with it. */
    state = !is_sent || wait_for(fd, POLLIN, end) ? COMMANDR_LINK_ANSWERS : COMMANDR_LINK_SILENT;
    close(fd);
    return state;
}

static void set_option(int fd, int level, int name, int value) {
    setsockopt(fd, level, name, &value, sizeof(value));
}

/* A quarter of the time without a word, then three questions; and the same time for what was sent to be received. */
static void watch(int fd) {
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
}

/* Calls a function with each of this process's sockets whose other end is the endpoint: ggml does not tell its own. */
static void for_each_link(const char * endpoint, void (*each)(int fd)) {
    struct sockaddr_in address;
    const long         limit = sysconf(_SC_OPEN_MAX);
    const int          n     = limit > 0 && limit < MAX_FILES ? (int) limit : MAX_FILES;
    if (!resolve(endpoint, &address)) {
        return;
    }
    for (int fd = 0; fd < n; fd++) {
        struct sockaddr_in peer;
        socklen_t          size = sizeof(peer);
        if (getpeername(fd, (struct sockaddr *) &peer, &size) == 0 && peer.sin_family == AF_INET &&
            peer.sin_port == address.sin_port && peer.sin_addr.s_addr == address.sin_addr.s_addr) {
            each(fd);
        }
    }
}

void commandr_link_watch(const char * endpoint) {
    for_each_link(endpoint, watch);
}

static void shut(int fd) {
    shutdown(fd, SHUT_RDWR);
}

void commandr_link_break(const char * endpoint) {
    for_each_link(endpoint, shut);
}
