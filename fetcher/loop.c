/* SPDX-License-Identifier: MIT */
#include "loop.h"

#include "certificate.h"
#include "clock.h"
#include "fetch.h"
#include "issuer.h"
#include "ocsp.h"
#include "resolve.h"
#include "schedule.h"

#include <poll.h>
#include <string.h>
#include <sys/random.h>

enum {
	FETCHES = 64,
	RESOLVER_FDS = 16,
	/* A wall clock that is set, or a machine that slept, is noticed after this long. */
	LONGEST_SLEEP = 60000,
	/* News from other processes cannot interrupt a poll, so it must be short. */
	LONGEST_POLL = 20,
	/* The chain is loaded within moments of the certificate, if at all. */
	CHAIN_GRACE = 5000,
};

struct flight {
	struct slot *slot; /* NULL: this place is free */
	struct fetch *fetch;
};

struct loop {
	struct fetch_tools tools;
	struct cache *cache;
	const struct loop_gate *gate;
	struct flight flights[FETCHES];
	size_t in_flight;
};

/* Uniform in [0, 1). */
static double draw_jitter(void)
{
	uint32_t bits;

	if (getrandom(&bits, sizeof(bits), GRND_NONBLOCK) != sizeof(bits))
		bits = (uint32_t)clock_steady() * 2654435761U;
	return bits / 4294967296.0;
}

/* Records a failure and returns after how many milliseconds the next attempt is due. */
static int64_t slot_fail(struct loop *loop, struct slot *slot, enum slot_state state, int64_t least)
{
	uint32_t failures = atomic_load(&slot->failures) + 1;
	int64_t now = clock_wall();
	int64_t delay =
		schedule_retry(now, failures, cache_usable_until(slot) * 1000, draw_jitter());

	if (delay < least)
		delay = least;
	atomic_store(&slot->failures, failures);
	atomic_store(&slot->due, now + delay);
	cache_set_state(loop->cache, slot, state);
	return delay;
}

static const char *held_text(const struct slot *slot, char text[static 64])
{
	int64_t usable_until = cache_usable_until(slot);
	char time[CLOCK_TEXT_SIZE];

	if (usable_until <= clock_wall() / 1000)
		return "nothing to staple";
	strcpy(text, "still stapling the last one until ");
	return strcat(text, clock_text(usable_until, time));
}

/* Seconds with one decimal. */
#define SECONDS_FORMAT "%lld.%lld s"
#define SECONDS(milliseconds) \
	(long long)(milliseconds) / 1000, (long long)(milliseconds) % 1000 / 100

static void report_failure(struct loop *loop, struct slot *slot, const char *responder,
	const char *why, enum slot_state state)
{
	int64_t delay = slot_fail(loop, slot, state, 0);
	char text[64];

	log_write(state == SLOT_UNKNOWN ? LOG_LEVEL_ERROR : LOG_LEVEL_WARNING,
		"%s: no usable response from %s: %s; %s; trying again in " SECONDS_FORMAT,
		slot->label, responder, why, held_text(slot, text), SECONDS(delay));
}

static const struct issuer_entry *issuer_from_pool(
	struct loop *loop, const struct slot *slot, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		const struct issuer_entry *entry = cache_issuer(loop->cache, i);

		if (memcmp(entry->subject, slot->issuer_name, sizeof(slot->issuer_name)) == 0 &&
			issuer_signed(loop->tools.crypto, slot->certificate, entry->der))
			return entry;
	}
	return NULL;
}

/* From files; what is found is kept in the pool for this and other certificates. */
static const struct issuer_entry *issuer_from_files(struct loop *loop, const struct slot *slot)
{
	const struct libcrypto *crypto = loop->tools.crypto;
	const char *trusted = loop->tools.config->trusted;
	const struct issuer_entry *entry = NULL;
	struct certificate issuer;
	struct buffer der = {0};
	const char *why;

	if (trusted && !issuer_from_file(crypto, slot->certificate, trusted, &der, &why))
		log_info("%s: OCSPRELOAD_TRUSTED=%s does not help: %s", slot->label, trusted, why);
	if (der.size == 0 && !issuer_from_system(crypto, slot->certificate, &der))
		goto out;
	if (certificate_decode(crypto, buffer_bytes(&der), &issuer)) {
		entry = cache_keep_issuer(loop->cache, &issuer);
		certificate_free(&issuer);
	}
out:
	buffer_free(&der);
	return entry;
}

