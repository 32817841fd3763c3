/* The whole public API as plain C, and as C++. */
#include "commandr.h"

int main(void) {
    return commandr_version() != 0 ? 0 : 1;
}
