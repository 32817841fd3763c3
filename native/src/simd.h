/* Plain loops compiled once for each vector width. */
#ifndef COMMANDR_SRC_SIMD_H
#define COMMANDR_SRC_SIMD_H

#include <limits.h> /* for __GLIBC__ */

/* One compiled copy of a function for each vector width, chosen when the library is loaded. Sanitizers cannot start
 * before that choice, which runs earlier than they do. GCC before 12 cannot choose by these names. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    __GNUC__ >= 12 && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define COMMANDR_EACH_VECTOR_WIDTH __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define COMMANDR_EACH_VECTOR_WIDTH
#endif

#if defined(__GNUC__)
#define COMMANDR_INLINE static inline __attribute__((always_inline))
#else
#define COMMANDR_INLINE static inline
#endif

#endif