static const struct issuer_entry *find_issuer(struct loop *loop, struct slot *slot)
{
	const struct issuer_entry *issuer = atomic_load(&slot->issuer);
	uint32_t count = cache_issuer_count(loop->cache);

	if (issuer)
		return issuer;
	issuer = issuer_from_pool(loop, slot, count);
	if (!issuer)
		issuer = issuer_from_files(loop, slot);
	atomic_store(&slot->issuer, issuer);
	/* Before the count: without one of the two a handshake would not wait for the answer. */
	if (issuer) {
		atomic_store(&slot->failures, 0);
		cache_set_state(loop->cache, slot, SLOT_PENDING);
	}
	/* The count from before the search: what came meanwhile deserves another. */
	atomic_store(&slot->issuers_seen, count);
	return issuer;
}

/* A host that loads the certificate before its chain is no failure worth a word. */
static void report_no_issuer(struct loop *loop, struct slot *slot)
{
	bool first = atomic_load(&slot->failures) == 0;
	int64_t delay = slot_fail(loop, slot, SLOT_NO_ISSUER, CHAIN_GRACE);

	if (first)
		log_debug("%s: waiting for the chain: its issuer is not known yet", slot->label);
	else
		log_error(
			"%s: nothing to staple: its issuer's certificate is neither in the "
			"server's chain nor in OCSPRELOAD_TRUSTED nor in the system's store; "
			"looking again in " SECONDS_FORMAT,
			slot->label, SECONDS(delay));
}

static void begin_fetch(struct loop *loop, struct slot *slot, struct flight *flight)
{
	const struct issuer_entry *issuer = find_issuer(loop, slot);

	if (!issuer) {
		report_no_issuer(loop, slot);
		return;
	}
	flight->fetch = fetch_start(&loop->tools, slot->certificate, issuer->der, slot->responders);
	if (!flight->fetch) {
		report_failure(loop, slot, slot->responders, "memory ran out", SLOT_FAILING);
		return;
	}
	log_debug("%s: asking %s", slot->label, slot->responders);
	flight->slot = slot;
	loop->in_flight++;
}

static void accept_good(struct loop *loop, struct flight *flight, const struct judgement *judgement)
{
	struct slot *slot = flight->slot;
	int64_t now = clock_wall();
	int64_t due = schedule_refresh(
		now, judgement->this_update * 1000, judgement->usable_until * 1000, draw_jitter());
	char until[CLOCK_TEXT_SIZE], next[CLOCK_TEXT_SIZE];

	if (!cache_publish(
		    loop->cache, slot, fetch_response(flight->fetch), judgement->usable_until)) {
		report_failure(loop, slot, fetch_responder(flight->fetch),
			"the response is too large to keep", SLOT_FAILING);
		return;
	}
	atomic_store(&slot->this_update, judgement->this_update);
	atomic_store(&slot->failures, 0);
	atomic_store(&slot->due, due);
	cache_set_state(loop->cache, slot, SLOT_GOOD);
	log_info("%s: stapling the response of %s until %s; refreshing at %s", slot->label,
		fetch_responder(flight->fetch), clock_text(judgement->usable_until, until),
		clock_text(due / 1000, next));
}

/* Only a removal from hold can change it, and not before the responder said it would say more. */
static void accept_revoked(
	struct loop *loop, struct flight *flight, const struct judgement *judgement)
{
	struct slot *slot = flight->slot;
	int64_t least = clock_wall() + SCHEDULE_LEAST;
	int64_t due = judgement->next_update * 1000;
	char revoked[CLOCK_TEXT_SIZE], next[CLOCK_TEXT_SIZE];

	if (due < least)
		due = least;
	cache_withdraw(slot);
	atomic_store(&slot->this_update, judgement->this_update);
	atomic_store(&slot->failures, 0);
	atomic_store(&slot->due, due);
	cache_set_state(loop->cache, slot, SLOT_REVOKED);
	log_error("%s: revoked since %s, says %s; stapling nothing; asking again at %s",
		slot->label, clock_text(judgement->revoked_at, revoked),
		fetch_responder(flight->fetch), clock_text(due / 1000, next));
}

/*
 * Whoever can replay an old answer must not be able to take back a newer one: not a revocation, and
 * not a response that can still be stapled.
 */
static bool is_older(const struct slot *slot, const struct judgement *judgement)
{
	return judgement->this_update < atomic_load(&slot->this_update) &&
	       (atomic_load(&slot->state) == SLOT_REVOKED ||
		       cache_usable_until(slot) > clock_wall() / 1000);
}

