/* Float operators of a model's tail. Functions are evaluated in double and rounded once at the end. */
#include "topfive.h"

#define LN2 0.69314718055994530942
#define TWO_OVER_ROOT_PI 1.12837916709551257390

/* e^x: x = k ln 2 + r, a Taylor series for |r| <= ln 2 / 2, and k into the exponent's bits. */
static double exponential(double x)
{
    if (x < -700)
        return 0;
    if (x > 700)
        x = 700;
    int64_t k = (int64_t)(x / LN2 + (x < 0 ? -0.5 : 0.5));
    double r = x - (double)k * LN2, term = 1, sum = 1;
    for (int n = 1; n <= 12; n++) {
        term *= r / n;
        sum += term;
    }
    union {
        uint64_t bits;
        double value;
    } power = {(uint64_t)(k + 1023) << 52};
    return sum * power.value;
}

/* ln x for a positive normal x: x = m 2^k, and a series in (m - 1) / (m + 1). */
static double logarithm(double x)
{
    union {
        double value;
        uint64_t bits;
    } parts = {x};
    int64_t k = (int64_t)(parts.bits >> 52) - 1023;
    parts.bits = (parts.bits & 0xfffffffffffffull) | 1023ull << 52;
    double q = (parts.value - 1) / (parts.value + 1), square = q * q, power = q, sum = 0;
    for (int n = 1; n < 40; n += 2) {
        sum += power / n;
        power *= square;
    }
    return 2 * sum + (double)k * LN2;
}

/* erf x = 2 / sqrt(pi) e^(-x^2) sum 2^n x^(2n+1) / (2n+1)!!: every term has x's sign. */
static double error_function(double x)
{
    if (x > 4 || x < -4)
        return x > 0 ? 1 : -1;
    double square = x * x, term = x, sum = x;
    for (int n = 1; term > 1e-12 || term < -1e-12; n++) {
        term *= 2 * square / (2 * n + 1);
        sum += term;
    }
    return TWO_OVER_ROOT_PI * exponential(-square) * sum;
}

static float square_root(float x)
{
    float root;
    asm("fsqrt.s %0, %1" : "=f"(root) : "f"(x));
    return root;
}

void topfive_erf(const float *x, float *y, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        y[i] = (float)error_function(x[i]);
}

void topfive_exp(const float *x, float *y, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        y[i] = (float)exponential(x[i]);
}

void topfive_sigmoid(const float *x, float *y, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        y[i] = (float)(1 / (1 + exponential(-(double)x[i])));
}

void topfive_tanh(const float *x, float *y, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        y[i] = (float)(1 - 2 / (1 + exponential(2 * (double)x[i])));
}

void topfive_sqrt(const float *x, float *y, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        y[i] = square_root(x[i]);
}

void topfive_leaky_relu(const float *x, float *y, int64_t count, float slope)
{
    for (int64_t i = 0; i < count; i++)
        y[i] = x[i] < 0 ? slope * x[i] : x[i];
}

void topfive_clip(const float *x, float *y, int64_t count, float low, float high)
{
    for (int64_t i = 0; i < count; i++)
        y[i] = x[i] < low ? low : x[i] > high ? high : x[i];
}

void topfive_softmax(const float *x, float *y, int64_t outer, int64_t count, int64_t inner)
{
    for (int64_t o = 0; o < outer; o++, x += count * inner, y += count * inner)
        for (int64_t i = 0; i < inner; i++) {
            float largest = x[i];
            for (int64_t n = 1; n < count; n++)
                largest = x[n * inner + i] > largest ? x[n * inner + i] : largest;
            float sum = 0;
            for (int64_t n = 0; n < count; n++) {
                float value = (float)exponential((double)x[n * inner + i] - largest);
                y[n * inner + i] = value;
                sum += value;
            }
            for (int64_t n = 0; n < count; n++)
                y[n * inner + i] /= sum;
        }
}

void topfive_mean(const float *x, float *y, int64_t outer, int64_t count, int64_t inner)
{
    for (int64_t o = 0; o < outer; o++, x += count * inner)
        for (int64_t i = 0; i < inner; i++) {
            float sum = 0;
            for (int64_t n = 0; n < count; n++)
                sum += x[n * inner + i];
            *y++ = sum / (float)count;
        }
}

