/*
 * Exits with 0 when this compiler and this machine run AMX code right: a tile configuration is filled field by field on
 * the stack, as ggml does it, and an 8-bit product is compared with plain arithmetic.
 *
 * GCC 12 declares that loading the configuration reads 8 of its 64 bytes, so at -O3 it may drop the stores to the rest.
 * The processor then finds zero rows and raises an exception at the first tile instruction.
 */
#include <stdint.h>
#include <stdio.h>

#if defined(__AMX_TILE__) && defined(__AMX_INT8__) && defined(__linux__)
#    include <immintrin.h>
#    include <sys/syscall.h>
#    include <unistd.h>

#    define TILE_ROWS           16
#    define TILE_BYTES          64
#    define ARCH_REQ_XCOMP_PERM 0x1023
#    define XFEATURE_XTILEDATA  18

struct tile_config {
    uint8_t  palette_id   = 0;
    uint8_t  start_row    = 0;
    uint8_t  reserved[14] = { 0 };
    uint16_t colsb[16]    = { 0 };
    uint8_t  rows[16]     = { 0 };
};

/* Kept apart: the tile instructions clobber memory, and inlined before one of them the stores would survive. */
__attribute__((noinline)) static void configure(void) {
    static thread_local bool done = false;
    if (done) {
        return;
    }
    alignas(64) tile_config config = {};
    config.palette_id              = 1;
    config.rows[0]                 = TILE_ROWS;
    config.rows[1]                 = TILE_ROWS;
    config.rows[2]                 = TILE_ROWS;
    config.colsb[0]                = TILE_BYTES;
    config.colsb[1]                = TILE_BYTES;
    config.colsb[2]                = TILE_BYTES;
    _tile_loadconfig(&config);
    done = true;
}

int main(void) {
    if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) != 0) {
        puts("no amx: the system does not grant the tile state");
        return 1;
    }
    int8_t  a[TILE_ROWS][TILE_BYTES];
    int8_t  b[TILE_ROWS][TILE_BYTES];
    int32_t c[TILE_ROWS][TILE_ROWS];
    for (int i = 0; i < TILE_ROWS; i++) {
        for (int j = 0; j < TILE_BYTES; j++) {
            a[i][j] = (int8_t) (i * 7 + j * 3 - 100);
            b[i][j] = (int8_t) (i * 5 - j * 2 + 30);
        }
    }
    configure();
    _tile_zero(0);
    _tile_loadd(1, a, TILE_BYTES);
    _tile_loadd(2, b, TILE_BYTES);
    _tile_dpbssd(0, 1, 2);
    _tile_stored(0, c, TILE_BYTES);
    for (int i = 0; i < TILE_ROWS; i++) {
        for (int j = 0; j < TILE_ROWS; j++) {
            int32_t expected = 0;
            for (int k = 0; k < TILE_BYTES; k++) {
                expected += a[i][k] * b[k / 4][4 * j + k % 4];
            }
            if (c[i][j] != expected) {
                puts("no amx: the product is wrong");
                return 1;
            }
        }
    }
    puts("amx works");
    return 0;
}
#else
int main(void) {
    puts("no amx: the compiler does not target it");
    return 1;
}
#endif
