/* What a generated program calls: integer and float operators on tensors in memory.
 *
 * Activations of four dimensions are channels-last (NHWC). Nothing here allocates: buffers, scratch memory
 * and constants belong to the generated program. A kernel set for other hardware offers the same functions.
 */
#ifndef TOPFIVE_H
#define TOPFIVE_H

#include <stddef.h>
#include <stdint.h>

#define TOPFIVE_RANK 6

/* A requantisation: the float32 factor, and the same number as multiplier * 2^-shift for integer arithmetic
 * (shift 0: use the float form only). */
typedef struct {
    int32_t multiplier;
    int32_t shift;
    float scale;
} topfive_scaling;

/* A window that slides over the rows and columns of a channels-last picture. */
typedef struct {
    int32_t in_rows, in_cols, channels;
    int32_t out_rows, out_cols;
    int32_t kernel_rows, kernel_cols;
    int32_t stride_rows, stride_cols;
    int32_t dilation_rows, dilation_cols;
    int32_t pad_top, pad_left;
    /* Rows and columns up to which a position counts as padding; what lies further out does not exist. */
    int32_t end_row, end_col;
} topfive_window;

/* A convolution of one picture, or (one row of pixels, a 1 x 1 kernel) a matrix product.
 *
 * weights: [group][block of 4 output channels][depth][4], depth ordered (kernel row, kernel column, channel);
 * depthwise: [block of 8 channels][kernel row][kernel column][8]. Channels that fill up a block have weights 0.
 * bias: as many a group as its blocks have channels.
 * block: how many products of any output channel sum up to less than 2^20 in magnitude.
 * scaling_step: 0 for one scaling, 1 for one an output channel. */
typedef struct {
    topfive_window window;
    int32_t out_channels, groups, block;
    const int8_t *weights;
    const int32_t *bias;
    const topfive_scaling *scaling;
    int32_t scaling_step;
} topfive_convolution;

/* Nested loops over elements: the last dimension is the innermost; steps are in elements. */
typedef struct {
    int32_t dims[TOPFIVE_RANK];
    int64_t to_step[TOPFIVE_RANK];
    int64_t a_step[TOPFIVE_RANK];
    int64_t b_step[TOPFIVE_RANK];
} topfive_walk;

/* Integer operators. low and high bound the codes after saturation: an activation fused into the operator. */
void topfive_convolve(const topfive_convolution *c, const int8_t *x, int8_t *y, int32_t low, int32_t high,
                      void *scratch);
void topfive_convolve_depthwise(const topfive_convolution *c, const int8_t *x, int8_t *y, int32_t low,
                                int32_t high, void *scratch);
/* Arrange the columns of a matrix b [depth, columns] as a convolution's weights. */
void topfive_arrange_columns(const int8_t *b, int8_t *weights, int32_t depth, int32_t columns);
/* y = clamp(a_table[a] + b_table[b]): the tables scale, round and saturate each addend. */
void topfive_add_codes(const int8_t *a, const int8_t *b, int8_t *y, int64_t count, const int8_t *a_table,
                       const int8_t *b_table, int32_t low, int32_t high);
/* y = table[x], the table indexed by the code's bits as an unsigned number. */
void topfive_look_up(const int8_t *x, int8_t *y, int64_t count, const int8_t *table);
/* Padded positions count as 0. */
void topfive_max_pool_codes(const topfive_window *w, const int8_t *x, int8_t *y);
void topfive_quantize(const float *x, int8_t *y, int64_t count, float scale);
void topfive_dequantize(const int8_t *x, float *y, int64_t count, float scale);

/* Moving elements of one or four bytes. */
void topfive_copy_codes(const topfive_walk *walk, const int8_t *x, int8_t *y);
void topfive_copy_floats(const topfive_walk *walk, const float *x, float *y);

/* Float operators. */
void topfive_add(const topfive_walk *walk, const float *a, const float *b, float *y);
void topfive_subtract(const topfive_walk *walk, const float *a, const float *b, float *y);
void topfive_multiply(const topfive_walk *walk, const float *a, const float *b, float *y);
void topfive_divide(const topfive_walk *walk, const float *a, const float *b, float *y);
void topfive_erf(const float *x, float *y, int64_t count);
void topfive_exp(const float *x, float *y, int64_t count);
void topfive_sigmoid(const float *x, float *y, int64_t count);
void topfive_sqrt(const float *x, float *y, int64_t count);
void topfive_tanh(const float *x, float *y, int64_t count);
void topfive_leaky_relu(const float *x, float *y, int64_t count, float slope);
void topfive_clip(const float *x, float *y, int64_t count, float low, float high);
/* Over the middle of [outer, count, inner]. */
void topfive_softmax(const float *x, float *y, int64_t outer, int64_t count, int64_t inner);
void topfive_mean(const float *x, float *y, int64_t outer, int64_t count, int64_t inner);
/* Over the last dimension of [rows, count]; bias may be NULL. */
void topfive_layer_norm(const float *x, float *y, int64_t rows, int64_t count, float epsilon,
                        const float *scale, const float *bias);
/* Divide by the sum of squares of `size` neighbouring channels: x / (k + alpha / size * sum)^beta. */
void topfive_channel_norm(const float *x, float *y, int64_t pixels, int64_t channels, int32_t size,
                          float alpha, float beta, float k);
/* y [rows, columns] = alpha * x [rows, depth] * w + beta * bias; strides of w in elements; bias may be NULL. */
void topfive_matmul(const float *x, const float *w, float *y, int64_t rows, int64_t depth, int64_t columns,
                    int64_t depth_step, int64_t column_step, float alpha, const float *bias,
                    int64_t bias_row_step, int64_t bias_column_step, float beta);
void topfive_max_pool(const topfive_window *w, const float *x, float *y);
void topfive_average_pool(const topfive_window *w, const float *x, float *y, int32_t count_padding);

/* The generated program's part, and what it calls to read and write. */
extern const int8_t topfive_zeros[];
int topfive_main(int argument_count, char **arguments);
int topfive_open_input(const char *path);
int topfive_open_output(const char *path);
/* 1 when `size` bytes were read, 0 at the end of the file; exits when it ends in between. */
int topfive_read(int file, void *to, size_t size);
void topfive_write(int file, const void *from, size_t size);
void topfive_say_done(int64_t images);
void topfive_fail(const char *message) __attribute__((noreturn));

#endif
