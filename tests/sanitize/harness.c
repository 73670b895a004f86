/* Test harness: compares the kernels with plain loops, on geometries from the standard input (geometries.py).

   Memory ends exactly where the tensors end. A read or write outside them ends the program: a sanitizer detects it, or a
   guard page, which also stops instructions that no sanitizer sees. Prints how many cases passed. */
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "layout.h"
#include "threads.h"

typedef struct {
    Conv conv;
    int fused; /* Bits: bias, add, relu, mask. */
    int guard; /* A guard page: 0 none, 1 after the memory, 2 before it. */
} Case;

static Case current;
static dim line_number;

/* Whether weights are multiplied in bfloat16, as conv.c decides it. */
static int in_tiles(const Conv *c) {
    int winograds = c->kernel_size == 3 && c->stride == 1 && c->padding == 1 && c->dilation == 1 &&
                    c->in_channels >= 8 && c->out_channels >= 8;
    return HAS_TILES && c->half && (HAS_AMX || !winograds);
}

static void fail(const char *what, dim place, double made, double expected, double allowed) {
    const Conv *c = &current.conv;
    printf("line %td, %s, number %td: got %.9g, expected %.9g, error bound %.3g\n", line_number, what, place, made, expected,
           allowed);
    printf("%td %td %td %td %td %td %td  %td %td %td %td  %td %td %td %d %d\n", c->n, c->height, c->width,
           c->in_channels, c->out_height, c->out_width, c->out_channels, c->kernel_size, c->stride, c->padding,
           c->dilation, c->half, c->threads, c->limit, current.fused, current.guard);
    exit(1);
}

/* Memory: a block of pages with a guard page on both sides. */
typedef struct {
    char *pages, *start;
    size_t length;
} Block;

static Block pages_for(size_t size, int at_end, size_t remainder) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), inside = (size + 64 + page) / page * page;
    Block block = {.length = inside + 2 * page};
    block.pages = mmap(NULL, block.length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block.pages == MAP_FAILED || mprotect(block.pages + page, inside, PROT_READ | PROT_WRITE)) abort();
    memset(block.pages + page, 0xff, inside); /* NaN in both types. */
    block.start = block.pages + page;
    if (at_end) block.start += inside - size;
    if (remainder) block.start -= ((uintptr_t)block.start - remainder) % 64;
    return block;
}

static Block take(size_t size) {
    if (current.guard) return pages_for(size, current.guard == 1, 0);
    Block block = {.start = malloc(size)};
    if (!block.start) abort();
    memset(block.start, 0xff, size);
    return block;
}

static void give(Block block) {
    if (block.pages) munmap(block.pages, block.length);
    else free(block.start);
}

/* Replace malloc and free in threads.c, which rounds an address up to a multiple of 64. These addresses are one more than
   such a multiple, so only one byte after the requested ones is accessible. The data of `close_free` is before them. */
void *close_malloc(size_t size);
void close_free(void *memory);

enum { FRONT = 128 };

void *close_malloc(size_t size) {
    Block block;
    if (current.guard) {
        block = pages_for(FRONT + size, 1, 1);
    } else {
        void *memory;
        if (posix_memalign(&memory, 64, FRONT + 1 + size)) return NULL;
        block = (Block){.start = (char *)memory + 1, .length = 0};
    }
    memcpy(block.start, &block, sizeof block);
    return block.start + FRONT;
}

void close_free(void *memory) {
    if (!memory) return;
    Block block;
    memcpy(&block, (char *)memory - FRONT, sizeof block);
    if (block.length) munmap(block.pages, block.length);
    else free(block.start - 1);
}

/* Numbers. */
static uint32_t state;

static float drawn(void) {
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / (1 << 23) - 1;
}

