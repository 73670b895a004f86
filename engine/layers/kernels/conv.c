/* Convolutions of any geometry, and their adjoints, as matrix products that read the image in place; and the exported
   functions, which choose between this, winograd.c and tiles.c.

   The left side of a product is a block of pixels, read at several offsets (layout.h). A task copies its pixels only

   - at the border of the image, to have zeros there;
   - in bfloat16, which is converted to float32, unless the processor multiplies it in tiles (tiles.h);
   - in a narrow image, whose taps are unfolded (im2col), so that a product has enough rows. */
#include "gemm.h"
#include "threads.h"
#include "tiles.h"

/* Limits of a task: bytes of its pixels, bytes of its results, positions in a row. */
enum { PATCH_BYTES = 192 << 10, RESULT_BYTES = 192 << 10, MOST_COLUMNS = 96 };
/* For the gradient of the weight: bytes of all units between two barriers, bytes of a unit, rows that a task sums. */
enum { STAGE_BYTES = 6 << 20, UNIT_BYTES = 256 << 10, SUM_ROWS = 48 };

/* The kind of a task: float32; bfloat16, converted to float32 for the sums; or bfloat16 in tiles. */
enum { FLOAT, HALF, TILES };

/* Copies (rows, columns, channels) of an image from pixel (top, left) on, in the type that is multiplied, with zeros
   outside the image. */
INLINE void copy_pixels(const void *picture, dim height, dim width, dim channels, dim top, dim left, dim rows,
                        dim columns, void *to, const int kind) {
    size_t size = kind == TILES ? 2 : 4;
    dim before = least(columns, most(0, -left)), after = least(columns, most(0, left + columns - width));
    for (dim i = 0; i < rows; i++, to = (char *)to + (size_t)(columns * channels) * size) {
        if (top + i < 0 || top + i >= height || before + after >= columns) {
            memset(to, 0, (size_t)(columns * channels) * size);
            continue;
        }
        dim count = (columns - before - after) * channels;
        const void *from = at(picture, ((top + i) * width + left + before) * channels, kind != FLOAT);
        char *inside = (char *)to + (size_t)(before * channels) * size;
        memset(to, 0, (size_t)(before * channels) * size);
        memset(inside + (size_t)count * size, 0, (size_t)(after * channels) * size);
        if (kind != HALF) {
            memcpy(inside, from, (size_t)count * size);
            continue;
        }
        float *floats = (float *)inside;
        dim whole = count / LANES * LANES;
        for (dim c = 0; c < whole; c += LANES) store_float(floats + c, load(at(from, c, 1), 1));
        if (whole < count) store_some(floats + whole, load_some(at(from, whole, 1), count - whole, 1), count - whole, 0);
    }
}

typedef struct {
    Layout layout;
    const void *from;
    const float *packed;
    Epilogue epilogue; /* The bias is repeated for each pixel in a row of a block. */
    void *to;
    dim rows_per_task, columns_per_task, tasks_down, tasks_across, patch_rows, patch_columns;
    dim runs_bytes, made_bytes, patch_bytes, unfolded_bytes;
} Product;

/* The pixels of a task, in place or copied to `patch`. Sets `line` to the distance between two rows, in numbers. */
INLINE const void *task_pixels(const Product *job, dim picture, dim row, dim column, void *patch, dim *line,
                               const int kind) {
    const Layout *layout = &job->layout;
    dim channels = layout->channels_in, size = layout->height_in * layout->width_in * channels;
    dim top = layout->step * row + layout->top, left = layout->step * column + layout->left;
    int inside = top >= 0 && left >= 0 && top + job->patch_rows <= layout->height_in &&
                 left + job->patch_columns <= layout->width_in;
    if (kind == TILES) {
        /* A tile reads further than its pixels: the batch must not end there. */
        dim last = (picture * layout->height_in + top + job->patch_rows - 1) * layout->width_in + left;
        dim further = (job->patch_columns + TILE_ROWS * layout->step) * channels + TILE_DEPTH;
        inside = inside && last * channels + further <= layout->n * size;
    }
    const void *given = at(job->from, picture * size, kind != FLOAT);
    if (inside && kind != HALF) {
        *line = layout->width_in * channels;
        return at(given, top * *line + left * channels, kind == TILES);
    }
    *line = job->patch_columns * channels;
    copy_pixels(given, layout->height_in, layout->width_in, channels, top, left, job->patch_rows, job->patch_columns,
                patch, kind);
    if (kind == TILES) memset((uint16_t *)patch + job->patch_rows * *line, 0, TILE_DEPTH * 2);
    return patch;
}

