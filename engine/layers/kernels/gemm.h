/* The two small matrix products that the float32 kernels use, their sums held in registers.

   product: c = a @ b with b packed in panels; outer: c (+)= a' @ b. A panel is 1 to 3 vectors of columns, and a block
   takes as many rows as the remaining registers hold. Every number of c is summed in the same order
   whatever its block, so a result does not depend on how the work was cut. */
#ifndef GEMM_H
#define GEMM_H

#include "vec.h"

/* Columns are cut into panels of three vectors if that comes out even, else of two, and perhaps a last one of one.
   With 16 registers a block is 6 rows by 2 vectors, with 32 it is 8 by 3 or 12 by 2. */
#if defined(__AVX2__) && !defined(__AVX512F__)
enum { ROWS_OF_THREE = 0, ROWS_OF_TWO = 6, ROWS_OF_ONE = 8 };
#else
enum { ROWS_OF_THREE = 8, ROWS_OF_TWO = 12, ROWS_OF_ONE = 12 };
#endif

/* The vectors of the panel that starts at vector `first` of `vectors`. */
INLINE dim panel_width(dim first, dim vectors) {
    if (ROWS_OF_THREE > 0 && vectors % 3 == 0) return 3;
    return least(2, vectors - first);
}

/* Where in a packed matrix of `depth` rows the number (row, column) lies. */
INLINE dim packed_place(dim row, dim column, dim depth, dim vectors) {
    dim width = ROWS_OF_THREE > 0 && vectors % 3 == 0 ? 3 : 2;
    dim first = column / LANES / width * width;
    return first * LANES * depth + row * panel_width(first, vectors) * LANES + column - first * LANES;
}

/* c (rows, vecs) = the sum over runs r of a[., runs[r] + k] @ b: row i of a begins at a + i * a_row, and each run is
   `depth` numbers long; b is one panel, the runs' rows one after the other. */
INLINE void product_block(const int rows, const int vecs, const float *a, dim a_row, const dim *runs, dim run_count,
                          dim depth, const float *b, float *c, dim c_row) {
    vec sum[12][3];
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 3
        for (int j = 0; j < vecs; j++) sum[i][j] = (vec){0};
    for (dim r = 0; r < run_count; r++) {
        const float *from = a + runs[r];
        for (dim k = 0; k < depth; k++, b += vecs * LANES) {
            vec right[3];
#pragma GCC unroll 3
            for (int j = 0; j < vecs; j++) right[j] = load_float(b + j * LANES);
#pragma GCC unroll 12
            for (int i = 0; i < rows; i++) {
                vec left = all(from[i * a_row + k]);
#pragma GCC unroll 3
                for (int j = 0; j < vecs; j++) sum[i][j] += left * right[j];
            }
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 3
        for (int j = 0; j < vecs; j++) store_float(c + i * c_row + j * LANES, sum[i][j]);
}

/* c (rows, vecs) = the sum over lines and steps of a' @ b, added to what was there if `more` is set: a gives `rows`
   numbers that lie side by side, b vecs. */
INLINE void outer_block(const int rows, const int vecs, const float *a, dim a_line, dim a_step, const float *b,
                        dim b_line, dim b_step, dim lines, dim steps, float *c, dim c_row, int more) {
    vec sum[12][3];
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 3
        for (int j = 0; j < vecs; j++) sum[i][j] = more ? load_float(c + i * c_row + j * LANES) : (vec){0};
    for (dim line = 0; line < lines; line++) {
        const float *left = a + line * a_line, *right = b + line * b_line;
        for (dim step = 0; step < steps; step++, left += a_step, right += b_step) {
            vec given[3];
#pragma GCC unroll 3
            for (int j = 0; j < vecs; j++) given[j] = load_float(right + j * LANES);
#pragma GCC unroll 12
            for (int i = 0; i < rows; i++) {
                vec each = all(left[i]);
#pragma GCC unroll 3
                for (int j = 0; j < vecs; j++) sum[i][j] += each * given[j];
            }
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 3
        for (int j = 0; j < vecs; j++) store_float(c + i * c_row + j * LANES, sum[i][j]);
}

#define PRODUCT_ARGUMENTS a + i *a_row, a_row, runs, run_count, depth, b, c + i *c_row, c_row
#define OUTER_ARGUMENTS a + i, a_line, a_step, b, b_line, b_step, lines, steps, c + i *c_row, c_row, more
/* Blocks of `full` rows while there are that many, then of 8 (if fewer than full), 4, 2 and 1. */
#define IN_BLOCKS(block, full, vecs, ARGUMENTS)                                     \
    {                                                                              \
        dim i = 0;                                                                 \
        for (; i + (full) <= rows; i += (full)) block(full, vecs, ARGUMENTS);      \
        if ((full) > 8)                                                            \
            for (; i + 8 <= rows; i += 8) block(8, vecs, ARGUMENTS);               \
        for (; i + 4 <= rows; i += 4) block(4, vecs, ARGUMENTS);                   \
        for (; i + 2 <= rows; i += 2) block(2, vecs, ARGUMENTS);                   \
        for (; i < rows; i++) block(1, vecs, ARGUMENTS);                           \
    }

/* c (rows, width) for one panel of b. */
static inline void product(dim rows, dim width, const float *a, dim a_row, const dim *runs, dim run_count, dim depth,
                           const float *b, float *c, dim c_row) {
    if (ROWS_OF_THREE > 0 && width == 3) IN_BLOCKS(product_block, ROWS_OF_THREE ? ROWS_OF_THREE : 4, 3, PRODUCT_ARGUMENTS)
    else if (width == 2) IN_BLOCKS(product_block, ROWS_OF_TWO, 2, PRODUCT_ARGUMENTS)
    else IN_BLOCKS(product_block, ROWS_OF_ONE, 1, PRODUCT_ARGUMENTS)
}

/* c (rows, width) (+)= a' @ b for one panel of columns. */
static inline void outer(dim rows, dim width, const float *a, dim a_line, dim a_step, const float *b, dim b_line,
                         dim b_step, dim lines, dim steps, float *c, dim c_row, int more) {
    if (ROWS_OF_THREE > 0 && width == 3) IN_BLOCKS(outer_block, ROWS_OF_THREE ? ROWS_OF_THREE : 4, 3, OUTER_ARGUMENTS)
    else if (width == 2) IN_BLOCKS(outer_block, ROWS_OF_TWO, 2, OUTER_ARGUMENTS)
    else IN_BLOCKS(outer_block, ROWS_OF_ONE, 1, OUTER_ARGUMENTS)
}

#endif
