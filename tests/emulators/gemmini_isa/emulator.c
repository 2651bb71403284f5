/* emulator [--counts FILE] [--simulator-rounding] PROGRAM [ARGUMENT ...]: run a static RISC-V program of spike's
 * proxy kernel that uses Gemmini's instructions, on a RISC-V Linux (or QEMU's user emulation of one).
 *
 * The program is loaded into this process as it is. Gemmini's instructions are illegal there: the handler of
 * SIGILL executes them. The instruction `fence iorw, iorw`, by which programs wait for Gemmini, is replaced by an
 * illegal one while loading, so that the emulator sees it too. */
#include <elf.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "bare.h"
#include "gemmini.h"
#include "memory.h"

enum { FENCE = 0x0ff0000f, FENCE_MARK = 0x0000002b, CUSTOM_3 = 0x7b, PAGE = 4096, SIGNAL_STACK = 1 << 18 };

static int counts_file = -1;
static uint8_t signal_stack[SIGNAL_STACK] __attribute__((aligned(16)));

/* What was executed since the last fence: a line a fence, from the first instruction of Gemmini on. */
static void write_counts(void)
{
    static int begun;
    char digits[24];
    for (int kind = 0; kind < KINDS; kind++)
        begun |= kind_counts[kind] > 0;
    if (counts_file < 0 || !begun)
        return;
    for (int kind = 0; kind < KINDS; kind++)
        if (kind_counts[kind]) {
            write_text(counts_file, kind_names[kind]);
            write_text(counts_file, "=");
            write_text(counts_file, number_text(digits, kind_counts[kind], 0));
            write_text(counts_file, " ");
            kind_counts[kind] = 0;
        }
    write_text(counts_file, "fence=1\n");
}

static uint32_t instruction_at(uint64_t pc)
{
    const uint16_t *half = (const uint16_t *)pc;
    return half[0] | (uint32_t)half[1] << 16;
}

static void handle(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)info;
    asm volatile("fsrmi 0");
    ucontext_t *interrupted = context;
    __riscv_mc_gp_state *registers = &interrupted->uc_mcontext.__gregs;
    uint64_t pc = (*registers)[0];
    uint32_t instruction = instruction_at(pc);
    uint32_t rs1 = instruction >> 15 & 31, rs2 = instruction >> 20 & 31;
    where now = {pc, rs1 ? (*registers)[rs1] : 0, rs2 ? (*registers)[rs2] : 0, "a fence"};
    at_hand = now;
    if (instruction == FENCE_MARK) {
        memory_settle();
        write_counts();
    } else if ((instruction & 127) == CUSTOM_3) {
        gemmini_execute(instruction, now.rs1, now.rs2);
    } else {
        at_hand.name = "the program";
        stop("an illegal instruction");
    }
    (*registers)[0] = pc + 4;
}

static void catch_instructions(void)
{
    struct {
        void (*handler)(int, siginfo_t *, void *);
        unsigned long flags, mask;
    } action = {handle, SA_SIGINFO | SA_ONSTACK, 0};
    stack_t stack = {.ss_sp = signal_stack, .ss_size = sizeof signal_stack};
    if (system_call(SYS_SIGALTSTACK, (long)&stack, 0, 0, 0, 0, 0) < 0 ||
        system_call(SYS_RT_SIGACTION, SIGILL, (long)&action, 0, sizeof action.mask, 0, 0) < 0)
        stop("signals cannot be caught");
}

static void read_at(int file, uint64_t offset, void *to, uint64_t size)
{
    char *at = to;
    if (system_call(SYS_LSEEK, file, (long)offset, 0, 0, 0, 0) < 0)
        stop("the program cannot be read");
    while (size) {
        long got = system_call(SYS_READ, file, (long)at, (long)size, 0, 0, 0);
        if (got <= 0)
            stop("the program is truncated");
        at += got;
        size -= (uint64_t)got;
    }
}

static void load_segment(int file, const Elf64_Phdr *header)
{
    uint64_t from = header->p_vaddr & ~(uint64_t)(PAGE - 1);
    uint64_t to = (header->p_vaddr + header->p_memsz + PAGE - 1) & ~(uint64_t)(PAGE - 1);
    long flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    long at = system_call(SYS_MMAP, (long)from, (long)(to - from), PROT_READ | PROT_WRITE, flags, -1, 0);
    if (at != (long)from)
        stop("the program's memory is not free");
    read_at(file, header->p_offset, (void *)header->p_vaddr, header->p_filesz);
    memory_add(header->p_vaddr, header->p_vaddr + header->p_memsz, (header->p_flags & PF_W) != 0);
}

static void protect_segment(const Elf64_Phdr *header)
{
    uint64_t from = header->p_vaddr & ~(uint64_t)(PAGE - 1);
    uint64_t size = header->p_vaddr + header->p_memsz - from;
    long access = (header->p_flags & PF_R ? PROT_READ : 0) | (header->p_flags & PF_W ? PROT_WRITE : 0) |
                  (header->p_flags & PF_X ? PROT_EXEC : 0);
    if (system_call(SYS_MPROTECT, (long)from, (long)size, access, 0, 0, 0) < 0)
        stop("the program's memory cannot be protected");
    asm volatile("fence.i" : : : "memory");
}

