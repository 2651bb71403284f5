/* Operators on int8 codes other than convolutions, and between codes and floats. */
#include "requantize.h"

void topfive_add_codes(const int8_t *a, const int8_t *b, int8_t *y, int64_t count, const int8_t *a_table,
                       const int8_t *b_table, int32_t low, int32_t high)
{
    for (int64_t i = 0; i < count; i++)
        y[i] = (int8_t)topfive_clamp(a_table[(uint8_t)a[i]] + b_table[(uint8_t)b[i]], low, high);
}

void topfive_look_up(const int8_t *x, int8_t *y, int64_t count, const int8_t *table)
{
    for (int64_t i = 0; i < count; i++)
        y[i] = table[(uint8_t)x[i]];
}

/* A positive number as significand * 2^-shift, the significand cut off to 31 bits. */
typedef struct {
    int64_t significand;
    int32_t shift;
} fixed;

static fixed fixed_of(double value)
{
    union {
        double value;
        uint64_t bits;
    } parts = {value};
    int32_t exponent = (int32_t)(parts.bits >> 52 & 2047);
    fixed made = {(int64_t)((parts.bits & 0xfffffffffffffull) | 1ull << 52) >> 22, 1075 - 22 - exponent};
    return made;
}

/* rint(x / scale) before saturation, as in requantize.h: in integers unless x / scale lies within 2^-15 of a
 * tie, of which the division's own rounding and the cut-off of 1 / scale stay clear for results below 256. */
static inline int64_t quotient(float x, float scale, fixed inverse)
{
    union {
        float value;
        uint32_t bits;
    } parts = {x};
    int32_t exponent = (int32_t)(parts.bits >> 23 & 255);
    int32_t shift = 150 + inverse.shift - exponent;
    if (exponent == 0 && parts.bits << 1 == 0)
        return 0;
    if (exponent > 0 && exponent < 255 && shift >= 16 && shift <= 60) {
        int64_t significand = (parts.bits & 0x7fffff) | 0x800000;
        int64_t biased = significand * inverse.significand + ((int64_t)1 << (shift - 1));
        int64_t mask = ((int64_t)1 << shift) - 1, near = (int64_t)1 << (shift - 15);
        if (((biased + near) & mask) > 2 * near)
            return parts.bits >> 31 ? -(biased >> shift) : biased >> shift;
    }
    return topfive_round(x / scale);
}

void topfive_quantize(const float *x, int8_t *y, int64_t count, float scale)
{
    fixed inverse = fixed_of(1.0 / scale);
    for (int64_t i = 0; i < count; i++)
        y[i] = (int8_t)topfive_clamp(quotient(x[i], scale, inverse), -128, 127);
}

void topfive_dequantize(const int8_t *x, float *y, int64_t count, float scale)
{
    float table[256];
    for (int32_t code = -128; code < 128; code++)
        table[(uint8_t)code] = (float)code * scale;
    for (int64_t i = 0; i < count; i++)
        y[i] = table[(uint8_t)x[i]];
}

/* The larger of each pair of codes, zeros for a padded position. */
static void take_larger(const int8_t *x, int8_t *y, int32_t channels)
{
    for (int32_t c = 0; c < channels; c++)
        if (x[c] > y[c])
            y[c] = x[c];
}

void topfive_max_pool_codes(const topfive_window *w, const int8_t *x, int8_t *y)
{
    for (int32_t out_row = 0; out_row < w->out_rows; out_row++)
        for (int32_t out_col = 0; out_col < w->out_cols; out_col++, y += w->channels) {
            for (int32_t c = 0; c < w->channels; c++)
                y[c] = -128;
            for (int32_t i = 0; i < w->kernel_rows; i++)
                for (int32_t j = 0; j < w->kernel_cols; j++) {
                    int32_t row = out_row * w->stride_rows + i * w->dilation_rows - w->pad_top;
                    int32_t col = out_col * w->stride_cols + j * w->dilation_cols - w->pad_left;
                    if (row >= w->end_row || col >= w->end_col)
                        continue;
                    int inside = row >= 0 && row < w->in_rows && col >= 0 && col < w->in_cols;
                    const int8_t *at = x + ((int64_t)row * w->in_cols + col) * w->channels;
                    take_larger(inside ? at : topfive_zeros, y, w->channels);
                }
        }
}
