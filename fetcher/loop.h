/* SPDX-License-Identifier: MIT */
/*
 * The leader's work: looks through the cache for what is due, keeps many fetches in flight, and
 * puts what they bring into the cache.
 */
#ifndef OCSPRELOAD_LOOP_H
#define OCSPRELOAD_LOOP_H

#include "supply.h"

/*
 * The gate that the thread holds while it works and opens while it sleeps: a host forks and exits
 * only when it is open, so that neither ever meets the thread inside libcrypto, malloc or c-ares.
 */
struct loop_gate {
	void (*enter)(void);
	void (*leave)(void);
};

/*
 * Leads for ever; only for the thread that cache_lead made the leader, with the gate held. Returns
 * when memory does not even suffice to begin; then the gate is held still.
 */
void loop_run(const struct supply *supply, const struct loop_gate *gate);

#endif
