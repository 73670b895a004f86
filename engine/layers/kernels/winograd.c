/* Winograd's algorithm F(4x4, 3x3): 3x3 convolutions at stride 1 with padding 1, with a quarter of the multiplications.

   In one dimension, four outputs y of a filter w with three taps depend on six inputs d. The definition takes 12
   multiplications. Winograd's algorithm takes 6:

       y = At [ (G w) * (Bt d) ]            *: element by element; t: transposed

   In two dimensions it is applied along the columns and along the rows. A tile of 4x4 outputs Y depends on 6x6 inputs d,
   and takes 36 multiplications where the definition takes 144:

       Y = At [ (G w Gt) * (Bt d B) ] A

            | 4  0 -5  0  1  0 |        | 1/4    0     0  |
            | 0 -4 -4  1  1  0 |        |-1/6 -1/6  -1/6  |         | 1  1  1  1  1  0 |
       Bt = | 0  4 -4 -1  1  0 |    G = |-1/6  1/6  -1/6  |    At = | 0  1 -1  2 -2  0 |
            | 0 -2 -1  2  1  0 |        | 1/24  1/12  1/6 |         | 0  1  1  4  4  0 |
            | 0  2 -1 -2  1  0 |        | 1/24 -1/12  1/6 |         | 0  1 -1  8 -8  1 |
            | 0  4  0 -5  0  1 |        | 0      0     1  |

   Why it works: this correlation is the transpose of a product of two polynomials, of degrees 3 and 2. The product has
   degree 5, so its values at six points determine it, here at p = 0, 1, -1, 2, -2 and infinity. Row i of G is a multiple
   of (1, p, p²) for the i-th point, and column i of At is (1, p, p², p³). For infinity: (0, 0, 1), (0, 0, 0, 1).

   With channels, each of the 36 multiplications becomes a sum over the C input channels, for each of the K output
   channels. So there are 36 matrix products, one for each of the 36 elements of a transformed tile (the "points"):

       pack      U = G w Gt       36 matrices (C, K), once for each weight
       gather    V = Bt d B       36 matrices (tiles, C)
       product   M = V U          36 matrices (tiles, K)
       scatter   Y = At M A       then the epilogue; then Y is stored

   A task takes a few tiles through gather, product and scatter, so V and M stay in the L2 cache.

   - The adjoint is the same convolution, with the kernel rotated by 180 degrees and its channels exchanged.
   - The gradient of the weight has its own formula and tasks, in the second half of this file.
   - A NaN or an infinity in the input makes all 16 outputs of a tile NaN.

   Sources: Winograd, "Arithmetic complexity of computations", 1980; Lavin & Gray, "Fast algorithms for convolutional
   neural networks", CVPR 2016, section 4.3. */
#include "gemm.h"
#include "threads.h"

/* TILE: the side of a tile of outputs. SIDE: the side of the inputs that it depends on, and of a transformed tile. */
enum { POINTS = 36, TILE = 4, SIDE = 6 };
/* Unused numbers between two of the 36 matrices ("planes"), so that they do not compete for the same cache sets. */
enum { GAP = 16 };
/* The most and the fewest tiles of a task. All tiles of a task share one read of the weight. */
enum { MOST_TILES = 48, FEWEST_TILES = 16 };

/* Five transforms along one side, of a vector of channels at a time. Common subexpressions are computed once. */

/* Bt d. */
INLINE void transform_input(const vec d[6], vec out[6]) {
    vec a = d[4] - 4.f * d[2], b = d[3] - 4.f * d[1], c = d[4] - d[2], e = 2.f * (d[3] - d[1]);
    out[0] = 4.f * d[0] - 5.f * d[2] + d[4];
    out[1] = a + b, out[2] = a - b, out[3] = c + e, out[4] = c - e;
    out[5] = 4.f * d[1] - 5.f * d[3] + d[5];
}

/* At m. */
INLINE void transform_output(const vec m[6], vec out[4]) {
    vec a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], d = m[3] - m[4];
    out[0] = m[0] + a + c, out[1] = b + 2.f * d, out[2] = a + 4.f * c, out[3] = b + 8.f * d + m[5];
}

/* A g: the adjoint of transform_output. */
INLINE void transform_output_gradient(const vec g[4], vec out[6]) {
    vec even = g[0] + g[2], odd = g[1] + g[3], even4 = g[0] + 4.f * g[2], odd2 = 2.f * (g[1] + 4.f * g[3]);
    out[0] = g[0], out[1] = even + odd, out[2] = even - odd;
    out[3] = even4 + odd2, out[4] = even4 - odd2, out[5] = g[3];
}

