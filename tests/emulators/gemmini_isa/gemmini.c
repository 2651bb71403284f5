#include "gemmini.h"
#include "memory.h"

enum { DIM = 16, SPAD_ROWS = 16384, ACC_ROWS = 1024, MOST_BYTES = 64, ALL = 0xffff };
enum { OUTPUT_STATIONARY = 0, WEIGHT_STATIONARY = 1, UNKNOWN = 2 };

const char *const kind_names[KINDS] = {"config_ex", "config_ld", "config_st",
                                       "mvin",      "mvin2",     "mvin3",
                                       "mvout",     "preload",   "compute_preloaded",
                                       "compute_accumulated",    "flush"};
uint64_t kind_counts[KINDS];
int simulator_rounding;

static int8_t spad[SPAD_ROWS][DIM];
static int32_t acc[ACC_ROWS][DIM];
/* A bit a column that was written since the program began. */
static uint16_t spad_known[SPAD_ROWS], acc_known[ACC_ROWS];

static struct {
    int known, dataflow, a_step;
} ex;

typedef struct {
    int known, codes, pixels;
    uint32_t block_step;
    uint64_t step;
    float scale;
} loading;

static loading ld[3];

static struct {
    int known, relu;
    uint64_t step;
    float scale;
    int pool_stride, pool_size, pad_top, pad_left, out_cols, pooled_rows, pooled_cols, rows, cols;
} st;

/* rows x columns at a local address. */
typedef struct {
    uint32_t address;
    int columns, rows;
} block;

static struct {
    int waiting;
    block stays, to;
} preloaded;

/* What is in the array: weights (stationary), or sums that are still growing. */
static struct {
    int dataflow, rows, columns;
    int32_t value[DIM][DIM];
} array = {UNKNOWN, 0, 0, {{0}}};

static uint64_t bits(uint64_t value, int low, int width)
{
    return value >> low & (((uint64_t)1 << width) - 1);
}

static void zero_bits(uint64_t value, int low, int width)
{
    if (bits(value, low, width))
        stop("a reserved bit is set, or a field has overflowed into it");
}

static float float_of(uint64_t raw)
{
    union {
        uint32_t bits;
        float value;
    } parts = {(uint32_t)raw};
    if ((parts.bits >> 23 & 255) == 255 || parts.value <= 0)
        stop("a scale is not a positive number");
    return parts.value;
}

/* Nearest, ties to even, saturated to int8; x is a product that was rounded to float32. */
static int8_t code_of(float x)
{
    if (x >= 1000)
        return 127;
    if (x <= -1000)
        return -128;
    int32_t whole = (int32_t)x;
    float rest = x - (float)whole;
    rest = rest < 0 ? -rest : rest;
    int32_t away = x < 0 ? whole - 1 : whole + 1;
    if (simulator_rounding)
        away = (int32_t)(x < 0 ? x - 1 : x + 1);
    int32_t near = rest < 0.5f ? whole : rest > 0.5f ? away : whole % 2 ? away : whole;
    return (int8_t)(near > 127 ? 127 : near < -128 ? -128 : near);
}

static int8_t scaled(int32_t value, float scale)
{
    return code_of((float)value * scale);
}

/* Local addresses */

static int in_accumulator(uint32_t address)
{
    return address >> 31;
}

static int nowhere(uint32_t address)
{
    return address == 0xffffffffu;
}

/* The row of an address whose top bits are `allowed`, after checking that `rows` from there exist. */
static uint32_t row_of(uint32_t address, uint32_t allowed, uint32_t rows)
{
    uint32_t top = address & 0xe0000000u, row = address & 0x1fffffffu;
    if (top & ~allowed)
        stop("a bit of a local address means nothing here");
    uint32_t all = in_accumulator(address) ? ACC_ROWS : SPAD_ROWS;
    if (row >= all || rows > all - row)
        stop("rows lie outside the scratchpad or the accumulator");
    return row;
}

static block block_of(uint64_t operand)
{
    block b = {(uint32_t)operand, (int)bits(operand, 32, 16), (int)bits(operand, 48, 16)};
    return b;
}

