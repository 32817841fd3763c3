#include "error.h"

#include <stdarg.h>
#include <stdio.h>

/* Long enough for a path, a key and the explanation around them; longer messages are cut. */
static _Thread_local char last_error[2048];

const char * commandr_last_error(void) {
    return last_error;
}

commandr_status commandr_fail(commandr_status code, const char * format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(last_error, sizeof(last_error), format, args);
    va_end(args);
    return code;
}