/* G w. */
INLINE void transform_weight(const vec w[3], vec out[6]) {
    vec ends = w[0] + w[2], few = (1.f / 24) * w[0] + (1.f / 6) * w[2], middle = (1.f / 12) * w[1];
    out[0] = 0.25f * w[0], out[1] = (-1.f / 6) * (ends + w[1]), out[2] = (-1.f / 6) * (ends - w[1]);
    out[3] = few + middle, out[4] = few - middle, out[5] = w[2];
}

/* Gt u: the adjoint of transform_weight. */
INLINE void transform_weight_gradient(const vec u[6], vec out[3]) {
    vec a = u[1] + u[2], b = u[2] - u[1], c = u[3] + u[4], d = u[3] - u[4];
    out[0] = 0.25f * u[0] - (1.f / 6) * a + (1.f / 24) * c;
    out[1] = (1.f / 6) * b + (1.f / 12) * d;
    out[2] = (1.f / 6) * (c - a) + u[5];
}

/* Applies a transform to the columns of a square of `in` x `in` vectors, then to the rows of the result: out x out.
   `from` is an expression that reads vector (i, j). `put` is a statement that stores result (i, j), found in made[j]. */
#define TRANSFORM_BOTH_WAYS(transform, in, out, from, put)                \
    {                                                                     \
        vec between[out][in];                                             \
        _Pragma("GCC unroll 6") for (int j = 0; j < (in); j++) {          \
            vec column[in], made[out];                                    \
            _Pragma("GCC unroll 6") for (int i = 0; i < (in); i++) column[i] = from;  \
            transform(column, made);                                      \
            _Pragma("GCC unroll 6") for (int i = 0; i < (out); i++) between[i][j] = made[i]; \
        }                                                                 \
        _Pragma("GCC unroll 6") for (int i = 0; i < (out); i++) {         \
            vec made[out];                                                \
            transform(between[i], made);                                  \
            _Pragma("GCC unroll 6") for (int j = 0; j < (out); j++) put;  \
        }                                                                 \
    }

/* A convolution, or its adjoint, of a batch, tile by tile. */
typedef struct {
    dim n, height, width, down, across; /* Images; pixels of an image along its sides; tiles along its sides. */
    dim channels_in, channels_out, vectors_in, vectors_out;
    dim tiles, tiles_per_task;
    int half;
    const void *from, *zeros;
    void *to;
    const float *packed;
    const Epilogue *epilogue;
} Pass;

/* The position of a tile: its image, and its first pixel. */
typedef struct {
    dim picture, row, column;
} Place;

static Pass pass_of(const Conv *conv, int adjoint) {
    Pass pass = {.n = conv->n, .height = conv->height, .width = conv->width, .half = (int)conv->half};
    pass.down = (conv->height + TILE - 1) / TILE, pass.across = (conv->width + TILE - 1) / TILE;
    pass.tiles = conv->n * pass.down * pass.across;
    pass.channels_in = adjoint ? conv->out_channels : conv->in_channels;
    pass.channels_out = adjoint ? conv->in_channels : conv->out_channels;
    pass.vectors_in = (pass.channels_in + LANES - 1) / LANES;
    pass.vectors_out = (pass.channels_out + LANES - 1) / LANES;
    return pass;
}

INLINE Place place_of(const Pass *pass, dim tile) {
    dim row = tile / pass->across;
    return (Place){row / pass->down, row % pass->down * TILE, tile % pass->across * TILE};
}

/* The pixels of a tile, SIDE x SIDE or TILE x TILE. Rows outside the image point to zeros. Only columns from `first` up
   to `end` are inside it. */
typedef struct {
    const char *rows[SIDE];
    dim pixel; /* Bytes. */
    int first, end;
} Square;

INLINE Square square_of(const Pass *pass, const void *batch, Place place, dim channels, dim margin, int side,
                        const int half) {
    dim top = place.row - margin, left = place.column - margin;
    Square square = {.pixel = channels * (half ? 2 : 4)};
    const char *picture = at(batch, place.picture * pass->height * pass->width * channels, half);
    for (int i = 0; i < side; i++) {
        dim row = top + i;
        int inside = row >= 0 && row < pass->height;
        square.rows[i] = inside ? picture + (row * pass->width + left) * square.pixel : pass->zeros;
    }
    square.first = (int)most(0, -left), square.end = (int)least(side, pass->width - left);
    return square;
}

