#include "kernels/level.h"

#include "kernels/amx.h"
#include "kernels/tile.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

/* In the order of commandr_level. */
static const char * const NAMES[] = { "portable", "avx2", "avxvnni", "avx512", "amx", "dotprod", "i8mm" };

#define N_LEVELS ((int) (sizeof(NAMES) / sizeof(NAMES[0])))

#if defined(__x86_64__)
bool commandr_has_x86_64_v4(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}

/* Bit 4 of EAX in leaf 7.1. */
static bool has_avxvnni(void) {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#endif

#if defined(__aarch64__)
static bool has_i8mm(void) {
#if defined(__linux__)
    return getauxval(AT_HWCAP2) >> 13 & 1; /* HWCAP2_I8MM, which glibc before 2.32 has no name for */
#elif defined(__APPLE__)
    int    has  = 0;
    size_t size = sizeof(has);
    return sysctlbyname("hw.optional.arm.FEAT_I8MM", &has, &size, NULL, 0) == 0 && has;
#else
    return false;
#endif
}
#endif

static bool has_level(commandr_level level) {
    switch (level) {
        case COMMANDR_LEVEL_PORTABLE: return true;
#if defined(__x86_64__)
        /* With the rest of x86-64-v3, which all of this library is compiled for. */
        case COMMANDR_LEVEL_AVX2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
        case COMMANDR_LEVEL_AVXVNNI: return has_level(COMMANDR_LEVEL_AVX2) && has_avxvnni();
        case COMMANDR_LEVEL_AVX512: return commandr_has_x86_64_v4() && __builtin_cpu_supports("avx512vnni");
        case COMMANDR_LEVEL_AMX: return has_level(COMMANDR_LEVEL_AVX512) && commandr_amx_available();
#elif defined(__aarch64__) && defined(__linux__)
        case COMMANDR_LEVEL_DOTPROD: return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#elif defined(__aarch64__) && defined(__APPLE__)
        case COMMANDR_LEVEL_DOTPROD: return true; /* every Mac of this architecture */
#endif
#if defined(__aarch64__)
        case COMMANDR_LEVEL_I8MM: return has_level(COMMANDR_LEVEL_DOTPROD) && has_i8mm();
#endif
        default: return false;
    }
}

static commandr_level best(void) {
    int level = N_LEVELS - 1;
    while (!has_level((commandr_level) level)) {
        level--;
    }
    return (commandr_level) level;
}

static _Atomic int  chosen = -1; /* none yet */
static _Atomic bool asked_for;

commandr_status commandr_level_choose(void) {
    const char * name = getenv("COMMANDR_CPU");
    if (atomic_load(&chosen) >= 0) {
        return COMMANDR_OK;
    }
    if (!name) {
        atomic_store(&chosen, (int) best());
        return COMMANDR_OK;
    }
    char known[64] = "";
    for (int i = 0; i < N_LEVELS; i++) {
        if (has_level((commandr_level) i)) {
            if (strcmp(name, NAMES[i]) == 0) {
                atomic_store(&asked_for, true);
                atomic_store(&chosen, i);
                return COMMANDR_OK;
            }
            strcat(strcat(known, *known ? ", " : ""), NAMES[i]);
        }
    }
    return commandr_fail(COMMANDR_ERROR_ARGUMENT, "COMMANDR_CPU is \"%s\"; this processor has %s", name, known);
}

commandr_level commandr_level_chosen(void) {
    const int level = atomic_load(&chosen);
    return level >= 0 ? (commandr_level) level : best();
}

commandr_tile_fn commandr_tile(enum ggml_type type) {
    switch (commandr_level_chosen()) {
#if defined(__x86_64__)
        case COMMANDR_LEVEL_AVX2: return commandr_tile_avx2(type);
        case COMMANDR_LEVEL_AVXVNNI: return commandr_tile_avxvnni(type);
        case COMMANDR_LEVEL_AVX512:
        case COMMANDR_LEVEL_AMX: return commandr_tile_avx512(type);
#elif defined(__aarch64__)
        case COMMANDR_LEVEL_DOTPROD: return commandr_tile_dotprod(type);
        case COMMANDR_LEVEL_I8MM: return commandr_tile_i8mm(type);
#endif
        default: return atomic_load(&asked_for) ? commandr_tile_portable(type) : NULL;
    }
}
