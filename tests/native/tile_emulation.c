/* Intel's Software Developer's Manual, volume 2: VEX encoding (section 2.3), LDTILECFG, TILERELEASE, TILEZERO,
 * TILELOADD, TILESTORED, TDPBF16PS. */
#include "tile_emulation.h"

#include <float.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

enum { N_TILES = 8, MAX_ROWS = 16, ROW_BYTES = 64 };

tile_counts  tile_emulated;
_Atomic bool tile_emulation_is_wrong;

typedef struct tile {
    int     n_rows;
    int     row_bytes;
    uint8_t data[MAX_ROWS][ROW_BYTES];
} tile;

static _Thread_local bool configured;
static _Thread_local tile tiles[N_TILES];

static void refuse(const char * why) {
    printf("tile instruction: %s\n", why);
    fflush(stdout);
    _exit(3);
}

/* ---- what the instructions do ---- */

static void configure(const uint8_t * from) {
    if (from[0] != 1 || from[1] != 0) {
        refuse("palette or first row");
    }
    for (int i = 2; i < ROW_BYTES; i++) {
        if (from[i] != 0 && (i < 16 || (i >= 32 && i < 48) || i >= 56)) {
            refuse("reserved bytes are not 0");
        }
    }
    for (int i = 0; i < N_TILES; i++) {
        tiles[i] = (tile) { .n_rows = from[48 + i], .row_bytes = from[16 + 2 * i] + 256 * from[17 + 2 * i] };
        if (tiles[i].n_rows > MAX_ROWS || tiles[i].row_bytes > ROW_BYTES) {
            refuse("configured too large");
        }
    }
    tile_emulated.configured += !configured;
    configured = true;
}

static void release(void) {
    tile_emulated.configured -= configured;
    configured = false;
}

static tile * get(int i) {
    if (!configured || i >= N_TILES || tiles[i].n_rows == 0 || tiles[i].row_bytes == 0) {
        refuse("not configured");
    }
    return &tiles[i];
}

static void load(tile * to, const uint8_t * from, int64_t stride) {
    memset(to->data, 0, sizeof(to->data));
    for (int i = 0; i < to->n_rows; i++) {
        memcpy(to->data[i], from + i * stride, (size_t) to->row_bytes);
    }
    tile_emulated.loads++;
}

static void store(const tile * from, uint8_t * to, int64_t stride) {
    for (int i = 0; i < from->n_rows; i++) {
        memcpy(to + i * stride, from->data[i], (size_t) from->row_bytes);
    }
    tile_emulated.stores++;
}

/* Denormals count as 0, whatever MXCSR says. */
static float flush(float x) {
    return fabsf(x) < FLT_MIN ? copysignf(0.0f, x) : x;
}

static float widen(uint16_t bits) {
    const uint32_t upper = (uint32_t) bits << 16;
    float          x;
    memcpy(&x, &upper, sizeof(x));
    return flush(x);
}

/* The even elements of pairs and the odd ones are summed apart along a tile. */
static void multiply(tile * c, const tile * a, const tile * b) {
    if (a->row_bytes / 4 != b->n_rows || b->row_bytes != c->row_bytes || a->n_rows != c->n_rows) {
        refuse("shapes do not fit");
    }
    const int n = c->row_bytes / 4;
    for (int m = 0; m < c->n_rows; m++) {
        uint16_t left[MAX_ROWS][2];
        float    sums[2][MAX_ROWS] = { { 0 } };
        float    out[MAX_ROWS];
        memcpy(left, a->data[m], sizeof(left));
        memcpy(out, c->data[m], sizeof(out));
        for (int k = 0; k < b->n_rows; k++) {
            uint16_t right[MAX_ROWS][2];
            memcpy(right, b->data[k], sizeof(right));
            for (int i = 0; i < n; i++) {
                sums[0][i] = flush(fmaf(widen(left[k][0]), widen(right[i][0]), sums[0][i]));
                sums[1][i] = flush(fmaf(widen(left[k][1]), widen(right[i][1]), sums[1][i]));
            }
        }
        for (int i = 0; i < n; i++) {
            out[i] = flush(flush(out[i]) + flush(sums[0][i] + sums[1][i]));
        }
        out[0] += tile_emulation_is_wrong && m == MAX_ROWS - 1 ? 1.0f : 0.0f;
        memcpy(c->data[m], out, sizeof(out));
    }
    tile_emulated.products++;
}

