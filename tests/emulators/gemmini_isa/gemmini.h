/* An emulator of Gemmini's instructions in the default int8 configuration, written from the ISA section of
 * ucb-bar/gemmini's README and the RTL's bundles. It stops at whatever the ISA leaves open or forbids. */
#ifndef GEMMINI_H
#define GEMMINI_H

#include "bare.h"

enum {
    CONFIG_EX,
    CONFIG_LD,
    CONFIG_ST,
    MVIN,
    MVIN2,
    MVIN3,
    MVOUT,
    PRELOAD,
    COMPUTE_PRELOADED,
    COMPUTE_ACCUMULATED,
    FLUSH,
    KINDS
};

extern const char *const kind_names[KINDS];
/* How often each instruction was executed since the program last read and cleared it. */
extern uint64_t kind_counts[KINDS];
/* Round as the simulator's header does, instead of as the hardware does. */
extern int simulator_rounding;

void gemmini_execute(uint32_t instruction, uint64_t rs1, uint64_t rs2);

#endif
