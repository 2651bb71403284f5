/* The program's memory as Gemmini sees it.
 *
 * What Gemmini stores becomes visible at the next fence; until then those bytes hold something else on purpose, so
 * that a program which reads them too early computes nonsense. What Gemmini loads has to stay as it is until the
 * next fence: the hardware may read it any time before. */
#ifndef MEMORY_H
#define MEMORY_H

#include "bare.h"

/* A segment of the program. Only writable ones take results. */
void memory_add(uint64_t from, uint64_t to, int writable);
/* `count` bytes at an address, for loading; stops if they are not the program's, or are being stored. */
const uint8_t *memory_read(uint64_t at, uint64_t count);
void memory_write(uint64_t at, uint8_t value);
/* A fence: check what was read, make visible what was written. */
void memory_settle(void);

#endif
