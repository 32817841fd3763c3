/* The product of bfloat16 weights with columns in bfloat16 as floats, for kernels/tile.c, whose macros it needs. */

/* The tile's words, of two weights each, as to: [256][LANES]. */
COMMANDR_INLINE void widen(const uint8_t * tile, float (*to)[LANES]) {
    for (int i = 0; i < BLOCK / 2; i++) {
        for (int lane = 0; lane < LANES; lane += AT_ONCE) {
            const words both = word(tile, i, lane);
            put(to[2 * i] + lane, (floats) (both << 16));
            put(to[2 * i + 1] + lane, (floats) (both & 0xffff0000));
        }
    }
}

/* Adds the products with n columns of a group of n_group to out: [n][LANES]. All but the pointers are constants. */
COMMANDR_INLINE void multiply_widened(int n, int n_group, float (*w)[LANES], const int32_t * x, float (*out)[LANES]) {
    enum { N_VECTORS = 2 * MAX_COLUMNS <= COMMANDR_GROUP ? 2 : 1 };
    for (int lane = 0; lane < LANES; lane += N_VECTORS * AT_ONCE) {
        floats sums[N_VECTORS * MAX_COLUMNS];
        UNROLL
        for (int k = 0; k < N_VECTORS * n; k++) {
            sums[k] = floats_at(out[k % n] + lane + k / n * AT_ONCE);
        }
        for (int i = 0; i < BLOCK; i++) {
            UNROLL
            for (int k = 0; k < N_VECTORS * n; k++) {
                const floats weights = floats_at(w[i] + lane + k / n * AT_ONCE);
                sums[k]              = fma_of(all_floats(x + i * n_group + k % n), weights, sums[k]);
            }
        }
        UNROLL
        for (int k = 0; k < N_VECTORS * n; k++) {
            put(out[k % n] + lane + k / n * AT_ONCE, sums[k]);
        }
    }
}

/* A group of n columns. */
COMMANDR_INLINE void multiply_floats(int n, float (*w)[LANES], const int32_t * x, float (*out)[LANES]) {
    UNROLL
    for (int c = 0; c < n; c += MAX_COLUMNS) {
        multiply_widened(n - c < MAX_COLUMNS ? n - c : MAX_COLUMNS, n, w, x + c, out + c);
    }
}

static void multiply_bf16(const uint8_t * tile, const int32_t * x, int64_t n_cols, float (*out)[LANES]) {
    _Alignas(64) float w[BLOCK][LANES];
    widen(tile, w);
    for (; n_cols > 0; n_cols -= COMMANDR_GROUP) {
        switch (n_cols) {
            case 1: multiply_floats(1, w, x, out); break;
            case 2: multiply_floats(2, w, x, out); break;
            case 3: multiply_floats(3, w, x, out); break;
            case 4: multiply_floats(4, w, x, out); break;
            case 5: multiply_floats(5, w, x, out); break;
            case 6: multiply_floats(6, w, x, out); break;
            case 7: multiply_floats(7, w, x, out); break;
            default: multiply_floats(8, w, x, out);
        }
        x += COMMANDR_GROUP * BLOCK;
        out += COMMANDR_GROUP;
    }
}