/* The length of an unfolded run: for tiles, padded by zeros to whole tiles. */
INLINE dim unfolded_run(const Phase *phase, int tiles) { return tiles ? depth_tiles(phase) * TILE_DEPTH : phase->depth; }

/* Copies the runs of (rows, columns) positions one after another, and sets `runs` to where each begins in a position. */
INLINE void unfold(const Layout *layout, const Phase *phase, const void *from, dim line, dim *runs, dim rows,
                   dim columns, char *to, const int kind) {
    dim run = unfolded_run(phase, kind == TILES), step = layout->step;
    size_t size = kind == TILES ? 2 : 4, there = (size_t)phase->depth * size, whole = (size_t)run * size;
    for (dim i = 0; i < rows; i++)
        for (dim j = 0; j < columns; j++)
            for (dim r = 0; r < phase->runs; r++, to += whole) {
                dim place = i * step * line + j * step * layout->channels_in + runs[r];
                memcpy(to, at(from, place, kind == TILES), there);
                memset(to + there, 0, whole - there);
            }
    for (dim r = 0; r < phase->runs; r++) runs[r] = r * run;
}

/* The sums (rows, columns, channels_out) of a phase. In `from`, rows of positions are `line` numbers apart, and positions
   `pixel` numbers. */
INLINE void sum_products(const Product *job, const Phase *phase, const void *from, dim line, dim pixel,
                         const dim *runs, dim rows, dim columns, float *made, const int kind) {
    const Layout *layout = &job->layout;
    dim row_out = layout->vectors_out * LANES;
    const float *packed = job->packed + phase->packed;
    if (kind == TILES) {
        for (dim tile = 0; tile * TILE_COLUMNS < layout->channels_out; tile += 2)
            for (dim i = 0; i < rows; i++)
                tiles_product(columns, layout, phase, (const uint16_t *)from + i * line, pixel, runs,
                              (const uint16_t *)packed, tile, made + i * columns * row_out, row_out);
        return;
    }
    for (dim v = 0, width; v < layout->vectors_out; v += width) {
        width = panel_width(v, layout->vectors_out);
        for (dim i = 0; i < rows; i++)
            product(columns, width, (const float *)from + i * line, pixel, runs, phase->runs, phase->depth,
                    packed + v * LANES * phase->runs * phase->depth, made + i * columns * row_out + v * LANES, row_out);
    }
}

/* Applies the epilogue to the sums of a position and stores them: one pixel, or the rows of a block of pixels. */
INLINE void write_position(const Product *job, const Phase *phase, dim picture, dim row, dim column, const float *sums,
                           const int kind) {
    const Layout *layout = &job->layout;
    dim block = layout->block, run = layout->channels_out / block;
    dim line = layout->width_out * run; /* Numbers in a row of pixels. */
    dim place = (picture * layout->height_out + row * layout->spread + phase->row) * block * line +
                (column * layout->spread + phase->column) * run;
    for (dim i = 0; i < block; i++, place += line, sums += run)
        for (dim c = 0; c < run; c += LANES)
            finish(load_float(sums + c), &job->epilogue, c, job->to, place + c, run - c, kind != FLOAT);
}

/* A task: some rows and columns of positions of one image, in all phases. */
INLINE void product_task(const Product *job, dim task, char *scratch, const int kind) {
    const Layout *layout = &job->layout;
    dim row_out = layout->vectors_out * LANES, line;
    dim picture = task / (job->tasks_down * job->tasks_across);
    dim row = task / job->tasks_across % job->tasks_down * job->rows_per_task;
    dim column = task % job->tasks_across * job->columns_per_task;
    dim *runs = (dim *)scratch;
    float *made = (float *)(scratch + job->runs_bytes);
    const void *from = task_pixels(job, picture, row, column, scratch + job->runs_bytes + job->made_bytes, &line, kind);
    for (dim p = 0; p < layout->phase_count; p++) {
        const Phase *phase = &layout->phases[p];
        dim rows = least(job->rows_per_task, phase->rows - row);
        dim columns = least(job->columns_per_task, phase->columns - column);
        if (rows <= 0 || columns <= 0) continue;
        find_runs(layout, phase, line, runs);
        if (job->unfolded_bytes) {
            char *unfolded = scratch + job->runs_bytes + job->made_bytes + job->patch_bytes;
            unfold(layout, phase, from, line, runs, rows, columns, unfolded, kind);
            sum_products(job, phase, unfolded, 0, phase->runs * unfolded_run(phase, kind == TILES), runs, 1,
                         rows * columns, made, kind);
        } else {
            sum_products(job, phase, from, layout->step * line, layout->step * layout->channels_in, runs, rows, columns,
                         made, kind);
        }
        for (dim i = 0; i < rows; i++)
            for (dim j = 0; j < columns; j++)
                write_position(job, phase, picture, row + i, column + j, made + (i * columns + j) * row_out, kind);
    }
}

