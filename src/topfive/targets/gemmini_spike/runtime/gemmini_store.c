/* The beginning of a program, and how results leave the accumulator. */
#include "gemmini_layers.h"
#include "requantize.h"

static const gemmini_pool NO_POOL;

void gemmini_begin(void)
{
    /* The activation keeps a part of what it was unless another one is set in between. */
    gemmini_flush();
    gemmini_config_st(0, GEMMINI_RELU, 1.0f, NO_POOL);
    gemmini_config_st(0, GEMMINI_NO_ACTIVATION, 1.0f, NO_POOL);
    gemmini_config_ex(GEMMINI_WEIGHT_STATIONARY, 1);
    for (int id = 0; id < 3; id++)
        gemmini_config_ld(id, 0, GEMMINI_DIM, 1, 0, 1.0f);
    gemmini_fence();
}

void gemmini_config_store(const gemmini_requantisation *out, int32_t group, int32_t step, int32_t low,
                          gemmini_pool pool)
{
    if (out->scaling)
        gemmini_config_st((int64_t)step * 4, GEMMINI_NO_ACTIVATION, 1.0f, pool);
    else
        gemmini_config_st(step, low == 0 ? GEMMINI_RELU : GEMMINI_NO_ACTIVATION,
                          out->scale[group * out->scale_step], pool);
}

void gemmini_store(const gemmini_requantisation *out, int8_t *y, int32_t *sums, int64_t at, uint32_t from,
                   int32_t columns, int32_t rows)
{
    if (out->scaling)
        gemmini_mvout(sums + at, from | GEMMINI_WHOLE, columns, rows);
    else
        gemmini_mvout(y + at, from, columns, rows);
}

void gemmini_finish(const gemmini_requantisation *out, const int32_t *sums, int8_t *y, int64_t pixels,
                    int32_t channels, int32_t low, int32_t high)
{
    gemmini_fence();
    if (out->scaling) {
        for (int64_t p = 0; p < pixels; p++, sums += channels, y += channels)
            for (int32_t c = 0; c < channels; c++)
                y[c] = (int8_t)topfive_requantize(sums[c], out->scaling[c * out->scaling_step], low, high);
    } else if (high < 127 || (low > -128 && low != 0)) {
        for (int64_t i = 0; i < pixels * channels; i++)
            y[i] = (int8_t)topfive_clamp(y[i], low, high);
    }
}
