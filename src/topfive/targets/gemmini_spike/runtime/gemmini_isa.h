/* Gemmini's instructions, from the ISA section of ucb-bar/gemmini's README: RoCC instructions of the major
 * opcode custom-3 with two source registers and no result.
 *
 * A value that does not fit its field stops the program: the hardware would drop the upper bits. Every
 * instruction and the fence are barriers for the compiler, because they read and write memory. */
#ifndef TOPFIVE_GEMMINI_ISA_H
#define TOPFIVE_GEMMINI_ISA_H

#include "topfive.h"

enum {
    GEMMINI_CONFIG = 0,
    GEMMINI_MVIN2 = 1,
    GEMMINI_MVIN = 2,
    GEMMINI_MVOUT = 3,
    GEMMINI_COMPUTE_PRELOADED = 4,
    GEMMINI_COMPUTE_ACCUMULATED = 5,
    GEMMINI_PRELOAD = 6,
    GEMMINI_FLUSH = 7,
    GEMMINI_MVIN3 = 14,
};

/* The sizes of the default configuration; the generator's tiles are made for them. */
enum {
    GEMMINI_DIM = 16,
    GEMMINI_SPAD_ROWS = 4 * 4096,
    GEMMINI_ACC_ROWS = 1024,
    GEMMINI_WIDEST = 64,
};

/* Local addresses: rows; the top bits choose the accumulator, adding to what it holds, reading whole sums. */
#define GEMMINI_ACC (1u << 31)
#define GEMMINI_ADD (1u << 30)
#define GEMMINI_WHOLE (1u << 29)
#define GEMMINI_NOWHERE 0xffffffffu

enum { GEMMINI_OUTPUT_STATIONARY = 0, GEMMINI_WEIGHT_STATIONARY = 1 };
enum { GEMMINI_NO_ACTIVATION = 0, GEMMINI_RELU = 1 };

#define GEMMINI_ISSUE(FUNCT, RS1, RS2)                                                                       \
    asm volatile(".insn r CUSTOM_3, 3, %0, x0, %1, %2" : : "i"(FUNCT), "r"(RS1), "r"(RS2) : "memory")

/* Wait until everything that was issued is done and visible on either side. */
static inline void gemmini_fence(void)
{
    asm volatile("fence" : : : "memory");
}

static inline uint64_t gemmini_field(uint64_t value, int width, int at)
{
    if (value >> width)
        topfive_fail("a value does not fit its field of a Gemmini instruction");
    return value << at;
}

static inline uint64_t gemmini_float(float value)
{
    union {
        float value;
        uint32_t bits;
    } parts = {value};
    return parts.bits;
}

/* Operand: rows x columns at a local address. */
static inline uint64_t gemmini_block(uint32_t at, int64_t columns, int64_t rows)
{
    return at | gemmini_field((uint64_t)columns, 16, 32) | gemmini_field((uint64_t)rows, 16, 48);
}

/* a_step: rows of the scratchpad between neighbouring rows of A. */
static inline void gemmini_config_ex(int dataflow, int64_t a_step)
{
    uint64_t rs1 = gemmini_field((uint64_t)dataflow, 1, 2) | gemmini_field((uint64_t)a_step, 16, 16) |
                   gemmini_float(1.0f) << 32;
    uint64_t rs2 = gemmini_field(1, 16, 48);
    GEMMINI_ISSUE(GEMMINI_CONFIG, rs1, rs2);
}

/* id 0, 1, 2: mvin, mvin2, mvin3. step: bytes between rows in memory. block_step: local rows between blocks of
 * 16 columns. pixels: how many neighbouring pixels share a local row. codes: whether the accumulator is
 * given int8, scaled, instead of int32. */
static inline void gemmini_config_ld(int id, int64_t step, int64_t block_step, int64_t pixels, int codes,
                                     float scale)
{
    uint64_t rs1 = 1 | gemmini_field((uint64_t)codes, 1, 2) | gemmini_field((uint64_t)id, 2, 3) |
                   gemmini_field((uint64_t)pixels, 8, 8) | gemmini_field((uint64_t)block_step, 16, 16) |
                   gemmini_float(scale) << 32;
    uint64_t rs2 = gemmini_field((uint64_t)step, 32, 0);
    GEMMINI_ISSUE(GEMMINI_CONFIG, rs1, rs2);
}

