/* Products of bfloat16 in tiles (tiles.h): packing, products, and the gradient of the weight. The functions are empty if
   the processor has no AVX-512 with bfloat16. */
#include "tiles.h"

#include "gemm.h"
#include "threads.h"

#ifndef __AVX512BF16__

/* conv.c never calls these, but it is compiled with them. */
void tiles_begin(void) {}
void tiles_end(void) {}
void tiles_pack(const Layout *layout, const Phase *phase, dim tile, const float *weight, dim row_stride,
                dim column_stride, uint16_t *packed) {
    (void)layout, (void)phase, (void)tile, (void)weight, (void)row_stride, (void)column_stride, (void)packed;
}
void tiles_product(dim rows, const Layout *layout, const Phase *phase, const uint16_t *a, dim a_row, const dim *runs,
                   const uint16_t *packed, dim tile, float *sums, dim sums_row) {
    (void)rows, (void)layout, (void)phase, (void)a, (void)a_row, (void)runs, (void)packed, (void)tile, (void)sums;
    (void)sums_row;
}
int tiles_weight_gradient(const Conv *conv, const void *x, const void *dy, float *gradient, int transposed) {
    (void)conv, (void)x, (void)dy, (void)gradient, (void)transposed;
    return -1;
}
int tiles_allow(void) { return -1; }

#else

#include <immintrin.h>

#ifdef __AMX_BF16__

#include <sys/syscall.h>
#include <unistd.h>

/* On Linux a process must ask before it uses the tile registers. Source: Linux, Documentation/arch/x86/xstate.rst. */
enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
int tiles_allow(void) { return (int)syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA); }

void tiles_begin(void) {
    static const struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } __attribute__((packed, aligned(64)))
    shape = {.palette = 1, .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&shape);
}

void tiles_end(void) { _tile_release(); }

#else

int tiles_allow(void) { return -1; }
void tiles_begin(void) {}
void tiles_end(void) {}

#endif

/* 16 channels of two pixels from `channel` on, or `count` of them, as 16 pairs: the lower half of a pair is the channel
   of the pixel `low`, the upper half that of `high`. A pixel that is NULL is 0. */
INLINE __m512i pair_of(const uint16_t *low, const uint16_t *high, dim channel, dim count) {
    __mmask16 mask = (__mmask16)(count >= 16 ? 0xffff : (1 << count) - 1);
    __m512i first = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(low ? mask : 0, low + channel));
    __m512i second = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(high ? mask : 0, high + channel));
    return _mm512_or_si512(first, _mm512_slli_epi32(second, 16));
}

/* 16 pairs, rounded to bfloat16: the lower half of a pair is from `low`, the upper half from `high`. */
INLINE __m512i rounded_pairs(vec low, vec high) {
    uint16_t halves[2][LANES] __attribute__((aligned(64)));
    store_half(halves[0], low);
    store_half(halves[1], high);
    return pair_of(halves[0], halves[1], 0, LANES);
}

/* Packs a right tile, 32 rows by 16 columns, as 16 rows of pairs. Rows that are NULL, and columns from `columns` on,
   are 0. */
static void pack_tile(const float *const *rows, dim column_step, dim columns, uint16_t *to) {
    __m512i pairs[16];
    vec none = {0};
    int side_by_side = rows[TILE_DEPTH - 1] == rows[0] + TILE_DEPTH - 1;
    if (column_step == 1) {
        for (dim i = 0; i < 16; i++)
            pairs[i] = rounded_pairs(rows[2 * i] ? load_some(rows[2 * i], columns, 0) : none,
                                     rows[2 * i + 1] ? load_some(rows[2 * i + 1], columns, 0) : none);
    } else if (side_by_side) {
        /* Each column is 32 contiguous numbers. */
        __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
        __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
        for (dim j = 0; j < 16; j++) {
            const float *from = rows[0] + j * column_step;
            __m512 first = j < columns ? (__m512)load_float(from) : (__m512)none;
            __m512 second = j < columns ? (__m512)load_float(from + 16) : (__m512)none;
            pairs[j] = rounded_pairs((vec)_mm512_permutex2var_ps(first, even, second),
                                     (vec)_mm512_permutex2var_ps(first, odd, second));
        }
        turn(pairs);
    } else {
        for (dim i = 0; i < 16; i++) {
            vec both[2] = {none, none};
            for (dim k = 0; k < 2; k++)
                for (dim j = 0; rows[2 * i + k] && j < columns; j++) both[k][j] = rows[2 * i + k][j * column_step];
            pairs[i] = rounded_pairs(both[0], both[1]);
        }
    }
    for (dim i = 0; i < 16; i++) _mm512_storeu_si512(to + 32 * i, pairs[i]);
}

