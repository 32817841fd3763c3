/* The tile instructions of x86-64's AMX, and the one loop that multiplies with them.
 *
 * Intel's Software Developer's Manual, volume 1 chapter 18 and volume 2 (LDTILECFG, TILELOADD, TILESTORED, TILEZERO,
 * TILERELEASE, TDPBF16PS). A "tile" of these files is one of their eight registers, 16 rows of 64 bytes here, or memory
 * that goes there; the tiles of packed.h are called packed ones:
 *
 *     A   16 columns (tokens) x 32 elements, bfloat16
 *     B   16 pairs of elements x 16 weight rows x the 2 elements of the pair, bfloat16
 *     C   16 columns x 16 weight rows, float32:  C += A B, sums of pairs added in the order of the elements
 *
 * Written in assembly and with all memory as an operand: the intrinsics of GCC 12 say of LDTILECFG that it reads 8 of
 * its 64 bytes, so that the stores of the rest may be dropped. No flag for AMX is needed to compile this, and no other
 * code of the library can come to contain such instructions. */
#ifndef COMMANDR_SRC_KERNELS_AMX_TILES_H
#define COMMANDR_SRC_KERNELS_AMX_TILES_H

#include "simd.h"

#include <stdbool.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__)
#define COMMANDR_HAS_AMX 1
#else
#define COMMANDR_HAS_AMX 0
#endif

enum {
    COMMANDR_AMX_TILE_ROWS  = 16,
    COMMANDR_AMX_TILE_BYTES = 1024,
    COMMANDR_AMX_STEP       = 32,                          /* elements that one instruction multiplies */
    COMMANDR_AMX_STEPS      = 256 / COMMANDR_AMX_STEP,     /* in a super-block */
    COMMANDR_AMX_TILE_WORDS = COMMANDR_AMX_TILE_BYTES / 4, /* of 32 bits: pairs in A and B, sums in C */
    COMMANDR_AMX_STEP_WORDS = 2 * COMMANDR_AMX_TILE_WORDS, /* of the two B tiles of a step */
    COMMANDR_AMX_A_WORDS    = COMMANDR_AMX_STEPS * COMMANDR_AMX_TILE_WORDS, /* of 16 columns in a super-block */
    COMMANDR_AMX_B_WORDS    = COMMANDR_AMX_STEPS * COMMANDR_AMX_STEP_WORDS, /* of 32 weight rows in a super-block */
    COMMANDR_AMX_C_FLOATS   = 2 * COMMANDR_AMX_TILE_WORDS                   /* of 16 columns with 32 weight rows */
};

#if COMMANDR_HAS_AMX

/* What LDTILECFG reads. */
typedef struct commandr_amx_config {
    uint8_t  palette;
    uint8_t  start_row;
    uint8_t  reserved[14];
    uint16_t row_bytes[16];
    uint8_t  n_rows[16];
} commandr_amx_config;

_Static_assert(sizeof(commandr_amx_config) == 64, "LDTILECFG reads 64 bytes");

/* The calling thread's tiles, before its first product and after its last. */
COMMANDR_INLINE void commandr_amx_tiles_configure(void) {
    commandr_amx_config config = { .palette = 1 };
    for (int i = 0; i < 8; i++) {
        config.row_bytes[i] = COMMANDR_AMX_TILE_BYTES / COMMANDR_AMX_TILE_ROWS;
        config.n_rows[i]    = COMMANDR_AMX_TILE_ROWS;
    }
    __asm__ volatile("ldtilecfg %0" : : "m"(config) : "memory");
}

COMMANDR_INLINE void commandr_amx_tiles_release(void) {
    __asm__ volatile("tilerelease" : : : "memory");
}

/* Tile registers go by number. Each statement is volatile, so that they keep their order, and those with an address
 * clobber memory, so that what is loaded has been stored. */
#define COMMANDR_AMX_TILE_ZERO(t) __asm__ volatile("tilezero %%tmm" #t : :)
#define COMMANDR_AMX_TILE_LOAD(t, from)                                                                                \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t : : "r"(from), "r"((int64_t) 64) : "memory")
#define COMMANDR_AMX_TILE_STORE(t, to)                                                                                 \
    __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" : : "r"(to), "r"((int64_t) 64) : "memory")
#define COMMANDR_AMX_TILE_MULTIPLY(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)

/* Multiplies 16 (or, when two, 32) columns with 32 weight rows over n_blocks super-blocks.
 *
 *     a   [n_blocks], a_words apart, of [1 or 2][COMMANDR_AMX_STEPS] A tiles
 *     b   [n_blocks][COMMANDR_AMX_STEPS][2] B tiles
 *     c   [1 or 2][2] C tiles, to which the product is added; when first, they are set to it
 *
 * Two by two C tiles: four products, 64 cycles, for four loads, 32 cycles with both sides in the level-1 cache, and
 * enough of them under way to hide the 52 cycles after which a sum can be added to. */
COMMANDR_INLINE void commandr_amx_tiles_multiply(const uint32_t * a, int64_t a_words, const uint32_t * b,
                                                 int64_t n_blocks, bool first, bool two, float * c) {
    if (first) {
        COMMANDR_AMX_TILE_ZERO(0);
        COMMANDR_AMX_TILE_ZERO(1);
    } else {
        COMMANDR_AMX_TILE_LOAD(0, c);
        COMMANDR_AMX_TILE_LOAD(1, c + COMMANDR_AMX_TILE_WORDS);
    }
    if (two && first) {
        COMMANDR_AMX_TILE_ZERO(2);
        COMMANDR_AMX_TILE_ZERO(3);
    } else if (two) {
        COMMANDR_AMX_TILE_LOAD(2, c + COMMANDR_AMX_C_FLOATS);
        COMMANDR_AMX_TILE_LOAD(3, c + COMMANDR_AMX_C_FLOATS + COMMANDR_AMX_TILE_WORDS);
    }
    for (int64_t i = 0; i < n_blocks; i++, a += a_words) {
        const uint32_t * step = a;
        for (int s = 0; s < COMMANDR_AMX_STEPS; s++, step += COMMANDR_AMX_TILE_WORDS, b += COMMANDR_AMX_STEP_WORDS) {
            COMMANDR_AMX_TILE_LOAD(4, step);
            COMMANDR_AMX_TILE_LOAD(6, b);
            COMMANDR_AMX_TILE_MULTIPLY(0, 4, 6);
            COMMANDR_AMX_TILE_LOAD(7, b + COMMANDR_AMX_TILE_WORDS);
            COMMANDR_AMX_TILE_MULTIPLY(1, 4, 7);
            if (two) {
                COMMANDR_AMX_TILE_LOAD(5, step + COMMANDR_AMX_A_WORDS);
                COMMANDR_AMX_TILE_MULTIPLY(2, 5, 6);
                COMMANDR_AMX_TILE_MULTIPLY(3, 5, 7);
            }
        }
    }
    COMMANDR_AMX_TILE_STORE(0, c);
    COMMANDR_AMX_TILE_STORE(1, c + COMMANDR_AMX_TILE_WORDS);
    if (two) {
        COMMANDR_AMX_TILE_STORE(2, c + COMMANDR_AMX_C_FLOATS);
        COMMANDR_AMX_TILE_STORE(3, c + COMMANDR_AMX_C_FLOATS + COMMANDR_AMX_TILE_WORDS);
    }
}

#endif

#endif
