/* Positions, phases and taps: what a convolution and its adjoint have in common.

   Both directions are one operation. Positions form a grid; position (i, j) reads the pixels at (step * i + dy,
   step * j + dx) for the taps (dy, dx) of a phase, and writes the pixel at (spread * i + py, spread * j + px):

     convolution:  step = stride, spread = 1, one phase, all taps;
     its adjoint:  step = 1, spread = stride, stride² phases (py, px), each with the taps that reach it.

   Taps that lie side by side in a row of pixels are one run of numbers in memory.
   Source: Dumoulin & Visin, "A guide to convolution arithmetic for deep learning", 2016, chapters 2 and 4. */
#ifndef LAYOUT_H
#define LAYOUT_H

#include <stdlib.h>

#include "vec.h"

/* Whether bfloat16 is multiplied in tiles (tiles.h), and by AMX; the rows and columns of a tile of sums; and how many
   numbers are multiplied for each sum. */
#if defined(__AMX_BF16__)
enum { HAS_TILES = 1, HAS_AMX = 1 };
#elif defined(__AVX512BF16__)
enum { HAS_TILES = 1, HAS_AMX = 0 };
#else
enum { HAS_TILES = 0, HAS_AMX = 0 };
#endif
enum { TILE_ROWS = 16, TILE_COLUMNS = 16, TILE_DEPTH = 32, TILE_BYTES = 1024 };

/* Along one side of one phase: the taps that reach it, and how far from a position's pixel each one reads. */
typedef struct {
    dim first_tap, tap_step, count, first_offset, offset_step;
} Axis;

typedef struct {
    dim row, column;   /* The first pixel that is written. */
    dim rows, columns; /* Positions. */
    Axis down, across;
    dim runs, depth; /* Runs of numbers, and how long each is. */
    dim packed;      /* Where its part of the packed weight begins. */
} Phase;

typedef struct {
    dim n, height_in, width_in, channels_in, height_out, width_out, channels_out, vectors_out;
    dim step, spread, rows, columns; /* Positions, of the phase that has most. */
    dim top, bottom, left, right;    /* The smallest and largest offset of any tap. */
    dim phase_count, packed_size;
    int half, adjoint, tiles; /* tiles: products are made of bfloat16 tiles (tiles.h). */
    dim block;                /* 1, or the side of the block of pixels that a position writes; see make_layout. */
    dim taps_across;
    Phase *phases;
} Layout;

static inline dim floor_divided(dim a, dim b) { return (a >= 0 ? a : a - b + 1) / b; }

/* For each of `spread` phases along one side. Offsets rise from tap to tap that is listed. */
static inline Axis axis_of(const Conv *conv, int adjoint, dim phase) {
    dim taps = conv->kernel_size;
    if (!adjoint) return (Axis){0, 1, taps, -conv->padding, conv->dilation};
    /* Output o = phase + spread * i gets input (o + padding - dilation * tap) / stride where that is whole. */
    dim period = 1;
    while (conv->dilation * period % conv->stride) period++;
    for (dim tap = least(taps, period) - 1; tap >= 0; tap--) {
        dim reach = phase + conv->padding - conv->dilation * tap;
        if (reach - floor_divided(reach, conv->stride) * conv->stride) continue;
        dim count = (taps - 1 - tap) / period + 1, last = tap + (count - 1) * period;
        return (Axis){last, -period, count,
                      floor_divided(phase + conv->padding - conv->dilation * last, conv->stride),
                      conv->dilation * period / conv->stride};
    }
    return (Axis){0, 0, 0, 0, 0};
}

INLINE dim column_tiles(const Layout *layout) { return (layout->channels_out + TILE_COLUMNS - 1) / TILE_COLUMNS; }
INLINE dim depth_tiles(const Phase *phase) { return (phase->depth + TILE_DEPTH - 1) / TILE_DEPTH; }
INLINE dim packed_tiles(const Layout *layout, const Phase *phase) {
    return phase->runs * depth_tiles(phase) * column_tiles(layout);
}

