/* Convolutions, weight stationary: the loop order of Gemmini's own library, with explicit instructions.
 *
 * A tile's input lies in the scratchpad as [block of 16 channels][row][column], a row of the scratchpad a pixel;
 * its weights as [block of 16 output channels][kernel row][kernel column][channel]; its sums in the accumulator
 * as [block of 16 output channels][row][column]. Tiles take turns with two halves of both memories. */
#include "gemmini_layers.h"

enum { HALF_SPAD = GEMMINI_SPAD_ROWS / 2, HALF_ACC = GEMMINI_ACC_ROWS / 2, ZEROS_STEP = GEMMINI_WIDEST };

static const int8_t zeros[GEMMINI_DIM * ZEROS_STEP];
static const gemmini_pool NO_POOL;

/* One tile. row, col, rows, cols: the sums before pooling. in_row, in_col: where the input begins, which may be
 * in the padding. a, b, acc: local addresses. pixels: how many share a row of the scratchpad. */
typedef struct {
    int32_t group, group_in, group_out;
    int32_t row, col, rows, cols;
    int32_t out, outs;
    int32_t kernel_row, kernel_col, kernel_rows, kernel_cols;
    int32_t in, ins;
    int32_t in_row, in_col, in_rows, in_cols;
    int32_t pixels;
    uint32_t a, b, acc;
} tile;

/* Up to 16 pixels that lie beside each other, or as many zeros. q: the first one's column in the tile. */
static void load_pixels(const gemmini_convolution *c, const tile *t, const int8_t *x, int32_t r, int32_t q,
                        int32_t count, int inside)
{
    const topfive_window *w = &c->window;
    int64_t pixel = (int64_t)(t->in_row + r * c->skip) * w->in_cols + t->in_col + q * c->skip;
    int64_t from = pixel * w->channels + t->group * c->group_in + t->in;
    for (int32_t k = 0; k < t->ins; k += GEMMINI_WIDEST) {
        int32_t columns = gemmini_least(GEMMINI_WIDEST, t->ins - k);
        uint32_t to = t->a + (uint32_t)((k / GEMMINI_DIM * t->in_rows + r) * t->in_cols + q);
        if (inside)
            gemmini_mvin(x + from + k, to, columns, count);
        else
            gemmini_mvin3(zeros, to, columns, count);
    }
}

static void load_span(const gemmini_convolution *c, const tile *t, const int8_t *x, int32_t r, int32_t first,
                      int32_t end, int inside)
{
    for (int32_t q = first; q < end; q += GEMMINI_DIM)
        load_pixels(c, t, x, r, q, gemmini_least(GEMMINI_DIM, end - q), inside);
}

static void load_inputs(const gemmini_convolution *c, const tile *t, const int8_t *x)
{
    const topfive_window *w = &c->window;
    int32_t block = t->in_rows * t->in_cols;
    gemmini_config_ld(0, (int64_t)w->channels * c->skip, block, t->pixels, 0, 1.0f);
    gemmini_config_ld(2, ZEROS_STEP, block, t->pixels, 0, 1.0f);
    /* Columns of the tile that lie in the picture. */
    int32_t first = t->in_col < 0 ? gemmini_least(-t->in_col, t->in_cols) : 0;
    int32_t end = (w->in_cols - t->in_col + c->skip - 1) / c->skip;
    end = end < first ? first : gemmini_least(end, t->in_cols);
    for (int32_t r = 0; r < t->in_rows; r++) {
        int32_t row = t->in_row + r * c->skip;
        if (row < 0 || row >= w->in_rows) {
            load_span(c, t, x, r, 0, t->in_cols, 0);
            continue;
        }
        load_span(c, t, x, r, 0, first, 0);
        load_span(c, t, x, r, first, end, 1);
        load_span(c, t, x, r, end, t->in_cols, 0);
    }
}

static void load_weights(const gemmini_convolution *c, const tile *t)
{
    const topfive_window *w = &c->window;
    int32_t block = t->kernel_rows * t->kernel_cols * t->ins;
    gemmini_config_ld(1, c->group_out, block, 1, 0, 1.0f);
    for (int32_t o = 0; o < t->outs; o += GEMMINI_WIDEST)
        for (int32_t i = 0; i < t->kernel_rows; i++)
            for (int32_t j = 0; j < t->kernel_cols; j++)
                for (int32_t k = 0; k < t->ins; k += GEMMINI_DIM) {
                    int64_t position = (int64_t)t->group * w->kernel_rows + t->kernel_row + i;
                    position = position * w->kernel_cols + t->kernel_col + j;
                    const int8_t *from =
                        c->weights + (position * c->group_in + t->in + k) * c->group_out + t->out + o;
                    int32_t row = (i * t->kernel_cols + j) * t->ins + k;
                    gemmini_mvin2(from, t->b + (uint32_t)(o / GEMMINI_DIM * block + row),
                                  gemmini_least(GEMMINI_WIDEST, t->outs - o),
                                  gemmini_least(GEMMINI_DIM, t->ins - k));
                }
}