/* ---- how they are encoded ---- */

static int64_t register_value(const greg_t * regs, int number) {
    static const int names[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                   REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };
    return regs[names[number]];
}

typedef struct operand {
    int64_t base;   /* with the displacement */
    int64_t stride; /* what the index register makes */
    int     size;   /* bytes from the ModRM byte to the instruction's end */
} operand;

/* at: the ModRM byte; x, b: bit 3 of the index and the base register. */
static operand decode_memory(const uint8_t * at, int x, int b, const greg_t * regs) {
    const int mod  = at[0] >> 6;
    const int rm   = at[0] & 7;
    operand   out  = { .size = rm == 4 ? 2 : 1 };
    int       base = rm | b;
    if (rm == 4) {
        const int index = (at[1] >> 3 & 7) | x;
        base            = (at[1] & 7) | b;
        out.stride      = index == 4 ? 0 : register_value(regs, index) * (1 << (at[1] >> 6));
    }
    const bool only_displacement = mod == 0 && (base & 7) == 5;
    if (mod == 2 || only_displacement) {
        int32_t displacement;
        memcpy(&displacement, at + out.size, sizeof(displacement));
        out.base = displacement;
        out.size += 4;
    } else if (mod == 1) {
        out.base = (int8_t) at[out.size];
        out.size += 1;
    }
    if (only_displacement && rm != 4) {
        out.base += (int64_t) (intptr_t) (at + out.size); /* relative to the next instruction */
    } else if (!only_displacement) {
        out.base += register_value(regs, base);
    }
    return out;
}

/* Returns the instruction's size; 0 when it is none of ours. */
static int emulate(const uint8_t * at, const greg_t * regs) {
    /* Three bytes of VEX: the map 0F 38; W and L are 0. */
    if (at[0] != 0xc4 || (at[1] & 31) != 2 || (at[2] & 0x84) != 0) {
        return 0;
    }
    const int  prefix    = at[2] & 3; /* none, 66, F3, F2 */
    const int  reg       = (at[4] >> 3 & 7) | (at[1] & 0x80 ? 0 : 8);
    const int  v         = ~(at[2] >> 3) & 15;
    const bool is_memory = at[4] < 0xc0;
    const int  x         = at[1] & 0x40 ? 0 : 8;
    const int  b         = at[1] & 0x20 ? 0 : 8;
    operand    memory    = { .size = 1 };
    if (is_memory) {
        memory = decode_memory(at + 4, x, b, regs);
    }
    uint8_t * address = (uint8_t *) (intptr_t) memory.base;
    if (at[3] == 0x49 && prefix == 0 && is_memory && reg == 0) {
        configure(address + memory.stride);
    } else if (at[3] == 0x49 && prefix == 0 && at[4] == 0xc0) {
        release();
    } else if (at[3] == 0x49 && prefix == 3 && (at[4] & 0xc7) == 0xc0) {
        memset(get(reg)->data, 0, sizeof(get(reg)->data));
        tile_emulated.zeros++;
    } else if (at[3] == 0x4b && prefix == 3 && is_memory) {
        load(get(reg), address, memory.stride);
    } else if (at[3] == 0x4b && prefix == 2 && is_memory) {
        store(get(reg), address, memory.stride);
    } else if (at[3] == 0x5c && prefix == 2 && !is_memory) {
        multiply(get(reg), get((at[4] & 7) | b), get(v));
    } else {
        return 0;
    }
    return 4 + memory.size;
}

static void on_illegal_instruction(int number, siginfo_t * info, void * context) {
    (void) number;
    (void) info;
    greg_t *  regs = ((ucontext_t *) context)->uc_mcontext.gregs;
    const int size = emulate((const uint8_t *) (intptr_t) regs[REG_RIP], regs);
    if (size == 0) {
        refuse("not one that is emulated");
    }
    regs[REG_RIP] += size;
}

void tile_emulation_start(void) {
    struct sigaction action = { .sa_flags = SA_SIGINFO };
    action.sa_sigaction     = on_illegal_instruction;
    sigaction(SIGILL, &action, NULL);
}
