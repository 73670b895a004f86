/* Declarations that all kernels share: the geometry of a convolution, the epilogue, and the exported functions.

   - A batch is (N, H, W, C), contiguous. Activations are float32, or bfloat16 if `half` is set. Sums, weights and
     gradients of weights are always float32.
   - Functions return 0, or -1 if memory runs out.
   - Nothing here checks a shape: the caller does (engine/layers/compiled.py).

   Names that all files use:

       from, to      input and output of an exported function
       given, made   input and output inside a kernel
       picture       one image of the batch
       place         an index or a position
       dim           a signed size or index
       task          the piece of work that one thread does at a time (threads.h)
       scratch       memory of a task, not cleared
       adjoint       1 for the transpose of the convolution, which goes from y to x
       a'            the transpose of matrix a */
#ifndef KERNELS_H
#define KERNELS_H

#include <stddef.h>

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif
#define INLINE static inline __attribute__((always_inline))

typedef ptrdiff_t dim;

/* A convolution from x (n, height, width, in_channels) to y (n, out_height, out_width, out_channels). Its adjoint goes
   from y to x. `limit` is 0, for no limit. Tests set it to the largest size of a task (tiles, rows, or pixels of a row),
   so that small images have many tasks. */
typedef struct {
    dim n, height, width, in_channels, out_height, out_width, out_channels;
    dim kernel_size, stride, padding, dilation;
    dim half, threads, limit;
} Conv;

/* Applied to a product while it is stored: result = mask > 0 ? relu(product + bias + add) : 0. Each part is optional
   (NULL, 0). add and mask have the shape and type of the result. The result may overwrite `add`, but no other input. */
typedef struct {
    const float *bias;
    const void *add, *mask;
    dim relu;
} Epilogue;

/* A hash of the sources that the library was compiled from. The build sets it. The loader compares it with a hash of the
   sources that are installed. */
#ifndef KERNELS_SOURCES
#define KERNELS_SOURCES 0
#endif
EXPORT unsigned kernels_sources(void);

/* Packing: reorders a weight as the convolution, or its adjoint, reads it. conv_packed_size returns how many numbers the
   packed weight has. weight: (kernel_size² * in_channels, out_channels); row_stride and column_stride are the distances
   from one row, or column, to the next, counted in numbers. */
EXPORT dim conv_packed_size(const Conv *conv, int adjoint);
EXPORT int conv_pack(const Conv *conv, int adjoint, const float *weight, dim row_stride, dim column_stride,
                     float *packed);

/* adjoint 0: from x to y = im2col(x) @ weight. adjoint 1: from y to x = col2im(y @ weight'). */
EXPORT int conv_product(const Conv *conv, int adjoint, const void *from, const float *packed,
                        const Epilogue *epilogue, void *to);

/* The gradient of the weight: im2col(x)' @ dy, (kernel_size² * in_channels, out_channels), or its transpose. */
EXPORT int conv_weight_gradient(const Conv *conv, const void *x, const void *dy, float *gradient, int transposed);

/* Sums of the columns: from (rows, columns) to (columns). It is the gradient of a bias. */
EXPORT int sum_columns(dim rows, dim columns, const void *from, int half, float *to, dim threads);

/* Pixel shuffle. deeper 1: (rows, columns, channels) to (rows / block, columns / block, block² * channels), the pixels of
   a block in reading order. deeper 0: the inverse. rows counts the rows of the whole batch. `add` is added to the result,
   has its shape and type, and may be NULL. */
EXPORT int rearrange_pixels(int deeper, dim rows, dim columns, dim channels, dim block, const void *from, int from_half,
                            const void *add, void *to, int to_half, dim threads);

/* Asks the operating system for the use of AMX (tiles.h). Returns 0 if it is allowed. */
EXPORT int tiles_allow(void);

/* The same functions by Winograd's algorithm, for 3x3 convolutions at stride 1 with padding 1 (winograd.c). */
dim winograd_packed_size(const Conv *conv, int adjoint);
int winograd_pack(const Conv *conv, int adjoint, const float *weight, dim row_stride, dim column_stride, float *packed);
int winograd_product(const Conv *conv, int adjoint, const void *from, const float *packed,
                     const Epilogue *epilogue, void *to);
int winograd_weight_gradient(const Conv *conv, const void *x, const void *dy, float *gradient, int transposed);

#endif