static void check_size(block b)
{
    if (b.columns < 1 || b.columns > DIM || b.rows < 1 || b.rows > DIM)
        stop("a block is empty or larger than 16 x 16");
}

static int8_t code_at(uint32_t row, int column)
{
    if (!(spad_known[row] >> column & 1))
        stop("it uses a part of the scratchpad that was never written");
    return spad[row][column];
}

static int32_t sum_at(uint32_t row, int column)
{
    if (!(acc_known[row] >> column & 1))
        stop("it uses a part of the accumulator that was never written");
    return acc[row][column];
}

static void put_sum(uint32_t row, int column, int32_t value, int add)
{
    acc[row][column] = add ? (int32_t)((uint32_t)sum_at(row, column) + (uint32_t)value) : value;
    acc_known[row] |= (uint16_t)(1 << column);
}

static void put_code(uint32_t row, int column, int8_t value)
{
    spad[row][column] = value;
    spad_known[row] |= (uint16_t)(1 << column);
}

/* Configuration */

static void config_ex(uint64_t rs1, uint64_t rs2)
{
    zero_bits(rs1, 5, 2);
    zero_bits(rs1, 10, 6);
    zero_bits(rs2, 32, 16);
    if (bits(rs1, 3, 2) || bits(rs1, 7, 3) || bits(rs2, 0, 32))
        stop("activations, transposes and shifts inside the array are not emulated");
    if (!bits(rs1, 16, 16) || bits(rs2, 48, 16) != 1)
        stop("a stride of the array's operands is 0, or that of its results is not 1");
    float_of(rs1 >> 32);
    if (preloaded.waiting)
        stop("a preload has no compute");
    int dataflow = (int)bits(rs1, 2, 1);
    if (dataflow != array.dataflow)
        array.dataflow = UNKNOWN;
    ex.known = 1, ex.dataflow = dataflow, ex.a_step = (int)bits(rs1, 16, 16);
}

static void config_ld(uint64_t rs1, uint64_t rs2)
{
    uint64_t id = bits(rs1, 3, 2);
    zero_bits(rs1, 5, 3);
    if (id > 2)
        stop("there are three kinds of mvin");
    loading made = {1, (int)bits(rs1, 2, 1), (int)bits(rs1, 8, 8), (uint32_t)bits(rs1, 16, 16), rs2,
                    float_of(rs1 >> 32)};
    if (made.pixels < 1 || made.pixels > DIM)
        stop("between 1 and 16 pixels share a row");
    ld[id] = made;
}

static void config_st(uint64_t rs1, uint64_t rs2)
{
    zero_bits(rs1, 12, 12);
    if (bits(rs1, 2, 2) > 1)
        stop("activations other than ReLU are not emulated");
    st.known = 1;
    st.relu = (int)bits(rs1, 2, 2);
    st.step = bits(rs2, 0, 32);
    st.scale = float_of(rs2 >> 32);
    st.pool_stride = (int)bits(rs1, 4, 2), st.pool_size = (int)bits(rs1, 6, 2);
    st.pad_top = (int)bits(rs1, 8, 2), st.pad_left = (int)bits(rs1, 10, 2);
    st.out_cols = (int)bits(rs1, 24, 8);
    st.pooled_rows = (int)bits(rs1, 32, 8), st.pooled_cols = (int)bits(rs1, 40, 8);
    st.rows = (int)bits(rs1, 48, 8), st.cols = (int)bits(rs1, 56, 8);
    if (!st.pool_stride) {
        if (rs1 >> 4)
            stop("a pool has sizes but no stride");
        return;
    }
    if (!st.pool_size || !st.pooled_rows || !st.pooled_cols || !st.rows || !st.cols)
        stop("a pool has no size, or nothing to pool");
    if (st.pad_top >= st.pool_size || st.pad_left >= st.pool_size || st.pooled_cols > st.out_cols)
        stop("a pool's padding is as wide as its window, or its result is wider than the picture");
    /* What lies further out than the padding would be taken for zeros. */
    if ((st.pooled_rows - 1) * st.pool_stride - st.pad_top >= st.rows ||
        (st.pooled_cols - 1) * st.pool_stride - st.pad_left >= st.cols)
        stop("a pool's window has nothing of the picture in it");
}

