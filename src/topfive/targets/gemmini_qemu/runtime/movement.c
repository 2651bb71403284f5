/* Moving elements, and float operators of two tensors: the same nest of loops. */
#include "topfive.h"

/* One nest of loops with the body's statement; every operator below is one line. */
#define NEST(WALK, BODY)                                                                                     \
    const int32_t *d = (WALK)->dims;                                                                         \
    const int64_t *t = (WALK)->to_step, *s = (WALK)->a_step, *r = (WALK)->b_step;                            \
    for (int32_t i = 0; i < d[0]; i++)                                                                       \
        for (int32_t j = 0; j < d[1]; j++)                                                                   \
            for (int32_t k = 0; k < d[2]; k++)                                                               \
                for (int32_t l = 0; l < d[3]; l++)                                                           \
                    for (int32_t m = 0; m < d[4]; m++) {                                                     \
                        int64_t to = i * t[0] + j * t[1] + k * t[2] + l * t[3] + m * t[4];                   \
                        int64_t from = i * s[0] + j * s[1] + k * s[2] + l * s[3] + m * s[4];                 \
                        int64_t other = i * r[0] + j * r[1] + k * r[2] + l * r[3] + m * r[4];                \
                        int64_t to_step = t[5], from_step = s[5], other_step = r[5];                         \
                        for (int32_t n = d[5]; n > 0; n--) {                                                 \
                            BODY;                                                                            \
                            to += to_step;                                                                   \
                            from += from_step;                                                               \
                            other += other_step;                                                             \
                        }                                                                                    \
                        (void)other;                                                                         \
                    }

void topfive_copy_codes(const topfive_walk *walk, const int8_t *x, int8_t *y)
{
    NEST(walk, y[to] = x[from])
}

void topfive_copy_floats(const topfive_walk *walk, const float *x, float *y)
{
    NEST(walk, y[to] = x[from])
}

void topfive_add(const topfive_walk *walk, const float *a, const float *b, float *y)
{
    NEST(walk, y[to] = a[from] + b[other])
}

void topfive_subtract(const topfive_walk *walk, const float *a, const float *b, float *y)
{
    NEST(walk, y[to] = a[from] - b[other])
}

void topfive_multiply(const topfive_walk *walk, const float *a, const float *b, float *y)
{
    NEST(walk, y[to] = a[from] * b[other])
}

void topfive_divide(const topfive_walk *walk, const float *a, const float *b, float *y)
{
    NEST(walk, y[to] = a[from] / b[other])
}
