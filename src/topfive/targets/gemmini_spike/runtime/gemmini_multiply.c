/* Matrix products in either dataflow: the loop order of Gemmini's own library, with explicit instructions.
 *
 * A tile of a lies in the scratchpad as [block of rows][block of depth][16 rows], of b as [block of depth][block of
 * columns][16 rows], sums in the accumulator as [block of rows][block of columns][16 rows]. Weight-stationary tiles
 * take turns with two halves of both memories; output-stationary ones take all of both. */
#include "gemmini_layers.h"

static const gemmini_pool NO_POOL;

/* One tile: where it begins and how large it is, in elements; a, b, acc: local addresses. */
typedef struct {
    int32_t group, group_columns;
    int32_t row, rows, column, columns, k, depth;
    uint32_t a, b, acc;
} tile;

/* Rows [first, first + count) of a: the inputs of output pixels, channels a group has too few are 0. */
static void gather(const gemmini_product *p, const int8_t *x, int32_t group, int32_t first, int32_t count,
                   int8_t *to)
{
    const topfive_window *w = &p->window;
    int32_t channels = gemmini_least(p->group_in, w->channels - group * p->group_in);
    for (int32_t pixel = first; pixel < first + count; pixel++) {
        int32_t row = pixel / w->out_cols * w->stride_rows - w->pad_top;
        int32_t col = pixel % w->out_cols * w->stride_cols - w->pad_left;
        for (int32_t i = 0; i < w->kernel_rows; i++)
            for (int32_t j = 0; j < w->kernel_cols; j++, to += p->group_in) {
                int32_t r = row + i * w->dilation_rows, q = col + j * w->dilation_cols;
                int inside = r >= 0 && r < w->in_rows && q >= 0 && q < w->in_cols;
                int64_t from = ((int64_t)r * w->in_cols + q) * w->channels + group * p->group_in;
                for (int32_t c = 0; c < p->group_in; c++)
                    to[c] = inside && c < channels ? x[from + c] : 0;
            }
    }
}

static void load_a(const tile *t, const int8_t *a, int32_t step)
{
    int32_t blocks = gemmini_blocks(t->depth);
    gemmini_config_ld(0, step, GEMMINI_DIM, 1, 0, 1.0f);
    for (int32_t i = 0; i < t->rows; i += GEMMINI_DIM)
        for (int32_t k = 0; k < t->depth; k += GEMMINI_WIDEST)
            gemmini_mvin(a + (int64_t)i * step + t->k + k, t->a + (uint32_t)(i * blocks + k),
                         gemmini_least(GEMMINI_WIDEST, t->depth - k), gemmini_least(GEMMINI_DIM, t->rows - i));
}

static void load_b(const tile *t, const int8_t *b, int32_t step)
{
    int32_t blocks = gemmini_blocks(t->columns);
    gemmini_config_ld(1, step, GEMMINI_DIM, 1, 0, 1.0f);
    for (int32_t k = 0; k < t->depth; k += GEMMINI_DIM)
        for (int32_t j = 0; j < t->columns; j += GEMMINI_WIDEST)
            gemmini_mvin2(b + (int64_t)(t->k + k) * step + t->column + j, t->b + (uint32_t)(k * blocks + j),
                          gemmini_least(GEMMINI_WIDEST, t->columns - j),
                          gemmini_least(GEMMINI_DIM, t->depth - k));
}

/* The accumulator's row of the block of sums at i, j. */
static uint32_t sum_at(const tile *t, int32_t i, int32_t j)
{
    return GEMMINI_ACC | (t->acc + (uint32_t)(i * gemmini_blocks(t->columns) + j));
}

static void load_bias(const tile *t, const int32_t *bias)
{
    gemmini_config_ld(2, 0, GEMMINI_DIM, 1, 0, 1.0f);
    for (int32_t i = 0; i < t->rows; i += GEMMINI_DIM)
        for (int32_t j = 0; j < t->columns; j += GEMMINI_DIM)
            gemmini_mvin3(bias + t->column + j, sum_at(t, i, j), gemmini_least(GEMMINI_DIM, t->columns - j),
                          gemmini_least(GEMMINI_DIM, t->rows - i));
}

/* Weights stay in the array while blocks of rows pass. */
static void multiply_weight_stationary(const tile *t)
{
    for (int32_t k = 0; k < t->depth; k += GEMMINI_DIM)
        for (int32_t j = 0; j < t->columns; j += GEMMINI_DIM)
            for (int32_t i = 0; i < t->rows; i += GEMMINI_DIM) {
                int32_t rows = gemmini_least(GEMMINI_DIM, t->rows - i);
                int32_t columns = gemmini_least(GEMMINI_DIM, t->columns - j);
                int32_t depth = gemmini_least(GEMMINI_DIM, t->depth - k);
                uint32_t stays = t->b + (uint32_t)(k * gemmini_blocks(t->columns) + j);
                uint32_t a = t->a + (uint32_t)(i * gemmini_blocks(t->depth) + k);
                gemmini_preload(i == 0 ? stays : GEMMINI_NOWHERE, columns, depth, sum_at(t, i, j) | GEMMINI_ADD,
                                columns, rows);
                gemmini_compute(i == 0, gemmini_block(a, depth, rows),
                                gemmini_block(GEMMINI_NOWHERE, columns, rows));
            }
}