static uint16_t to_half(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static float from_half(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static float number(const void *array, dim place, int half) {
    return half ? from_half(((const uint16_t *)array)[place]) : ((const float *)array)[place];
}

static void put(void *array, dim place, float value, int half) {
    if (half) ((uint16_t *)array)[place] = to_half(value);
    else ((float *)array)[place] = value;
}

static Block numbers(dim count, int half) {
    Block block = take((size_t)count * (half ? 2 : 4));
    for (dim i = 0; i < count; i++) put(block.start, i, drawn(), half);
    return block;
}

/* Error bounds. Winograd's algorithm has up to this many times the error of a plain sum. The tests in Python have its
   exact bound. */
enum { WINOGRAD = 200 };

static double allowed(double count, double magnitude, int rounds) {
    const Conv *c = &current.conv;
    int winograd = c->kernel_size == 3 && c->stride == 1 && c->padding == 1 && c->dilation == 1;
    double bound = ldexp(fmin(count, 8 * sqrt(count)) + 4, -24) * magnitude * (winograd ? WINOGRAD : 1) + 1e-30;
    return rounds ? bound + ldexp(magnitude + bound, -8) : bound;
}

/* The pixel that tap `tap` of output `out` reads, along one side; -1 beyond the border. */
static dim pixel_of(dim out, dim tap, dim side) {
    dim pixel = out * current.conv.stride - current.conv.padding + current.conv.dilation * tap;
    return pixel >= 0 && pixel < side ? pixel : -1;
}

/* For each number of x or y, the sum of its products and of their absolute values. */
static void plain_product(int adjoint, const void *from, const float *weight, double *sums, double *magnitudes) {
    const Conv *c = &current.conv;
    dim in = c->in_channels, out = c->out_channels, k = c->kernel_size;
    for (dim n = 0; n < c->n; n++)
        for (dim i = 0; i < c->out_height; i++)
            for (dim j = 0; j < c->out_width; j++)
                for (dim tap = 0; tap < k * k; tap++) {
                    dim h = pixel_of(i, tap / k, c->height), w = pixel_of(j, tap % k, c->width);
                    if (h < 0 || w < 0) continue;
                    dim x = ((n * c->height + h) * c->width + w) * in;
                    dim y = ((n * c->out_height + i) * c->out_width + j) * out;
                    for (dim a = 0; a < in; a++)
                        for (dim b = 0; b < out; b++) {
                            float each = weight[(tap * in + a) * out + b];
                            if (in_tiles(c)) each = from_half(to_half(each));
                            double product = (double)number(from, adjoint ? y + b : x + a, (int)c->half) * each;
                            sums[adjoint ? x + a : y + b] += product;
                            magnitudes[adjoint ? x + a : y + b] += fabs(product);
                        }
                }
}

static void check_product(int adjoint, const void *from, const float *weight) {
    Conv *c = &current.conv;
    int half = (int)c->half;
    dim channels = adjoint ? c->in_channels : c->out_channels;
    dim count = c->n * channels * (adjoint ? c->height * c->width : c->out_height * c->out_width);
    dim packed_count = conv_packed_size(c, adjoint);
    Block packed = take((size_t)packed_count * 4), to = take((size_t)count * (half ? 2 : 4));
    Block bias = numbers(channels, 0), add = numbers(count, half), mask = numbers(count, half);
    for (dim i = 0; i < count; i += 3) put(mask.start, i, 0, half);
    int has_bias = current.fused & 1, has_add = current.fused & 2, relu = current.fused & 4, has_mask = current.fused & 8;
    Epilogue epilogue = {has_bias ? (float *)bias.start : NULL, has_add ? add.start : NULL,
                         has_mask ? mask.start : NULL, relu ? 1 : 0};
    /* The weight by rows, or by columns. */
    dim rows = c->kernel_size * c->kernel_size * c->in_channels, columns = c->out_channels;
    Block turned = take((size_t)(rows * columns) * 4);
    for (dim i = 0; i < rows * columns; i++) ((float *)turned.start)[i % columns * rows + i / columns] = weight[i];
    int failed = current.fused & 1 ? conv_pack(c, adjoint, (float *)turned.start, 1, rows, (float *)packed.start)
                                   : conv_pack(c, adjoint, weight, columns, 1, (float *)packed.start);
    if (failed) abort();
    give(turned);
    if (conv_product(c, adjoint, from, (float *)packed.start, &epilogue, to.start)) abort();

    double *sums = calloc((size_t)count, sizeof(double)), *magnitudes = calloc((size_t)count, sizeof(double));
    if (!sums || !magnitudes) abort();
    plain_product(adjoint, from, weight, sums, magnitudes);
    dim terms = c->kernel_size * c->kernel_size * (adjoint ? c->out_channels : c->in_channels);
    for (dim i = 0; i < count; i++) {
        double expected = sums[i], magnitude = magnitudes[i];
        if (has_bias) expected += number(bias.start, i % channels, 0), magnitude += 1;
        if (has_add) expected += number(add.start, i, half), magnitude += 1;
        if (relu) expected = fmax(expected, 0);
        if (has_mask && !(number(mask.start, i, half) > 0)) expected = 0;
        double made = number(to.start, i, half), bound = allowed((double)terms, magnitude + 1, half);
        if (!(fabs(made - expected) <= bound)) fail(adjoint ? "adjoint" : "product", i, made, expected, bound);
    }
    free(sums), free(magnitudes);
    give(packed), give(to), give(bias), give(add), give(mask);
}

static void check_gradient(const void *x, const void *dy) {
    Conv *c = &current.conv;
    dim in = c->in_channels, out = c->out_channels, k = c->kernel_size, count = k * k * in * out;
    Block gradient = take((size_t)count * 4);
    int transposed = current.fused & 1;
    if (conv_weight_gradient(c, x, dy, (float *)gradient.start, transposed)) abort();
    for (dim place = 0; place < count; place++) {
        dim tap = place / (in * out), a = place / out % in, b = place % out;
        double sum = 0, magnitude = 0;
        for (dim n = 0; n < c->n; n++)
            for (dim i = 0; i < c->out_height; i++)
                for (dim j = 0; j < c->out_width; j++) {
                    dim h = pixel_of(i, tap / k, c->height), w = pixel_of(j, tap % k, c->width);
                    if (h < 0 || w < 0) continue;
                    double product = (double)number(x, ((n * c->height + h) * c->width + w) * in + a, (int)c->half) *
                                     number(dy, ((n * c->out_height + i) * c->out_width + j) * out + b, (int)c->half);
                    sum += product, magnitude += fabs(product);
                }
        double made = ((float *)gradient.start)[transposed ? b * (count / out) + place / out : place];
        double bound = allowed((double)(c->n * c->out_height * c->out_width), magnitude + 1, 0);
        if (!(fabs(made - sum) <= bound)) fail("gradient", place, made, sum, bound);
    }
    give(gradient);
}

/* Sums of the columns of dy. */
static void check_sums(const void *dy) {
    Conv *c = &current.conv;
    dim rows = c->n * c->out_height * c->out_width, columns = c->out_channels;
    Block sums = take((size_t)columns * 4);
    if (sum_columns(rows, columns, dy, (int)c->half, (float *)sums.start, c->threads)) abort();
    for (dim column = 0; column < columns; column++) {
        double sum = 0, magnitude = 0;
        for (dim row = 0; row < rows; row++) {
            double value = number(dy, row * columns + column, (int)c->half);
            sum += value, magnitude += fabs(value);
        }
        double made = ((float *)sums.start)[column], bound = allowed((double)rows, magnitude + 1, 0);
        if (!(fabs(made - sum) <= bound)) fail("sum", column, made, sum, bound);
    }
    give(sums);
}

/* Pixel shuffle in both directions, between the types of the case. */
static void check_rearrangement(void) {
    const Conv *c = &current.conv;
    dim block = c->stride, rows = c->n * c->height * block, columns = c->width * block, channels = c->in_channels;
    dim count = rows * columns * channels, deep = block * block * channels;
    int half_before = (int)c->half, half_after = current.fused & 1, with_add = current.fused & 2;
    Block from = numbers(count, half_before), add = numbers(count, half_after), to = take((size_t)count * (half_after ? 2 : 4));
    for (int deeper = 0; deeper < 2; deeper++) {
        if (rearrange_pixels(deeper, rows, columns, channels, block, from.start, half_before, with_add ? add.start : NULL,
                             to.start, half_after, c->threads))
            abort();
        for (dim wide = 0; wide < count; wide++) {
            dim row = wide / (columns * channels), column = wide / channels % columns, channel = wide % channels;
            dim pixel = row / block * (columns / block) + column / block;
            dim other = pixel * deep + (row % block * block + column % block) * channels + channel;
            dim read = deeper ? wide : other, written = deeper ? other : wide;
            float expected = number(from.start, read, half_before);
            if (with_add) expected += number(add.start, written, half_after);
            if (half_after) expected = from_half(to_half(expected));
            float made = number(to.start, written, half_after);
            if (made != expected) fail(deeper ? "to depth" : "to space", written, made, expected, 0);
        }
    }
    give(from), give(add), give(to);
}

/* Several threads that call at once get the same results as one alone. */
enum { CALLERS = 4, CALLS = 25, SIDE = 20, CHANNELS = 16 };

typedef struct {
    int number, failed;
    const float *x, *expected, *packed;
} Caller;

static Conv shared_conv(dim threads) {
    return (Conv){1, SIDE, SIDE, CHANNELS, SIDE, SIDE, CHANNELS, 3, 1, 1, 1, 0, threads, 2};
}

static void call_once(const Caller *caller, dim threads, float *to) {
    Conv conv = shared_conv(threads);
    Epilogue none = {0};
    if (conv_product(&conv, 0, caller->x, caller->packed, &none, to)) abort();
}

static void *call_often(void *argument) {
    Caller *caller = argument;
    float made[SIDE * SIDE * CHANNELS];
    for (int call = 0; call < CALLS; call++) {
        call_once(caller, 1 + (caller->number + call) % 4, made);
        caller->failed |= memcmp(made, caller->expected, sizeof made) != 0;
    }
    return NULL;
}

static void check_callers(void) {
    Conv conv = shared_conv(2);
    current.guard = 0;
    Block x = numbers(SIDE * SIDE * CHANNELS, 0), weight = numbers(9 * CHANNELS * CHANNELS, 0);
    Block packed = take((size_t)conv_packed_size(&conv, 0) * 4), expected = take(SIDE * SIDE * CHANNELS * 4);
    if (conv_pack(&conv, 0, (float *)weight.start, CHANNELS, 1, (float *)packed.start)) abort();
    Caller callers[CALLERS];
    pthread_t threads[CALLERS];
    for (int i = 0; i < CALLERS; i++)
        callers[i] = (Caller){i, 0, (float *)x.start, (float *)expected.start, (float *)packed.start};
    call_once(&callers[0], 1, (float *)expected.start);
    for (int i = 0; i < CALLERS; i++)
        if (pthread_create(&threads[i], NULL, call_often, &callers[i])) abort();
    for (int i = 0; i < CALLERS; i++) {
        pthread_join(threads[i], NULL);
        if (callers[i].failed) puts("a thread got another result than one alone"), exit(1);
    }
    give(x), give(weight), give(packed), give(expected);
}

static int read_case(void) {
    Conv *c = &current.conv;
    dim *fields[] = {&c->n,           &c->height, &c->width,   &c->in_channels, &c->out_height, &c->out_width,
                     &c->out_channels, &c->kernel_size, &c->stride, &c->padding, &c->dilation, &c->half,
                     &c->threads,     &c->limit};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (scanf("%td", fields[i]) != 1) return 0;
    return scanf("%d %d", &current.fused, &current.guard) == 2;
}

/* Takes more blocks of scratch memory at once than a full pool and its callers do. */
static void check_scratch(void) {
    enum { BLOCKS = 300 };
    char *blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        if (!(blocks[i] = scratch_take(100))) abort();
        memset(blocks[i], i % 256, 100);
    }
    for (int i = 0; i < BLOCKS; i++) {
        if (blocks[i][0] != (char)(i % 256) || blocks[i][99] != (char)(i % 256)) abort();
        scratch_give(blocks[i]);
    }
}

int main(void) {
    if (HAS_AMX && tiles_allow()) {
        puts("the system does not allow the use of AMX");
        return 77;
    }
    for (; read_case(); line_number++) {
        const Conv *c = &current.conv;
        state = (uint32_t)line_number;
        Block x = numbers(c->n * c->height * c->width * c->in_channels, (int)c->half);
        Block y = numbers(c->n * c->out_height * c->out_width * c->out_channels, (int)c->half);
        Block weight = numbers(c->kernel_size * c->kernel_size * c->in_channels * c->out_channels, 0);
        check_product(0, x.start, (float *)weight.start);
        check_product(1, y.start, (float *)weight.start);
        check_gradient(x.start, y.start);
        check_rearrangement();
        check_sums(y.start);
        give(x), give(y), give(weight);
    }
    check_callers();
    check_scratch();
    printf("%td cases\n", line_number);
    return 0;
}
