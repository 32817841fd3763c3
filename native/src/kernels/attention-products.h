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

/* LANES numbers of a cell from dimension d on: half floats as they lie in the cache, or floats. */
PART f32v numbers_at(bool halves, const char * cell, int64_t d) {
    if (halves) {
        return FROM_HALVES((const ggml_fp16_t *) cell + d);
    }
    return load((const float *) cell + d);
}

/* Scores of n_rows rows with four cells, `stride` bytes apart; n_rows and halves are constants. scores: rows of BLOCK
 */
PART void score_fours(int n_rows, bool halves, const float * q, const char * k, size_t stride, int64_t dim_pad,
                      float * scores) {
    f32v sums[FEW_ROWS][4] = { 0 };
    for (int64_t d = 0; d < dim_pad; d += LANES) {
        f32v cells[4];
        UNROLL
        for (int c = 0; c < 4; c++) {
            cells[c] = numbers_at(halves, k + (size_t) c * stride, d);
        }
        UNROLL
        for (int r = 0; r < n_rows; r++) {
            UNROLL
            for (int c = 0; c < 4; c++) {
                sums[r][c] = multiply_add(load(q + r * dim_pad + d), cells[c], sums[r][c]);
            }
        }
    }
    UNROLL
    for (int r = 0; r < n_rows; r++) {
        f32x4 fours[4];
        UNROLL
        for (int c = 0; c < 4; c++) {
            f32x4 parts[QUARTERS];
            memcpy(parts, &sums[r][c], sizeof(parts));
            fours[c] = parts[0];
            UNROLL
            for (int i = 1; i < QUARTERS; i++) {
                fours[c] += parts[i];
            }
        }
        transpose_4x4(fours);
        *(f32x4 *) (scores + r * BLOCK) = fours[0] + fours[1] + fours[2] + fours[3];
    }
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

/* Scores of n_rows rows with TILE_COLS vectors of cells; n_rows is a constant. q: rows of dim_pad; k: [dim_pad][BLOCK]
 */
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

/* Adds n_cols vectors of n weighted values, from dimension d on, to n_rows rows; n_cols, n_rows and halves are
 * constants. w: rows of BLOCK; v: n cells that are `stride` bytes apart */
PART void add_vectors(int n_rows, int n_cols, bool halves, const float * w, const char * v, size_t stride, int64_t n,
                      int64_t dim_pad, int64_t d, float * acc) {
    f32v sums[TILE_ROWS][ONE_COLS]; /* as much of it as is used */
    UNROLL
    for (int r = 0; r < n_rows; r++) {
        UNROLL
        for (int c = 0; c < n_cols; c++) {
            sums[r][c] = load(acc + r * dim_pad + d + c * LANES);
        }
    }
    for (int64_t cell = 0; cell < n; cell++, v += stride) {
        f32v values[ONE_COLS];
        UNROLL
        for (int c = 0; c < n_cols; c++) {
            values[c] = numbers_at(halves, v, d + c * LANES);
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
            store(acc + r * dim_pad + d + c * LANES, sums[r][c]);
        }
    }
}

/* Adds n weighted values to n_rows rows; n_rows and halves are constants. */
PART void add_values(int n_rows, bool halves, const float * w, const char * v, size_t stride, int64_t n,
                     int64_t dim_pad, float * acc) {
    const int n_cols = n_rows == TILE_ROWS ? TILE_COLS : ONE_COLS / n_rows;
    int64_t   d      = 0;
    for (; d + n_cols * LANES <= dim_pad; d += n_cols * LANES) {
        add_vectors(n_rows, n_cols, halves, w, v, stride, n, dim_pad, d, acc);
    }
    for (; d < dim_pad; d += LANES) {
        add_vectors(n_rows, 1, halves, w, v, stride, n, dim_pad, d, acc);
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
