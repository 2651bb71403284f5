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

void topfive_quantize(const float *x, int8_t *y, int64_t count, float scale)
{
    for (int64_t i = 0; i < count; i++)
        y[i] = (int8_t)topfive_clamp(topfive_round(x[i] / scale), -128, 127);
}

void topfive_dequantize(const int8_t *x, float *y, int64_t count, float scale)
{
    for (int64_t i = 0; i < count; i++)
        y[i] = (float)x[i] * scale;
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
