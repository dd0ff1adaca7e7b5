/* SPDX-License-Identifier: MIT */
/*
 * What to ask for next, and of whom: the slots by the time at which they are due, those that are
 * due by the responder that they wait for, and what an answer means for both. It does no I/O but
 * through the supply, so that a test can put years behind it in seconds.
 *
 * It is the leader's own: the next leader begins with an empty one. What others change in a slot
 * meanwhile (a host's thread fills it from the store) is seen when the slot's turn comes, and at
 * the latest after AGENDA_LOOK milliseconds.
 */
#ifndef OCSPRELOAD_AGENDA_H
#define OCSPRELOAD_AGENDA_H

#include "fetch.h"
#include "responders.h"
#include "supply.h"

enum {
	AGENDA_URL_SIZE = CERTIFICATE_URLS_SIZE,
	/* A wall clock that was set, or a machine that slept, is noticed after this long. */
	AGENDA_LOOK = 60000,
};

struct agenda;

/* supply outlives it. NULL when memory ran out. */
struct agenda *agenda_new(const struct supply *supply);
void agenda_free(struct agenda *agenda);

/* To be called when something may have changed in the cache: it is looked through again soon. */
void agenda_stir(struct agenda *agenda);

/* One certificate to ask one responder about. */
struct errand {
	struct slot *slot;
	char responder[AGENDA_URL_SIZE]; /* one URL */
};

/*
 * What to begin now; false if there is nothing, or no place for it. Every errand is answered by
 * agenda_land or agenda_withdraw. There are never more than RESPONDERS_PLACES.
 */
bool agenda_next(struct agenda *agenda, struct errand *errand);

/* Nothing was asked for the slot; it is looked at again when it says it is due. */
void agenda_withdraw(struct agenda *agenda, const struct slot *slot);

/* What a fetch came to; see fetch.h for what each of it means in which state. */
struct answer {
	enum fetch_state state;
	struct judgement judgement;
	struct bytes response;
	const char *responder;
	int64_t fresh_until;
	enum fetch_fault fault;
	int64_t retry_after;
	const char *why;
};

/* Gives the answer to the slot, its responder's host and, if it failed, the next responder. */
void agenda_land(struct agenda *agenda, struct slot *slot, const struct answer *answer);

/* True if there is more to ask of some responder, as soon as there is a place for it. */
bool agenda_is_backed_up(const struct agenda *agenda);

/* For how many milliseconds there is nothing to begin, if nothing lands: 0 to AGENDA_LOOK. */
int agenda_wait(const struct agenda *agenda);

#endif
