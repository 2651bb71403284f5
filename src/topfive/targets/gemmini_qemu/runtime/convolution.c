/* Convolutions and matrix products in scalar C, made for an emulator: as few instructions a product as can be.
 *
 * Three pixels share one 64-bit word in lanes of 21 bits, so that one multiplication by a weight gives three
 * products and one addition accumulates them. A lane holds sums below 2^20 in magnitude; the descriptor's
 * `block` says after how many products it has to be emptied into int32 accumulators. */
#include "requantize.h"

enum { LANE = 21, LANES = 3, WORDS = 3, PIXELS = LANES * WORDS, CHANNELS = 4 };

static inline int64_t lowest_lane(int64_t word)
{
    return (int64_t)((uint64_t)word << (64 - LANE)) >> (64 - LANE);
}

/* sums [PIXELS][CHANNELS] += panel [depth][WORDS] times weights [depth][CHANNELS]. */
static __attribute__((noinline)) void multiply_block(const int64_t *restrict panel, const int8_t *restrict weights,
                                                     int32_t depth, int32_t *restrict sums)
{
    int64_t total[WORDS][CHANNELS] = {{0}};
    for (int32_t k = 0; k < depth; k++) {
        for (int p = 0; p < WORDS; p++)
            for (int q = 0; q < CHANNELS; q++)
                total[p][q] += panel[p] * weights[q];
        panel += WORDS;
        weights += CHANNELS;
    }
    for (int p = 0; p < WORDS; p++)
        for (int q = 0; q < CHANNELS; q++) {
            int64_t word = total[p][q];
            for (int lane = 0; lane < LANES; lane++) {
                int64_t value = lowest_lane(word);
                sums[(p * LANES + lane) * CHANNELS + q] += (int32_t)value;
                word = (word - value) >> LANE;
            }
        }
}

/* Row and column of the input where an output pixel's window begins; either may lie in the padding. */
typedef struct {
    int32_t row, col;
} corner;

static corner corner_of(const topfive_window *w, int32_t pixel)
{
    corner at = {pixel / w->out_cols * w->stride_rows - w->pad_top,
                 pixel % w->out_cols * w->stride_cols - w->pad_left};
    return at;
}

/* The channels that a kernel position (rows down, columns right of the corner) reads; zeros for padding. */
static inline const int8_t *channels_at(const topfive_window *w, const int8_t *x, corner at, int32_t down,
                                        int32_t right)
{
    int32_t row = at.row + down, col = at.col + right;
    if (row < 0 || row >= w->in_rows || col < 0 || col >= w->in_cols)
        return topfive_zeros;
    return x + ((int64_t)row * w->in_cols + col) * w->channels;
}

/* Write the inputs of PIXELS output pixels (the last one repeated) as lanes:
 * panel [kernel rows * columns * channels][WORDS]. x points at the group's first channel. */
static void fill_panel(const topfive_window *w, const int8_t *x, int32_t first, int32_t channels, int64_t *panel)
{
    int32_t last = w->out_rows * w->out_cols - 1;
    corner corners[PIXELS];
    for (int32_t p = 0; p < PIXELS; p++)
        corners[p] = corner_of(w, first + p < last ? first + p : last);
    for (int32_t i = 0; i < w->kernel_rows; i++)
        for (int32_t j = 0; j < w->kernel_cols; j++, panel += (int64_t)channels * WORDS)
            for (int p = 0; p < WORDS; p++) {
                const corner *at = corners + p * LANES;
                int32_t down = i * w->dilation_rows, right = j * w->dilation_cols;
                const int8_t *a = channels_at(w, x, at[0], down, right);
                const int8_t *b = channels_at(w, x, at[1], down, right);
                const int8_t *c = channels_at(w, x, at[2], down, right);
                int64_t *to = panel + p;
                for (int32_t k = 0; k < channels; k++, to += WORDS)
                    *to = a[k] + b[k] * ((int64_t)1 << LANE) + c[k] * ((int64_t)1 << 2 * LANE);
            }
}

/* One pixel's sums, CHANNELS of them every `apart` elements, to codes. step is known when this is inlined. */
static inline void store_codes(const int32_t *sums, int32_t apart, int8_t *y, int32_t channels,
                               const topfive_scaling *scaling, const int step, int32_t low, int32_t high)
{
    topfive_scaling s = *scaling;
    for (int32_t first = 0; first < channels; first += CHANNELS, sums += apart)
        for (int32_t o = first; o < first + CHANNELS && o < channels; o++) {
            if (step)
                s = scaling[o];
            y[o] = (int8_t)topfive_requantize(sums[o - first], s, low, high);
        }
}

