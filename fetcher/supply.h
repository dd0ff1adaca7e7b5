/* SPDX-License-Identifier: MIT */
/*
 * What a slot lives on: its issuer, what the store has for it, and what an answer changes in it.
 * The loop does this for all slots, a host's thread for those that it has just loaded.
 */
#ifndef OCSPRELOAD_SUPPLY_H
#define OCSPRELOAD_SUPPLY_H

#include "agent.h"
#include "cache.h"
#include "config.h"
#include "libcrypto.h"
#include "ocsp.h"
#include "ready.h"
#include "store.h"

/* Constant; outlives all work that is done with it. */
struct supply {
	const struct libcrypto *crypto;
	struct cache *cache;
	const struct config *config;
	const struct store *store;
	struct ready *ready; /* NULL: there are no ready-made responses */
	/* True if this process has the slot's certificate loaded; NULL: nobody can tell. Any
	 * thread. */
	bool (*is_loaded)(const struct slot *slot);
};

/* Uniform in [0, 1): the draw of schedule.h. */
double supply_draw(void);

/* True if there is something to do for the slot now; it may be no more than to look again. */
bool supply_is_due(const struct supply *supply, const struct slot *slot);

/*
 * Leader: false if nobody has the certificate loaded any more; then it is not due again before
 * somebody has.
 */
bool supply_is_wanted(const struct supply *supply, struct slot *slot);

/* When that is: wall clock, milliseconds. */
int64_t supply_due(const struct supply *supply, const struct slot *slot);

/*
 * The issuer of the slot's certificate, in its time: from the chains that were seen, from what the
 * store has of earlier searches, from OCSPRELOAD_TRUSTED and the system's store. NULL if it is not
 * found there; then it may be downloaded (aia.h), or supply_no_issuer says that it was not found.
 */
const struct issuer_entry *supply_issuer(const struct supply *supply, struct slot *slot);

/*
 * True, and due again later, while the certificate is so young that its chain may be on its way: to
 * look for its issuer elsewhere would be too early, or to make do with one whose name is encoded in
 * another way.
 */
bool supply_waits_for_chain(const struct supply *supply, struct slot *slot);

/* While it is downloaded: true if the chain has come after all. */
bool supply_issuer_in_chain(const struct supply *supply, struct slot *slot);

/* Takes a downloaded issuer, which has signed the slot's certificate, and stores it for others. */
void supply_issuer_arrived(
	const struct supply *supply, struct slot *slot, struct bytes der, const char *url);

/*
 * It was not found, and a download from url (NULL: there was none) failed, too: the slot is put
 * off, and with it those that the same download would have served.
 */
void supply_no_issuer(
	const struct supply *supply, struct slot *slot, const char *url, const char *why);

/*
 * Ready-made responses, of which a host's thread takes what has come or changed at most once a
 * second. While one holds, which is until a quarter of its life is left, nobody is asked about its
 * certificate. If it is not replaced by then, that is said, and the certificate's responders, if
 * there are any, are asked like any other's. A file that vanishes, or is replaced by what cannot be
 * used, takes nothing back: what was read is stapled to its end.
 *
 * With is_loading the host loads certificates: only then may another thread's look be waited for,
 * and the issuer be looked for in files.
 */
void supply_from_ready(const struct supply *supply, struct slot *slot, bool is_loading);

/*
 * The same for the fetching thread, which must leave its gate open in between: supply_look_ready
 * until it returns false, then supply_take_ready for each slot. True if there was something to do.
 */
bool supply_look_ready(const struct supply *supply);
bool supply_take_ready(const struct supply *supply, struct slot *slot);

/* True if there is a ready-made response, of use or not. Any thread. */
bool supply_has_ready(const struct supply *supply, struct slot *slot);

/*
 * Takes what the store has if it is another than the last time, and if the issuer is known from the
 * chains (with is_loading, where nobody fetches, also from files): a file is read, nothing is
 * waited for, nothing is said of what cannot be used. For the loop, and for host threads that load
 * certificates or have nobody to do it for them. True if there was something to judge.
 */
bool supply_from_store(const struct supply *supply, struct slot *slot, bool is_loading);

/*
 * Asks the machine's agent, if there is one (agent.h), and takes what it has. True if it is asking
 * the responder this moment: to ask as well would be once too often. Otherwise supply_is_due tells
 * whether there is still something to do. Without an issuer it is asked only if anything goes:
 * while a host loads certificates, the chain may be yet to come. For any thread; the shim's own
 * keeps what it brings in the store.
 */
bool supply_from_agent(const struct supply *supply, struct slot *slot,
	const struct agent_manner *manner, bool without_issuer);

/*
 * Takes a verified answer of a responder, and stores it for others. The judgement must be good or
 * revoked. fresh_until is fetch_fresh_until's.
 */
void supply_answer(const struct supply *supply, struct slot *slot,
	const struct judgement *judgement, struct bytes response, const char *responder,
	int64_t fresh_until);

/* The responder has nothing newer than what is held, which others learn from the store. */
void supply_unchanged(
	const struct supply *supply, struct slot *slot, const char *responder, int64_t fresh_until);

/*
 * There was no usable answer; state is what the slot is in from now on. retry_after is
 * fetch_retry_after's.
 */
void supply_failure(const struct supply *supply, struct slot *slot, enum slot_state state,
	const char *responder, const char *why, int64_t retry_after);

/*
 * The same, where the responder does not know the certificate: that of a new one it may learn soon.
 */
void supply_refusal(const struct supply *supply, struct slot *slot, const char *responder,
	const char *why, int64_t retry_after);

/*
 * The same, where it is the responder that fails, and is left alone for so many milliseconds.
 */
void supply_outage(const struct supply *supply, struct slot *slot, const char *responder,
	const char *why, int64_t left_alone);

/* Makes the slot due if it cannot be that it is not: the wall clock was set back. */
void supply_mend(const struct supply *supply, struct slot *slot);

/*
 * The right to ask, among all processes that share the store: store_lock, with key the slot's or
 * its issuer's. False if another process has it; but who has it for three times as long as an
 * exchange may take has been stopped, and is not waited for.
 */
bool supply_lock(const struct supply *supply, struct slot *slot, const unsigned char *key,
	struct descriptor *lock);

/* Another process is asking: look again soon. */
void supply_postpone(struct slot *slot);

/*
 * For a process that may read the store but not write to it, and so could not spare others the same
 * request: it lets those who can go first. True, once for each response, if what is held lives long
 * enough for that; it is then due again later.
 */
bool supply_yields(const struct supply *supply, struct slot *slot);

#endif
