/* Pixel shuffle (pixels to channels and back), fused with the change of type and the addition next to it in a network;
   and sums of columns, the gradient of a bias. */
#include "threads.h"
#include "vec.h"

typedef struct {
    dim rows, columns, channels, block; /* rows, columns, channels: of the side with more pixels, for the whole batch. */
    int from_half, to_half;
    const void *from, *add;
    void *to;
} Rearrangement;

INLINE float read_one(const void *from, dim place, int half) {
    if (!half) return ((const float *)from)[place];
    uint32_t bits = (uint32_t)((const uint16_t *)from)[place] << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

INLINE void write_one(void *to, dim place, float value, int half) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (half) ((uint16_t *)to)[place] = value == value ? (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) : 0x7fc0;
    else ((float *)to)[place] = value;
}

/* Moves row `row` of the side with more pixels. Runs of block * channels numbers are contiguous on both sides. */
INLINE void move_row(const Rearrangement *job, dim row, const dim run, const int to_depth, const int from_half,
                     const int to_half, const int adds) {
    dim pixel = job->block * run, across = job->columns / job->block;
    dim wide = row * job->columns * job->channels;
    dim deep = row / job->block * across * pixel + row % job->block * run;
    for (dim p = 0; p < across; p++, wide += run, deep += pixel)
        for (dim i = 0; i < run; i++) {
            dim from = (to_depth ? wide : deep) + i, to = (to_depth ? deep : wide) + i;
            float value = read_one(job->from, from, from_half);
            if (adds) value += read_one(job->add, to, to_half);
            write_one(job->to, to, value, to_half);
        }
}

/* Blocks of 2 x 2 pixels with three channels, which our networks use, have a constant run length: twice as fast. */
INLINE void move_run(const Rearrangement *job, dim row, const int to_depth, const int from_half, const int to_half) {
    dim run = job->block * job->channels;
    int adds = job->add != NULL;
    if (run != 6) move_row(job, row, run, to_depth, from_half, to_half, adds);
    else if (adds) move_row(job, row, 6, to_depth, from_half, to_half, 1);
    else move_row(job, row, 6, to_depth, from_half, to_half, 0);
}

INLINE void move_by_type(const Rearrangement *job, dim row, const int to_depth) {
    if (job->from_half && job->to_half) move_run(job, row, to_depth, 1, 1);
    else if (job->from_half) move_run(job, row, to_depth, 1, 0);
    else if (job->to_half) move_run(job, row, to_depth, 0, 1);
    else move_run(job, row, to_depth, 0, 0);
}

/* Rows of a task. */
enum { TASK_ROWS = 16 };

static void to_depth(const void *argument, dim task, char *scratch) {
    const Rearrangement *job = argument;
    (void)scratch;
    for (dim row = task * TASK_ROWS; row < least(job->rows, (task + 1) * TASK_ROWS); row++) move_by_type(job, row, 1);
}

static void to_space(const void *argument, dim task, char *scratch) {
    const Rearrangement *job = argument;
    (void)scratch;
    for (dim row = task * TASK_ROWS; row < least(job->rows, (task + 1) * TASK_ROWS); row++) move_by_type(job, row, 0);
}

int rearrange_pixels(int deeper, dim rows, dim columns, dim channels, dim block, const void *from, int from_half,
                     const void *add, void *to, int to_half, dim threads) {
    Rearrangement job = {rows, columns, channels, block, from_half, to_half, from, add, to};
    return run_tasks(deeper ? to_depth : to_space, &job, (rows + TASK_ROWS - 1) / TASK_ROWS, threads, 0);
}

/* Sums of columns. Rows are divided into shares, whose number does not depend on the number of threads. Each share is
   summed, then the shares are, always in the same order. */
typedef struct {
    dim rows, columns, shares;
    int half;
    const void *from;
    float *sums;
} Sum;

enum { SHARE_ROWS = 256, MOST_SHARES = 64 };

static void sum_share(const void *argument, dim share, char *scratch) {
    const Sum *job = argument;
    float *sums = job->sums + share * job->columns;
    (void)scratch;
    memset(sums, 0, (size_t)job->columns * 4);
    for (dim row = job->rows * share / job->shares; row < job->rows * (share + 1) / job->shares; row++)
        for (dim c = 0; c < job->columns; c += LANES) {
            dim count = job->columns - c;
            vec more = load_some(at(job->from, row * job->columns + c, job->half), count, job->half);
            store_some(sums + c, load_some(sums + c, count, 0) + more, count, 0);
        }
}

int sum_columns(dim rows, dim columns, const void *from, int half, float *to, dim threads) {
    Sum job = {rows, columns, most(1, least(MOST_SHARES, rows / SHARE_ROWS)), half, from, NULL};
    char *memory = scratch_take((size_t)(job.shares * columns) * 4);
    if (!memory) return -1;
    job.sums = (float *)memory;
    int failed = run_tasks(sum_share, &job, job.shares, threads, 0);
    for (dim c = 0; c < columns && !failed; c++) {
        to[c] = 0;
        for (dim share = 0; share < job.shares; share++) to[c] += job.sums[share * columns + c];
    }
    scratch_give(memory);
    return failed;
}
