/* SPDX-License-Identifier: MIT */
/*
 * The leader's work: looks through the cache for what is due, keeps many fetches in flight, and
 * puts what they bring into the cache.
 */
#ifndef OCSPRELOAD_LOOP_H
#define OCSPRELOAD_LOOP_H

#include "gate.h"
#include "supply.h"

/*
 * Leads until gate->ends says true, and cache_wake has been called since; only for the thread that
 * cache_lead made the leader, with the gate held. What is in flight then is given up, and stays
 * due. Returns, too, when memory does not even suffice to begin. The gate is held still.
 */
void loop_run(const struct supply *supply, const struct gate *gate);

/*
 * In a child that was made while the gate was open: there is no such thread here. What it had in
 * memory is freed, or is lost if the allocator or libcrypto may not be called.
 */
void loop_forked(bool may_free);

#endif
