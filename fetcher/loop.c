/* SPDX-License-Identifier: MIT */
#include "loop.h"

#include "agenda.h"
#include "aia.h"
#include "clock.h"
#include "connections.h"
#include "fetch.h"
#include "ocsp.h"
#include "resolve.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
	FETCHES = RESPONDERS_PLACES,
	RESOLVER_FDS = 16,
	/* News from other processes cannot interrupt a poll, so it must be short. */
	LONGEST_POLL = 20,
	/* Hosts load the chain within moments of the certificate; what is in it need not be
	 * downloaded. */
	CHAIN_WAIT = 100,
	/* From one look at the store and the ready-made responses to the next. */
	LOOK_INTERVAL = 1000,
	/* The agent has its answer in memory, but may have to wait for a processor. */
	AGENT_PATIENCE = 250,
	/* Of the memo: all that is in flight, and their issuers. */
	MEMO_PLACES = 256,
};

/* To the responder or, before, to where the certificate says that its issuer is. */
struct flight {
	struct errand errand; /* without a slot this place is free */
	struct fetch *fetch;
	struct aia *download;   /* else NULL */
	struct descriptor lock; /* of the store: no other process asks meanwhile */
};

/* By which a responder may tell that it has nothing newer than what the slot holds. */
struct known {
	uint32_t generation; /* of the slot, which may have been another certificate's */
	int64_t this_update; /* of the response that they came with */
	struct fetch_validators validators;
};

struct loop {
	struct libcrypto crypto; /* with a memo, since no other thread uses it */
	struct supply supply;    /* with that table */
	struct agenda *agenda;
	struct fetch_tools tools;
	const struct gate *gate;
	struct flight flights[FETCHES];
	size_t in_flight;
	int64_t next_look; /* steady clock; INT64_MAX: there is nowhere to look */
	uint64_t store_seen;
	/* By the number of the slot; this process's own, so the next leader asks once in full. */
	struct known *known;
	size_t known_count;
};

static struct known *known_of(const struct loop *loop, const struct slot *slot)
{
	size_t index = cache_slot_index(loop->supply.cache, slot);

	return index < loop->known_count ? &loop->known[index] : NULL;
}

/*
 * Only for exactly the response that is held, and not in the last quarter of its life: then it is
 * time for another one, and a 304 more may be that of a cache whose ETag does not change with what
 * it is of.
 */
static const struct fetch_validators *validators_for(
	const struct loop *loop, const struct slot *slot)
{
	const struct known *known = known_of(loop, slot);
	int64_t this_update = atomic_load(&slot->this_update);
	int64_t usable_until = cache_usable_until(slot);

	if (!known || known->generation != atomic_load(&slot->generation) ||
		known->this_update != this_update ||
		usable_until - clock_wall() / 1000 <= (usable_until - this_update) / 4)
		return NULL;
	return &known->validators;
}

static void remember_validators(struct loop *loop, const struct flight *flight)
{
	size_t count = cache_slot_count(loop->supply.cache);
	struct known *known = known_of(loop, flight->errand.slot);

	if (!known) {
		known = realloc(loop->known, count * sizeof(*known));
		if (!known)
			return;
		memset(known + loop->known_count, 0, (count - loop->known_count) * sizeof(*known));
		loop->known = known;
		loop->known_count = count;
		known = known_of(loop, flight->errand.slot);
	}
	known->generation = atomic_load(&flight->errand.slot->generation);
	known->this_update = atomic_load(&flight->errand.slot->this_update);
	known->validators = *fetch_validators(flight->fetch);
}

/* False if another process has the right to ask, or has brought what was to be asked for. */
static bool must_ask(struct loop *loop, struct slot *slot, struct descriptor *lock)
{
	const struct supply *supply = &loop->supply;
	const struct agent_manner manner = {
		.patience = AGENT_PATIENCE, .leave = loop->gate->leave, .enter = loop->gate->enter};

	supply_from_store(supply, slot, false);
	if (!supply_is_due(supply, slot))
		return false;
	if (supply_from_agent(supply, slot, &manner, false)) {
		supply_postpone(slot);
		return false;
	}
	if (!supply_is_due(supply, slot))
		return false;
	if (!supply_lock(supply, slot, slot->key, lock)) {
		supply_postpone(slot);
		return false;
	}
	/* Once more: it may have come between the look and the lock. */
	supply_from_store(supply, slot, false);
	if (supply_is_due(supply, slot) && (lock->number >= 0 || !supply_yields(supply, slot)))
		return true;
	store_unlock(lock);
	return false;
}