static void config(uint64_t rs1, uint64_t rs2)
{
    static void (*const kinds[])(uint64_t, uint64_t) = {config_ex, config_ld, config_st};
    static const int numbers[] = {CONFIG_EX, CONFIG_LD, CONFIG_ST};
    uint64_t kind = bits(rs1, 0, 2);
    if (kind > 2)
        stop("this configuration is not emulated");
    at_hand.name = kind_names[numbers[kind]];
    kind_counts[numbers[kind]]++;
    kinds[kind](rs1, rs2);
}

/* Data movement */

/* One element of a row that is loaded; a pixel that is shared is also put into the rows before. */
static void load_code(const loading *l, uint32_t base, int row, int column, int columns, int8_t value)
{
    uint32_t at = base + (uint32_t)row + (uint32_t)(column / DIM) * l->block_step;
    for (uint32_t pixel = 0; pixel < (uint32_t)l->pixels && pixel <= at; pixel++)
        put_code(at - pixel, column % DIM + (int)pixel * columns, value);
}

static void check_load(const loading *l, block b, int width)
{
    if (!l->known)
        stop("this mvin was not configured");
    if (b.rows < 1 || b.rows > DIM || b.columns < 1 || b.columns * width > MOST_BYTES)
        stop("an mvin takes 1 to 16 rows of 1 to 64 bytes");
    if (b.columns > DIM && l->block_step < (uint32_t)b.rows)
        stop("the blocks of an mvin overlap");
    if (l->pixels > 1 && (in_accumulator(b.address) || b.columns * l->pixels > DIM))
        stop("pixels share rows of the scratchpad, and only as many as fit");
}

static void mvin(int id, uint64_t rs1, uint64_t rs2)
{
    const loading *l = &ld[id];
    block b = block_of(rs2);
    int to_acc = in_accumulator(b.address), width = to_acc && !l->codes ? 4 : 1;
    check_load(l, b, width);
    if (!rs1)
        stop("the address 0 is read");
    uint32_t extent = (uint32_t)((b.columns - 1) / DIM) * l->block_step + (uint32_t)b.rows;
    uint32_t base = row_of(b.address, to_acc ? 0xc0000000u : 0, extent);
    int add = (int)bits(b.address, 30, 1);
    for (int row = 0; row < b.rows; row++) {
        const uint8_t *from = memory_read(rs1 + (uint64_t)row * l->step, (uint64_t)(b.columns * width));
        for (int column = 0; column < b.columns; column++) {
            uint32_t at = base + (uint32_t)row + (uint32_t)(column / DIM) * l->block_step;
            if (width == 4) {
                const uint8_t *s = from + column * 4;
                uint32_t value = s[0] | (uint32_t)s[1] << 8 | (uint32_t)s[2] << 16 | (uint32_t)s[3] << 24;
                put_sum(at, column % DIM, (int32_t)value, add);
                continue;
            }
            int8_t code = l->scale == 1.0f ? (int8_t)from[column] : scaled((int8_t)from[column], l->scale);
            if (to_acc)
                put_sum(at, column % DIM, code, add);
            else
                load_code(l, base, row, column, b.columns, code);
        }
    }
}

static int8_t stored_code(uint32_t row, int column)
{
    int8_t code = scaled(sum_at(row, column), st.scale);
    return st.relu && code < 0 ? 0 : code;
}