/* Order of the packed tiles: by pairs of tile columns; in each pair by depth; then the two tiles of the pair. */
void tiles_pack(const Layout *layout, const Phase *phase, dim tile, const float *weight, dim row_stride,
                dim column_stride, uint16_t *packed) {
    dim deep = depth_tiles(phase), column = tile * TILE_COLUMNS, step = layout->adjoint ? row_stride : column_stride;
    dim pair = tile / 2 * 2, wide = least(2, column_tiles(layout) - pair);
    packed += (pair * phase->runs * deep + tile - pair) * (TILE_BYTES / 2);
    for (dim run = 0; run < phase->runs; run++)
        for (dim d = 0; d < deep; d++, packed += wide * (TILE_BYTES / 2)) {
            const float *rows[TILE_DEPTH];
            for (dim k = 0; k < TILE_DEPTH; k++) {
                dim depth = d * TILE_DEPTH + k;
                dim row = weight_row(layout, phase, row_stride, column_stride, run * phase->depth + depth);
                rows[k] = depth < phase->depth ? weight + row + column * step : NULL;
            }
            pack_tile(rows, step, least(TILE_COLUMNS, layout->channels_out - column), packed);
        }
}

#ifdef __AMX_BF16__

/* 16 or 32 (high) rows by 16 or 32 (wide) columns. Tile registers: sums in 0 to 3, left tiles in 4 and 5, right tiles in
   6 and 7. */
INLINE void tiles_block(const int high, const int wide, const uint16_t *a, dim a_row, const dim *runs, dim run_count,
                        dim deep, const uint16_t *b, float *sums, dim sums_row) {
    size_t a_bytes = (size_t)a_row * 2, sums_bytes = (size_t)sums_row * 4;
    _tile_zero(0);
    if (wide) _tile_zero(1);
    if (high) _tile_zero(2);
    if (wide && high) _tile_zero(3);
    for (dim r = 0; r < run_count; r++)
        for (dim d = 0; d < deep; d++, b += (wide ? 2 : 1) * TILE_BYTES / 2) {
            const uint16_t *from = a + runs[r] + d * TILE_DEPTH;
            _tile_loadd(4, from, a_bytes);
            _tile_loadd(6, b, 64);
            _tile_dpbf16ps(0, 4, 6);
            if (wide) {
                _tile_loadd(7, b + TILE_BYTES / 2, 64);
                _tile_dpbf16ps(1, 4, 7);
            }
            if (high) {
                _tile_loadd(5, from + TILE_ROWS * a_row, a_bytes);
                _tile_dpbf16ps(2, 5, 6);
                if (wide) _tile_dpbf16ps(3, 5, 7);
            }
        }
    _tile_stored(0, sums, sums_bytes);
    if (wide) _tile_stored(1, sums + TILE_COLUMNS, sums_bytes);
    if (high) _tile_stored(2, sums + TILE_ROWS * sums_row, sums_bytes);
    if (wide && high) _tile_stored(3, sums + TILE_ROWS * sums_row + TILE_COLUMNS, sums_bytes);
}

