#include "bare.h"

enum { MISUSE = 70 };

where at_hand;

long system_call(long number, long a, long b, long c, long d, long e, long f)
{
    register long a0 asm("a0") = a;
    register long a1 asm("a1") = b;
    register long a2 asm("a2") = c;
    register long a3 asm("a3") = d;
    register long a4 asm("a4") = e;
    register long a5 asm("a5") = f;
    register long a7 asm("a7") = number;
    asm volatile("ecall" : "+r"(a0) : "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a5), "r"(a7) : "memory");
    return a0;
}

void write_text(int file, const char *text)
{
    size_t length = 0;
    while (text[length])
        length++;
    while (length) {
        long put = system_call(SYS_WRITE, file, (long)text, (long)length, 0, 0, 0);
        if (put <= 0)
            return;
        text += put;
        length -= (size_t)put;
    }
}

const char *number_text(char *to, uint64_t value, int hexadecimal)
{
    uint64_t base = hexadecimal ? 16 : 10;
    char *at = to + 23;
    *at = 0;
    do {
        *--at = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    if (hexadecimal) {
        *--at = 'x';
        *--at = '0';
    }
    return at;
}

static void write_number(const char *label, uint64_t value)
{
    char digits[24];
    write_text(2, label);
    write_text(2, number_text(digits, value, 1));
}

void stop(const char *reason)
{
    write_text(2, "gemmini emulator: ");
    write_text(2, reason);
    if (at_hand.name) {
        write_text(2, "\n  in ");
        write_text(2, at_hand.name);
        write_number(" at ", at_hand.pc);
        write_number(", rs1 ", at_hand.rs1);
        write_number(", rs2 ", at_hand.rs2);
    }
    write_text(2, "\n");
    for (;;)
        system_call(SYS_EXIT_GROUP, MISUSE, 0, 0, 0, 0, 0);
}

/* The compiler may call these by itself. */
void *memset(void *to, int value, size_t size)
{
    for (char *t = to; size--;)
        *t++ = (char)value;
    return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
    char *t = to;
    const char *f = from;
    while (size--)
        *t++ = *f++;
    return to;
}