static void product_in_float(const void *job, dim task, char *scratch) { product_task(job, task, scratch, FLOAT); }
static void product_in_half(const void *job, dim task, char *scratch) { product_task(job, task, scratch, HALF); }
static void product_in_tiles(const void *job, dim task, char *scratch) {
    tiles_begin();
    product_task(job, task, scratch, TILES);
    tiles_end();
}

/* Rows of fewer positions than this do not fill a block of a product. So their taps are unfolded, and a product takes
   many rows. */
enum { NARROW = 12, UNFOLDED_BYTES = 768 << 10 };

/* Bytes of the unfolded runs of a position, in the largest phase. */
static dim unfolded_position(const Layout *layout) {
    dim bytes = 0;
    for (dim p = 0; p < layout->phase_count; p++) {
        const Phase *phase = &layout->phases[p];
        bytes = most(bytes, phase->runs * unfolded_run(phase, layout->tiles) * (layout->tiles ? 2 : 4));
    }
    return bytes;
}

/* Chooses the positions of a task, whole rows if they fit, and the size of its scratch memory. */
static void cut_into_tasks(Product *job, dim limit) {
    const Layout *layout = &job->layout;
    dim parts = (layout->columns + MOST_COLUMNS - 1) / MOST_COLUMNS;
    dim columns = (layout->columns + parts - 1) / parts;
    if (limit) columns = least(columns, limit);
    dim rows = most(1, RESULT_BYTES / (columns * layout->vectors_out * LANES * 4));
    rows = least(layout->rows, limit ? least(rows, limit) : rows);
    dim unfolded = columns < NARROW && rows > 1 ? unfolded_position(layout) : 0;
    if (unfolded) rows = most(1, least(rows, UNFOLDED_BYTES / (unfolded * columns)));
    for (;; rows = most(1, rows / 2)) {
        job->patch_rows = layout->step * (rows - 1) + layout->bottom - layout->top + 1;
        job->patch_columns = layout->step * (columns - 1) + layout->right - layout->left + 1;
        if (rows == 1 || job->patch_rows * job->patch_columns * layout->channels_in * 4 <= PATCH_BYTES) break;
    }
    job->rows_per_task = rows, job->columns_per_task = columns;
    job->tasks_down = (layout->rows + rows - 1) / rows, job->tasks_across = (layout->columns + columns - 1) / columns;
    /* Tiles are always read and written as a whole. */
    if (unfolded) job->unfolded_bytes = unfolded * (rows * columns + TILE_ROWS);
    dim beyond = layout->tiles ? TILE_ROWS * layout->step * layout->channels_in + TILE_DEPTH : 0;
    dim row_out = layout->vectors_out * LANES;
    job->made_bytes = ((rows * columns + (layout->tiles ? TILE_ROWS : 0)) * row_out + LANES) * 4;
    dim numbers = job->patch_rows * job->patch_columns * layout->channels_in + beyond;
    job->patch_bytes = round_up(numbers * (layout->tiles ? 2 : 4), 64);
    for (dim p = 0; p < layout->phase_count; p++)
        job->runs_bytes = most(job->runs_bytes, round_up(layout->phases[p].runs * (dim)sizeof(dim), 64));
}