/* Sums stay in the array while blocks of depth pass; after `together` of them the accumulator takes them. */
static void multiply_output_stationary(const tile *t, int32_t together)
{
    for (int32_t i = 0; i < t->rows; i += GEMMINI_DIM)
        for (int32_t j = 0; j < t->columns; j += GEMMINI_DIM)
            for (int32_t k = 0; k < t->depth; k += GEMMINI_DIM) {
                int32_t rows = gemmini_least(GEMMINI_DIM, t->rows - i);
                int32_t columns = gemmini_least(GEMMINI_DIM, t->columns - j);
                int32_t depth = gemmini_least(GEMMINI_DIM, t->depth - k);
                int32_t number = k / GEMMINI_DIM % together;
                int last = number == together - 1 || k + GEMMINI_DIM >= t->depth;
                uint32_t a = t->a + (uint32_t)(i * gemmini_blocks(t->depth) + k);
                uint32_t b = t->b + (uint32_t)(k * gemmini_blocks(t->columns) + j);
                gemmini_preload(GEMMINI_NOWHERE, columns, rows,
                                last ? sum_at(t, i, j) | GEMMINI_ADD : GEMMINI_NOWHERE, columns, rows);
                gemmini_compute(number == 0, gemmini_block(a, depth, rows), gemmini_block(b, columns, depth));
            }
}

static void store(const gemmini_product *p, const tile *t, int8_t *y, int32_t *sums)
{
    for (int32_t i = 0; i < t->rows; i += GEMMINI_DIM)
        for (int32_t j = 0; j < t->columns; j += GEMMINI_DIM)
            gemmini_store(&p->out, y, sums,
                          (int64_t)(t->row + i) * p->y_step + t->group * p->columns + t->column + j,
                          sum_at(t, i, j), gemmini_least(GEMMINI_DIM, t->columns - j),
                          gemmini_least(GEMMINI_DIM, t->rows - i));
}

/* A tile of sums. a: its first row. turn counts the tiles that were loaded. */
static int32_t multiply_tile(const gemmini_product *p, tile *t, const int8_t *a, const int8_t *b, int32_t turn)
{
    int32_t halves = p->output_stationary ? 1 : 2, spad = GEMMINI_SPAD_ROWS / halves;
    int32_t a_step = p->gather ? p->depth : p->a_step;
    load_bias(t, p->bias + t->group * p->columns);
    for (t->k = 0; t->k < p->depth; t->k += p->tile_depth * GEMMINI_DIM, turn++) {
        t->depth = gemmini_least(p->tile_depth * GEMMINI_DIM, p->depth - t->k);
        t->a = (uint32_t)(turn % halves * spad);
        t->b = t->a + (uint32_t)(spad - gemmini_blocks(t->depth) * gemmini_blocks(t->columns) * GEMMINI_DIM);
        load_a(t, a, a_step);
        load_b(t, b, p->columns);
        if (p->output_stationary)
            multiply_output_stationary(t, p->together);
        else
            multiply_weight_stationary(t);
    }
    return turn;
}

void gemmini_multiply(const gemmini_product *p, const int8_t *a, const int8_t *b, int8_t *y, int32_t low,
                      int32_t high, void *scratch)
{
    int32_t halves = p->output_stationary ? 1 : 2, turn = 0, outputs = 0;
    int32_t tile_rows = p->tile_rows * GEMMINI_DIM, tile_columns = p->tile_columns * GEMMINI_DIM;
    int64_t gathered = p->gather ? (int64_t)gemmini_least(tile_rows, p->rows) * p->depth : 0;
    int32_t *sums = (int32_t *)((int8_t *)scratch + (gathered + 3) / 4 * 4);
    tile t;
    gemmini_fence();
    gemmini_config_ex(p->output_stationary ? GEMMINI_OUTPUT_STATIONARY : GEMMINI_WEIGHT_STATIONARY, 1);
    for (t.group = 0; t.group < p->groups; t.group++) {
        const int8_t *weights = b + (int64_t)t.group * p->depth * p->columns;
        t.group_columns = gemmini_least(p->columns, p->out_channels - t.group * p->columns);
        gemmini_config_store(&p->out, t.group, p->y_step, low, NO_POOL);
        for (t.row = 0; t.row < p->rows; t.row += tile_rows) {
            t.rows = gemmini_least(tile_rows, p->rows - t.row);
            const int8_t *from = a + (int64_t)t.row * p->a_step + t.group * p->depth;
            if (p->gather) {
                /* Gemmini may still be reading the rows before, and has to see these. */
                gemmini_fence();
                gather(p, a, t.group, t.row, t.rows, scratch);
                gemmini_fence();
                from = scratch;
            }
            for (t.column = 0; t.column < t.group_columns; t.column += tile_columns) {
                t.columns = gemmini_least(tile_columns, t.group_columns - t.column);
                t.acc = (uint32_t)(outputs++ % halves * (GEMMINI_ACC_ROWS / halves));
                turn = multiply_tile(p, &t, from, weights, turn);
                store(p, &t, y, sums);
            }
        }
    }
    gemmini_finish(&p->out, sums, y, p->rows, p->out_channels, low, high);
}
