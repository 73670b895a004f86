/* GEMM: the two small float32 matrix products that the kernels use, with the sums in registers.

       product   c = a @ b, with b packed in panels
       outer     c = a' @ b, or c += a' @ b

   A panel is 1 to 3 vectors of columns. A block of c is one panel wide, and as many rows high as the remaining registers
   hold. Every number of c is summed in the same order in every block, so a result does not depend on how the work was
   divided. */
#ifndef GEMM_H
#define GEMM_H

#include "vec.h"

/* Rows of a block, by the width of its panel. With 16 registers a block is 6 rows by 2 vectors; with 32 registers, 8 by 3
   or 12 by 2. Columns are divided into panels of 3 vectors if that leaves no rest, else of 2, with perhaps a last one
   of 1. */
#if defined(__AVX2__) && !defined(__AVX512F__)
enum { ROWS_OF_THREE = 0, ROWS_OF_TWO = 6, ROWS_OF_ONE = 8 };
#else
enum { ROWS_OF_THREE = 8, ROWS_OF_TWO = 12, ROWS_OF_ONE = 12 };
#endif

/* How many vectors the panel has that starts at vector `first` of `vectors`. */
INLINE dim panel_width(dim first, dim vectors) {
    if (ROWS_OF_THREE > 0 && vectors % 3 == 0) return 3;
    return least(2, vectors - first);
}

/* The index of element (row, column) in a packed matrix of `depth` rows. */
INLINE dim packed_place(dim row, dim column, dim depth, dim vectors) {
    dim width = ROWS_OF_THREE > 0 && vectors % 3 == 0 ? 3 : 2;
    dim first = column / LANES / width * width;
    return first * LANES * depth + row * panel_width(first, vectors) * LANES + column - first * LANES;
}

/* One block of c = a @ b. Row i of a is not contiguous: it is run_count runs of `depth` numbers each, and run r begins at
   a + i * a_row + runs[r]. So `a` can be an image that is read in place, with a run for each row of a kernel.
   b is one panel, with run_count * depth rows. */
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

/* One block of c = a' @ b, or of c += a' @ b if `more` is set. The sum runs over `lines` times `steps` positions: at each
   one, a has `rows` numbers side by side, and b has `vecs` vectors. */
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
/* Covers `rows` rows with blocks of `full` rows, then of 8 (if `full` is more), 4, 2 and 1. */
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

/* c (rows, width vectors) = a @ b for one panel; see product_block. */
static inline void product(dim rows, dim width, const float *a, dim a_row, const dim *runs, dim run_count, dim depth,
                           const float *b, float *c, dim c_row) {
    if (ROWS_OF_THREE > 0 && width == 3) IN_BLOCKS(product_block, ROWS_OF_THREE ? ROWS_OF_THREE : 4, 3, PRODUCT_ARGUMENTS)
    else if (width == 2) IN_BLOCKS(product_block, ROWS_OF_TWO, 2, PRODUCT_ARGUMENTS)
    else IN_BLOCKS(product_block, ROWS_OF_ONE, 1, PRODUCT_ARGUMENTS)
}

/* c (rows, width vectors) = a' @ b, or += if `more` is set, for one panel; see outer_block. */
static inline void outer(dim rows, dim width, const float *a, dim a_line, dim a_step, const float *b, dim b_line,
                         dim b_step, dim lines, dim steps, float *c, dim c_row, int more) {
    if (ROWS_OF_THREE > 0 && width == 3) IN_BLOCKS(outer_block, ROWS_OF_THREE ? ROWS_OF_THREE : 4, 3, OUTER_ARGUMENTS)
    else if (width == 2) IN_BLOCKS(outer_block, ROWS_OF_TWO, 2, OUTER_ARGUMENTS)
    else IN_BLOCKS(outer_block, ROWS_OF_ONE, 1, OUTER_ARGUMENTS)
}

#endif
