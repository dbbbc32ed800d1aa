/* What benchmarks/gate.py measures: 1,000 equal steps of about 4.5 µs each, and in a slower revision
 * EXTRA more of them in a loop of their own, so that it is slower by exactly EXTRA / 10 percent.
 *
 * A step goes over a quarter of 96 KiB, which lie in the L2 cache, as a chain of integer
 * operations each of which needs the one before, so its time does not depend on the numbers. */
#include <stdint.h>

#define STEPS 1000
#define WORDS (12 * 1024)
#define QUARTER (WORDS / 4)

static uint64_t data[WORDS];
static uint64_t state = 88172645463325252u;

__attribute__((noinline, noclone, aligned(64))) static void step(unsigned number)
{
    uint64_t *part = data + (number % 4) * QUARTER;
    uint64_t value = state;
    for (unsigned at = 0; at < QUARTER; at++) {
        value = (value ^ (value >> 7)) * 0x9e3779b97f4a7c15u + part[at];
        part[at] = value;
    }
    state = value;
}

void kernel(void)
{
    for (unsigned number = 0; number < STEPS; number++)
        step(number);
#if EXTRA > 0
    for (unsigned number = 0; number < EXTRA; number++)
        step(number);
#endif
}