/* Max pooling while storing; stride 0: none. out_cols: pooled columns of a row in memory. pooled_rows and
 * pooled_cols are made of rows and cols sums in the accumulator. */
typedef struct {
    int32_t size, stride, pad_top, pad_left, out_cols;
    int32_t pooled_rows, pooled_cols, rows, cols;
} gemmini_pool;

static inline void gemmini_config_st(int64_t step, int activation, float scale, gemmini_pool pool)
{
    uint64_t rs1 = 2 | gemmini_field((uint64_t)activation, 2, 2) | gemmini_field((uint64_t)pool.stride, 2, 4) |
                   gemmini_field((uint64_t)pool.size, 2, 6) | gemmini_field((uint64_t)pool.pad_top, 2, 8) |
                   gemmini_field((uint64_t)pool.pad_left, 2, 10) |
                   gemmini_field((uint64_t)pool.out_cols, 8, 24) |
                   gemmini_field((uint64_t)pool.pooled_rows, 8, 32) |
                   gemmini_field((uint64_t)pool.pooled_cols, 8, 40) |
                   gemmini_field((uint64_t)pool.rows, 8, 48) | gemmini_field((uint64_t)pool.cols, 8, 56);
    uint64_t rs2 = gemmini_field((uint64_t)step, 32, 0) | gemmini_float(scale) << 32;
    GEMMINI_ISSUE(GEMMINI_CONFIG, rs1, rs2);
}

/* At most 16 rows of 64 bytes, or of 16 sums. The address 0 would read as zeros and is never meant. */
static inline void gemmini_check_move(const void *memory, int64_t columns, int64_t rows, int64_t widest)
{
    if (!memory || columns < 1 || columns > widest || rows < 1 || rows > GEMMINI_DIM)
        topfive_fail("a move of Gemmini is larger than it takes, or has no address");
}

static inline void gemmini_mvin(const void *from, uint32_t to, int64_t columns, int64_t rows)
{
    gemmini_check_move(from, columns, rows, GEMMINI_WIDEST);
    GEMMINI_ISSUE(GEMMINI_MVIN, from, gemmini_block(to, columns, rows));
}

static inline void gemmini_mvin2(const void *from, uint32_t to, int64_t columns, int64_t rows)
{
    gemmini_check_move(from, columns, rows, GEMMINI_WIDEST);
    GEMMINI_ISSUE(GEMMINI_MVIN2, from, gemmini_block(to, columns, rows));
}

static inline void gemmini_mvin3(const void *from, uint32_t to, int64_t columns, int64_t rows)
{
    gemmini_check_move(from, columns, rows, to & GEMMINI_ACC ? GEMMINI_DIM : GEMMINI_WIDEST);
    GEMMINI_ISSUE(GEMMINI_MVIN3, from, gemmini_block(to, columns, rows));
}

static inline void gemmini_mvout(void *to, uint32_t from, int64_t columns, int64_t rows)
{
    gemmini_check_move(to, columns, rows, GEMMINI_DIM);
    GEMMINI_ISSUE(GEMMINI_MVOUT, to, gemmini_block(from, columns, rows));
}

/* The matrix that stays in the array (weights; nowhere: the ones that are there), and where results go. */
static inline void gemmini_preload(uint32_t stays, int64_t columns, int64_t rows, uint32_t to,
                                   int64_t to_columns, int64_t to_rows)
{
    GEMMINI_ISSUE(GEMMINI_PRELOAD, gemmini_block(stays, columns, rows), gemmini_block(to, to_columns, to_rows));
}

/* fresh: what was preloaded is used; otherwise what is in the array already. */
static inline void gemmini_compute(int fresh, uint64_t a, uint64_t other)
{
    if (fresh)
        GEMMINI_ISSUE(GEMMINI_COMPUTE_PRELOADED, a, other);
    else
        GEMMINI_ISSUE(GEMMINI_COMPUTE_ACCUMULATED, a, other);
}

static inline void gemmini_flush(void)
{
    GEMMINI_ISSUE(GEMMINI_FLUSH, (uint64_t)0, (uint64_t)0);
}

#endif