/* LANES channels of pixel (i, j), or `count` of them. all_there: no pixel and no channel is missing in this square. */
INLINE vec pixel_at(const Square *square, int i, int j, dim channel, dim count, const int all_there, const int half) {
    if (!all_there && (j < square->first || j >= square->end)) return (vec){0};
    const void *from = at(square->rows[i] + j * square->pixel, channel, half);
    return all_there ? load(from, half) : load_some(from, count, half);
}

/* Bt d B of one tile. Writes a row of each of the 36 planes, from `to` on; planes are `plane` numbers apart. */
INLINE void gather(const Pass *pass, Place place, float *to, dim plane, const int half) {
    dim channels = pass->channels_in, c = 0;
    Square square = square_of(pass, pass->from, place, channels, 1, SIDE, half);
    if (square.first == 0 && square.end == SIDE)
        for (; c + LANES <= channels; c += LANES)
            TRANSFORM_BOTH_WAYS(transform_input, 6, 6, pixel_at(&square, i, j, c, LANES, 1, half),
                                store_float(to + (i * SIDE + j) * plane + c, made[j]))
    for (; c < channels; c += LANES)
        TRANSFORM_BOTH_WAYS(transform_input, 6, 6, pixel_at(&square, i, j, c, channels - c, 0, half),
                            store_float(to + (i * SIDE + j) * plane + c, made[j]))
}

/* At m A of one tile, with the epilogue, stored. Reads a row of each of the 36 planes, from `from` on. */
INLINE void scatter(const Pass *pass, Place place, const float *from, dim plane, const int half) {
    dim rows = least(TILE, pass->height - place.row), columns = least(TILE, pass->width - place.column);
    dim channels = pass->channels_out;
    dim first = ((place.picture * pass->height + place.row) * pass->width + place.column) * channels;
    for (dim c = 0; c < channels; c += LANES, from += LANES) {
        vec results[TILE][TILE];
        TRANSFORM_BOTH_WAYS(transform_output, 6, 4, load_float(from + (i * SIDE + j) * plane), results[i][j] = made[j])
        for (dim i = 0; i < rows; i++)
            for (dim j = 0; j < columns; j++)
                finish(results[i][j], pass->epilogue, c, pass->to, first + (i * pass->width + j) * channels + c,
                       channels - c, half);
    }
}

/* A task: gather, product and scatter for some tiles. */
INLINE void run_pass(const Pass *pass, dim task, char *scratch, const int half) {
    dim first = task * pass->tiles_per_task, tiles = least(pass->tiles_per_task, pass->tiles - first);
    dim row_in = pass->vectors_in * LANES, row_out = pass->vectors_out * LANES;
    dim plane_in = pass->tiles_per_task * row_in + GAP, plane_out = pass->tiles_per_task * row_out + GAP;
    float *given = (float *)scratch, *made = given + POINTS * plane_in;
    dim none = 0;
    for (dim t = 0; t < tiles; t++) gather(pass, place_of(pass, first + t), given + t * row_in, plane_in, half);
    for (dim q = 0; q < POINTS; q++) {
        const float *weight = pass->packed + q * pass->channels_in * row_out;
        for (dim v = 0, width; v < pass->vectors_out; v += width) {
            width = panel_width(v, pass->vectors_out);
            product(tiles, width, given + q * plane_in, row_in, &none, 1, pass->channels_in,
                    weight + v * LANES * pass->channels_in, made + q * plane_out + v * LANES, row_out);
        }
    }
    for (dim t = 0; t < tiles; t++) scatter(pass, place_of(pass, first + t), made + t * row_out, plane_out, half);
}

static void pass_in_float(const void *pass, dim task, char *scratch) { run_pass(pass, task, scratch, 0); }
static void pass_in_half(const void *pass, dim task, char *scratch) { run_pass(pass, task, scratch, 1); }