void tiles_product(dim rows, const Layout *layout, const Phase *phase, const uint16_t *a, dim a_row, const dim *runs,
                   const uint16_t *packed, dim tile, float *sums, dim sums_row) {
    dim deep = depth_tiles(phase);
    const uint16_t *b = packed + tile * phase->runs * deep * (TILE_BYTES / 2);
    int wide = tile + 1 < column_tiles(layout);
    sums += tile * TILE_COLUMNS;
    for (dim row = 0; row < rows; row += 2 * TILE_ROWS) {
        const uint16_t *from = a + row * a_row;
        float *to = sums + row * sums_row;
        int high = rows - row > TILE_ROWS;
        if (high && wide) tiles_block(1, 1, from, a_row, runs, phase->runs, deep, b, to, sums_row);
        else if (high) tiles_block(1, 0, from, a_row, runs, phase->runs, deep, b, to, sums_row);
        else if (wide) tiles_block(0, 1, from, a_row, runs, phase->runs, deep, b, to, sums_row);
        else tiles_block(0, 0, from, a_row, runs, phase->runs, deep, b, to, sums_row);
    }
}

#else

/* sums (rows, 16 or 32 columns) += products of `pairs` pairs of numbers. Row i of the left side begins at a + i * a_row.
   On the right, row pairs of a tile are b_row numbers apart, and the second tile is b_next numbers after the first. */
INLINE void add_pairs(const int rows, const int tiles, __m512 sums[12][2], const uint16_t *a, dim a_row,
                      const uint16_t *b, dim b_row, dim b_next, dim pairs) {
    for (dim k = 0; k < pairs; k++, a += 2, b += b_row) {
        __m512bh right[2];
#pragma GCC unroll 2
        for (int j = 0; j < tiles; j++) right[j] = (__m512bh)_mm512_loadu_si512(b + j * b_next);
#pragma GCC unroll 12
        for (int i = 0; i < rows; i++) {
            int32_t pair;
            memcpy(&pair, a + i * a_row, 4);
            __m512bh left = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 2
            for (int j = 0; j < tiles; j++) sums[i][j] = _mm512_dpbf16_ps(sums[i][j], left, right[j]);
        }
    }
}

INLINE void store_sums(const int rows, const int tiles, __m512 sums[12][2], float *to, dim row) {
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < tiles; j++) _mm512_storeu_ps(to + i * row + j * TILE_COLUMNS, sums[i][j]);
}

INLINE void pairs_block(const int rows, const int tiles, const Phase *phase, const uint16_t *a, dim a_row,
                        const dim *runs, const uint16_t *b, float *to, dim to_row) {
    __m512 sums[12][2] = {0};
    for (dim r = 0; r < phase->runs; r++)
        for (dim done = 0; done < phase->depth; done += TILE_DEPTH, b += tiles * TILE_BYTES / 2)
            add_pairs(rows, tiles, sums, a + runs[r] + done, a_row, b, TILE_DEPTH, TILE_BYTES / 2,
                      (least(TILE_DEPTH, phase->depth - done) + 1) / 2);
    store_sums(rows, tiles, sums, to, to_row);
}

void tiles_product(dim rows, const Layout *layout, const Phase *phase, const uint16_t *a, dim a_row, const dim *runs,
                   const uint16_t *packed, dim tile, float *sums, dim sums_row) {
    const uint16_t *b = packed + tile * phase->runs * depth_tiles(phase) * (TILE_BYTES / 2);
    sums += tile * TILE_COLUMNS;
#define PAIRS_ARGUMENTS phase, a + i *a_row, a_row, runs, b, sums + i *sums_row, sums_row
    if (tile + 1 < column_tiles(layout)) IN_BLOCKS(pairs_block, 12, 2, PAIRS_ARGUMENTS)
    else IN_BLOCKS(pairs_block, 12, 1, PAIRS_ARGUMENTS)
#undef PAIRS_ARGUMENTS
}

#endif