static inline int make_layout(const Conv *conv, int adjoint, Layout *layout) {
    dim stride = conv->stride, spread = adjoint ? stride : 1;
    *layout = (Layout){.n = conv->n, .half = (int)conv->half, .adjoint = adjoint};
    layout->tiles = HAS_TILES && conv->half;
    dim *sizes[2][3] = {{&layout->height_in, &layout->width_in, &layout->channels_in},
                        {&layout->height_out, &layout->width_out, &layout->channels_out}};
    dim given[3] = {conv->height, conv->width, conv->in_channels};
    dim made[3] = {conv->out_height, conv->out_width, conv->out_channels};
    for (int i = 0; i < 3; i++) *sizes[adjoint][i] = given[i], *sizes[!adjoint][i] = made[i];
    /* Where windows lie beside each other, each position of the adjoint writes a block of pixels of its own: one product
       makes all of them, as if they were channels. */
    int apart = conv->kernel_size == stride && conv->padding == 0 && conv->dilation == 1;
    layout->block = 1;
    if (adjoint && apart && conv->height == stride * conv->out_height && conv->width == stride * conv->out_width) {
        layout->block = stride, spread = 1;
        layout->height_out /= stride, layout->width_out /= stride, layout->channels_out *= stride * stride;
    }
    layout->vectors_out = (layout->channels_out + LANES - 1) / LANES;
    layout->step = adjoint ? 1 : stride, layout->spread = spread;
    layout->rows = (layout->height_out + spread - 1) / spread;
    layout->columns = (layout->width_out + spread - 1) / spread;
    layout->phase_count = spread * spread;
    layout->taps_across = conv->kernel_size;
    layout->phases = malloc((size_t)layout->phase_count * sizeof(Phase));
    if (!layout->phases) return -1;
    dim bounds[4] = {1 << 30, -(1 << 30), 1 << 30, -(1 << 30)};
    for (dim p = 0; p < layout->phase_count; p++) {
        Phase *phase = &layout->phases[p];
        *phase = (Phase){.row = p / spread, .column = p % spread};
        phase->rows = (layout->height_out - phase->row + spread - 1) / spread;
        phase->columns = (layout->width_out - phase->column + spread - 1) / spread;
        phase->down = axis_of(conv, adjoint, phase->row), phase->across = axis_of(conv, adjoint, phase->column);
        if (layout->block > 1) phase->down = phase->across = (Axis){.count = 1};
        dim side_by_side = phase->across.count == 1 || phase->across.offset_step == 1;
        phase->runs = phase->down.count * (side_by_side ? phase->across.count > 0 : phase->across.count);
        phase->depth = layout->channels_in * (side_by_side ? phase->across.count : 1);
        phase->packed = layout->packed_size;
        dim packed = phase->runs * phase->depth * layout->vectors_out * LANES;
        layout->packed_size += layout->tiles ? packed_tiles(layout, phase) * TILE_BYTES / 4 : packed;
        const Axis *axes[2] = {&phase->down, &phase->across};
        for (int a = 0; a < 2; a++) {
            if (!phase->runs) continue;
            bounds[2 * a] = least(bounds[2 * a], axes[a]->first_offset);
            bounds[2 * a + 1] =
                most(bounds[2 * a + 1], axes[a]->first_offset + (axes[a]->count - 1) * axes[a]->offset_step);
        }
    }
    if (bounds[0] > bounds[1]) bounds[0] = bounds[1] = bounds[2] = bounds[3] = 0;
    layout->top = bounds[0], layout->bottom = bounds[1], layout->left = bounds[2], layout->right = bounds[3];
    return 0;
}

/* Where each run of a phase begins, from the first number of the first pixel that any tap reads. */
INLINE void find_runs(const Layout *layout, const Phase *phase, dim row, dim *runs) {
    dim across = phase->depth == layout->channels_in * phase->across.count ? 1 : phase->across.count;
    for (dim r = 0; r < phase->runs; r++) {
        dim down = phase->down.first_offset + r / across * phase->down.offset_step - layout->top;
        dim right = phase->across.first_offset + r % across * phase->across.offset_step - layout->left;
        runs[r] = down * row + right * layout->channels_in;
    }
}

/* Where in a weight with these strides row `row` of a phase's matrix begins: a tap and a channel that comes in. */
INLINE dim weight_row(const Layout *layout, const Phase *phase, dim row_stride, dim column_stride, dim row) {
    dim in = layout->channels_in, listed = row / in, c = row % in;
    dim down = phase->down.first_tap + listed / phase->across.count * phase->down.tap_step;
    dim across = phase->across.first_tap + listed % phase->across.count * phase->across.tap_step;
    dim tap = (down * layout->taps_across + across) * (layout->adjoint ? layout->channels_out : in) * row_stride;
    return tap + c * (layout->adjoint ? column_stride : row_stride);
}

#endif
