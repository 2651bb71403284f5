/* The program's start and its five system calls: no C library is needed, and none decides any result. */
#include "topfive.h"

enum { AT_FDCWD_VALUE = -100, SYS_OPENAT = 56, SYS_READ = 63, SYS_WRITE = 64, SYS_EXIT_GROUP = 94 };
enum { OPEN_READ = 0, OPEN_CREATE = 01 | 0100 | 01000, OUTPUT_MODE = 0644 };

static long system_call(long number, long a, long b, long c, long d)
{
    register long a0 asm("a0") = a;
    register long a1 asm("a1") = b;
    register long a2 asm("a2") = c;
    register long a3 asm("a3") = d;
    register long a7 asm("a7") = number;
    asm volatile("ecall" : "+r"(a0) : "r"(a1), "r"(a2), "r"(a3), "r"(a7) : "memory");
    return a0;
}

static size_t length_of(const char *text)
{
    size_t n = 0;
    while (text[n])
        n++;
    return n;
}

static void leave(int status)
{
    for (;;)
        system_call(SYS_EXIT_GROUP, status, 0, 0, 0);
}

static void print(int file, const char *text)
{
    system_call(SYS_WRITE, file, (long)text, (long)length_of(text), 0);
}

void topfive_fail(const char *message)
{
    print(2, "topfive program: ");
    print(2, message);
    print(2, "\n");
    leave(3);
    __builtin_unreachable();
}

int topfive_open_input(const char *path)
{
    long file = system_call(SYS_OPENAT, AT_FDCWD_VALUE, (long)path, OPEN_READ, 0);
    if (file < 0)
        topfive_fail("cannot open the input file");
    return (int)file;
}

int topfive_open_output(const char *path)
{
    long file = system_call(SYS_OPENAT, AT_FDCWD_VALUE, (long)path, OPEN_CREATE, OUTPUT_MODE);
    if (file < 0)
        topfive_fail("cannot create the output file");
    return (int)file;
}

int topfive_read(int file, void *to, size_t size)
{
    char *at = to;
    size_t left = size;
    while (left) {
        long got = system_call(SYS_READ, file, (long)at, (long)left, 0);
        if (got < 0)
            topfive_fail("cannot read the input");
        if (got == 0 && left == size)
            return 0;
        if (got == 0)
            topfive_fail("the input ends within an image");
        at += got;
        left -= (size_t)got;
    }
    return 1;
}

void topfive_write(int file, const void *from, size_t size)
{
    const char *at = from;
    while (size) {
        long put = system_call(SYS_WRITE, file, (long)at, (long)size, 0);
        if (put <= 0)
            topfive_fail("cannot write the output");
        at += put;
        size -= (size_t)put;
    }
}

void topfive_say_done(int64_t images)
{
    char digits[24];
    char *at = digits + sizeof digits - 1;
    *at = 0;
    do {
        *--at = (char)('0' + images % 10);
        images /= 10;
    } while (images);
    print(1, "topfive: done ");
    print(1, at);
    print(1, " images\n");
}

/* The compiler may call these by itself. */
void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
    char *t = to;
    const char *f = from;
    for (; size >= 8 && (((uintptr_t)t | (uintptr_t)f) & 7) == 0; size -= 8, t += 8, f += 8)
        *(uint64_t *)t = *(const uint64_t *)f;
    while (size--)
        *t++ = *f++;
    return to;
}

void *memset(void *to, int value, size_t size)
{
    for (char *t = to; size--;)
        *t++ = (char)value;
    return to;
}

void *memmove(void *to, const void *from, size_t size)
{
    char *t = to;
    const char *f = from;
    if (t <= f || t >= f + size)
        return memcpy(to, from, size);
    while (size--)
        t[size] = f[size];
    return to;
}

static __attribute__((used, noreturn)) void begin(long *stack)
{
    leave(topfive_main((int)stack[0], (char **)(stack + 1)));
    __builtin_unreachable();
}

asm(".globl _start\n"
    "_start:\n"
    ".option push\n"
    ".option norelax\n"
    "la gp, __global_pointer$\n"
    ".option pop\n"
    "mv a0, sp\n"
    "andi sp, sp, -16\n"
    "call begin\n");