void topfive_layer_norm(const float *x, float *y, int64_t rows, int64_t count, float epsilon,
                        const float *scale, const float *bias)
{
    for (int64_t r = 0; r < rows; r++, x += count, y += count) {
        float sum = 0, squares = 0;
        for (int64_t n = 0; n < count; n++)
            sum += x[n];
        float mean = sum / (float)count;
        for (int64_t n = 0; n < count; n++)
            squares += (x[n] - mean) * (x[n] - mean);
        float deviation = square_root(squares / (float)count + epsilon);
        for (int64_t n = 0; n < count; n++)
            y[n] = (x[n] - mean) / deviation * scale[n] + (bias ? bias[n] : 0);
    }
}

void topfive_channel_norm(const float *x, float *y, int64_t pixels, int64_t channels, int32_t size,
                          float alpha, float beta, float k)
{
    for (int64_t p = 0; p < pixels; p++, x += channels, y += channels)
        for (int64_t c = 0; c < channels; c++) {
            int64_t from = c - (size - 1) / 2, to = c + size / 2;
            float sum = 0;
            for (int64_t n = from < 0 ? 0 : from; n <= to && n < channels; n++)
                sum += x[n] * x[n];
            double base = k + alpha / (float)size * sum;
            y[c] = (float)(x[c] * exponential(-beta * logarithm(base)));
        }
}

void topfive_matmul(const float *x, const float *w, float *y, int64_t rows, int64_t depth, int64_t columns,
                    int64_t depth_step, int64_t column_step, float alpha, const float *bias,
                    int64_t bias_row_step, int64_t bias_column_step, float beta)
{
    for (int64_t r = 0; r < rows; r++, x += depth)
        for (int64_t c = 0; c < columns; c++) {
            const float *column = w + c * column_step;
            float sum = 0;
            for (int64_t k = 0; k < depth; k++)
                sum += x[k] * column[k * depth_step];
            float added = bias ? beta * bias[r * bias_row_step + c * bias_column_step] : 0;
            *y++ = alpha * sum + added;
        }
}

/* Sum or maximum over the part of a window that lies inside the picture; returns how many positions. */
static int32_t reduce(const topfive_window *w, const float *x, int32_t out_row, int32_t out_col, int32_t c,
                      int maximum, int32_t *padded, float *result)
{
    int32_t inside = 0;
    *padded = 0;
    *result = 0;
    for (int32_t i = 0; i < w->kernel_rows; i++)
        for (int32_t j = 0; j < w->kernel_cols; j++) {
            int32_t row = out_row * w->stride_rows + i * w->dilation_rows - w->pad_top;
            int32_t col = out_col * w->stride_cols + j * w->dilation_cols - w->pad_left;
            if (row >= w->end_row || col >= w->end_col)
                continue;
            if (row < 0 || row >= w->in_rows || col < 0 || col >= w->in_cols) {
                ++*padded;
                continue;
            }
            float value = x[((int64_t)row * w->in_cols + col) * w->channels + c];
            if (!maximum)
                *result += value;
            else if (!inside || value > *result)
                *result = value;
            inside++;
        }
    return inside;
}

void topfive_max_pool(const topfive_window *w, const float *x, float *y)
{
    int32_t padded;
    for (int32_t row = 0; row < w->out_rows; row++)
        for (int32_t col = 0; col < w->out_cols; col++)
            for (int32_t c = 0; c < w->channels; c++)
                reduce(w, x, row, col, c, 1, &padded, y++);
}

void topfive_average_pool(const topfive_window *w, const float *x, float *y, int32_t count_padding)
{
    for (int32_t row = 0; row < w->out_rows; row++)
        for (int32_t col = 0; col < w->out_cols; col++)
            for (int32_t c = 0; c < w->channels; c++) {
                int32_t padded;
                float sum;
                int32_t inside = reduce(w, x, row, col, c, 0, &padded, &sum);
                *y++ = sum / (float)(inside + (count_padding ? padded : 0));
            }
}
