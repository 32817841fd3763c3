#include "log.h"

#include "commandr.h"
#include "ggml.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static pthread_once_t        once  = PTHREAD_ONCE_INIT;
static pthread_mutex_t       mutex = PTHREAD_MUTEX_INITIALIZER;
static commandr_log_callback callback;
static void *                callback_user_data;

static _Thread_local char    first_error[512];
static _Thread_local char    line[2048]; /* ggml sends lines in pieces; the rest of one comes as GGML_LOG_LEVEL_CONT */
static _Thread_local int32_t line_level;

static int32_t level_of(enum ggml_log_level level) {
    switch (level) {
        case GGML_LOG_LEVEL_ERROR: return 4;
        case GGML_LOG_LEVEL_WARN: return 3;
        case GGML_LOG_LEVEL_INFO: return 2;
        default: return 1;
    }
}

static void send(int32_t level, const char * text) {
    pthread_mutex_lock(&mutex);
    const commandr_log_callback call      = callback;
    void * const                user_data = callback_user_data;
    pthread_mutex_unlock(&mutex);
    if (call) {
        call(level, text, user_data);
    }
}

void commandr_log(int32_t level, const char * format, ...) {
    char    text[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    send(level, text);
}

static void flush_line(void) {
    if (line[0] == '\0') {
        return;
    }
    if (line_level == 4 && first_error[0] == '\0') {
        /* "function: message": the function's name says nothing to a user */
        const char * colon = strstr(line, ": ");
        snprintf(first_error, sizeof(first_error), "%.500s", colon ? colon + 2 : line);
    }
    send(line_level, line);
    line[0] = '\0';
}

static void on_ggml_log(enum ggml_log_level level, const char * text, void * user_data) {
    (void) user_data;
    if (level != GGML_LOG_LEVEL_CONT) {
        flush_line();
        line_level = level_of(level);
    }
    const size_t used = strlen(line);
    snprintf(line + used, sizeof(line) - used, "%s", text);
    char * end = strchr(line, '\n');
    if (end) {
        *end = '\0';
        flush_line();
    }
}

static void install(void) {
    ggml_log_set(on_ggml_log, NULL);
}

void commandr_log_init(void) {
    pthread_once(&once, install);
}

void commandr_log_set(commandr_log_callback new_callback, void * user_data) {
    commandr_log_init();
    pthread_mutex_lock(&mutex);
    callback           = new_callback;
    callback_user_data = user_data;
    pthread_mutex_unlock(&mutex);
}

const char * commandr_log_first_error(void) {
    flush_line();
    return first_error[0] ? first_error : "no reason given";
}

void commandr_log_clear_error(void) {
    first_error[0] = '\0';
}