static void mvout_pooled(uint64_t to, block b)
{
    if (!in_accumulator(b.address) || b.address >> 29 & 1)
        stop("only scaled sums are pooled");
    uint32_t base = row_of(b.address, 0x80000000u, (uint32_t)(st.rows * st.cols));
    for (int row = 0; row < st.pooled_rows; row++)
        for (int col = 0; col < st.pooled_cols; col++)
            for (int c = 0; c < b.columns; c++) {
                int8_t largest = -128;
                for (int i = 0; i < st.pool_size * st.pool_size; i++) {
                    int r = row * st.pool_stride - st.pad_top + i / st.pool_size;
                    int q = col * st.pool_stride - st.pad_left + i % st.pool_size;
                    int inside = r >= 0 && r < st.rows && q >= 0 && q < st.cols;
                    int8_t code = inside ? stored_code(base + (uint32_t)(r * st.cols + q), c) : 0;
                    largest = code > largest ? code : largest;
                }
                memory_write(to + (uint64_t)(row * st.out_cols + col) * st.step + (uint64_t)c, (uint8_t)largest);
            }
}

static void mvout(uint64_t rs1, uint64_t rs2)
{
    block b = block_of(rs2);
    if (!st.known)
        stop("mvout was not configured");
    check_size(b);
    if (!rs1)
        stop("the address 0 is written");
    if (st.pool_stride) {
        mvout_pooled(rs1, b);
        return;
    }
    int from_acc = in_accumulator(b.address), whole = (int)bits(b.address, 29, 1);
    uint32_t base = row_of(b.address, from_acc ? 0xa0000000u : 0, (uint32_t)b.rows);
    for (int row = 0; row < b.rows; row++)
        for (int column = 0; column < b.columns; column++) {
            uint64_t to = rs1 + (uint64_t)row * st.step + (uint64_t)(column * (whole ? 4 : 1));
            uint32_t from = base + (uint32_t)row;
            if (whole) {
                uint32_t value = (uint32_t)sum_at(from, column);
                for (int i = 0; i < 4; i++)
                    memory_write(to + (uint64_t)i, (uint8_t)(value >> 8 * i));
            } else {
                memory_write(to, (uint8_t)(from_acc ? stored_code(from, column) : code_at(from, column)));
            }
        }
}

/* Multiplication */

static void preload(uint64_t rs1, uint64_t rs2)
{
    if (!ex.known)
        stop("the array was not configured");
    if (preloaded.waiting)
        stop("a preload has no compute");
    preloaded.waiting = 1;
    preloaded.stays = block_of(rs1);
    preloaded.to = block_of(rs2);
    check_size(preloaded.stays);
    check_size(preloaded.to);
    if (!nowhere(preloaded.stays.address))
        row_of(preloaded.stays.address, 0, (uint32_t)preloaded.stays.rows);
    if (!nowhere(preloaded.to.address))
        row_of(preloaded.to.address, in_accumulator(preloaded.to.address) ? 0xc0000000u : 0,
               (uint32_t)preloaded.to.rows);
}

/* Fill the array with what was preloaded; nowhere: zeros. */
static void fill_array(void)
{
    const block *b = &preloaded.stays;
    for (int i = 0; i < DIM; i++)
        for (int j = 0; j < DIM; j++) {
            int inside = !nowhere(b->address) && i < b->rows && j < b->columns;
            array.value[i][j] = inside ? code_at(b->address + (uint32_t)i, j) : 0;
        }
    array.dataflow = ex.dataflow, array.rows = b->rows, array.columns = b->columns;
}

static void write_results(int32_t value[DIM][DIM], int rows, int columns)
{
    const block *to = &preloaded.to;
    if (nowhere(to->address))
        return;
    if (to->rows > rows || to->columns > columns)
        stop("more results are wanted than there are");
    uint32_t base = to->address & 0x1fffffffu;
    for (int i = 0; i < to->rows; i++)
        for (int j = 0; j < to->columns; j++) {
            int32_t v = value[i][j];
            if (v >= 1 << 19 || v < -(1 << 19))
                stop("a result does not fit the 20 bits that leave the array");
            if (in_accumulator(to->address))
                put_sum(base + (uint32_t)i, j, v, (int)bits(to->address, 30, 1));
            else
                put_code(base + (uint32_t)i, j, (int8_t)(v > 127 ? 127 : v < -128 ? -128 : v));
        }
}

