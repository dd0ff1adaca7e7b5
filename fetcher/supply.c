/* SPDX-License-Identifier: MIT */
#include "supply.h"

#include "certificate.h"
#include "clock.h"
#include "freshness.h"
#include "issuer.h"
#include "schedule.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

enum {
	/* The chain is loaded within moments of the certificate, if at all. */
	CHAIN_GRACE = 5000,
	/* While another process asks: for a first answer, which somebody may wait for, and else. */
	POSTPONED_FIRST = 100,
	POSTPONED = 1000,
};

/* Uniform in [0, 1). */
static double draw_jitter(void)
{
	uint32_t bits;

	if (getrandom(&bits, sizeof(bits), GRND_NONBLOCK) != sizeof(bits))
		bits = (uint32_t)clock_steady() * 2654435761U;
	return bits / 4294967296.0;
}

int64_t supply_due(const struct supply *supply, const struct slot *slot)
{
	if (atomic_load(&slot->state) == SLOT_NO_ISSUER &&
		atomic_load(&slot->issuers_seen) != cache_issuer_count(supply->cache))
		return 0;
	return atomic_load(&slot->due);
}

bool supply_is_due(const struct supply *supply, const struct slot *slot)
{
	return supply_due(supply, slot) <= clock_wall();
}

/*
 * Failures
 */

/* Returns after how many milliseconds the next attempt is due. */
static int64_t put_off(
	const struct supply *supply, struct slot *slot, enum slot_state state, int64_t least)
{
	uint32_t failures = atomic_load(&slot->failures) + 1;
	int64_t now = clock_wall();
	int64_t delay =
		schedule_retry(now, failures, cache_usable_until(slot) * 1000, draw_jitter());

	if (delay < least)
		delay = least;
	atomic_store(&slot->failures, failures);
	atomic_store(&slot->due, now + delay);
	cache_set_state(supply->cache, slot, state);
	return delay;
}

static const char *held_text(const struct slot *slot, char text[static 64])
{
	int64_t usable_until = cache_usable_until(slot);
	char time[CLOCK_TEXT_SIZE];

	if (usable_until <= clock_wall() / 1000)
		return "nothing to staple";
	snprintf(text, 64, "still stapling the last one until %s", clock_text(usable_until, time));
	return text;
}

/* Seconds with one decimal. */
#define SECONDS_FORMAT "%lld.%lld s"
#define SECONDS(milliseconds) \
	(long long)(milliseconds) / 1000, (long long)(milliseconds) % 1000 / 100

void supply_failure(const struct supply *supply, struct slot *slot, enum slot_state state,
	const char *responder, const char *why, int64_t retry_after)
{
	int64_t least = freshness_wait(retry_after, clock_wall(), cache_usable_until(slot) * 1000);
	int64_t delay = put_off(supply, slot, state, least);
	char text[64];

	log_write(state == SLOT_UNKNOWN ? LOG_LEVEL_ERROR : LOG_LEVEL_WARNING,
		"%s: no usable response from %s: %s; %s; trying again in " SECONDS_FORMAT,
		slot->label, responder, why, held_text(slot, text), SECONDS(delay));
}

/* A host that loads the certificate before its chain is no failure worth a word. */
static void report_no_issuer(const struct supply *supply, struct slot *slot)
{
	bool first = atomic_load(&slot->failures) == 0;
	int64_t delay = put_off(supply, slot, SLOT_NO_ISSUER, CHAIN_GRACE);

	if (first)
		log_debug("%s: waiting for the chain: its issuer is not known yet", slot->label);
	else
		log_error(
			"%s: nothing to staple: its issuer's certificate is neither in the "
			"server's chain nor in OCSPRELOAD_TRUSTED nor in the system's store; "
			"looking again in " SECONDS_FORMAT,
			slot->label, SECONDS(delay));
}

void supply_postpone(struct slot *slot)
{
	bool first = atomic_load(&slot->state) == SLOT_PENDING;

	atomic_store(&slot->due, clock_wall() + (first ? POSTPONED_FIRST : POSTPONED));
}

/*
 * Issuers
 */

static const struct issuer_entry *issuer_from_pool(
	const struct supply *supply, const struct slot *slot, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		const struct issuer_entry *entry = cache_issuer(supply->cache, i);

		if (memcmp(entry->subject, slot->issuer_name, sizeof(slot->issuer_name)) == 0 &&
			issuer_signed(supply->crypto, slot->certificate, entry->der))
			return entry;
	}
	return NULL;
}

/* What is found is kept in the pool for this and other certificates. */
static const struct issuer_entry *issuer_from_files(
	const struct supply *supply, const struct slot *slot)
{
	const char *trusted = supply->config->trusted;
	const struct issuer_entry *entry = NULL;
	struct certificate issuer;
	struct buffer der = {0};
	const char *why;

	if (trusted && !issuer_from_file(supply->crypto, slot->certificate, trusted, &der, &why))
		log_info("%s: OCSPRELOAD_TRUSTED=%s does not help: %s", slot->label, trusted, why);
	if (der.size == 0 && !issuer_from_system(supply->crypto, slot->certificate, &der))
		goto out;
	if (certificate_decode(supply->crypto, buffer_bytes(&der), &issuer)) {
		entry = cache_keep_issuer(supply->cache, &issuer);
		certificate_free(&issuer);
	}
out:
	buffer_free(&der);
	return entry;
}