int winograd_product(const Conv *conv, int adjoint, const void *from, const float *packed, const Epilogue *epilogue,
                     void *to) {
    Pass pass = pass_of(conv, adjoint);
    dim each = POINTS * 4 * LANES * (pass.vectors_in + pass.vectors_out);
    /* As many tiles as the L2 cache holds, but the same number for each thread; a multiple of 4, because products take
       blocks of rows. */
    dim tiles = most(FEWEST_TILES, least(MOST_TILES, second_level_cache() * 9 / 10 / each));
    dim turns = (pass.tiles + conv->threads * tiles - 1) / (conv->threads * tiles);
    pass.tiles_per_task = round_up((pass.tiles + conv->threads * turns - 1) / (conv->threads * turns), 4);
    if (conv->limit) pass.tiles_per_task = least(pass.tiles_per_task, conv->limit);
    size_t zero_bytes = (size_t)(SIDE * pass.channels_in * 4);
    char *zeros = scratch_take(zero_bytes);
    if (!zeros) return -1;
    memset(zeros, 0, zero_bytes);
    pass.from = from, pass.to = to, pass.packed = packed, pass.epilogue = epilogue, pass.zeros = zeros;
    size_t scratch = (size_t)(pass.tiles_per_task * each + 2 * POINTS * GAP * 4);
    int failed = run_tasks(pass.half ? pass_in_half : pass_in_float, &pass,
                           (pass.tiles + pass.tiles_per_task - 1) / pass.tiles_per_task, conv->threads, scratch);
    scratch_give(zeros);
    return failed;
}

/* The packed weight: 36 matrices (channels_in, channels_out) in panels (gemm.h), with columns padded by zeros. */
dim winograd_packed_size(const Conv *conv, int adjoint) {
    Pass pass = pass_of(conv, adjoint);
    return POINTS * pass.channels_in * pass.vectors_out * LANES;
}

typedef struct {
    Pass pass;
    const float *weight;
    dim row_stride, column_stride;
    float *packed;
    int adjoint;
} Packing;

/* G w Gt for LANES input channels and all output channels. For the adjoint, the kernel is rotated by 180 degrees, and
   its input and output channels are exchanged. */
static void pack(const void *argument, dim task, char *scratch) {
    const Packing *packing = argument;
    const Pass *pass = &packing->pass;
    (void)scratch;
    dim matrix = pass->channels_in * pass->vectors_out * LANES;
    dim in = task * LANES, ins = least(LANES, pass->channels_in - in);
    dim down = packing->adjoint ? packing->column_stride : packing->row_stride;
    dim across = packing->adjoint ? packing->row_stride : packing->column_stride;
    /* The distance between two taps: a tap has a row for each input channel of the convolution. */
    dim tap = (packing->adjoint ? pass->channels_out : pass->channels_in) * packing->row_stride;
    for (dim v = 0; v < pass->vectors_out; v++) {
        dim out = v * LANES, outs = least(LANES, pass->channels_out - out);
        float kernel[9][LANES][LANES] __attribute__((aligned(64)));
        for (dim k = 0; k < 9; k++)
            load_block(packing->weight + (packing->adjoint ? 8 - k : k) * tap + in * down + out * across, down, across,
                       ins, outs, kernel[k]);
        for (dim row = 0; row < ins; row++) {
            float *to = packing->packed + packed_place(in + row, out, pass->channels_in, pass->vectors_out);
            TRANSFORM_BOTH_WAYS(transform_weight, 3, 6, load_float(kernel[i * 3 + j][row]),
                                store_float(to + (i * SIDE + j) * matrix, made[j]))
        }
    }
}

int winograd_pack(const Conv *conv, int adjoint, const float *weight, dim row_stride, dim column_stride, float *packed) {
    Packing packing = {pass_of(conv, adjoint), weight, row_stride, column_stride, packed, adjoint};
    return run_tasks(pack, &packing, (packing.pass.channels_in + LANES - 1) / LANES, conv->threads, 0);
}

/* The gradient of the weight. It is the adjoint of the formula above with respect to w, for the gradient g of Y:

       dw = Gt [ sum over tiles of (A g At) * (Bt d B) ] G

   With channels, the sum is again 36 matrix products, (C, tiles) @ (tiles, K):

   1. Tiles are divided into shares, whose number does not depend on the number of threads.
   2. A task (sum_row) computes one row of the 6x6 products, for one share and one block of input channels. It takes a
      group of tiles at a time, transforms x and dy, and adds the products of the group. All of it stays in the L2 cache.
   3. transform_sums adds the shares, and applies Gt [ ] G.

   Every sum is made in the same order, so the result does not depend on the number of threads. */