static int direct_product(const Conv *conv, int adjoint, const void *from, const float *packed,
                          const Epilogue *epilogue, void *to) {
    Product job = {.from = from, .packed = packed, .epilogue = *epilogue, .to = to};
    if (make_layout(conv, adjoint, &job.layout)) return -1;
    cut_into_tasks(&job, conv->limit);
    const Layout *layout = &job.layout;
    dim block = layout->block, channels = layout->channels_out / (block * block);
    float *bias = malloc((size_t)(block * channels) * 4);
    if (!bias) return free(job.layout.phases), -1;
    if (epilogue->bias) {
        for (dim i = 0; i < block; i++) memcpy(bias + i * channels, epilogue->bias, (size_t)channels * 4);
        job.epilogue.bias = bias;
    }
    Task *task = layout->tiles ? product_in_tiles : layout->half ? product_in_half : product_in_float;
    int failed = run_tasks(task, &job, layout->n * job.tasks_down * job.tasks_across, conv->threads,
                           (size_t)(job.runs_bytes + job.made_bytes + job.patch_bytes + job.unfolded_bytes));
    free(bias);
    free(job.layout.phases);
    return failed;
}

static dim direct_packed_size(const Conv *conv, int adjoint) {
    Layout layout;
    if (make_layout(conv, adjoint, &layout)) return -1;
    free(layout.phases);
    return layout.packed_size;
}

typedef struct {
    Layout layout;
    const float *weight;
    dim row_stride, column_stride;
    float *packed;
    dim parts;
} Packing;

enum { PACKED_ROWS = 64 };

/* A task: packs a part of the matrix of one phase, some rows or a column of tiles. */
static void pack_part(const void *argument, dim task, char *scratch) {
    const Packing *packing = argument;
    const Layout *layout = &packing->layout;
    const Phase *phase = &layout->phases[task / packing->parts];
    dim part = task % packing->parts, depth = phase->runs * phase->depth;
    float *to = packing->packed + phase->packed;
    (void)scratch;
    if (layout->tiles) {
        tiles_pack(layout, phase, part, packing->weight, packing->row_stride, packing->column_stride, (uint16_t *)to);
        return;
    }
    dim down = layout->adjoint ? packing->column_stride : packing->row_stride;
    dim across = layout->adjoint ? packing->row_stride : packing->column_stride;
    dim end = least(depth, (part + 1) * PACKED_ROWS);
    for (dim row = part * PACKED_ROWS, rows; row < end; row += rows) {
        /* Up to LANES rows of the same tap. */
        rows = least(least(LANES, end - row), layout->channels_in - row % layout->channels_in);
        const float *from =
            packing->weight + weight_row(layout, phase, packing->row_stride, packing->column_stride, row);
        for (dim column = 0; column < layout->channels_out; column += LANES) {
            float block[LANES][LANES] __attribute__((aligned(64)));
            load_block(from + column * across, down, across, rows, layout->channels_out - column, block);
            for (dim i = 0; i < rows; i++)
                store_float(to + packed_place(row + i, column, depth, layout->vectors_out), load_float(block[i]));
        }
    }
}

static int direct_pack(const Conv *conv, int adjoint, const float *weight, dim row_stride, dim column_stride,
                       float *packed) {
    Packing packing = {.weight = weight, .row_stride = row_stride, .column_stride = column_stride, .packed = packed};
    if (make_layout(conv, adjoint, &packing.layout)) return -1;
    const Layout *layout = &packing.layout;
    packing.parts = layout->tiles ? column_tiles(layout) : 1;
    for (dim p = 0; p < layout->phase_count && !layout->tiles; p++)
        packing.parts = most(packing.parts, layout->phases[p].runs * layout->phases[p].depth / PACKED_ROWS + 1);
    int failed = run_tasks(pack_part, &packing, layout->phase_count * packing.parts, conv->threads, 0);
    free(packing.layout.phases);
    return failed;
}

/* The gradient of the weight. A unit is some rows of positions of one image. For a number of units at a time, with a
   barrier after each step:

   1. Tasks copy units as float32: x with its border, and dy.
   2. Tasks add the products of all these units to some rows of the gradient each.

   Every sum is made in the same order, so the result does not depend on the number of threads. If no tap reads the
   border, and x and dy are float32, nothing is copied, and all units are summed at once. */
typedef struct {
    Layout layout;
    const void *x, *dy;
    float *units, *sums, *gradient;
    dim rows_per_unit, units_per_picture, patch_rows, patch_columns, x_size, unit_size;
    dim first, count, row_blocks, panels;
    int in_place, transposed;
} Gradient;

INLINE dim unit_rows(const Gradient *job, dim unit) {
    return least(job->rows_per_unit, job->layout.rows - unit % job->units_per_picture * job->rows_per_unit);
}

