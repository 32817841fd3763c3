/* The two products of attention, as kernels/attention-body.h uses them, with sums in registers; needs its macros. */
#include "kernels/attention-vectors.h"

/* ---- scores: q k ----
 *
 * The products of dimensions that are LANES apart are added first (a vector of partial sums, as one reads rows of q and
 * k), then the partial sums that are 4 apart, then the last four, each from the lowest dimension on. */

PART void transpose_4x4(f32x4 * x) {
    const f32x4 a = SHUFFLE(x[0], x[1], 0, 4, 1, 5);
    const f32x4 b = SHUFFLE(x[2], x[3], 0, 4, 1, 5);
    const f32x4 c = SHUFFLE(x[0], x[1], 2, 6, 3, 7);
    const f32x4 d = SHUFFLE(x[2], x[3], 2, 6, 3, 7);
    x[0]          = SHUFFLE(a, b, 0, 1, 4, 5);
    x[1]          = SHUFFLE(a, b, 2, 3, 6, 7);
    x[2]          = SHUFFLE(c, d, 0, 1, 4, 5);
    x[3]          = SHUFFLE(c, d, 2, 3, 6, 7);
}

/* Scores of one row with four cells. k: [4][dim_pad] */
PART f32x4 score_four(const float * q, const float * k, int64_t dim_pad) {
    f32v sums[4] = { 0 };
    for (int64_t d = 0; d < dim_pad; d += LANES) {
        UNROLL
        for (int c = 0; c < 4; c++) {
            sums[c] = multiply_add(load(q + d), load(k + c * dim_pad + d), sums[c]);
        }
    }
    f32x4 fours[4];
    UNROLL
    for (int c = 0; c < 4; c++) {
        f32x4 parts[QUARTERS];
        memcpy(parts, &sums[c], sizeof(parts));
        fours[c] = parts[0];
        UNROLL
        for (int i = 1; i < QUARTERS; i++) {
            fours[c] += parts[i];
        }
    }
    transpose_4x4(fours);
    return fours[0] + fours[1] + fours[2] + fours[3];
}

/* Where dimension d stands among rows of transposed keys, and in queries that are multiplied with them: in the order in
 * which products are added. */
PART int64_t place_of(int64_t d, int64_t dim_pad) {
    return (d % 4 * QUARTERS + d % LANES / 4) * (dim_pad / LANES) + d / LANES;
}

/* k: [BLOCK][dim_pad]; to: [dim_pad][BLOCK] */
PART void transpose(const float * k, int64_t dim_pad, float * to) {
    for (int64_t d = 0; d < dim_pad; d += 4) {
        for (int64_t cell = 0; cell < BLOCK; cell += 4) {
            f32x4 x[4];
            UNROLL
            for (int c = 0; c < 4; c++) {
                x[c] = *(const f32x4 *) (k + (cell + c) * dim_pad + d);
            }
            transpose_4x4(x);
            UNROLL
            for (int c = 0; c < 4; c++) {
                *(f32x4 *) (to + place_of(d + c, dim_pad) * BLOCK + cell) = x[c];
            }
        }
    }
}

/* Scores of n_rows rows with TILE_COLS vectors of cells; n_rows is a constant. q: rows of dim_pad; k: [dim_pad][BLOCK] */
PART void score_cells(int n_rows, const float * q, const float * k, int64_t dim_pad, float * scores) {
    const int64_t n_run                       = dim_pad / LANES;
    f32v          total[TILE_ROWS][TILE_COLS] = { 0 };
    for (int m = 0; m < 4; m++) {
        f32v four[TILE_ROWS][TILE_COLS] = { 0 };
        for (int i = 0; i < QUARTERS; i++, q += n_run, k += n_run * BLOCK) {
            f32v sums[TILE_ROWS][TILE_COLS] = { 0 };
            for (int64_t j = 0; j < n_run; j++) {
                f32v cells[TILE_COLS];
                UNROLL
                for (int c = 0; c < TILE_COLS; c++) {
                    cells[c] = load(k + j * BLOCK + c * LANES);
                }
                UNROLL
                for (int r = 0; r < n_rows; r++) {
                    const f32v x = same(q[r * dim_pad + j]);
                    UNROLL
                    for (int c = 0; c < TILE_COLS; c++) {
                        sums[r][c] = multiply_add(x, cells[c], sums[r][c]);
                    }
                }
            }
            UNROLL
            for (int r = 0; r < n_rows; r++) {
                UNROLL
                for (int c = 0; c < TILE_COLS; c++) {
                    four[r][c] += sums[r][c];
                }
            }
        }
        UNROLL
        for (int r = 0; r < n_rows; r++) {
            UNROLL
            for (int c = 0; c < TILE_COLS; c++) {
                total[r][c] += four[r][c];
            }
        }
    }
    UNROLL
    for (int r = 0; r < n_rows; r++) {
        UNROLL
        for (int c = 0; c < TILE_COLS; c++) {
            store(scores + r * BLOCK + c * LANES, total[r][c]);
        }
    }
}

/* ---- values ---- */

/* Adds n_cols vectors of n weighted values to n_rows rows; n_cols and n_rows are constants. w: rows of BLOCK; v:
 * [n][dim_pad] */
PART void add_vectors(int n_rows, int n_cols, const float * w, const float * v, int64_t n, int64_t dim_pad,
                      float * acc) {
    f32v sums[TILE_ROWS][FEW_COLS];
    UNROLL
    for (int r = 0; r < n_rows; r++) {
        UNROLL
        for (int c = 0; c < n_cols; c++) {
            sums[r][c] = load(acc + r * dim_pad + c * LANES);
        }
    }
    for (int64_t cell = 0; cell < n; cell++) {
        f32v values[FEW_COLS];
        UNROLL
        for (int c = 0; c < n_cols; c++) {
            values[c] = load(v + cell * dim_pad + c * LANES);
        }
        UNROLL
        for (int r = 0; r < n_rows; r++) {
            const f32v x = same(w[r * BLOCK + cell]);
            UNROLL
            for (int c = 0; c < n_cols; c++) {
                sums[r][c] = multiply_add(x, values[c], sums[r][c]);
            }
        }
    }
    UNROLL
    for (int r = 0; r < n_rows; r++) {
        UNROLL
        for (int c = 0; c < n_cols; c++) {
            store(acc + r * dim_pad + c * LANES, sums[r][c]);
        }
    }
}

/* Adds n weighted values to n_rows rows, a constant. */
PART void add_values(int n_rows, const float * w, const float * v, int64_t n, int64_t dim_pad, float * acc) {
    const int n_cols = n_rows == 1 ? FEW_COLS : TILE_COLS;
    int64_t   d      = 0;
    for (; d + n_cols * LANES <= dim_pad; d += n_cols * LANES) {
        add_vectors(n_rows, n_cols, w, v + d, n, dim_pad, acc + d);
    }
    for (; d < dim_pad; d += LANES) {
        add_vectors(n_rows, 1, w, v + d, n, dim_pad, acc + d);
    }
}

/* The same for one row, and values of which some are not finite: those of cells that the row does not see, whose weight
 * is 0, must not reach it. */
PART void add_special_values(const float * w, const float * v, int64_t n, int64_t dim_pad, float * acc) {
    for (int64_t cell = 0; cell < n; cell++) {
        for (int64_t d = 0; d < dim_pad && w[cell] != 0.0f; d += LANES) {
            store(acc + d, multiply_add(same(w[cell]), load(v + cell * dim_pad + d), load(acc + d)));
        }
    }
}