typedef struct {
    Pass pass;
    const void *dy;
    float *sums, *gradient;
    int transposed;
    dim tiles, shares, blocks, block; /* tiles: of a group, at most. block: input channels of a block. */
    dim plane_in, plane_out, share_size;
} Gradient;

/* SHARE_TILES: the fewest tiles of a share. SUM_TILES: tiles of one product, which stay in the L1 cache. BLOCK_CHANNELS:
   the most input channels of a block. */
enum { SHARE_TILES = 256, MOST_SHARES = 16, SUM_TILES = 64, BLOCK_CHANNELS = 128 };

/* Transforms each column j of a square of `side` x `side` pixels, and keeps element `row` of the result in across[j]. */
#define ROW_OF_COLUMNS(transform, side, channel, count, all_there)                               \
    _Pragma("GCC unroll 6") for (int j = 0; j < (side); j++) {                                   \
        vec column[side];                                                                        \
        _Pragma("GCC unroll 6") for (int i = 0; i < (side); i++)                                 \
            column[i] = pixel_at(&square, i, j, channel, count, all_there, half);                \
        transform(column, made);                                                                 \
        across[j] = made[row];                                                                   \
    }

/* Row `row` of Bt d B of one tile, for `channels` channels from `channel` on. */
INLINE void gather_row(const Gradient *job, Place place, dim channel, dim channels, float *to, const int row,
                       const int half) {
    const Pass *pass = &job->pass;
    Square square = square_of(pass, pass->from, place, pass->channels_in, 1, SIDE, half);
    for (dim c = 0; c < channels; c += LANES) {
        vec across[SIDE], made[SIDE];
        if (square.first == 0 && square.end == SIDE && c + LANES <= channels)
            ROW_OF_COLUMNS(transform_input, 6, channel + c, LANES, 1)
        else ROW_OF_COLUMNS(transform_input, 6, channel + c, channels - c, 0)
        transform_input(across, made);
#pragma GCC unroll 6
        for (int j = 0; j < SIDE; j++) store_float(to + j * job->plane_in + c, made[j]);
    }
}

/* Row `row` of A g At of one tile, for all channels. */
INLINE void spread_row(const Gradient *job, Place place, float *to, const int row, const int half) {
    const Pass *pass = &job->pass;
    dim channels = pass->channels_out;
    Square square = square_of(pass, job->dy, place, channels, 0, TILE, half);
    for (dim c = 0; c < channels; c += LANES) {
        vec across[TILE], made[SIDE];
        if (square.end == TILE && c + LANES <= channels) ROW_OF_COLUMNS(transform_output_gradient, 4, c, LANES, 1)
        else ROW_OF_COLUMNS(transform_output_gradient, 4, c, channels - c, 0)
        transform_output_gradient(across, made);
#pragma GCC unroll 6
        for (int j = 0; j < SIDE; j++) store_float(to + j * job->plane_out + c, made[j]);
    }
}

/* Both for a group of tiles. */
INLINE void transform_row(const Gradient *job, dim first, dim tiles, dim channel, dim channels, float *given,
                          float *spread, const int row, const int half) {
    dim row_in = round_up(channels, LANES), row_out = job->pass.vectors_out * LANES;
    for (dim t = 0; t < tiles; t++) {
        Place place = place_of(&job->pass, first + t);
        gather_row(job, place, channel, channels, given + t * row_in, row, half);
        spread_row(job, place, spread + t * row_out, row, half);
    }
}

/* A task: row `row` of the sums, for one share and one block of channels. */
INLINE void sum_row(const Gradient *job, dim task, char *scratch, const int half) {
    const Pass *pass = &job->pass;
    dim block = task % job->blocks, row = task / job->blocks % SIDE, share = task / job->blocks / SIDE;
    dim channel = block * job->block, channels = least(job->block, pass->channels_in - channel);
    dim row_in = round_up(channels, LANES), row_out = pass->vectors_out * LANES, matrix = pass->channels_in * row_out;
    float *given = (float *)scratch, *spread = given + SIDE * job->plane_in;
    float *sums = job->sums + share * job->share_size + row * SIDE * matrix + channel * row_out;
    dim start = pass->tiles * share / job->shares, end = pass->tiles * (share + 1) / job->shares;
    for (dim first = start, tiles; first < end; first += tiles) {
        tiles = least(job->tiles, end - first);
#define ROW(row) case row: transform_row(job, first, tiles, channel, channels, given, spread, row, half); break;
        switch (row) { ROW(0) ROW(1) ROW(2) ROW(3) ROW(4) ROW(5) }
#undef ROW
        for (dim j = 0; j < SIDE; j++)
            for (dim t = 0; t < tiles; t += SUM_TILES)
                for (dim v = 0, width; v < pass->vectors_out; v += width) {
                    width = panel_width(v, pass->vectors_out);
                    outer(channels, width, given + j * job->plane_in + t * row_in, 0, row_in,
                          spread + j * job->plane_out + t * row_out + v * LANES, 0, row_out, 1,
                          least(SUM_TILES, tiles - t), sums + j * matrix + v * LANES, row_out, first > start || t > 0);
                }
    }
}

