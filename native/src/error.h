/* Failing with a sentence. Every fallible function returns what commandr_fail returns. */
#ifndef COMMANDR_SRC_ERROR_H
#define COMMANDR_SRC_ERROR_H

#include "commandr.h"

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
/* Stores the message for commandr_last_error on this thread and returns code. */
commandr_status commandr_fail(commandr_status code, const char * format, ...);

#endif