/* The gradient of the weight: for each tap, dy' @ (x as this tap reads it), summed over positions. Left tiles are
   channels of dy by positions; right tiles are pairs of positions by channels of x.

   A unit is some rows of positions of one image. The memory of a unit is laid out for the tiles:

   - Positions are numbered through all rows of the unit. A row is as long as a row of x with its border, and dy is 0 in
     the border. So a tap reads x at a fixed distance from dy, counted in positions ("further").
   - x is stored twice as pairs, beginning at an even and at an odd position, for taps with an even and an odd distance.
   - With a stride, x is divided into stride² parts, each with every stride-th pixel. A tap reads one part.

   For a number of units at a time, with a barrier after each step:

   1. Tasks lay out units.
   2. A task adds the products of one tap, 32 channels of dy and 32 channels of x, over all these units.

   Every sum is made in the same order, so the result does not depend on the number of threads. */
typedef struct {
    Layout layout;
    const uint16_t *x, *dy;
    uint16_t *units;
    float *sums, *gradient;
    int transposed;
    dim rows_per_unit, units_per_picture;
    dim line, positions, pairs; /* Positions in a row of a unit; positions of a unit; pairs of x that a unit reads. */
    dim dy_line, x_size, unit_size, in, out; /* In bfloat16 numbers. in, out: channels, rounded up to whole tiles. */
    dim first, count;
} Gradient;

/* UNIT_POSITIONS: the most positions of a unit of several rows. STAGE_BYTES: of all units between two barriers. */
enum { UNIT_POSITIONS = 2048, STAGE_BYTES = 2 << 20, BLOCK = 2 * TILE_COLUMNS };

INLINE dim unit_rows(const Gradient *job, dim unit) {
    return least(job->rows_per_unit, job->layout.rows - unit % job->units_per_picture * job->rows_per_unit);
}

/* Pixels of an image and of the border around it. */
typedef struct {
    const uint16_t *first;            /* Row 0, column 0: it may be outside the image. */
    dim row, column;                  /* Distances between rows, and between columns, in numbers. */
    dim top, bottom, left, right;     /* The rows and columns that are inside the image. */
} Grid;

/* Lists the first `count` pixels of a grid, row by row; NULL for those in the border. */
INLINE void list_pixels(const Grid *grid, dim columns, dim count, const uint16_t **pixels) {
    for (dim i = 0, place = 0; place < count; i++)
        for (dim j = 0; j < columns && place < count; j++, place++) {
            int there = i >= grid->top && i < grid->bottom && j >= grid->left && j < grid->right;
            pixels[place] = there ? grid->first + i * grid->row + j * grid->column : NULL;
        }
}

/* How many of start, start + step, start + 2 step, ... are less than `end`. */
INLINE dim places_before(dim end, dim start, dim step) { return start >= end ? 0 : (end - start + step - 1) / step; }

/* The part of x that a tap reads, and its distance in positions. */
typedef struct {
    dim part, further;
} Reading;

INLINE Reading reading_of(const Gradient *job, dim tap) {
    const Layout *layout = &job->layout;
    const Axis *downward = &layout->phases->down, *rightward = &layout->phases->across;
    dim down = downward->first_offset + tap / rightward->count * downward->offset_step - layout->top;
    dim right = rightward->first_offset + tap % rightward->count * rightward->offset_step - layout->left;
    return (Reading){down % layout->step * layout->step + right % layout->step,
                     down / layout->step * job->line + right / layout->step};
}

INLINE int is_read(const Gradient *job, dim part, dim odd) {
    dim taps = job->layout.phases->down.count * job->layout.phases->across.count;
    for (dim tap = 0; tap < taps; tap++) {
        Reading reading = reading_of(job, tap);
        if (reading.part == part && reading.further % 2 == odd) return 1;
    }
    return 0;
}