/* Instructions are 2 or 4 bytes long, by their lowest bits. */
static void mark_fences(uint64_t at, uint64_t end)
{
    while (at + 4 <= end) {
        uint16_t *half = (uint16_t *)at;
        if (instruction_at(at) == FENCE)
            half[0] = FENCE_MARK & 0xffff, half[1] = FENCE_MARK >> 16;
        at += (half[0] & 3) == 3 ? 4 : 2;
    }
}

static void check_header(const Elf64_Ehdr *header)
{
    if (*(const uint32_t *)header->e_ident != 0x464c457f || header->e_ident[EI_CLASS] != ELFCLASS64 ||
        header->e_machine != EM_RISCV)
        stop("this is not a RISC-V program of 64 bits");
    if (header->e_type != ET_EXEC)
        stop("the program is not static: the proxy kernel would not run it");
}

static uint64_t load_program(const char *path, Elf64_Ehdr *header, uint64_t *table)
{
    Elf64_Phdr segment;
    Elf64_Shdr section;
    int file = (int)system_call(SYS_OPENAT, AT_FDCWD_VALUE, (long)path, 0, 0, 0, 0);
    if (file < 0)
        stop("the program cannot be opened");
    read_at(file, 0, header, sizeof *header);
    check_header(header);
    for (int i = 0; i < header->e_phnum; i++) {
        read_at(file, header->e_phoff + (uint64_t)i * sizeof segment, &segment, sizeof segment);
        if (segment.p_type == PT_INTERP)
            stop("the program is not static: the proxy kernel would not run it");
        if (segment.p_type == PT_LOAD) {
            load_segment(file, &segment);
            if (header->e_phoff >= segment.p_offset && header->e_phoff < segment.p_offset + segment.p_filesz)
                *table = segment.p_vaddr + header->e_phoff - segment.p_offset;
        }
    }
    for (int i = 0; i < header->e_shnum; i++) {
        read_at(file, header->e_shoff + (uint64_t)i * sizeof section, &section, sizeof section);
        if (section.sh_flags & SHF_EXECINSTR)
            mark_fences(section.sh_addr, section.sh_addr + section.sh_size);
    }
    for (int i = 0; i < header->e_phnum; i++) {
        read_at(file, header->e_phoff + (uint64_t)i * sizeof segment, &segment, sizeof segment);
        if (segment.p_type == PT_LOAD)
            protect_segment(&segment);
    }
    return header->e_entry;
}

/* The program's own auxiliary vector in place of the emulator's. Returns its end. */
static long *describe_program(long *auxiliary, const Elf64_Ehdr *header, uint64_t table, const char *path)
{
    for (; auxiliary[0] != AT_NULL; auxiliary += 2)
        switch (auxiliary[0]) {
        case AT_PHDR:
            auxiliary[1] = (long)table;
            break;
        case AT_PHNUM:
            auxiliary[1] = header->e_phnum;
            break;
        case AT_PHENT:
            auxiliary[1] = header->e_phentsize;
            break;
        case AT_ENTRY:
            auxiliary[1] = (long)header->e_entry;
            break;
        case AT_EXECFN:
            auxiliary[1] = (long)path;
            break;
        }
    return auxiliary + 2;
}

static int same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

/* Read the emulator's own arguments; returns the number of the first one that is the program's. */
static long read_options(char **arguments)
{
    enum { CREATE = 01 | 0100 | 02000, MODE = 0644 };
    long n = 1;
    for (; arguments[n] && arguments[n][0] == '-'; n++) {
        if (same(arguments[n], "--simulator-rounding")) {
            simulator_rounding = 1;
        } else if (same(arguments[n], "--counts") && arguments[n + 1]) {
            n++;
            counts_file = (int)system_call(SYS_OPENAT, AT_FDCWD_VALUE, (long)arguments[n], CREATE, MODE, 0, 0);
            if (counts_file < 0)
                stop("the file of counts cannot be written");
        } else {
            stop("usage: emulator [--counts FILE] [--simulator-rounding] PROGRAM [ARGUMENT ...]");
        }
    }
    if (!arguments[n])
        stop("usage: emulator [--counts FILE] [--simulator-rounding] PROGRAM [ARGUMENT ...]");
    return n;
}

static __attribute__((used, noreturn)) void begin(long *stack)
{
    Elf64_Ehdr header;
    uint64_t table = 0;
    char **arguments = (char **)(stack + 1);
    long own = read_options(arguments), count = stack[0];
    uint64_t entry = load_program(arguments[own], &header, &table);
    catch_instructions();
    long *last = stack + 1 + count + 1;
    while (*last)
        last++;
    last = describe_program(last + 1, &header, table, arguments[own]);
    /* The count, the arguments and everything behind them, where the stack is aligned. */
    long *from = stack + 1 + own, *to = stack + own;
    if ((uintptr_t)to & 15)
        to--;
    to[0] = count - own;
    for (long i = 0; from + i < last; i++)
        to[1 + i] = from[i];
    asm volatile("mv sp, %0\n"
                 "li a0, 0\n"
                 "li ra, 0\n"
                 "jr %1\n"
                 :
                 : "r"(to), "r"(entry)
                 : "memory");
    __builtin_unreachable();
}

asm(".globl _start\n"
    "_start:\n"
    "mv a0, sp\n"
    "andi sp, sp, -16\n"
    "addi sp, sp, -2032\n"
    "call begin\n");