static void land(struct loop *loop, struct flight *flight, enum fetch_state state)
{
	struct judgement judgement = fetch_judgement(flight->fetch);
	const char *responder = fetch_responder(flight->fetch);
	struct slot *slot = flight->slot;

	if (state == FETCH_FAILED)
		report_failure(loop, slot, responder, fetch_why(flight->fetch), SLOT_FAILING);
	else if (is_older(slot, &judgement))
		report_failure(loop, slot, responder, "it is older than the one before",
			(enum slot_state)atomic_load(&slot->state));
	else if (judgement.verdict == VERDICT_GOOD)
		accept_good(loop, flight, &judgement);
	else if (judgement.verdict == VERDICT_REVOKED)
		accept_revoked(loop, flight, &judgement);
	else
		report_failure(
			loop, slot, responder, verdict_text(judgement.verdict), SLOT_UNKNOWN);
	fetch_free(flight->fetch);
	*flight = (struct flight){NULL, NULL};
	loop->in_flight--;
}

static struct flight *free_flight(struct loop *loop)
{
	for (size_t i = 0; i < FETCHES; i++)
		if (!loop->flights[i].slot)
			return &loop->flights[i];
	return NULL;
}

static bool is_in_flight(const struct loop *loop, const struct slot *slot)
{
	for (size_t i = 0; i < FETCHES; i++)
		if (loop->flights[i].slot == slot)
			return true;
	return false;
}

static int64_t slot_due(const struct loop *loop, const struct slot *slot)
{
	if (atomic_load(&slot->state) == SLOT_NO_ISSUER &&
		atomic_load(&slot->issuers_seen) != cache_issuer_count(loop->cache))
		return 0;
	return atomic_load(&slot->due);
}

/* Between two pieces of work, so that a host that forks or exits waits for one at the most. */
static void pause_work(const struct loop *loop)
{
	loop->gate->leave();
	loop->gate->enter();
}

/* Begins all that is due, as far as there is room. Returns when the next one is due. */
static int64_t begin_due(struct loop *loop)
{
	size_t count = cache_slot_count(loop->cache);
	int64_t now = clock_wall();
	int64_t next = INT64_MAX;

	for (size_t i = 0; i < count && loop->in_flight < FETCHES; i++) {
		struct slot *slot = cache_slot(loop->cache, i);
		int64_t due = slot_due(loop, slot);

		if (due <= now && !is_in_flight(loop, slot)) {
			begin_fetch(loop, slot, free_flight(loop));
			pause_work(loop);
			due = slot_due(loop, slot);
		}
		if (due > now && due < next)
			next = due;
	}
	return next;
}

/* poll(2) with the gate open. */
static void poll_outside(struct loop *loop, struct pollfd *fds, size_t count, int timeout)
{
	loop->gate->leave();
	poll(fds, count, timeout);
	loop->gate->enter();
}

static void step_flights(struct loop *loop)
{
	struct pollfd fds[FETCHES + RESOLVER_FDS];
	int64_t now = clock_steady();
	int timeout = LONGEST_POLL;
	size_t resolver_count;

	for (size_t i = 0; i < FETCHES; i++) {
		fds[i] = (struct pollfd){-1, 0, 0};
		if (loop->flights[i].slot)
			fds[i] = fetch_poll(loop->flights[i].fetch, now, &timeout);
	}
	resolver_count = resolver_poll(loop->tools.resolver, fds + FETCHES, RESOLVER_FDS, &timeout);
	poll_outside(loop, fds, FETCHES + resolver_count, timeout);
	resolver_step(loop->tools.resolver, fds + FETCHES, resolver_count);
	now = clock_steady();
	for (size_t i = 0; i < FETCHES; i++) {
		struct flight *flight = &loop->flights[i];
		enum fetch_state state;

		if (!flight->slot)
			continue;
		state = fetch_step(flight->fetch, fds[i].revents, now, clock_wall());
		if (state != FETCH_RUNNING)
			land(loop, flight, state);
		pause_work(loop);
	}
}

static void sleep_outside(struct loop *loop, int64_t next)
{
	int64_t timeout = next - clock_wall();

	if (timeout > LONGEST_SLEEP)
		timeout = LONGEST_SLEEP;
	loop->gate->leave();
	cache_sleep(loop->cache, timeout > 0 ? (int)timeout : 0);
	loop->gate->enter();
}

void loop_run(const struct libcrypto *crypto, struct cache *cache, const struct config *config,
	const struct loop_gate *gate)
{
	struct loop loop = {
		.tools = {crypto, config, resolver_new()},
		.cache = cache,
		.gate = gate,
	};

	if (!loop.tools.resolver)
		return;
	for (;;) {
		int64_t next = begin_due(&loop);

		if (loop.in_flight > 0)
			step_flights(&loop);
		else
			sleep_outside(&loop, next);
	}
}