INLINE void lay_out_x(const Gradient *job, const uint16_t *picture, dim row, const uint16_t **pixels, uint16_t *to) {
    const Layout *layout = &job->layout;
    dim in = layout->channels_in, step = layout->step, count = 2 * job->pairs + 1;
    dim blocks = (job->in + BLOCK - 1) / BLOCK;
    for (dim part = 0; part < step * step; part++) {
        dim h = step * row + layout->top + part / step, w = layout->left + part % step;
        Grid grid = {picture + (h * layout->width_in + w) * in, step * layout->width_in * in, step * in,
                     places_before(0, h, step), places_before(layout->height_in, h, step),
                     places_before(0, w, step), places_before(layout->width_in, w, step)};
        list_pixels(&grid, job->line, count, pixels);
        for (dim odd = 0; odd < 2; odd++, to += blocks * job->pairs * 2 * BLOCK) {
            if (!is_read(job, part, odd)) continue;
            uint16_t *pair = to;
            for (dim block = 0; block < job->in; block += BLOCK)
                for (dim i = odd; i < 2 * job->pairs + odd; i += 2, pair += 2 * BLOCK)
                    for (dim c = block; c < least(block + BLOCK, job->in); c += 16)
                        _mm512_storeu_si512(pair + 2 * (c - block), pair_of(pixels[i], pixels[i + 1], c, in - c));
        }
    }
}

INLINE void lay_out_dy(const Gradient *job, const uint16_t *dy, dim rows, const uint16_t **pixels, uint16_t *to) {
    dim out = job->layout.channels_out, across = job->layout.columns;
    Grid grid = {dy, across * out, out, 0, rows, 0, across};
    list_pixels(&grid, job->line, job->positions, pixels);
    for (dim place = 0; place < job->positions; place += 32)
        for (dim c = 0; c < job->out; c += 16) {
            __m512i pairs[16];
#pragma GCC unroll 16
            for (dim i = 0; i < 16; i++)
                pairs[i] = pair_of(pixels[place + 2 * i], pixels[place + 2 * i + 1], c, out - c);
            turn(pairs);
#pragma GCC unroll 16
            for (dim i = 0; i < 16; i++) _mm512_storeu_si512(to + (c + i) * job->dy_line + place, pairs[i]);
        }
}

static void lay_out_unit(const void *argument, dim task, char *scratch) {
    const Gradient *job = argument;
    const Layout *layout = &job->layout;
    dim unit = job->first + task, picture = unit / job->units_per_picture;
    dim row = unit % job->units_per_picture * job->rows_per_unit;
    uint16_t *to = job->units + task * job->unit_size;
    lay_out_x(job, job->x + picture * layout->height_in * layout->width_in * layout->channels_in, row,
              (const uint16_t **)scratch, to);
    lay_out_dy(job, job->dy + (picture * layout->rows + row) * layout->columns * layout->channels_out,
               unit_rows(job, unit), (const uint16_t **)scratch, to + job->x_size);
}

#ifdef __AMX_BF16__

/* The tile registers of the sums, (16 or 32, 16 or 32), += the products of the positions of a unit. */
INLINE void add_products(const int high, const int wide, const uint16_t *a, dim a_line, const uint16_t *b,
                         dim positions) {
    enum { B_LINE = 4 * BLOCK }; /* Bytes of a row of pairs. */
    for (dim j = 0; j < positions; j += TILE_DEPTH, a += TILE_DEPTH, b += TILE_DEPTH * BLOCK) {
        _tile_loadd(4, a, (size_t)a_line * 2);
        _tile_loadd(6, b, B_LINE);
        _tile_dpbf16ps(0, 4, 6);
        if (wide) {
            _tile_loadd(7, b + TILE_DEPTH, B_LINE);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (high) {
            _tile_loadd(5, a + TILE_ROWS * a_line, (size_t)a_line * 2);
            _tile_dpbf16ps(2, 5, 6);
            if (wide) _tile_dpbf16ps(3, 5, 7);
        }
    }
}

/* sums (16 or 32, 16 or 32) = or += the products of all units between two barriers: = for the first units. Rows of the
   sums are `row` numbers apart. `a` and `b` are in the first unit. */
static void sum_units(const Gradient *job, int high, int wide, const uint16_t *a, const uint16_t *b, float *sums,
                      dim row) {
    size_t row_bytes = (size_t)row * 4;
    float *under = sums + TILE_ROWS * row;
    tiles_begin();
    if (job->first == 0) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, sums, row_bytes);
        if (wide) _tile_loadd(1, sums + TILE_COLUMNS, row_bytes);
        if (high) _tile_loadd(2, under, row_bytes);
        if (wide && high) _tile_loadd(3, under + TILE_COLUMNS, row_bytes);
    }
    for (dim unit = 0; unit < job->count; unit++, a += job->unit_size, b += job->unit_size) {
        if (high && wide) add_products(1, 1, a, job->dy_line, b, job->positions);
        else if (high) add_products(1, 0, a, job->dy_line, b, job->positions);
        else if (wide) add_products(0, 1, a, job->dy_line, b, job->positions);
        else add_products(0, 0, a, job->dy_line, b, job->positions);
    }
    _tile_stored(0, sums, row_bytes);
    if (wide) _tile_stored(1, sums + TILE_COLUMNS, row_bytes);
    if (high) _tile_stored(2, under, row_bytes);
    if (wide && high) _tile_stored(3, under + TILE_COLUMNS, row_bytes);
    tiles_end();
}

