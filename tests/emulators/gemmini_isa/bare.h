/* The few things a program without a C library needs, and how the emulator stops. */
#ifndef BARE_H
#define BARE_H

#include <stddef.h>
#include <stdint.h>

long system_call(long number, long a, long b, long c, long d, long e, long f);
void write_text(int file, const char *text);
/* Decimal, or hexadecimal with 0x, at the end of `to`, which has room for 24 characters. Returns its start. */
const char *number_text(char *to, uint64_t value, int hexadecimal);
/* Say why, where and with which operands, and stop with the exit status 70. */
void stop(const char *reason) __attribute__((noreturn));

/* The instruction at hand, for `stop`. */
typedef struct {
    uint64_t pc, rs1, rs2;
    const char *name;
} where;
extern where at_hand;

enum {
    SYS_OPENAT = 56,
    SYS_LSEEK = 62,
    SYS_READ = 63,
    SYS_WRITE = 64,
    SYS_EXIT_GROUP = 94,
    SYS_SIGALTSTACK = 132,
    SYS_RT_SIGACTION = 134,
    SYS_MMAP = 222,
    SYS_MPROTECT = 226,
    AT_FDCWD_VALUE = -100,
};

#endif
