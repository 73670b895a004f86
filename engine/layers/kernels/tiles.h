/* Products of bfloat16 matrices in tiles of 16 rows of 64 bytes, the format of AMX:

       left tile     16 rows of 32 numbers
       right tile    32 rows of 16 numbers, stored as 16 rows of pairs: row 2i and row 2i + 1 are interleaved
       sums          16 rows of 16 float32

   - AMX, the matrix unit of Intel's server processors since 2023, multiplies two tiles and adds the sums in one
     instruction.
   - AVX-512 with bfloat16 (AMD since 2022) multiplies pairs of bfloat16. It computes the same sums row by row, at twice
     the rate of float32.

   Source: Intel, "Architecture Instruction Set Extensions Programming Reference", chapter 3 (Intel AMX). */
#ifndef TILES_H
#define TILES_H

#include "layout.h"

/* tiles_pack packs one column of tiles of a phase's weight, which has packed_tiles() tiles in all (layout.h).

   tiles_product computes the float32 sums (rows, 32 columns) for `rows` positions of one row, from tile column `tile` on.
   - It reads `a` up to 15 rows and 31 numbers too far. These numbers are multiplied by 0, so they must be finite.
   - It writes `sums` up to 15 rows too far.
   - In each thread, call tiles_begin before it and tiles_end after it. */
void tiles_begin(void);
void tiles_end(void);
void tiles_pack(const Layout *layout, const Phase *phase, dim tile, const float *weight, dim row_stride,
                dim column_stride, uint16_t *packed);
void tiles_product(dim rows, const Layout *layout, const Phase *phase, const uint16_t *a, dim a_row, const dim *runs,
                   const uint16_t *packed, dim tile, float *sums, dim sums_row);

int tiles_weight_gradient(const Conv *conv, const void *x, const void *dy, float *gradient, int transposed);

#endif