static void end_flight(struct loop *loop, struct flight *flight)
{
	store_unlock(&flight->lock);
	fetch_free(flight->fetch);
	aia_free(flight->download);
	cache_unpin(flight->errand.slot);
	flight->fetch = NULL;
	flight->download = NULL;
	flight->errand.slot = NULL;
	loop->in_flight--;
}

/* True while the issuer of the slot's certificate is being downloaded for another. */
static bool is_downloading(const struct loop *loop, const struct slot *slot)
{
	for (size_t i = 0; i < FETCHES; i++) {
		const struct flight *flight = &loop->flights[i];

		if (!flight->errand.slot || !flight->download)
			continue;
		/* An errand has a slot, which the analyzer cannot know. NOLINTNEXTLINE */
		if (memcmp(flight->errand.slot->issuer_key, slot->issuer_key,
			    sizeof(slot->issuer_key)) == 0)
			return true;
	}
	return false;
}

/* For an issuer that is nowhere on this machine; else returns it, if it has come meanwhile. */
static const struct issuer_entry *begin_download(
	struct loop *loop, struct slot *slot, struct flight *flight)
{
	const struct supply *supply = &loop->supply;
	bool is_early = clock_steady() - slot->registered < CHAIN_WAIT;
	struct aia *download = aia_start(&loop->tools, slot->certificate);
	const struct issuer_entry *issuer = NULL;

	if (!download) {
		supply_no_issuer(supply, slot, NULL, NULL);
		return NULL;
	}
	if (is_early || !supply_lock(supply, slot, slot->issuer_key, &flight->lock)) {
		supply_postpone(slot);
		aia_free(download);
		return NULL;
	}
	/* Once more: it may have come between the look and the lock. */
	issuer = supply_issuer(supply, slot);
	if (issuer) {
		store_unlock(&flight->lock);
		aia_free(download);
		return issuer;
	}
	log_debug("%s: downloading its issuer's certificate", slot->label);
	flight->download = download;
	loop->in_flight++;
	return NULL;
}

/* Pinned. False if there is no reason to ask, or no way. */
static bool begin_pinned(struct loop *loop, struct flight *flight)
{
	struct slot *slot = flight->errand.slot;
	const char *responder = flight->errand.responder;
	const struct issuer_entry *issuer;

	if (is_downloading(loop, slot)) {
		supply_postpone(slot);
		return false;
	}
	if (supply_waits_for_chain(&loop->supply, slot))
		return false;
	issuer = supply_issuer(&loop->supply, slot);
	if (!issuer)
		issuer = begin_download(loop, slot, flight);
	if (flight->download)
		return true;
	gate_pause(loop->gate);
	if (!issuer || !must_ask(loop, slot, &flight->lock))
		return false;
	flight->fetch = fetch_start(&loop->tools, slot->certificate, issuer->der, responder,
		validators_for(loop, slot));
	if (!flight->fetch) {
		supply_failure(&loop->supply, slot, SLOT_FAILING, responder, "memory ran out", 0);
		store_unlock(&flight->lock);
		return false;
	}
	log_debug("%s: asking %s", slot->label, responder);
	loop->in_flight++;
	return true;
}

/* Pinned until it lands: the fetch works with the slot's certificate. False if there is nothing to
 * do. */
static bool begin_fetch(struct loop *loop, struct flight *flight)
{
	struct slot *slot = flight->errand.slot;

	if (!cache_pin(slot, atomic_load(&slot->generation)))
		return false;
	if (supply_is_wanted(&loop->supply, slot) && begin_pinned(loop, flight))
		return true;
	cache_unpin(slot);
	return false;
}

static void land(struct loop *loop, struct flight *flight, enum fetch_state state)
{
	struct answer answer = {
		.state = state,
		.judgement = fetch_judgement(flight->fetch),
		.responder = flight->errand.responder,
		.fresh_until = fetch_fresh_until(flight->fetch),
		.fault = fetch_fault(flight->fetch),
		.retry_after = fetch_retry_after(flight->fetch),
		.why = fetch_why(flight->fetch),
	};

	if (state == FETCH_ANSWERED)
		answer.response = fetch_response(flight->fetch);
	agenda_land(loop->agenda, flight->errand.slot, &answer);
	if (state != FETCH_FAILED)
		remember_validators(loop, flight);
	end_flight(loop, flight);
}

