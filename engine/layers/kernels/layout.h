/* Layout: describes a convolution and its adjoint as one operation, for conv.c and tiles.c.

   Positions form a grid (i, j). Position (i, j) of phase (py, px)

       reads the pixels    (step * i + dy, step * j + dx)   for the offsets (dy, dx) of the phase's taps
       writes the pixel    (spread * i + py, spread * j + px)

                        step      spread    phases
       convolution      stride    1         1, with all taps
       its adjoint      1         stride    stride², each with the taps that reach its pixels

   A run is a sequence of numbers that are contiguous in memory: the channels of one tap, or of several taps that read
   adjacent pixels of a row. The sum at a position is a product of its runs with the weight (gemm.h).
   Source: Dumoulin & Visin, "A guide to convolution arithmetic for deep learning", 2016, chapters 2 and 4. */
#ifndef LAYOUT_H
#define LAYOUT_H

#include <stdlib.h>

#include "vec.h"

/* HAS_TILES: bfloat16 is multiplied in tiles (tiles.h). HAS_AMX: by AMX. A tile of sums has TILE_ROWS x TILE_COLUMNS
   float32, each the sum of TILE_DEPTH products. */
#if defined(__AMX_BF16__)
enum { HAS_TILES = 1, HAS_AMX = 1 };
#elif defined(__AVX512BF16__)
enum { HAS_TILES = 1, HAS_AMX = 0 };
#else
enum { HAS_TILES = 0, HAS_AMX = 0 };
#endif
enum { TILE_ROWS = 16, TILE_COLUMNS = 16, TILE_DEPTH = 32, TILE_BYTES = 1024 };

/* The taps of a phase along one side. Tap t of `count` is tap first_tap + t * tap_step of the kernel, and reads at offset
   first_offset + t * offset_step. */
typedef struct {
    dim first_tap, tap_step, count, first_offset, offset_step;
} Axis;

typedef struct {
    dim row, column;   /* (py, px). */
    dim rows, columns; /* Of positions. */
    Axis down, across;
    dim runs, depth; /* Runs of a position; numbers of a run. */
    dim packed;      /* Where the part of this phase begins in the packed weight. */
} Phase;

typedef struct {
    dim n, height_in, width_in, channels_in, height_out, width_out, channels_out, vectors_out;
    dim step, spread, rows, columns; /* rows, columns: positions of the largest phase. */
    dim top, bottom, left, right;    /* The smallest and largest offsets of any tap. */
    dim phase_count, packed_size;
    int half, adjoint, tiles; /* tiles: multiply bfloat16 in tiles (tiles.h). */
    dim block;                /* 1, or the side of the block of pixels that a position writes; see make_layout. */
    dim taps_across;
    Phase *phases;
} Layout;

static inline dim floor_divided(dim a, dim b) { return (a >= 0 ? a : a - b + 1) / b; }

/* The taps along one side of phase `phase`. Offsets increase from tap to tap. */
static inline Axis axis_of(const Conv *conv, int adjoint, dim phase) {
    dim taps = conv->kernel_size;
    if (!adjoint) return (Axis){0, 1, taps, -conv->padding, conv->dilation};
    /* Pixel o = phase + spread * i of x gets pixel (o + padding - dilation * tap) / stride of y, if it is whole. */
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
    /* If the kernel is as large as the stride, without padding and dilation, kernel positions do not overlap: each position
       of the adjoint writes its own block of pixels. One product computes the block, as if its pixels were channels. */
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

/* Where each run of a phase begins, relative to the first pixel that any tap reads. `row`: numbers in a row of pixels. */
INLINE void find_runs(const Layout *layout, const Phase *phase, dim row, dim *runs) {
    dim across = phase->depth == layout->channels_in * phase->across.count ? 1 : phase->across.count;
    for (dim r = 0; r < phase->runs; r++) {
        dim down = phase->down.first_offset + r / across * phase->down.offset_step - layout->top;
        dim right = phase->across.first_offset + r % across * phase->across.offset_step - layout->left;
        runs[r] = down * row + right * layout->channels_in;
    }
}

/* Where row `row` of a phase's matrix, one tap and one input channel, begins in a weight with these strides. */
INLINE dim weight_row(const Layout *layout, const Phase *phase, dim row_stride, dim column_stride, dim row) {
    dim in = layout->channels_in, listed = row / in, c = row % in;
    dim down = phase->down.first_tap + listed / phase->across.count * phase->down.tap_step;
    dim across = phase->across.first_tap + listed % phase->across.count * phase->across.tap_step;
    dim tap = (down * layout->taps_across + across) * (layout->adjoint ? layout->channels_out : in) * row_stride;
    return tap + c * (layout->adjoint ? column_stride : row_stride);
}

#endif