static void load_bias(const gemmini_convolution *c, const tile *t)
{
    const int32_t *bias = c->bias + t->group * c->group_out + t->out;
    gemmini_config_ld(2, 0, GEMMINI_DIM, 1, 0, 1.0f);
    for (int32_t r = 0; r < t->rows; r++)
        for (int32_t q = 0; q < t->cols; q += GEMMINI_DIM)
            for (int32_t o = 0; o < t->outs; o += GEMMINI_DIM) {
                int32_t row = (o / GEMMINI_DIM * t->rows + r) * t->cols + q;
                gemmini_mvin3(bias + o, GEMMINI_ACC | (t->acc + (uint32_t)row),
                              gemmini_least(GEMMINI_DIM, t->outs - o),
                              gemmini_least(GEMMINI_DIM, t->cols - q));
            }
}

/* All pixels of a tile times one block of weights. o, i, j, k: where the block begins. */
static void multiply_block(const gemmini_convolution *c, const tile *t, int32_t o, int32_t i, int32_t j, int32_t k)
{
    const topfive_window *w = &c->window;
    int32_t stride_rows = w->stride_rows / c->skip, stride_cols = w->stride_cols / c->skip;
    int32_t outs = gemmini_least(GEMMINI_DIM, t->outs - o);
    int32_t depth = gemmini_least(GEMMINI_DIM, t->ins - k) * gemmini_least(t->pixels, t->kernel_cols - j);
    int32_t row = ((o / GEMMINI_DIM * t->kernel_rows + i) * t->kernel_cols + j) * t->ins + k;
    uint32_t stays = t->b + (uint32_t)row;
    int fresh = 1;
    for (int32_t r = 0; r < t->rows; r++)
        for (int32_t q = 0; q < t->cols; q += GEMMINI_DIM) {
            int32_t count = gemmini_least(GEMMINI_DIM, t->cols - q);
            int32_t in_row = r * stride_rows + i * w->dilation_rows;
            int32_t in_col = q * stride_cols + j * w->dilation_cols;
            uint32_t a = t->a + (uint32_t)((k / GEMMINI_DIM * t->in_rows + in_row) * t->in_cols + in_col);
            uint32_t sum = t->acc + (uint32_t)((o / GEMMINI_DIM * t->rows + r) * t->cols + q);
            gemmini_preload(fresh ? stays : GEMMINI_NOWHERE, outs, depth, GEMMINI_ACC | GEMMINI_ADD | sum, outs,
                            count);
            gemmini_compute(fresh, gemmini_block(a, depth, count), gemmini_block(GEMMINI_NOWHERE, outs, count));
            fresh = 0;
        }
}

static void multiply(const gemmini_convolution *c, const tile *t)
{
    for (int32_t o = 0; o < t->outs; o += GEMMINI_DIM)
        for (int32_t i = 0; i < t->kernel_rows; i++)
            for (int32_t j = 0; j < t->kernel_cols; j += t->pixels)
                for (int32_t k = 0; k < t->ins; k += GEMMINI_DIM)
                    multiply_block(c, t, o, i, j, k);
}

static void store(const gemmini_convolution *c, const tile *t, int8_t *y, int32_t *sums)
{
    const topfive_window *w = &c->window;
    for (int32_t r = 0; r < t->rows; r++)
        for (int32_t q = 0; q < t->cols; q += GEMMINI_DIM)
            for (int32_t o = 0; o < t->outs; o += GEMMINI_DIM) {
                int64_t pixel = (int64_t)(t->row + r) * w->out_cols + t->col + q;
                int32_t row = (o / GEMMINI_DIM * t->rows + r) * t->cols + q;
                gemmini_store(&c->out, y, sums, pixel * c->out_channels + t->group * c->group_out + t->out + o,
                              GEMMINI_ACC | (t->acc + (uint32_t)row), gemmini_least(GEMMINI_DIM, t->outs - o),
                              gemmini_least(GEMMINI_DIM, t->cols - q));
            }
}

/* The beginning and number of the outputs that `count` pooled ones from `at` are made of. */
typedef struct {
    int32_t at, count, pad;
} span;

static span unpooled(const gemmini_convolution *c, int32_t at, int32_t count, int32_t size)
{
    span s = {at, count, 0};
    if (c->pool_stride) {
        int32_t begin = at * c->pool_stride - c->pool_pad;
        int32_t end = gemmini_least(size, begin + (count - 1) * c->pool_stride + c->pool_size);
        s.at = begin < 0 ? 0 : begin;
        s.pad = s.at - begin;
        s.count = end - s.at;
    }
    return s;
}

static void store_pooled(const gemmini_convolution *c, const tile *t, int8_t *y, int32_t low, gemmini_pool pool,
                         int32_t at)
{
    gemmini_config_store(&c->out, t->group, c->out_channels, low, pool);
    int8_t *to = y + (int64_t)at * c->out_channels + t->group * c->group_out + t->out;
    for (int32_t o = 0; o < t->outs; o += GEMMINI_DIM)
        gemmini_mvout(to + o, GEMMINI_ACC | (t->acc + (uint32_t)(o / GEMMINI_DIM * t->rows * t->cols)),
                      gemmini_least(GEMMINI_DIM, t->outs - o), 1);
}

