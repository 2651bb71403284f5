/* From accumulators to codes: clamp(rint(float32(acc) * scale)), rounding half to even. */
#ifndef TOPFIVE_REQUANTIZE_H
#define TOPFIVE_REQUANTIZE_H

#include "topfive.h"

/* The processor's own conversion: round to nearest, ties to even, saturating. */
static inline int32_t topfive_round(float value)
{
    int32_t rounded;
    asm("fcvt.w.s %0, %1, rne" : "=r"(rounded) : "f"(value));
    return rounded;
}

static inline int32_t topfive_clamp(int64_t value, int32_t low, int32_t high)
{
    return (int32_t)(value < low ? low : value > high ? high : value);
}

/* Float arithmetic is slow on an emulator, so the product is first rounded as an exact integer. That is the
 * float result unless the product lies so close to a tie that rounding it (and acc) to 24 bits could move
 * it across: within 2^-15 of one, for results below 256; results above saturate either way. Only then is
 * the float form evaluated. */
static inline int32_t topfive_requantize(int32_t acc, topfive_scaling s, int32_t low, int32_t high)
{
    if (s.shift) {
        int64_t biased = (int64_t)acc * s.multiplier + ((int64_t)1 << (s.shift - 1));
        int64_t mask = ((int64_t)1 << s.shift) - 1;
        int64_t near = (int64_t)1 << (s.shift - 15);
        if (((biased + near) & mask) > 2 * near)
            return topfive_clamp(biased >> s.shift, low, high);
    }
    return topfive_clamp(topfive_round((float)acc * s.scale), low, high);
}

#endif
