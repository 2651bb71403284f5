#include "memory.h"

enum { SEGMENTS = 8, PAGE = 4096, READ = 1, PENDING = 2 };

/* state: what is going on with each byte; value: what it was when it was read, or will be. touched: pages. */
typedef struct {
    uint64_t from, to;
    uint8_t *state, *value, *touched;
} segment;

static segment segments[SEGMENTS];
static int used;

static uint8_t *zeroed(uint64_t size)
{
    enum { READ_WRITE = 3, PRIVATE_ANONYMOUS = 0x22 };
    long at = system_call(SYS_MMAP, 0, (long)size, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0);
    if (at < 0 && at > -PAGE)
        stop("no memory for the emulator");
    return (uint8_t *)at;
}

void memory_add(uint64_t from, uint64_t to, int writable)
{
    if (used == SEGMENTS)
        stop("the program has too many segments");
    segment *s = &segments[used++];
    s->from = from, s->to = to;
    if (writable) {
        s->state = zeroed(to - from);
        s->value = zeroed(to - from);
        s->touched = zeroed((to - from) / PAGE + 1);
    }
}

static segment *segment_of(uint64_t at, uint64_t count)
{
    for (segment *s = segments; s < segments + used; s++)
        if (at >= s->from && at < s->to && count <= s->to - at)
            return s;
    return NULL;
}

const uint8_t *memory_read(uint64_t at, uint64_t count)
{
    segment *s = segment_of(at, count);
    if (!s)
        stop("it reads memory that is not the program's");
    const uint8_t *from = (const uint8_t *)at;
    if (!s->state)
        return from;
    uint64_t offset = at - s->from;
    for (uint64_t i = offset; i < offset + count; i++) {
        if (s->state[i] & PENDING)
            stop("it reads what an earlier mvout stores, with no fence between");
        if (s->state[i] & READ && s->value[i] != from[i - offset])
            stop("the program changed memory that an earlier instruction may still read, with no fence between");
        s->state[i] = READ;
        s->value[i] = from[i - offset];
        s->touched[i / PAGE] = 1;
    }
    return from;
}

void memory_write(uint64_t at, uint8_t value)
{
    segment *s = segment_of(at, 1);
    if (!s || !s->state)
        stop("it stores into memory that is not the program's to write");
    uint64_t i = at - s->from;
    if (s->state[i] & PENDING)
        stop("it stores a byte that an earlier mvout stores too, with no fence between");
    if (s->state[i] & READ)
        stop("it stores a byte that an earlier mvin may still read, with no fence between");
    s->state[i] = PENDING;
    s->value[i] = value;
    s->touched[i / PAGE] = 1;
    *(volatile uint8_t *)at = (uint8_t)~value;
}

static void settle_page(segment *s, uint64_t first)
{
    uint64_t size = s->to - s->from, end = first + PAGE < size ? first + PAGE : size;
    volatile uint8_t *real = (volatile uint8_t *)s->from;
    for (uint64_t i = first; i < end; i++) {
        if (s->state[i] & READ && real[i] != s->value[i])
            stop("the program changed memory that Gemmini was told to load before the fence");
        if (s->state[i] & PENDING && (real[i] ^ s->value[i]) != 0xff)
            stop("the program wrote to memory that Gemmini was told to store to before the fence");
        if (s->state[i] & PENDING)
            real[i] = s->value[i];
        s->state[i] = 0;
    }
}

void memory_settle(void)
{
    for (segment *s = segments; s < segments + used; s++)
        for (uint64_t page = 0; s->touched && page <= (s->to - s->from) / PAGE; page++)
            if (s->touched[page]) {
                s->touched[page] = 0;
                settle_page(s, page * PAGE);
            }
}
