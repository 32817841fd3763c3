#include "kernels/amx-check.h"

#include "kernels/amx-tiles.h"
#include "kernels/amx.h"

#if COMMANDR_HAS_AMX

#include <cpuid.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Linux, Documentation/arch/x86/xstate.rst: a process must ask for the tile data, component 18 of the processor's
 * state; its children have the permission, too. */
enum { ASK_FOR_STATE = 0x1023, TILE_DATA = 18 };

/* ---- the known product: small integers, so that every sum is exact ---- */

static int a_at(int column, int i) {
    return (5 * column + 3 * i) % 17 - 8;
}

static int b_at(int row, int i) {
    return (7 * row + 11 * i) % 13 - 6;
}

/* Two elements in bfloat16: the upper halves of their floats, exact for integers up to 256. */
static uint32_t pair_of(int first, int second) {
    const float floats[2] = { (float) first, (float) second };
    uint32_t    bits[2];
    memcpy(bits, floats, sizeof(bits));
    return bits[0] >> 16 | (bits[1] & 0xffff0000u);
}

static bool is_right(const float * c, int n_columns, int times) {
    for (int column = 0; column < n_columns; column++) {
        for (int row = 0; row < 32; row++) {
            int sum = 0;
            for (int i = 0; i < 256; i++) {
                sum += a_at(column, i) * b_at(row, i);
            }
            const int at = (2 * (column / 16) + row / 16) * COMMANDR_AMX_TILE_WORDS + column % 16 * 16 + row % 16;
            if (c[at] != (float) (times * sum)) {
                return false;
            }
        }
    }
    return true;
}

bool commandr_amx_check(void) {
    _Alignas(64) uint32_t a[2 * COMMANDR_AMX_A_WORDS], b[COMMANDR_AMX_B_WORDS];
    _Alignas(64) float    c[2 * COMMANDR_AMX_C_FLOATS];
    for (int pair = 0; pair < 128; pair++) {
        const int step = pair / 16;
        const int at   = pair % 16;
        for (int i = 0; i < 32; i++) {
            a[(i / 16 * COMMANDR_AMX_STEPS + step) * COMMANDR_AMX_TILE_WORDS + 16 * (i % 16) + at] =
                pair_of(a_at(i, 2 * pair), a_at(i, 2 * pair + 1));
            b[(2 * step + i / 16) * COMMANDR_AMX_TILE_WORDS + 16 * at + i % 16] =
                pair_of(b_at(i, 2 * pair), b_at(i, 2 * pair + 1));
        }
    }
    commandr_amx_tiles_configure();
    commandr_amx_tiles_multiply(a, 0, b, 1, true, false, c);
    bool right = is_right(c, 16, 1);
    commandr_amx_tiles_multiply(a, 0, b, 1, true, true, c);
    commandr_amx_tiles_multiply(a, 0, b, 1, false, true, c);
    right = is_right(c, 32, 2) && right;
    commandr_amx_tiles_release();
    return right;
}

/* ---- may the processor, will the system, does it work ---- */

static bool ask_for_tiles(void) {
    return syscall(SYS_arch_prctl, ASK_FOR_STATE, TILE_DATA) == 0;
}

/* Only system calls and arithmetic here: the other threads, which may hold locks, do not exist in a child. Without the
 * permission the first tile instruction is an illegal one. */
static void run_child(void) {
    const struct rlimit none = { 0, 0 };
    setrlimit(RLIMIT_CORE, &none);
    prctl(PR_SET_DUMPABLE, 0);
    ask_for_tiles();
    _exit(commandr_amx_check() ? 0 : 1);
}

bool commandr_amx_check_in_child(void) {
    /* With all signals blocked an illegal instruction kills the child, past any handler of this process; and a child
     * without a signal for its end is none that the process's own code could wait for. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const pid_t child = (pid_t) syscall(SYS_clone, 0L, NULL, NULL, NULL, 0L);
    if (child == 0) {
        run_child();
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    int   status = 1;
    pid_t ended  = -1;
    while (child > 0 && (ended = waitpid(child, &status, __WALL)) < 0 && errno == EINTR) {
    }
    return ended > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* AMX tiles with bfloat16, bfloat16 in AVX-512, and a system that saves the state of tiles. */
static bool processor_has_it(void) {
    enum { OSXSAVE = 1 << 27, AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24, AVX512_BF16 = 1 << 5 };
    enum { STATES = 3 << 17 /* tile configuration and data */ };
    uint32_t eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & OSXSAVE)) {
        return false;
    }
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || (edx & AMX_TILE) == 0 || (edx & AMX_BF16) == 0) {
        return false;
    }
    if (!__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) || (eax & AVX512_BF16) == 0) {
        return false;
    }
    __asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    return (eax & STATES) == STATES;
}

static bool available;

static void find_out(void) {
    available = processor_has_it() && commandr_amx_check_in_child() && ask_for_tiles();
}

bool commandr_amx_available(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find_out);
    return available;
}

#else

bool commandr_amx_available(void) {
    return false;
}

#endif
