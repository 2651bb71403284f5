/* The program's start and its files, through a C library: what spike's proxy kernel runs. After the library's own
 * beginning it calls for openat, read, write and exit alone: a proxy kernel stops at calls that it lacks. */
#include "topfive.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OUTPUT_MODE = 0644 };

static void print(int file, const char *text)
{
    topfive_write(file, text, strlen(text));
}

void topfive_fail(const char *message)
{
    static int failing;
    if (!failing++) {
        print(STDERR_FILENO, "topfive program: ");
        print(STDERR_FILENO, message);
        print(STDERR_FILENO, "\n");
    }
    exit(3);
}

int topfive_open_input(const char *path)
{
    int file = open(path, O_RDONLY);
    if (file < 0)
        topfive_fail("cannot open the input file");
    return file;
}

int topfive_open_output(const char *path)
{
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, OUTPUT_MODE);
    if (file < 0)
        topfive_fail("cannot create the output file");
    return file;
}

int topfive_read(int file, void *to, size_t size)
{
    char *at = to;
    size_t left = size;
    while (left) {
        ssize_t got = read(file, at, left);
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
        ssize_t put = write(file, at, size);
        if (put <= 0)
            topfive_fail("cannot write the output");
        at += put;
        size -= (size_t)put;
    }
}

void topfive_say_done(int64_t images)
{
    char line[64];
    snprintf(line, sizeof line, "topfive: done %lld images\n", (long long)images);
    print(STDOUT_FILENO, line);
}

int main(int argument_count, char **arguments)
{
    return topfive_main(argument_count, arguments);
}
