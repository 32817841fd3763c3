#include "commandr.h"
#include "ggml.h"

#ifndef COMMANDR_VERSION
#    error "COMMANDR_VERSION comes from the build: it is the Python package's version"
#endif

const char * commandr_version(void) {
    return COMMANDR_VERSION;
}

const char * commandr_ggml_version(void) {
    return ggml_version();
}
