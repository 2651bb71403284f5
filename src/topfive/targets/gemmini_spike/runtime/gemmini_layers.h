/* Layers on Gemmini: tiles are loaded, multiplied and stored by explicit instructions.
 *
 * Every function waits for Gemmini at its beginning (what the processor wrote is visible) and at its end (what
 * Gemmini wrote is). Tile sizes come with the descriptors; the generator has checked that they fit. */
#ifndef TOPFIVE_GEMMINI_LAYERS_H
#define TOPFIVE_GEMMINI_LAYERS_H

#include "gemmini_isa.h"

/* From sums to codes. Gemmini scales while it stores: scale holds one factor, or (scale_step 1) one a group.
 * With scaling, sums are stored whole and the processor requantises them: one a layer, or (scaling_step 1)
 * one an output channel. */
typedef struct {
    const float *scale;
    int32_t scale_step;
    const topfive_scaling *scaling;
    int32_t scaling_step;
} gemmini_requantisation;

/* A convolution of one picture, weight stationary, group after group.
 *
 * The window's channels and out_channels are those of all groups. A group reads group_in channels and makes
 * group_out; the last one may have fewer. weights: [group][kernel row][kernel column][group_in][group_out];
 * bias: [group][group_out].
 * pool: size, stride and padding of the max pool done while storing, pooled_rows x pooled_cols its result.
 * tile_*: how much of each dimension a tile takes; rows and columns are pooled ones.
 * skip: load only the pixels that a 1 x 1 kernel of stride `skip` uses; 1: all.
 * share: let neighbouring pixels of a few channels share a row of the scratchpad. */
typedef struct {
    topfive_window window;
    int32_t out_channels, groups, group_in, group_out;
    int32_t pool_size, pool_stride, pool_pad, pooled_rows, pooled_cols;
    int32_t tile_rows, tile_cols, tile_out, tile_kernel_rows, tile_kernel_cols, tile_in;
    int32_t skip, share;
    const int8_t *weights;
    const int32_t *bias;
    gemmini_requantisation out;
} gemmini_convolution;

/* A matrix product, group after group: y [rows, columns] = a [rows, depth] * b [depth, columns] + bias, with
 * b [group][depth][columns] and bias [group][columns].
 *
 * gather: a's rows are the inputs of output pixels, put together by the processor from a picture;
 * depth = kernel rows * kernel columns * group_in. Otherwise a lies in memory, a_step elements from row to row,
 * a group's columns beside each other. y_step likewise. out_channels: columns of all groups; the last group may
 * have fewer. tile_*: blocks of 16 that a tile takes. together: blocks of depth that the array sums up before
 * it gives them to the accumulator (output stationary). */
typedef struct {
    topfive_window window;
    int32_t gather, group_in;
    int32_t rows, depth, columns, groups, out_channels;
    int32_t a_step, y_step;
    int32_t tile_rows, tile_columns, tile_depth;
    int32_t output_stationary, together;
    const int32_t *bias;
    gemmini_requantisation out;
} gemmini_product;

/* The sum of two matrices of codes, each scaled, rounded and saturated as it is loaded. Tiles in elements. */
typedef struct {
    int32_t rows, columns;
    int32_t tile_rows, tile_columns;
    float a_scale, b_scale;
} gemmini_addition;

/* Configure everything: the state is unknown when a program begins. */
void gemmini_begin(void);
/* low and high bound the codes. scratch: the gathered rows, or all sums of a layer that are stored whole. */
void gemmini_convolve(const gemmini_convolution *c, const int8_t *x, int8_t *y, int32_t low, int32_t high,
                      void *scratch);
void gemmini_multiply(const gemmini_product *p, const int8_t *a, const int8_t *b, int8_t *y, int32_t low,
                      int32_t high, void *scratch);
void gemmini_add(const gemmini_addition *s, const int8_t *a, const int8_t *b, int8_t *y, int32_t low,
                 int32_t high);

/* What the layers share. */
static inline int32_t gemmini_least(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static inline int32_t gemmini_blocks(int32_t count)
{
    return (count + GEMMINI_DIM - 1) / GEMMINI_DIM;
}

/* How a group is stored: through Gemmini's scale and ReLU, or whole. */
void gemmini_config_store(const gemmini_requantisation *out, int32_t group, int32_t step, int32_t low,
                          gemmini_pool pool);
/* Store rows of 16 columns at most: codes into y, or whole sums into sums at the same place. */
void gemmini_store(const gemmini_requantisation *out, int8_t *y, int32_t *sums, int64_t at, uint32_t from,
                   int32_t columns, int32_t rows);
/* Wait, and do what the store could not: requantise whole sums, or bounds other than a ReLU's. */
void gemmini_finish(const gemmini_requantisation *out, const int32_t *sums, int8_t *y, int64_t pixels,
                    int32_t channels, int32_t low, int32_t high);

#endif