INLINE void copy_unit(const Gradient *job, dim task, const int half) {
    const Layout *layout = &job->layout;
    dim unit = job->first + task, picture = unit / job->units_per_picture;
    dim row = unit % job->units_per_picture * job->rows_per_unit, rows = unit_rows(job, unit);
    dim in = layout->channels_in, out = layout->channels_out, row_out = layout->vectors_out * LANES;
    float *to = job->units + task * job->unit_size;
    copy_pixels(at(job->x, picture * layout->height_in * layout->width_in * in, half), layout->height_in,
                layout->width_in, in, layout->step * row + layout->top, layout->left, job->patch_rows,
                job->patch_columns, to, half ? HALF : FLOAT);
    const void *dy = at(job->dy, (picture * layout->rows + row) * layout->columns * out, half);
    to += job->x_size;
    for (dim pixel = 0; pixel < rows * layout->columns; pixel++, to += row_out)
        for (dim c = 0; c < out; c += LANES)
            store_float(to + c, load_some(at(dy, pixel * out + c, half), out - c, half));
}

static void copy_unit_in_float(const void *job, dim task, char *scratch) {
    (void)scratch;
    copy_unit(job, task, 0);
}
static void copy_unit_in_half(const void *job, dim task, char *scratch) {
    (void)scratch;
    copy_unit(job, task, 1);
}

static void sum_rows(const void *argument, dim task, char *scratch) {
    const Gradient *job = argument;
    const Layout *layout = &job->layout;
    const Phase *phase = layout->phases;
    dim *runs = (dim *)scratch;
    dim row_out = layout->vectors_out * LANES;
    dim line = (job->in_place ? layout->width_in : job->patch_columns) * layout->channels_in;
    find_runs(layout, phase, line, runs);
    dim panel = task % job->panels, block = task / job->panels % job->row_blocks;
    dim run = task / job->panels / job->row_blocks;
    dim v = 0;
    for (dim p = 0; p < panel; p++) v += panel_width(v, layout->vectors_out);
    dim width = panel_width(v, layout->vectors_out);
    dim row = block * SUM_ROWS, rows = least(SUM_ROWS, phase->depth - row);
    float *sums = job->sums + (run * phase->depth + row) * row_out + v * LANES;
    if (job->first == 0)
        for (dim i = 0; i < rows; i++) memset(sums + i * row_out, 0, (size_t)(width * LANES) * 4);
    for (dim unit = 0; unit < job->count; unit++) {
        const float *x = job->units + unit * job->unit_size, *dy = x + job->x_size;
        if (job->in_place) {
            dim picture = unit / job->units_per_picture, first = unit % job->units_per_picture * job->rows_per_unit;
            x = (const float *)job->x + (picture * layout->height_in + layout->step * first + layout->top) * line +
                layout->left * layout->channels_in;
            dy = (const float *)job->dy + (picture * layout->rows + first) * layout->columns * row_out;
        }
        outer(rows, width, x + runs[run] + row, layout->step * line, layout->step * layout->channels_in,
              dy + v * LANES, layout->columns * row_out, row_out, unit_rows(job, job->first + unit), layout->columns,
              sums, row_out, 1);
    }
}

/* A task: copies LANES rows of the sums to the gradient. */
static void write_rows(const void *argument, dim task, char *scratch) {
    const Gradient *job = argument;
    const Layout *layout = &job->layout;
    dim depth = layout->phases->runs * layout->phases->depth, out = layout->channels_out;
    dim row = task * LANES, row_out = layout->vectors_out * LANES;
    dim down = job->transposed ? 1 : out, across = job->transposed ? depth : 1;
    (void)scratch;
    for (dim column = 0; column < out; column += LANES) {
        float block[LANES][LANES] __attribute__((aligned(64)));
        load_block(job->sums + row * row_out + column, row_out, 1, least(LANES, depth - row), out - column, block);
        store_block(block, job->gradient + row * down + column * across, down, across, least(LANES, depth - row),
                    out - column);
    }
}