static void step_download(struct loop *loop, struct flight *flight, short revents, int64_t now)
{
	struct aia *download = flight->download;
	struct slot *slot = flight->errand.slot;
	enum aia_state state;

	if (supply_issuer_in_chain(&loop->supply, slot)) {
		end_flight(loop, flight);
		agenda_withdraw(loop->agenda, slot);
		return;
	}
	state = aia_step(download, revents, now, clock_wall());
	if (state == AIA_RUNNING)
		return;
	if (state == AIA_FOUND)
		supply_issuer_arrived(&loop->supply, slot, aia_issuer(download), aia_url(download));
	else
		supply_no_issuer(&loop->supply, slot, aia_url(download), aia_why(download));
	end_flight(loop, flight);
	agenda_withdraw(loop->agenda, slot);
}

static void step_flight(struct loop *loop, struct flight *flight, short revents, int64_t now)
{
	enum fetch_state state;

	if (flight->download) {
		step_download(loop, flight, revents, now);
		return;
	}
	state = fetch_step(flight->fetch, revents, now, clock_wall());
	if (state != FETCH_RUNNING)
		land(loop, flight, state);
}

static struct pollfd poll_flight(const struct flight *flight, int64_t now, int *timeout)
{
	return flight->download ? aia_poll(flight->download, now, timeout)
				: fetch_poll(flight->fetch, now, timeout);
}

static struct flight *free_flight(struct loop *loop)
{
	for (size_t i = 0; i < FETCHES; i++)
		if (!loop->flights[i].errand.slot)
			return &loop->flights[i];
	return NULL;
}

static bool ends(const struct loop *loop)
{
	return loop->gate->ends && loop->gate->ends();
}

/* Begins all that is due, as far as there is room. */
static void begin_due(struct loop *loop)
{
	struct flight *flight;

	while (!ends(loop) && (flight = free_flight(loop)) &&
		agenda_next(loop->agenda, &flight->errand)) {
		if (!begin_fetch(loop, flight)) {
			agenda_withdraw(loop->agenda, flight->errand.slot);
			flight->errand.slot = NULL;
		}
		gate_pause(loop->gate);
	}
}

/* Once: a sandbox stays as it is. */
static void report_poll(int error)
{
	static bool reported;

	if (!reported && (error == EPERM || error == EACCES || error == ENOSYS))
		log_warning(
			"nothing is fetched in this process: its sandbox refuses poll and "
			"ppoll (%s); allow one, or let an agent (ocspctl agent) fetch",
			strerror(error));
	reported = true;
}

/* poll(2), or what a sandbox knows instead. */
static void poll_as_allowed(struct pollfd *fds, size_t count, int timeout)
{
	const struct timespec time = {timeout / 1000, timeout % 1000 * 1000000L};
	static const struct timespec moment = {0, 1000000};

	if (poll(fds, count, timeout) >= 0 || errno == EINTR)
		return;
	if (ppoll(fds, count, &time, NULL) >= 0 || errno == EINTR)
		return;
	report_poll(errno);
	/* Never to be a busy loop: what came is seen by the steps that follow anyway. */
	nanosleep(timeout > 0 ? &time : &moment, NULL);
}

/* With the gate open. */
static void poll_outside(struct loop *loop, struct pollfd *fds, size_t count, int timeout)
{
	loop->gate->leave();
	poll_as_allowed(fds, count, timeout);
	loop->gate->enter();
}

/*
 * True if there may be something to do for the flight: a name is looked up without a descriptor,
 * and a download ends when the host loads what it is for.
 */
static bool has_cause(
	const struct flight *flight, const struct pollfd *fd, int64_t until, int64_t now)
{
	return flight->download || fd->fd < 0 || fd->revents || now >= until;
}

/*
 * Only what is in flight: poll refuses an array longer than RLIMIT_NOFILE, however many of its
 * entries are unused. And of that only what has cause: with dozens in flight, to step all
 * for the sake of one costs more than the one.
 */
static void step_flights(struct loop *loop)
{
	struct pollfd fds[FETCHES + RESOLVER_FDS];
	struct flight *flights[FETCHES];
	int64_t until[FETCHES];
	int64_t now = clock_steady();
	int timeout = LONGEST_POLL;
	size_t count = 0, resolver_count;

	for (size_t i = 0; i < FETCHES; i++) {
		struct flight *flight = &loop->flights[i];
		int wait = LONGEST_POLL;

		if (!flight->errand.slot)
			continue;
		flights[count] = flight;
		fds[count] = poll_flight(flight, now, &wait);
		until[count++] = now + wait;
		if (wait < timeout)
			timeout = wait;
	}
	resolver_count = resolver_poll(loop->tools.resolver, fds + count, RESOLVER_FDS, &timeout);
	poll_outside(loop, fds, count + resolver_count, timeout);
	resolver_step(loop->tools.resolver, fds + count, resolver_count);
	now = clock_steady();
	for (size_t i = 0; i < count; i++) {
		if (has_cause(flights[i], &fds[i], until[i], now))
			step_flight(loop, flights[i], fds[i].revents, now);
		gate_pause(loop->gate);
	}
	connections_sweep(loop->tools.connections, agenda_is_backed_up(loop->agenda), now);
}