static const struct issuer_entry *find_issuer(
	const struct supply *supply, struct slot *slot, bool in_files)
{
	const struct issuer_entry *issuer = atomic_load(&slot->issuer);
	uint32_t count = cache_issuer_count(supply->cache);

	if (issuer)
		return issuer;
	issuer = issuer_from_pool(supply, slot, count);
	if (!issuer && in_files)
		issuer = issuer_from_files(supply, slot);
	/* Before the count: without one of the two a handshake would not wait for the answer. */
	if (issuer) {
		atomic_store(&slot->issuer, issuer);
		atomic_store(&slot->failures, 0);
		atomic_store(&slot->due, 0);
		cache_set_state(supply->cache, slot, SLOT_PENDING);
	}
	/* The count from before the search: what came meanwhile deserves another. */
	if (in_files)
		atomic_store(&slot->issuers_seen, count);
	return issuer;
}

const struct issuer_entry *supply_issuer(const struct supply *supply, struct slot *slot)
{
	const struct issuer_entry *issuer = find_issuer(supply, slot, true);

	if (!issuer)
		report_no_issuer(supply, slot);
	return issuer;
}

/*
 * Answers
 */

static enum cache_result take_good(const struct supply *supply, struct slot *slot,
	const struct judgement *judgement, struct bytes response, int64_t obtained,
	const char *origin, int64_t fresh_until)
{
	int64_t due = schedule_refresh(obtained, judgement->this_update * 1000,
		judgement->usable_until * 1000, draw_jitter());
	enum cache_result result = cache_publish(supply->cache, slot, response,
		judgement->this_update, judgement->usable_until, clock_wall() / 1000);
	char until[CLOCK_TEXT_SIZE], next[CLOCK_TEXT_SIZE];

	if (result != CACHE_DONE)
		return result;
	due = freshness_due(
		due, fresh_until, obtained, judgement->usable_until * 1000, draw_jitter());
	atomic_store(&slot->failures, 0);
	atomic_store(&slot->due, due);
	log_info("%s: stapling the response of %s until %s; refreshing at %s", slot->label, origin,
		clock_text(judgement->usable_until, until), clock_text(due / 1000, next));
	return result;
}

/* Only a removal from hold can change it, and not before the responder said it would say more. */
static enum cache_result take_revoked(const struct supply *supply, struct slot *slot,
	const struct judgement *judgement, const char *origin)
{
	int64_t now = clock_wall();
	int64_t due = judgement->next_update * 1000;
	enum cache_result result =
		cache_revoke(supply->cache, slot, judgement->this_update, now / 1000);
	char revoked[CLOCK_TEXT_SIZE], next[CLOCK_TEXT_SIZE];

	if (result != CACHE_DONE)
		return result;
	if (due < now + SCHEDULE_LEAST)
		due = now + SCHEDULE_LEAST;
	atomic_store(&slot->failures, 0);
	atomic_store(&slot->due, due);
	log_error("%s: revoked since %s, says %s; stapling nothing; asking again at %s",
		slot->label, clock_text(judgement->revoked_at, revoked), origin,
		clock_text(due / 1000, next));
	return result;
}

static enum cache_result take(const struct supply *supply, struct slot *slot,
	const struct judgement *judgement, struct bytes response, int64_t obtained,
	const char *origin, int64_t fresh_until)
{
	if (judgement->verdict == VERDICT_REVOKED)
		return take_revoked(supply, slot, judgement, origin);
	return take_good(supply, slot, judgement, response, obtained, origin, fresh_until);
}

void supply_answer(const struct supply *supply, struct slot *slot,
	const struct judgement *judgement, struct bytes response, const char *responder,
	int64_t fresh_until)
{
	enum cache_result result =
		take(supply, slot, judgement, response, clock_wall(), responder, fresh_until);

	if (result == CACHE_OLDER)
		supply_failure(supply, slot, (enum slot_state)atomic_load(&slot->state), responder,
			"it is older than the one before", 0);
	else if (result == CACHE_FULL)
		supply_failure(supply, slot, SLOT_FAILING, responder, "there is no room for it", 0);
	else if (store_write(supply->store, slot->key, response))
		atomic_store(&slot->stamp, store_look(supply->store, slot->key));
	else if (supply->store->writable)
		log_info("%s: the response is not kept on disk: %s", slot->label, strerror(errno));
}

void supply_unchanged(
	const struct supply *supply, struct slot *slot, const char *responder, int64_t fresh_until)
{
	int64_t usable_until = cache_usable_until(slot) * 1000;
	int64_t now = clock_wall();
	int64_t due = schedule_refresh(
		now, atomic_load(&slot->this_update) * 1000, usable_until, draw_jitter());
	char next[CLOCK_TEXT_SIZE];

	due = freshness_due(due, fresh_until, now, usable_until, draw_jitter());
	atomic_store(&slot->failures, 0);
	atomic_store(&slot->due, due);
	cache_set_state(supply->cache, slot, SLOT_GOOD);
	log_info("%s: %s has nothing newer yet; asking again at %s", slot->label, responder,
		clock_text(due / 1000, next));
}

void supply_from_store(const struct supply *supply, struct slot *slot)
{
	uint64_t stamp = store_look(supply->store, slot->key);
	const struct issuer_entry *issuer;
	struct judgement judgement;
	int64_t now = clock_wall();
	struct stored stored;

	if (stamp == 0 || stamp == atomic_load(&slot->stamp))
		return;
	issuer = find_issuer(supply, slot, false);
	if (!issuer || !store_read(supply->store, slot->key, &stored))
		return;
	judgement = ocsp_judge(supply->crypto, buffer_bytes(&stored.response), slot->certificate,
		issuer->der, now / 1000);
	if (judgement.verdict == VERDICT_GOOD || judgement.verdict == VERDICT_REVOKED)
		take(supply, slot, &judgement, buffer_bytes(&stored.response),
			stored.written < now ? stored.written : now, "the store", 0);
	else
		log_debug("%s: the stored response is of no use: %s", slot->label,
			verdict_text(judgement.verdict));
	atomic_store(&slot->stamp, stored.stamp);
	buffer_free(&stored.response);
}