#else

/* Positions that are summed at a time, so that they stay in the L1 cache. */
enum { SUM_POSITIONS = 256 };

INLINE void add_rows(const int rows, const int tiles, const Gradient *job, const uint16_t *a, const uint16_t *b,
                     dim lines, float *to, dim row) {
    __m512 sums[12][2];
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < tiles; j++) sums[i][j] = _mm512_loadu_ps(to + i * row + j * TILE_COLUMNS);
    for (dim line = 0; line < lines; line++, a += job->line, b += job->line * BLOCK)
        add_pairs(rows, tiles, sums, a, job->dy_line, b, 2 * BLOCK, TILE_DEPTH, (job->layout.columns + 1) / 2);
    store_sums(rows, tiles, sums, to, row);
}

/* sums (16 or 32, 16 or 32) = or += the products of all units between two barriers: = for the first units. Rows of the
   sums are `row` numbers apart. `a` and `b` are in the first unit. */
static void sum_units(const Gradient *job, int high, int wide, const uint16_t *a, const uint16_t *b, float *sums,
                      dim row) {
    dim rows = high ? 2 * TILE_ROWS : TILE_ROWS, most_lines = most(1, SUM_POSITIONS / job->line);
    for (dim i = 0; i < rows && job->first == 0; i++) memset(sums + i * row, 0, (wide ? 2 : 1) * TILE_COLUMNS * 4);
    for (dim unit = 0; unit < job->count; unit++, a += job->unit_size, b += job->unit_size)
        for (dim line = 0; line < job->rows_per_unit; line += most_lines) {
            const uint16_t *left = a + line * job->line, *right = b + line * job->line * BLOCK;
            dim lines = least(most_lines, job->rows_per_unit - line);
#define ROWS_ARGUMENTS job, left + i *job->dy_line, right, lines, sums + i *row, row
            if (wide) IN_BLOCKS(add_rows, 12, 2, ROWS_ARGUMENTS)
            else IN_BLOCKS(add_rows, 12, 1, ROWS_ARGUMENTS)
#undef ROWS_ARGUMENTS
        }
}

#endif

static void sum_tap(const void *argument, dim task, char *scratch) {
    const Gradient *job = argument;
    (void)scratch;
    dim blocks_in = (job->in + BLOCK - 1) / BLOCK, blocks_out = (job->out + BLOCK - 1) / BLOCK;
    dim tap = task / (blocks_in * blocks_out), k = task / blocks_in % blocks_out * BLOCK, c = task % blocks_in * BLOCK;
    Reading reading = reading_of(job, tap);
    dim blocks = (reading.part * 2 + reading.further % 2) * blocks_in + c / BLOCK;
    dim offset = (blocks * job->pairs + reading.further / 2) * 2 * BLOCK;
    const uint16_t *b = job->units + offset, *a = job->units + job->x_size + k * job->dy_line;
    sum_units(job, k + TILE_ROWS < job->out, c + TILE_COLUMNS < job->in, a, b,
              job->sums + (tap * job->out + k) * job->in + c, job->in);
}