/* True if something was read. */
static bool look_at(const struct loop *loop, struct slot *slot, bool is_stored)
{
	bool did;

	if (!cache_pin(slot, atomic_load(&slot->generation)))
		return false;
	did = supply_take_ready(&loop->supply, slot);
	if (is_stored && supply_from_store(&loop->supply, slot, false))
		did = true;
	cache_unpin(slot);
	return did;
}

/*
 * What unrelated processes store, and who keeps ready-made responses replaces, is taken within a
 * second also when nothing is due: it may say revoked. If all is as it was, that costs a stat for
 * each directory and each ready-made response.
 */
static void look_around(struct loop *loop)
{
	const struct supply *supply = &loop->supply;
	size_t count = cache_slot_count(supply->cache);
	bool is_stored;

	if (clock_steady() < loop->next_look)
		return;
	while (supply_look_ready(supply))
		gate_pause(loop->gate);
	is_stored = store_has_changed(supply->store, &loop->store_seen);
	for (size_t i = 0; i < count; i++) {
		bool did = look_at(loop, cache_slot(supply->cache, i), is_stored);

		if (did)
			agenda_stir(loop->agenda);
		if (did)
			gate_pause(loop->gate);
		gate_pause_at(loop->gate, i);
	}
	loop->next_look = clock_steady() + LOOK_INTERVAL;
}

static void sleep_outside(struct loop *loop)
{
	int64_t look = loop->next_look - clock_steady();
	int timeout = agenda_wait(loop->agenda);
	bool news;

	connections_close(loop->tools.connections);
	certificate_memo_clear(&loop->crypto);
	if (look < timeout)
		timeout = look > 0 ? (int)look : 0;
	loop->gate->leave();
	news = cache_sleep(loop->supply.cache, timeout);
	loop->gate->enter();
	if (news)
		agenda_stir(loop->agenda);
}

static void lead(struct loop *loop)
{
	while (!ends(loop)) {
		look_around(loop);
		begin_due(loop);
		if (loop->in_flight > 0)
			step_flights(loop);
		else
			sleep_outside(loop);
	}
}

/* All but what other processes share: pins, and the locks of the store. */
static void free_memory(struct loop *loop)
{
	for (size_t i = 0; i < FETCHES; i++) {
		fetch_free(loop->flights[i].fetch);
		aia_free(loop->flights[i].download);
	}
	free(loop->known);
	agenda_free(loop->agenda);
	connections_free(loop->tools.connections);
	if (loop->tools.resolver)
		resolver_free(loop->tools.resolver);
	certificate_memo_free(&loop->crypto);
	free(loop);
}

/* Of this process; guarded by the gate. */
static struct loop *running;

static struct loop *loop_new(const struct supply *supply, const struct gate *gate)
{
	struct loop *loop = calloc(1, sizeof(*loop));

	if (!loop)
		return NULL;
	loop->crypto = *supply->crypto;
	loop->crypto.gate = gate;
	loop->crypto.memo = certificate_memo_new(MEMO_PLACES);
	loop->supply = *supply;
	loop->supply.crypto = &loop->crypto;
	loop->tools = (struct fetch_tools){.crypto = &loop->crypto,
		.config = supply->config,
		.resolver = resolver_new(),
		.connections = connections_new()};
	loop->gate = gate;
	loop->next_look =
		supply->config->responses || supply->store->directory[0][0] ? 0 : INT64_MAX;
	loop->agenda = agenda_new(&loop->supply);
	return loop;
}

void loop_run(const struct supply *supply, const struct gate *gate)
{
	struct loop *loop = loop_new(supply, gate);

	if (!loop)
		return;
	running = loop;
	if (loop->tools.resolver && loop->agenda) {
		store_prune(supply->store, clock_wall() / 1000, gate);
		lead(loop);
	}
	for (size_t i = 0; i < FETCHES; i++)
		if (loop->flights[i].errand.slot)
			end_flight(loop, &loop->flights[i]);
	running = NULL;
	free_memory(loop);
}

void loop_forked(bool may_free)
{
	struct loop *loop = running;

	running = NULL;
	if (!loop || !may_free)
		return;
	loop->crypto.gate = NULL;
	free_memory(loop);
}