static void sum_row_in_float(const void *job, dim task, char *scratch) { sum_row(job, task, scratch, 0); }
static void sum_row_in_half(const void *job, dim task, char *scratch) { sum_row(job, task, scratch, 1); }

/* The sum of all shares, of a vector of one of the 36 sums. */
INLINE vec sum_of_shares(const Gradient *job, const float *from) {
    vec sum = load_float(from);
    for (dim share = 1; share < job->shares; share++) sum += load_float(from + share * job->share_size);
    return sum;
}

/* Stores LANES numbers of the gradient: for tap `tap` and input channel `row`, from output channel c on. */
INLINE void put_gradient(const Gradient *job, dim tap, dim row, dim c, vec made) {
    const Pass *pass = &job->pass;
    dim place = tap * pass->channels_in + row, count = pass->channels_out - c;
    if (!job->transposed) store_some(job->gradient + place * pass->channels_out + c, made, count, 0);
    else
        for (dim i = 0; i < least(LANES, count); i++) job->gradient[(c + i) * 9 * pass->channels_in + place] = made[i];
}

/* Gt u G for one input channel. */
static void transform_sums(const void *argument, dim row, char *scratch) {
    const Gradient *job = argument;
    const Pass *pass = &job->pass;
    (void)scratch;
    dim row_out = pass->vectors_out * LANES, matrix = pass->channels_in * row_out;
    for (dim c = 0; c < pass->channels_out; c += LANES) {
        const float *sums = job->sums + row * row_out + c;
        TRANSFORM_BOTH_WAYS(transform_weight_gradient, 6, 3, sum_of_shares(job, sums + (i * SIDE + j) * matrix),
                            put_gradient(job, i * 3 + j, row, c, made[j]))
    }
}

int winograd_weight_gradient(const Conv *conv, const void *x, const void *dy, float *gradient, int transposed) {
    Gradient job = {.pass = pass_of(conv, 0), .dy = dy, .gradient = gradient, .transposed = transposed};
    Pass *pass = &job.pass;
    dim row_out = pass->vectors_out * LANES;
    job.blocks = (pass->channels_in + BLOCK_CHANNELS - 1) / BLOCK_CHANNELS;
    job.block = round_up((pass->channels_in + job.blocks - 1) / job.blocks, LANES);
    job.shares = most(1, least(MOST_SHARES, pass->tiles / SHARE_TILES));
    job.share_size = POINTS * pass->channels_in * row_out;
    dim share_tiles = (pass->tiles + job.shares - 1) / job.shares;
    dim fitting = second_level_cache() * 3 / 4 / (SIDE * 4 * (job.block + row_out));
    dim groups = (share_tiles + most(FEWEST_TILES, fitting) - 1) / most(FEWEST_TILES, fitting);
    job.tiles = (share_tiles + groups - 1) / groups;
    if (conv->limit) job.tiles = least(job.tiles, conv->limit);
    job.plane_in = job.tiles * job.block + GAP, job.plane_out = job.tiles * row_out + GAP;
    dim zeros = round_up(SIDE * most(pass->channels_in, pass->channels_out), LANES);
    char *memory = scratch_take((size_t)(zeros + job.shares * job.share_size) * 4);
    if (!memory) return -1;
    memset(memory, 0, (size_t)zeros * 4);
    pass->from = x, pass->zeros = memory, job.sums = (float *)memory + zeros;
    int failed = run_tasks(pass->half ? sum_row_in_half : sum_row_in_float, &job, job.shares * SIDE * job.blocks,
                           conv->threads, (size_t)(SIDE * (job.plane_in + job.plane_out)) * 4);
    if (!failed) failed = run_tasks(transform_sums, &job, pass->channels_in, conv->threads, 0);
    scratch_give(memory);
    return failed;
}