/* A task: copies 16 input channels of one tap from the columns of the sums to the rows of the gradient. */
static void write_rows(const void *argument, dim task, char *scratch) {
    const Gradient *job = argument;
    dim in = job->layout.channels_in, out = job->layout.channels_out, blocks = job->in / 16;
    dim tap = task / blocks, c = task % blocks * 16, depth = job->layout.phases->runs * job->layout.phases->depth;
    (void)scratch;
    dim down = job->transposed ? depth : 1, across = job->transposed ? 1 : out;
    for (dim k = 0; k < out; k += 16) {
        float block[LANES][LANES] __attribute__((aligned(64)));
        load_block(job->sums + (tap * job->out + k) * job->in + c, job->in, 1, out - k, in - c, block);
        store_block(block, job->gradient + k * down + (tap * in + c) * across, down, across, least(16, out - k), in - c);
    }
}

int tiles_weight_gradient(const Conv *conv, const void *x, const void *dy, float *gradient, int transposed) {
    Gradient job = {.x = x, .dy = dy, .gradient = gradient, .transposed = transposed};
    if (make_layout(conv, 0, &job.layout)) return -1;
    const Layout *layout = &job.layout;
    const Phase *phase = layout->phases;
    dim taps = phase->down.count * phase->across.count;
    dim further_down = (layout->bottom - layout->top) / layout->step;
    dim further_right = (layout->right - layout->left) / layout->step;
    job.in = round_up(layout->channels_in, TILE_COLUMNS), job.out = round_up(layout->channels_out, TILE_ROWS);
    job.line = round_up(layout->columns + further_right, 2);
    dim rows = conv->limit ? 1 : most(1, UNIT_POSITIONS / job.line);
    job.units_per_picture = (layout->rows + rows - 1) / rows;
    job.rows_per_unit = (layout->rows + job.units_per_picture - 1) / job.units_per_picture;
    job.positions = round_up(job.rows_per_unit * job.line, TILE_DEPTH);
    /* Not a multiple of the size of a way of the L1 cache, so that rows do not compete for the same sets. */
    job.dy_line = job.positions + TILE_DEPTH;
    job.pairs = (job.positions + further_down * job.line + further_right) / 2 + 1;
    job.x_size = layout->step * layout->step * 2 * job.pairs * 2 * round_up(job.in, BLOCK);
    job.unit_size = job.x_size + job.out * job.dy_line;
    job.units_per_picture = (layout->rows + job.rows_per_unit - 1) / job.rows_per_unit;
    dim units = layout->n * job.units_per_picture;
    dim stage = round_up(most(1, STAGE_BYTES / (job.unit_size * 2)), conv->threads);
    stage = least(units, conv->limit ? conv->limit : stage);
    dim sums = taps * job.in * job.out, blocks_in = (job.in + BLOCK - 1) / BLOCK;
    char *memory = scratch_take((size_t)(stage * job.unit_size * 2 + sums * 4));
    if (!memory) return free(job.layout.phases), -1;
    job.sums = (float *)memory, job.units = (uint16_t *)(job.sums + sums);
    int failed = 0;
    for (job.first = 0; job.first < units && !failed; job.first += job.count) {
        job.count = least(stage, units - job.first);
        failed = run_tasks(lay_out_unit, &job, job.count, conv->threads, (size_t)(2 * job.pairs + 1) * sizeof(x));
        if (!failed)
            failed = run_tasks(sum_tap, &job, taps * ((job.out + BLOCK - 1) / BLOCK) * blocks_in, conv->threads, 0);
    }
    if (!failed) failed = run_tasks(write_rows, &job, taps * job.in / 16, conv->threads, 0);
    scratch_give(memory);
    free(job.layout.phases);
    return failed;
}

#endif
