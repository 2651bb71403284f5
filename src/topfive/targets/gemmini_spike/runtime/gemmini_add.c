/* Residual additions: Gemmini scales, rounds and saturates each addend while it loads it into the accumulator. */
#include "gemmini_layers.h"

static const gemmini_pool NO_POOL;

/* Load one addend's tile of rows x columns; to: the accumulator's row, and whether it is added. */
static void load(int id, const gemmini_addition *s, const int8_t *from, uint32_t to, int32_t rows, int32_t columns)
{
    int32_t block = gemmini_blocks(rows) * GEMMINI_DIM;
    for (int32_t i = 0; i < rows; i += GEMMINI_DIM)
        for (int32_t j = 0; j < columns; j += GEMMINI_WIDEST) {
            const int8_t *at = from + (int64_t)i * s->columns + j;
            uint32_t row = to + (uint32_t)(j / GEMMINI_DIM * block + i);
            int32_t width = gemmini_least(GEMMINI_WIDEST, columns - j);
            int32_t height = gemmini_least(GEMMINI_DIM, rows - i);
            if (id == 0)
                gemmini_mvin(at, row, width, height);
            else
                gemmini_mvin2(at, row, width, height);
        }
}

void gemmini_add(const gemmini_addition *s, const int8_t *a, const int8_t *b, int8_t *y, int32_t low,
                 int32_t high)
{
    static const float one = 1.0f;
    gemmini_requantisation out = {&one, 0, NULL, 0};
    int32_t outputs = 0;
    gemmini_fence();
    gemmini_config_store(&out, 0, s->columns, low, NO_POOL);
    for (int32_t row = 0; row < s->rows; row += s->tile_rows)
        for (int32_t column = 0; column < s->columns; column += s->tile_columns) {
            int32_t rows = gemmini_least(s->tile_rows, s->rows - row);
            int32_t columns = gemmini_least(s->tile_columns, s->columns - column);
            int32_t block = gemmini_blocks(rows) * GEMMINI_DIM;
            int64_t at = (int64_t)row * s->columns + column;
            uint32_t acc = GEMMINI_ACC | (uint32_t)(outputs++ & 1) * (GEMMINI_ACC_ROWS / 2);
            gemmini_config_ld(0, s->columns, block, 1, 1, s->a_scale);
            gemmini_config_ld(1, s->columns, block, 1, 1, s->b_scale);
            load(0, s, a + at, acc, rows, columns);
            load(1, s, b + at, acc | GEMMINI_ADD, rows, columns);
            for (int32_t i = 0; i < rows; i += GEMMINI_DIM)
                for (int32_t j = 0; j < columns; j += GEMMINI_DIM)
                    gemmini_mvout(y + at + (int64_t)i * s->columns + j,
                                  acc + (uint32_t)(j / GEMMINI_DIM * block + i),
                                  gemmini_least(GEMMINI_DIM, columns - j), gemmini_least(GEMMINI_DIM, rows - i));
        }
    gemmini_finish(&out, NULL, y, s->rows, s->columns, low, high);
}
