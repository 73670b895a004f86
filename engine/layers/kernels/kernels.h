/* What the kernels share: the shape of a convolution, what is done at the store, and the exported functions.

   A batch is (N, H, W, C), contiguous. Activations are float32, or bfloat16 where `half` is set; sums, weights and
   gradients of weights are float32. Functions return 0, or -1 if memory runs out. Nothing here checks a shape:
   the caller does. */
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

/* A convolution from x (n, height, width, in_channels) to y (n, out_height, out_width, out_channels).
   Its adjoint goes from y to x. `limit` is 0; tests set it to the size of the largest task (tiles, rows or pixels of a
   row), to get many small ones. */
typedef struct {
    dim n, height, width, in_channels, out_height, out_width, out_channels;
    dim kernel_size, stride, padding, dilation;
    dim half, threads, limit;
} Conv;

/* result = mask > 0 ? relu(product + bias + add) : 0. Each may be absent (NULL, 0).
   add and mask have the result's shape and type. The result may be written over add, and over nothing else. */
typedef struct {
    const float *bias;
    const void *add, *mask;
    dim relu;
} Epilogue;

/* A hash of the sources that the library was compiled from. The build sets it, and the caller compares it with the
   sources that it finds. */
#ifndef KERNELS_SOURCES
#define KERNELS_SOURCES 0
#endif
EXPORT unsigned kernels_sources(void);

/* The numbers that a packed weight takes, for the convolution or for its adjoint, and the packing itself.
   weight: (kernel_size² * in_channels, out_channels); the strides say how many numbers lie from one row, or column, to
   the next. */
EXPORT dim conv_packed_size(const Conv *conv, int adjoint);
EXPORT int conv_pack(const Conv *conv, int adjoint, const float *weight, dim row_stride, dim column_stride,
                     float *packed);

/* adjoint 0: from = x, to = y = im2col(x) @ weight; adjoint 1: from = y, to = x = col2im(y @ weight'). */
EXPORT int conv_product(const Conv *conv, int adjoint, const void *from, const float *packed,
                        const Epilogue *epilogue, void *to);

/* gradient = im2col(x)' @ dy, (kernel_size² * in_channels, out_channels); or its transpose. */
EXPORT int conv_weight_gradient(const Conv *conv, const void *x, const void *dy, float *gradient, int transposed);

/* to (columns): the sums of the columns of `from` (rows, columns). */
EXPORT int sum_columns(dim rows, dim columns, const void *from, int half, float *to, dim threads);

/* deeper: (rows, columns, channels) -> (rows / block, columns / block, block² * channels), the pixels of a block in
   reading order; else the way back. rows: of all pictures of a batch. to = the same numbers + add, add may be NULL and
   has the type and shape of `to`. */
EXPORT int rearrange_pixels(int deeper, dim rows, dim columns, dim channels, dim block, const void *from, int from_half,
                            const void *add, void *to, int to_half, dim threads);

/* Ask the system for the use of AMX's tiles (tiles.h); 0 if it gives it. */
EXPORT int tiles_allow(void);

/* Winograd's form of the same, for 3x3 at stride 1 with padding 1. */
dim winograd_packed_size(const Conv *conv, int adjoint);
int winograd_pack(const Conv *conv, int adjoint, const float *weight, dim row_stride, dim column_stride, float *packed);
int winograd_product(const Conv *conv, int adjoint, const void *from, const float *packed,
                     const Epilogue *epilogue, void *to);
int winograd_weight_gradient(const Conv *conv, const void *x, const void *dy, float *gradient, int transposed);

#endif
