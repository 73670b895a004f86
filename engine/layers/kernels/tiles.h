/* Products of bfloat16 matrices in tiles, 16 rows of 64 bytes. A left tile holds 16 rows of 32 numbers; a right tile 32
   rows of 16, in pairs: row 2i and row 2i + 1 side by side.

   AMX, the matrix unit of Intel's server processors since 2023, adds the products of two tiles to 16 x 16 float32 sums
   by one instruction. Where AVX-512 multiplies pairs of bfloat16 (AMD since 2022), the same sums are made row by row,
   at twice the rate of float32.
   Source: Intel, "Architecture Instruction Set Extensions Programming Reference", chapter 3 (Intel AMX). */
#ifndef TILES_H
#define TILES_H

#include "layout.h"

/* The packing of a column of tiles of a phase's weight, which is packed_tiles() long; and the sums (rows, 32 columns)
   in float32 for `rows` positions of one row of a picture, from column tile `tile` on. `a` is read up to 15 rows and 31
   numbers further than it has to be: what lies there is multiplied by 0, so it must be finite. `sums` is written up to
   15 rows further. Between tiles_begin and tiles_end, in each thread. */
void tiles_begin(void);
void tiles_end(void);
void tiles_pack(const Layout *layout, const Phase *phase, dim tile, const float *weight, dim row_stride,
                dim column_stride, uint16_t *packed);
void tiles_product(dim rows, const Layout *layout, const Phase *phase, const uint16_t *a, dim a_row, const dim *runs,
                   const uint16_t *packed, dim tile, float *sums, dim sums_row);

int tiles_weight_gradient(const Conv *conv, const void *x, const void *dy, float *gradient, int transposed);

#endif