static int direct_weight_gradient(const Conv *conv, const void *x, const void *dy, float *gradient, int transposed) {
    Gradient job = {.x = x, .dy = dy, .gradient = gradient, .transposed = transposed};
    if (make_layout(conv, 0, &job.layout)) return -1;
    const Layout *layout = &job.layout;
    const Phase *phase = layout->phases;
    dim row_out = layout->vectors_out * LANES, depth = phase->runs * phase->depth, out = layout->channels_out;
    job.patch_columns = layout->step * (layout->columns - 1) + layout->right - layout->left + 1;
    for (job.rows_per_unit = layout->rows;; job.rows_per_unit = (job.rows_per_unit + 1) / 2) {
        job.patch_rows = layout->step * (job.rows_per_unit - 1) + layout->bottom - layout->top + 1;
        job.x_size = round_up(job.patch_rows * job.patch_columns * layout->channels_in, 16);
        job.unit_size = job.x_size + job.rows_per_unit * layout->columns * row_out;
        if (job.rows_per_unit == 1 || (!conv->limit && job.unit_size * 4 <= UNIT_BYTES)) break;
    }
    job.units_per_picture = (layout->rows + job.rows_per_unit - 1) / job.rows_per_unit;
    job.in_place = !layout->half && out % LANES == 0 && layout->top >= 0 && layout->left >= 0 &&
                   layout->step * (layout->rows - 1) + layout->bottom < layout->height_in &&
                   layout->step * (layout->columns - 1) + layout->right < layout->width_in;
    if (job.in_place) job.unit_size = 0;
    dim units = layout->n * job.units_per_picture;
    dim stage = job.in_place ? units : least(units, most(1, STAGE_BYTES / (job.unit_size * 4)));
    if (conv->limit && !job.in_place) stage = least(stage, conv->limit);
    job.row_blocks = (phase->depth + SUM_ROWS - 1) / SUM_ROWS;
    for (dim v = 0; v < layout->vectors_out; v += panel_width(v, layout->vectors_out)) job.panels++;
    char *memory = scratch_take((size_t)(stage * job.unit_size + depth * row_out) * 4);
    if (!memory) return free(job.layout.phases), -1;
    job.units = (float *)memory, job.sums = job.units + stage * job.unit_size;
    int failed = 0;
    for (job.first = 0; job.first < units && !failed; job.first += job.count) {
        job.count = least(stage, units - job.first);
        if (!job.in_place)
            failed = run_tasks(layout->half ? copy_unit_in_half : copy_unit_in_float, &job, job.count, conv->threads, 0);
        if (!failed)
            failed = run_tasks(sum_rows, &job, phase->runs * job.row_blocks * job.panels, conv->threads,
                               (size_t)phase->runs * sizeof(dim));
    }
    if (!failed) failed = run_tasks(write_rows, &job, (depth + LANES - 1) / LANES, conv->threads, 0);
    scratch_give(memory);
    free(job.layout.phases);
    return failed;
}

unsigned kernels_sources(void) { return KERNELS_SOURCES; }

/* Whether Winograd's algorithm computes this. With few channels its transforms cost more than they save, and AMX
   multiplies faster than they run. */
static int by_winograd(const Conv *conv) {
    return !(HAS_AMX && conv->half) && conv->kernel_size == 3 && conv->stride == 1 && conv->padding == 1 &&
           conv->dilation == 1 && conv->in_channels >= 8 && conv->out_channels >= 8;
}

dim conv_packed_size(const Conv *conv, int adjoint) {
    return by_winograd(conv) ? winograd_packed_size(conv, adjoint) : direct_packed_size(conv, adjoint);
}

int conv_pack(const Conv *conv, int adjoint, const float *weight, dim row_stride, dim column_stride, float *packed) {
    return by_winograd(conv) ? winograd_pack(conv, adjoint, weight, row_stride, column_stride, packed)
                             : direct_pack(conv, adjoint, weight, row_stride, column_stride, packed);
}

int conv_product(const Conv *conv, int adjoint, const void *from, const float *packed, const Epilogue *epilogue,
                 void *to) {
    return by_winograd(conv) ? winograd_product(conv, adjoint, from, packed, epilogue, to)
                             : direct_product(conv, adjoint, from, packed, epilogue, to);
}

int conv_weight_gradient(const Conv *conv, const void *x, const void *dy, float *gradient, int transposed) {
    /* With few input channels most of a tile is empty. Only AMX is fast enough for that. */
    int in_tiles = conv->half && (HAS_AMX || (HAS_TILES && conv->in_channels >= TILE_COLUMNS));
    return by_winograd(conv) ? winograd_weight_gradient(conv, x, dy, gradient, transposed)
           : in_tiles        ? tiles_weight_gradient(conv, x, dy, gradient, transposed)
                             : direct_weight_gradient(conv, x, dy, gradient, transposed);
}