/* Where the tile's input begins and how much there is, and where it goes. Pixels that share rows also write a
 * few rows before their own: those have to be free. */
static void place(const gemmini_convolution *c, tile *t, int32_t turn)
{
    const topfive_window *w = &c->window;
    t->in_row = t->row * w->stride_rows + t->kernel_row * w->dilation_rows - w->pad_top;
    t->in_col = t->col * w->stride_cols + t->kernel_col * w->dilation_cols - w->pad_left;
    t->in_rows = (t->rows - 1) * w->stride_rows / c->skip + (t->kernel_rows - 1) * w->dilation_rows + 1;
    t->in_cols = (t->cols - 1) * w->stride_cols / c->skip + (t->kernel_cols - 1) * w->dilation_cols + 1;
    t->pixels = 1;
    if (c->share && t->ins <= GEMMINI_DIM)
        t->pixels = gemmini_least(GEMMINI_DIM / t->ins, t->kernel_cols);
    int32_t a_rows = gemmini_blocks(t->ins) * t->in_rows * t->in_cols;
    int32_t b_rows = gemmini_blocks(t->outs) * t->kernel_rows * t->kernel_cols * t->ins;
    int32_t before = t->pixels - 1;
    int fits = a_rows + b_rows + before <= HALF_SPAD;
    uint32_t half = fits ? (uint32_t)(turn & 1) * HALF_SPAD : 0;
    t->a = fits ? half + (uint32_t)before : 0;
    t->b = half + HALF_SPAD - (uint32_t)b_rows;
}

/* The sums of a tile of outputs: all kernel positions and channels. turn counts the tiles that were loaded. */
static int32_t accumulate(const gemmini_convolution *c, tile *t, const int8_t *x, int32_t turn)
{
    const topfive_window *w = &c->window;
    load_bias(c, t);
    for (t->kernel_row = 0; t->kernel_row < w->kernel_rows; t->kernel_row += c->tile_kernel_rows)
        for (t->kernel_col = 0; t->kernel_col < w->kernel_cols; t->kernel_col += c->tile_kernel_cols)
            for (t->in = 0; t->in < t->group_in; t->in += c->tile_in) {
                t->kernel_rows = gemmini_least(c->tile_kernel_rows, w->kernel_rows - t->kernel_row);
                t->kernel_cols = gemmini_least(c->tile_kernel_cols, w->kernel_cols - t->kernel_col);
                t->ins = gemmini_least(c->tile_in, t->group_in - t->in);
                place(c, t, turn++);
                load_inputs(c, t, x);
                load_weights(c, t);
                multiply(c, t);
            }
    return turn;
}

/* One tile of (pooled) outputs at row, col. */
static int32_t convolve_tile(const gemmini_convolution *c, tile *t, const int8_t *x, int8_t *y, int32_t *sums,
                             int32_t row, int32_t col, int32_t low, int32_t turn)
{
    int32_t rows = gemmini_least(c->tile_rows, c->pooled_rows - row);
    int32_t cols = gemmini_least(c->tile_cols, c->pooled_cols - col);
    span down = unpooled(c, row, rows, c->window.out_rows), across = unpooled(c, col, cols, c->window.out_cols);
    t->row = down.at, t->rows = down.count;
    t->col = across.at, t->cols = across.count;
    turn = accumulate(c, t, x, turn);
    if (c->pool_stride) {
        gemmini_pool pool = {c->pool_size, c->pool_stride, down.pad, across.pad, c->pooled_cols,
                             rows,         cols,           t->rows,  t->cols};
        store_pooled(c, t, y, low, pool, row * c->pooled_cols + col);
    } else {
        store(c, t, y, sums);
    }
    return turn;
}

void gemmini_convolve(const gemmini_convolution *c, const int8_t *x, int8_t *y, int32_t low, int32_t high,
                      void *scratch)
{
    const topfive_window *w = &c->window;
    int32_t turn = 0, outputs = 0;
    tile t;
    gemmini_fence();
    gemmini_config_ex(GEMMINI_WEIGHT_STATIONARY, w->stride_cols / c->skip);
    for (t.group = 0; t.group < c->groups; t.group++) {
        t.group_in = gemmini_least(c->group_in, w->channels - t.group * c->group_in);
        t.group_out = gemmini_least(c->group_out, c->out_channels - t.group * c->group_out);
        if (!c->pool_stride)
            gemmini_config_store(&c->out, t.group, c->out_channels, low, NO_POOL);
        for (int32_t row = 0; row < c->pooled_rows; row += c->tile_rows)
            for (int32_t col = 0; col < c->pooled_cols; col += c->tile_cols)
                for (t.out = 0; t.out < t.group_out; t.out += c->tile_out) {
                    t.outs = gemmini_least(c->tile_out, t.group_out - t.out);
                    t.acc = (uint32_t)(outputs++ & 1) * HALF_ACC;
                    turn = convolve_tile(c, &t, x, y, scratch, row, col, low, turn);
                }
    }
    gemmini_finish(&c->out, scratch, y, (int64_t)c->pooled_rows * c->pooled_cols, c->out_channels, low, high);
}