static void store_pixel(const topfive_convolution *c, const int32_t *sums, int32_t apart, int8_t *y,
                        int32_t channels, int32_t first, int32_t low, int32_t high)
{
    if (c->scaling_step)
        store_codes(sums, apart, y, channels, c->scaling + first, 1, low, high);
    else
        store_codes(sums, apart, y, channels, c->scaling, 0, low, high);
}

void topfive_convolve(const topfive_convolution *c, const int8_t *x, int8_t *y, int32_t low, int32_t high,
                      void *scratch)
{
    const topfive_window *w = &c->window;
    int32_t in = w->channels / c->groups, out = c->out_channels / c->groups;
    int32_t depth = w->kernel_rows * w->kernel_cols * in, blocks = (out + CHANNELS - 1) / CHANNELS;
    int32_t pixels = w->out_rows * w->out_cols;
    int64_t *panel = scratch;
    int32_t *sums = (int32_t *)(panel + (int64_t)depth * WORDS);
    for (int32_t g = 0; g < c->groups; g++) {
        const int8_t *weights = c->weights + (int64_t)g * blocks * depth * CHANNELS;
        const int32_t *bias = c->bias + g * blocks * CHANNELS;
        for (int32_t first = 0; first < pixels; first += PIXELS) {
            fill_panel(w, x + g * in, first, in, panel);
            for (int32_t b = 0; b < blocks; b++)
                for (int p = 0; p < PIXELS; p++)
                    for (int q = 0; q < CHANNELS; q++)
                        sums[(b * PIXELS + p) * CHANNELS + q] = bias[b * CHANNELS + q];
            for (int32_t k = 0; k < depth; k += c->block)
                for (int32_t b = 0; b < blocks; b++)
                    multiply_block(panel + (int64_t)k * WORDS, weights + ((int64_t)b * depth + k) * CHANNELS,
                                   depth - k < c->block ? depth - k : c->block, sums + b * PIXELS * CHANNELS);
            for (int32_t p = 0; p < PIXELS && first + p < pixels; p++)
                store_pixel(c, sums + p * CHANNELS, PIXELS * CHANNELS,
                            y + (int64_t)(first + p) * c->out_channels + g * out, out, g * out, low, high);
        }
    }
}

void topfive_arrange_columns(const int8_t *b, int8_t *weights, int32_t depth, int32_t columns)
{
    for (int32_t j = 0; j < columns; j += CHANNELS)
        for (int32_t k = 0; k < depth; k++)
            for (int32_t q = 0; q < CHANNELS; q++)
                *weights++ = j + q < columns ? b[(int64_t)k * columns + j + q] : 0;
}

/* Depthwise: eight channels at a time stay in registers while the kernel's positions pass by. `from` holds a
 * pointer a position, which moves on by eight channels. */
enum { DEPTHWISE = 8 };

static __attribute__((noinline)) void multiply_depthwise(const int8_t **from, const int8_t *weights,
                                                         int32_t positions, int32_t *sums)
{
    int64_t total[DEPTHWISE];
    for (int n = 0; n < DEPTHWISE; n++)
        total[n] = sums[n];
    for (const int8_t **end = from + positions; from < end; from++, weights += DEPTHWISE) {
        const int8_t *a = *from;
        for (int n = 0; n < DEPTHWISE; n++)
            total[n] += (int64_t)a[n] * weights[n];
        *from = a + DEPTHWISE;
    }
    for (int n = 0; n < DEPTHWISE; n++)
        sums[n] = (int32_t)total[n];
}

void topfive_convolve_depthwise(const topfive_convolution *c, const int8_t *x, int8_t *y, int32_t low,
                                int32_t high, void *scratch)
{
    const topfive_window *w = &c->window;
    int32_t channels = w->channels, positions = w->kernel_rows * w->kernel_cols;
    const int8_t **from = scratch;
    int32_t *sums = (int32_t *)(from + positions);
    for (int32_t pixel = 0; pixel < w->out_rows * w->out_cols; pixel++, y += channels) {
        corner at = corner_of(w, pixel);
        for (int32_t i = 0, t = 0; i < w->kernel_rows; i++)
            for (int32_t j = 0; j < w->kernel_cols; j++, t++)
                from[t] = channels_at(w, x, at, i * w->dilation_rows, j * w->dilation_cols);
        const int8_t *weights = c->weights;
        for (int32_t first = 0; first < channels; first += DEPTHWISE, weights += positions * DEPTHWISE) {
            for (int n = 0; n < DEPTHWISE; n++)
                sums[first + n] = c->bias[first + n];
            multiply_depthwise(from, weights, positions, sums + first);
        }
        store_pixel(c, sums, CHANNELS, y, channels, 0, low, high);
    }
}
