/* SPDX-License-Identifier: MIT */
/*
 * The gate that the thread holds while it works and opens while it sleeps: a host forks and exits
 * only when it is open, so that neither ever meets the thread inside libcrypto, malloc or c-ares.
 *
 * A host waits for one piece of work at the most, so pieces are to be short: a millisecond or two
 * of computing, however many certificates, files or bytes there are. In between the gate is open
 * for an instant, in which a child may be made (it has a copy of all memory, and no thread) or the
 * process end, but nothing else that could not happen anyway. So there must be no descriptor then
 * that is not a struct descriptor, and no lock that others want.
 */
#ifndef OCSPRELOAD_GATE_H
#define OCSPRELOAD_GATE_H

#include <stdbool.h>
#include <stddef.h>

struct gate {
	void (*enter)(void);
	void (*leave)(void);
	/* True when the thread is to end; looked at between two errands. NULL: never. */
	bool (*ends)(void);
};

/* Between two pieces. NULL: who works here holds no gate. */
static inline void gate_pause(const struct gate *gate)
{
	if (!gate)
		return;
	gate->leave();
	gate->enter();
}

/* At the end of each turn, number i, of a loop over many things that are little work each. */
static inline void gate_pause_at(const struct gate *gate, size_t i)
{
	enum { STEP = 32 };

	if (i % STEP == STEP - 1)
		gate_pause(gate);
}

#endif