/* value [rows of a][columns] += a * b, with b's rows 16 numbers apart. */
static void multiply(block a, int32_t (*b)[DIM], int columns, int32_t value[DIM][DIM])
{
    uint32_t base = row_of(a.address, 0, (uint32_t)((a.rows - 1) * ex.a_step + 1));
    for (int i = 0; i < a.rows; i++)
        for (int k = 0; k < a.columns; k++) {
            int32_t x = code_at(base + (uint32_t)(i * ex.a_step), k);
            for (int j = 0; x && j < columns; j++)
                value[i][j] += x * b[k][j];
        }
}

static void compute_weight_stationary(int fresh, block a, block d)
{
    if (fresh == nowhere(preloaded.stays.address))
        stop(fresh ? "no weights were preloaded" : "weights were preloaded and are not used");
    if (!nowhere(d.address))
        stop("a bias from the scratchpad is not emulated");
    if (fresh)
        fill_array();
    if (array.dataflow != WEIGHT_STATIONARY)
        stop("there are no weights in the array");
    if (a.columns != array.rows)
        stop("the columns of a are not the rows of the weights");
    int32_t result[DIM][DIM] = {{0}};
    multiply(a, array.value, array.columns, result);
    write_results(result, a.rows, array.columns);
}

static void compute_output_stationary(int fresh, block a, block b)
{
    int32_t right[DIM][DIM];
    check_size(b);
    if (a.columns != b.rows)
        stop("the columns of a are not the rows of b");
    if (!fresh && array.dataflow != OUTPUT_STATIONARY)
        stop("there are no sums in the array");
    if (!fresh && (array.rows != a.rows || array.columns != b.columns))
        stop("the sums in the array have another size");
    if (fresh)
        fill_array();
    array.rows = a.rows, array.columns = b.columns;
    uint32_t base = row_of(b.address, 0, (uint32_t)b.rows);
    for (int i = 0; i < b.rows; i++)
        for (int j = 0; j < b.columns; j++)
            right[i][j] = code_at(base + (uint32_t)i, j);
    multiply(a, right, b.columns, array.value);
    write_results(array.value, a.rows, b.columns);
    /* Sums that have left the array are gone. */
    if (!nowhere(preloaded.to.address))
        array.dataflow = UNKNOWN;
}

static void compute(int fresh, uint64_t rs1, uint64_t rs2)
{
    block a = block_of(rs1), other = block_of(rs2);
    if (!preloaded.waiting)
        stop("a compute has no preload");
    check_size(a);
    if (nowhere(a.address) || in_accumulator(a.address))
        stop("a is not in the scratchpad");
    if (ex.dataflow == WEIGHT_STATIONARY)
        compute_weight_stationary(fresh, a, other);
    else
        compute_output_stationary(fresh, a, other);
    preloaded.waiting = 0;
}

void gemmini_execute(uint32_t instruction, uint64_t rs1, uint64_t rs2)
{
    static const int8_t kinds[] = {-1,      MVIN2,  MVIN,   MVOUT,  COMPUTE_PRELOADED, COMPUTE_ACCUMULATED,
                                   PRELOAD, FLUSH,  -1,     -1,     -1,                -1,
                                   -1,      -1,     MVIN3};
    uint32_t function = instruction >> 25, flags = instruction >> 12 & 7, rd = instruction >> 7 & 31;
    at_hand.name = "an instruction of Gemmini";
    if (flags != 3 || rd)
        stop("Gemmini's instructions read two registers and write none");
    if (function && (function >= sizeof kinds || kinds[function] < 0))
        stop("this instruction is not emulated");
    if (!function) {
        config(rs1, rs2);
        return;
    }
    int kind = kinds[function];
    at_hand.name = kind_names[kind];
    kind_counts[kind]++;
    switch (kind) {
    case MVIN:
    case MVIN2:
    case MVIN3:
        mvin(kind - MVIN, rs1, rs2);
        break;
    case MVOUT:
        mvout(rs1, rs2);
        break;
    case PRELOAD:
        preload(rs1, rs2);
        break;
    case FLUSH:
        if (rs1 > 1)
            stop("a flush has one flag");
        break;
    default:
        compute(kind == COMPUTE_PRELOADED, rs1, rs2);
    }
}
