/* AMX on processors without it: a handler of the signal for illegal instructions that reads the machine code where it
 * stopped and does what the tile instructions kernels/amx-tiles.h uses would have done. So the compiled code itself is
 * tested, its order and its operands included. On processors with AMX the handler is not reached.
 *
 * What a processor would refuse (a tile that is not configured, shapes that do not fit) ends the process with a line on
 * stdout and exit code 3. */
#ifndef COMMANDR_TESTS_NATIVE_TILE_EMULATION_H
#define COMMANDR_TESTS_NATIVE_TILE_EMULATION_H

#include <stdbool.h>
#include <stdint.h>

/* Instructions of all threads since the counts were last set to 0, and threads whose tiles are configured. */
typedef struct tile_counts {
    _Atomic int64_t configured;
    _Atomic int64_t zeros;
    _Atomic int64_t loads;
    _Atomic int64_t stores;
    _Atomic int64_t products;
} tile_counts;

extern tile_counts tile_emulated;

/* Makes the last row of every product wrong, as a broken unit might. */
extern _Atomic bool tile_emulation_is_wrong;

void tile_emulation_start(void);

#endif
