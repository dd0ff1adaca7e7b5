/* SPDX-License-Identifier: MIT */
#include "supply.h"

#include "certificate.h"
#include "clock.h"
#include "freshness.h"
#include "gate.h"
#include "issuer.h"
#include "schedule.h"
#include "skim.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

enum {
	/* The chain is loaded within moments of the certificate, if at all: often from inside the
	 * same call. Before that, to read the system's store is work for nothing. */
	CHAIN_MOMENT = 100,
	CHAIN_GRACE = 5000,
	/* While another process asks: for a first answer, which somebody may wait for, and else. */
	POSTPONED_FIRST = 100,
	POSTPONED = 1000,
	/* For so many times as long as it may ask. */
	BARRED_EXCHANGES = 3,
	/* Milliseconds that the loading of a certificate may wait for another thread's look. */
	READY_PATIENCE = 1000,
	/* After how many to judge again what could not be used, while there is nothing better. */
	READY_AGAIN = 10000,
	/* However long a response lives, its file's owner is not warned sooner. */
	READY_MARGIN = 2 * 24 * 3600 * 1000,
	NEW_AGE = 3600 * 1000,
};

double supply_draw(void)
{
	uint32_t bits;

	if (getrandom(&bits, sizeof(bits), GRND_NONBLOCK) != sizeof(bits))
		bits = (uint32_t)clock_steady() * 2654435761U;
	return bits / 4294967296.0;
}

int64_t supply_due(const struct supply *supply, const struct slot *slot)
{
	int64_t due = atomic_load(&slot->due);
	int64_t until = atomic_load(&slot->ready.until);
	uint32_t state = atomic_load(&slot->state);
	/* Or while it is being downloaded, and the chain may still come. */
	bool lacks_issuer =
		state == SLOT_NO_ISSUER || (state == SLOT_PENDING && !atomic_load(&slot->issuer));

	if (!slot->responders[0])
		return INT64_MAX;
	if (atomic_load(&slot->ready.state) == READY_HOLDS && until > due)
		return until;
	if (due != SLOT_NEVER && lacks_issuer &&
		atomic_load(&slot->issuers_seen) != cache_issuer_count(supply->cache))
		return 0;
	return due;
}

bool supply_is_due(const struct supply *supply, const struct slot *slot)
{
	return supply_due(supply, slot) <= clock_wall();
}

static bool is_wanted(const struct supply *supply, struct slot *slot)
{
	int64_t now = clock_steady();

	if (supply->is_loaded && supply->is_loaded(slot) && cache_touch(slot, now))
		cache_claim(supply->cache, slot, now);
	return cache_is_wanted(supply->cache, slot, now);
}

/* Twice: who comes back meanwhile looks whether it is still due after giving his sign. */
bool supply_is_wanted(const struct supply *supply, struct slot *slot)
{
	if (is_wanted(supply, slot))
		return true;
	atomic_store(&slot->due, SLOT_NEVER);
	if (is_wanted(supply, slot)) {
		atomic_store(&slot->due, 0);
		return true;
	}
	log_debug("%s: not refreshed any more: no process has it loaded", slot->label);
	return false;
}

/*
 * Failures
 */

/* What a next failure is to be put off for. */
static int64_t retry_delay(const struct slot *slot)
{
	return schedule_retry(clock_wall(), atomic_load(&slot->failures) + 1,
		cache_usable_until(slot) * 1000, supply_draw());
}

static int64_t put_off(
	const struct supply *supply, struct slot *slot, enum slot_state state, int64_t delay)
{
	atomic_fetch_add(&slot->failures, 1);
	atomic_store(&slot->due, clock_wall() + delay);
	cache_set_state(supply->cache, slot, state);
	return delay;
}

static int64_t larger(int64_t a, int64_t b)
{
	return a > b ? a : b;
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

static void report_failure(
	const struct slot *slot, const char *responder, const char *why, int64_t delay)
{
	bool is_unknown = atomic_load(&slot->state) == SLOT_UNKNOWN;
	char text[64];

	log_write(is_unknown ? LOG_LEVEL_ERROR : LOG_LEVEL_WARNING,
		"%s: no usable response from %s: %s; %s; trying again in " SECONDS_FORMAT,
		slot->label, responder, why, held_text(slot, text), SECONDS(delay));
}

static int64_t obeyed(const struct slot *slot, int64_t retry_after)
{
	return freshness_wait(retry_after, clock_wall(), cache_usable_until(slot) * 1000);
}

void supply_failure(const struct supply *supply, struct slot *slot, enum slot_state state,
	const char *responder, const char *why, int64_t retry_after)
{
	int64_t delay = larger(retry_delay(slot), obeyed(slot, retry_after));

	report_failure(slot, responder, why, put_off(supply, slot, state, delay));
}

/* Never answered for yet, and seen for the first time not long ago. */
static bool is_new(const struct slot *slot)
{
	return atomic_load(&slot->this_update) == 0 && clock_steady() - slot->registered < NEW_AGE;
}

void supply_refusal(const struct supply *supply, struct slot *slot, const char *responder,
	const char *why, int64_t retry_after)
{
	int64_t delay =
		is_new(slot) ? schedule_retry_new(atomic_load(&slot->failures) + 1, supply_draw())
			     : retry_delay(slot);

	delay = larger(delay, obeyed(slot, retry_after));
	report_failure(slot, responder, why, put_off(supply, slot, SLOT_FAILING, delay));
}

/*
 * It may be that the responder fails for this certificate alone, so that counts too: others are to
 * have their turn before it.
 */
void supply_outage(const struct supply *supply, struct slot *slot, const char *responder,
	const char *why, int64_t left_alone)
{
	int64_t own = schedule_backoff(atomic_load(&slot->failures) + 1, supply_draw());
	int64_t delay = schedule_press(
		larger(own, left_alone), clock_wall(), cache_usable_until(slot) * 1000);

	report_failure(slot, responder, why, put_off(supply, slot, SLOT_FAILING, delay));
}

void supply_mend(const struct supply *supply, struct slot *slot)
{
	enum slot_state state = (enum slot_state)atomic_load(&slot->state);
	int64_t usable_until = cache_usable_until(slot);
	int64_t due = atomic_load(&slot->due);

	/* What nobody has loaded, and what a ready-made response holds, is due by other rules. */
	if (due == SLOT_NEVER || supply_due(supply, slot) != due)
		return;
	if (!schedule_is_sane(clock_wall(), due, state != SLOT_GOOD && state != SLOT_REVOKED,
		    atomic_load(&slot->this_update) * 1000, usable_until * 1000,
		    (int64_t)OCSP_SKEW * 1000))
		/* Unless somebody else has just changed it. */
		atomic_compare_exchange_strong(&slot->due, &due, 0);
}

bool supply_lock(const struct supply *supply, struct slot *slot, const unsigned char *key,
	struct descriptor *lock)
{
	int64_t now = clock_steady(), since = 0;

	if (store_lock(supply->store, key, lock)) {
		atomic_store(&slot->barred, 0);
		return true;
	}
	if (atomic_compare_exchange_strong(&slot->barred, &since, now) ||
		now - since < BARRED_EXCHANGES * supply->config->timeout)
		return false;
	log_debug("%s: whoever is to ask does not; asking beside it", slot->label);
	return true;
}

void supply_postpone(struct slot *slot)
{
	bool first = atomic_load(&slot->state) == SLOT_PENDING;

	atomic_store(&slot->due, clock_wall() + (first ? POSTPONED_FIRST : POSTPONED));
}

bool supply_yields(const struct supply *supply, struct slot *slot)
{
	int64_t usable_until = cache_usable_until(slot) * 1000;
	int64_t this_update = atomic_load(&slot->this_update);
	int64_t now = clock_wall();
	int64_t later = schedule_yield(now, usable_until, supply_draw());

	/* Where nothing is stored, there is nobody to yield to. */
	if (later >= usable_until || atomic_load(&slot->yielded) == this_update ||
		store_look(supply->store, slot->key) == 0)
		return false;
	atomic_store(&slot->yielded, this_update);
	atomic_store(&slot->due, later);
	return true;
}

/*
 * Issuers
 */

static bool is_in_time(const struct issuer_entry *issuer)
{
	int64_t now = clock_wall() / 1000;

	return issuer->not_before <= now && now < issuer->not_after;
}

/* The best of the first count. */
static const struct issuer_entry *issuer_from_pool(
	const struct supply *supply, const struct slot *slot, uint32_t count)
{
	const struct issuer_entry *best = NULL;
	struct issuer_weight weight, best_weight;

	for (uint32_t i = 0; i < count; i++) {
		const struct issuer_entry *entry = cache_issuer(supply->cache, i);

		if (entry->subject != slot->issuer_name)
			continue;
		if (issuer_weigh(supply->crypto, slot->certificate, entry->der, clock_wall() / 1000,
			    &weight) &&
			(!best || issuer_outweighs(&weight, &best_weight))) {
			best = entry;
			best_weight = weight;
		}
		gate_pause(supply->crypto->gate);
	}
	return best;
}

/*
 * What is found, and is in its time, is kept in the pool for this and other certificates. Nothing
 * else is: a search whose result nobody wants must not be a reason for the next.
 */
static const struct issuer_entry *pool_issuer(const struct supply *supply, struct bytes der)
{
	const struct issuer_entry *entry = NULL;
	int64_t now = clock_wall() / 1000;
	struct certificate issuer;

	if (!certificate_decode(supply->crypto, der, &issuer))
		return NULL;
	if (issuer.not_before <= now && now < issuer.not_after)
		entry = cache_keep_issuer(supply->cache, &issuer);
	certificate_free(&issuer);
	return entry;
}

static const struct issuer_entry *issuer_from_store(
	const struct supply *supply, const struct slot *slot)
{
	const struct issuer_entry *entry = NULL;
	struct buffer stored = {0}, der = {0};

	if (store_read_issuer(supply->store, slot->issuer_key, &stored) &&
		issuer_from_content(supply->crypto, slot->certificate, buffer_bytes(&stored),
			clock_wall() / 1000, &der))
		entry = pool_issuer(supply, buffer_bytes(&der));
	buffer_free(&der);
	buffer_free(&stored);
	return entry;
}

static const struct issuer_entry *issuer_from_trusted(
	const struct supply *supply, const struct slot *slot)
{
	const char *trusted = supply->config->trusted;
	const struct issuer_entry *entry = NULL;
	struct buffer der = {0};
	const char *why;

	if (!trusted)
		return NULL;
	if (issuer_from_path(
		    supply->crypto, slot->certificate, trusted, clock_wall() / 1000, &der, &why))
		entry = pool_issuer(supply, buffer_bytes(&der));
	else
		log_info("%s: OCSPRELOAD_TRUSTED=%s does not help: %s", slot->label, trusted, why);
	buffer_free(&der);
	return entry;
}

static const struct issuer_entry *issuer_from_system_store(
	const struct supply *supply, const struct slot *slot)
{
	const struct issuer_entry *entry = NULL;
	struct buffer der = {0};

	if (issuer_from_system(supply->crypto, slot->certificate, clock_wall() / 1000, &der))
		entry = pool_issuer(supply, buffer_bytes(&der));
	buffer_free(&der);
	return entry;
}

/* Before issuers_seen: without one of the two a handshake would not wait for the answer. */
static void know_issuer(
	const struct supply *supply, struct slot *slot, const struct issuer_entry *issuer)
{
	atomic_store(&slot->issuer, issuer);
	atomic_store(&slot->failures, 0);
	atomic_store(&slot->due, 0);
	cache_set_state(supply->cache, slot, SLOT_PENDING);
}

/* For restarts, and for processes that have no thread to search. */
static void store_issuer(const struct supply *supply, const struct slot *slot, struct bytes der)
{
	if (!store_write_issuer(supply->store, slot->issuer_key, der) && supply->store->writable)
		log_info("%s: the issuer's certificate is not kept on disk: %s", slot->label,
			strerror(errno));
}

/* One that is in its time, or NULL: nothing that an expired CA signed can be stapled. */
static const struct issuer_entry *find_issuer(
	const struct supply *supply, struct slot *slot, bool in_files)
{
	static const struct issuer_entry *(*const places[])(
		const struct supply *supply, const struct slot *slot) = {
		issuer_from_store, issuer_from_trusted, issuer_from_system_store};
	size_t count = in_files ? sizeof(places) / sizeof(*places) : 1;
	bool from_files = false;
	const struct issuer_entry *issuer = atomic_load(&slot->issuer);

	if (issuer && is_in_time(issuer))
		return issuer;
	issuer = issuer_from_pool(supply, slot, cache_issuer_count(supply->cache));
	for (size_t i = 0; i < count && !(issuer && is_in_time(issuer)); i++) {
		issuer = places[i](supply, slot);
		from_files = i > 0;
	}
	if (!issuer || !is_in_time(issuer))
		return NULL;
	if (from_files)
		store_issuer(supply, slot, issuer->der);
	know_issuer(supply, slot, issuer);
	return issuer;
}

/* Nothing has changed since the last search that ended with supply_postpone. */
static bool was_searched_for(const struct slot *slot, uint32_t count)
{
	return atomic_load(&slot->state) == SLOT_PENDING && atomic_load(&slot->due) != 0 &&
	       atomic_load(&slot->files_seen) == count + 1;
}

/* The pool has grown since the last search: what came may last longer than what there was. */
static void choose_again(const struct supply *supply, struct slot *slot, uint32_t count)
{
	const struct issuer_entry *best;

	if (!atomic_load(&slot->issuer) || atomic_load(&slot->issuers_seen) == count)
		return;
	best = issuer_from_pool(supply, slot, count);
	if (best)
		atomic_store(&slot->issuer, best);
}

const struct issuer_entry *supply_issuer(const struct supply *supply, struct slot *slot)
{
	/* The count from before the search: what comes meanwhile deserves another. */
	uint32_t count = cache_issuer_count(supply->cache);
	const struct issuer_entry *issuer;

	choose_again(supply, slot, count);
	issuer = find_issuer(supply, slot, !was_searched_for(slot, count));
	/* A host's thread may have found it while a search here ended in vain. */
	if (issuer && atomic_load(&slot->state) == SLOT_NO_ISSUER)
		know_issuer(supply, slot, issuer);
	atomic_store(&slot->issuers_seen, count);
	atomic_store(&slot->files_seen, count + 1);
	return issuer;
}

/* CertIDs are made of the bytes of names (RFC 6960, 4.1.1): other bytes prove nothing. */
static bool is_named_alike(const struct slot *slot, const struct issuer_entry *issuer)
{
	struct bytes wanted, name;

	if (!skim_issuer(slot->certificate, &wanted) || !skim_subject(issuer->der, &name))
		return true;
	return wanted.size == name.size && memcmp(wanted.data, name.data, name.size) == 0;
}

bool supply_waits_for_chain(const struct supply *supply, struct slot *slot)
{
	int64_t left = slot->registered + CHAIN_MOMENT - clock_steady();
	uint32_t count = cache_issuer_count(supply->cache);
	const struct issuer_entry *issuer;

	if (left <= 0)
		return false;
	issuer = find_issuer(supply, slot, false);
	if (issuer && is_named_alike(slot, issuer))
		return false;
	atomic_store(&slot->due, clock_wall() + left);
	atomic_store(&slot->issuers_seen, count);
	return true;
}

bool supply_issuer_in_chain(const struct supply *supply, struct slot *slot)
{
	const struct issuer_entry *issuer =
		issuer_from_pool(supply, slot, cache_issuer_count(supply->cache));

	return issuer && is_in_time(issuer);
}

void supply_issuer_arrived(
	const struct supply *supply, struct slot *slot, struct bytes der, const char *url)
{
	const struct issuer_entry *issuer = pool_issuer(supply, der);

	if (!issuer) {
		supply_no_issuer(supply, slot, url, "there is no room for it");
		return;
	}
	log_info("%s: its issuer's certificate comes from %s", slot->label, url);
	store_issuer(supply, slot, der);
	know_issuer(supply, slot, issuer);
}

/* One question to the CA is for all that wait for the same answer. */
static void put_off_siblings(const struct supply *supply, const struct slot *slot)
{
	size_t count = cache_slot_count(supply->cache);

	for (size_t i = 0; i < count; i++) {
		struct slot *other = cache_slot(supply->cache, i);
		uint32_t state = atomic_load(&other->state);

		gate_pause_at(supply->crypto->gate, i);
		if (other == slot || (state != SLOT_PENDING && state != SLOT_NO_ISSUER) ||
			atomic_load(&other->issuer) ||
			memcmp(other->issuer_key, slot->issuer_key, sizeof(slot->issuer_key)) != 0)
			continue;
		atomic_store(&other->failures, atomic_load(&slot->failures));
		atomic_store(&other->issuers_seen, atomic_load(&slot->issuers_seen));
		atomic_store(&other->due, atomic_load(&slot->due));
		cache_set_state(supply->cache, other, SLOT_NO_ISSUER);
	}
}

/* A host that loads the certificate before its chain is no failure worth a word. */
void supply_no_issuer(
	const struct supply *supply, struct slot *slot, const char *url, const char *why)
{
	bool first = atomic_load(&slot->failures) == 0;
	int64_t delay =
		put_off(supply, slot, SLOT_NO_ISSUER, larger(retry_delay(slot), CHAIN_GRACE));

	if (url)
		put_off_siblings(supply, slot);
	if (first && !url)
		log_debug("%s: waiting for the chain: its issuer is not known yet", slot->label);
	else
		log_error(
			"%s: nothing to staple: its issuer's certificate is neither in the "
			"server's chain nor in OCSPRELOAD_TRUSTED nor in the system's "
			"store%s%s%s%s; "
			"looking again in " SECONDS_FORMAT,
			slot->label, url ? ", nor to be had from " : "", url ? url : "",
			url ? ": " : "", url ? why : "", SECONDS(delay));
}

/*
 * Answers
 */

static enum cache_result take_good(const struct supply *supply, struct slot *slot,
	const struct judgement *judgement, struct bytes response, int64_t obtained,
	const char *origin, int64_t fresh_until)
{
	int64_t due = schedule_refresh(obtained, judgement->this_update * 1000,
		judgement->usable_until * 1000, supply_draw());
	enum cache_result result = cache_publish(supply->cache, slot, response,
		judgement->this_update, judgement->usable_until, clock_wall() / 1000);
	char until[CLOCK_TEXT_SIZE], next[CLOCK_TEXT_SIZE];

	if (result != CACHE_DONE)
		return result;
	atomic_store(&slot->barred, 0);
	due = freshness_due(
		due, fresh_until, obtained, judgement->usable_until * 1000, supply_draw());
	atomic_store(&slot->failures, 0);
	atomic_store(&slot->due, due);
	log_info("%s: stapling the response of %s until %s; refreshing at %s", slot->label, origin,
		clock_text(judgement->usable_until, until), clock_text(due / 1000, next));
	return result;
}

/* Only a removal from hold can change it, and not before the responder said it would say more. */
static enum cache_result take_revoked(const struct supply *supply, struct slot *slot,
	const struct judgement *judgement, struct bytes response, const char *origin)
{
	int64_t now = clock_wall();
	int64_t due = judgement->next_update * 1000;
	bool is_news = atomic_load(&slot->state) != SLOT_REVOKED ||
		       atomic_load(&slot->this_update) != judgement->this_update;
	enum cache_result result =
		cache_revoke(supply->cache, slot, response, judgement->this_update, now / 1000);
	char revoked[CLOCK_TEXT_SIZE], next[CLOCK_TEXT_SIZE];

	if (result != CACHE_DONE)
		return result;
	atomic_store(&slot->barred, 0);
	if (due < now + SCHEDULE_LEAST)
		due = now + SCHEDULE_LEAST;
	atomic_store(&slot->failures, 0);
	atomic_store(&slot->due, due);
	/* An agent may be asked in one handshake after the other. */
	log_write(is_news ? LOG_LEVEL_ERROR : LOG_LEVEL_DEBUG,
		"%s: revoked since %s, says %s; stapling nothing; asking again at %s", slot->label,
		clock_text(judgement->revoked_at, revoked), origin, clock_text(due / 1000, next));
	return result;
}

static enum cache_result take(const struct supply *supply, struct slot *slot,
	const struct judgement *judgement, struct bytes response, int64_t obtained,
	const char *origin, int64_t fresh_until)
{
	if (judgement->verdict == VERDICT_REVOKED)
		return take_revoked(supply, slot, judgement, response, origin);
	return take_good(supply, slot, judgement, response, obtained, origin, fresh_until);
}

/* Once: with each response it would be the same. */
static void report_not_kept(const struct supply *supply, const struct slot *slot, int error)
{
	static _Atomic int reported;
	/* That is as a host wants it that has dropped its rights or is in a chroot. */
	bool is_wanted = error == EACCES || error == EPERM || error == EROFS || error == ENOENT;

	if (atomic_exchange(&reported, error) == error)
		return;
	log_write(is_wanted ? LOG_LEVEL_INFO : LOG_LEVEL_WARNING,
		"%s: responses are not kept in %s any more: %s; a restart will depend on the "
		"responder, unless OCSPRELOAD_STORE names a directory that this process can write "
		"to, or an agent (ocspctl agent) runs",
		slot->label, supply->store->directory[0], strerror(error));
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
		report_not_kept(supply, slot, errno);
}

void supply_unchanged(
	const struct supply *supply, struct slot *slot, const char *responder, int64_t fresh_until)
{
	int64_t usable_until = cache_usable_until(slot) * 1000;
	int64_t now = clock_wall();
	int64_t due = schedule_refresh(
		now, atomic_load(&slot->this_update) * 1000, usable_until, supply_draw());
	uint64_t stamp = store_touch(supply->store, slot->key, atomic_load(&slot->stamp));
	char next[CLOCK_TEXT_SIZE];

	if (stamp != 0)
		atomic_store(&slot->stamp, stamp);
	due = freshness_due(due, fresh_until, now, usable_until, supply_draw());
	atomic_store(&slot->failures, 0);
	atomic_store(&slot->due, due);
	cache_set_state(supply->cache, slot, SLOT_GOOD);
	log_info("%s: %s has nothing newer yet; asking again at %s", slot->label, responder,
		clock_text(due / 1000, next));
}

/* What is ready and lives longer is not to be replaced by what is newer. */
static bool is_outlived(const struct slot *slot, const struct judgement *judgement)
{
	return judgement->verdict == VERDICT_GOOD &&
	       atomic_load(&slot->ready.state) == READY_HOLDS &&
	       judgement->usable_until * 1000 <= atomic_load(&slot->ready.end);
}

bool supply_from_store(const struct supply *supply, struct slot *slot, bool is_loading)
{
	uint64_t stamp = store_look(supply->store, slot->key);
	const struct issuer_entry *issuer;
	struct judgement judgement;
	int64_t now = clock_wall();
	struct stored stored;

	if (stamp == 0 || stamp == atomic_load(&slot->stamp))
		return false;
	/* Where nobody fetches, nobody else will look for it in files. */
	issuer = find_issuer(supply, slot, is_loading && !supply->config->fetch);
	if (!issuer || !store_read(supply->store, slot->key, &stored))
		return false;
	judgement = ocsp_judge(supply->crypto, buffer_bytes(&stored.response), slot->certificate,
		issuer->der, now / 1000);
	if (judgement.verdict != VERDICT_GOOD && judgement.verdict != VERDICT_REVOKED)
		log_debug("%s: the stored response is of no use: %s", slot->label,
			verdict_text(judgement.verdict));
	else if (!is_outlived(slot, &judgement))
		take(supply, slot, &judgement, buffer_bytes(&stored.response),
			stored.written < now ? stored.written : now, "the store", 0);
	atomic_store(&slot->stamp, stored.stamp);
	buffer_free(&stored.response);
	return true;
}

/*
 * Ready-made responses. Down to take_ready with ready_lock held.
 */

static uint64_t serial_of(const struct supply *supply, struct slot *slot)
{
	uint64_t serial = atomic_load(&slot->ready.serial);

	if (serial == 0) {
		serial = ready_serial(supply->crypto, slot->certificate);
		atomic_store(&slot->ready.serial, serial);
	}
	return serial;
}

static bool can_ask(const struct supply *supply, const struct slot *slot)
{
	return supply->config->fetch && slot->responders[0];
}

/* With jitter: many may have been made at the same time. */
static int64_t ready_until(const struct judgement *judgement)
{
	int64_t end = judgement->usable_until * 1000;
	int64_t margin = (end - judgement->this_update * 1000) / 4;

	if (margin > READY_MARGIN)
		margin = READY_MARGIN;
	return end - margin + (int64_t)((double)margin / 10 * supply_draw());
}

static void take_good_ready(
	const struct supply *supply, struct slot *slot, const struct ready_answer *answer)
{
	const struct judgement *judgement = &answer->judgement;
	char time[CLOCK_TEXT_SIZE];

	switch (cache_publish(supply->cache, slot, buffer_bytes(&answer->response),
		judgement->this_update, judgement->usable_until, clock_wall() / 1000)) {
	case CACHE_OLDER:
		log_info("%s: the ready-made response in %s is older than what is stapled",
			slot->label, answer->path);
		return;
	case CACHE_FULL:
		log_error("%s: there is no room for the ready-made response in %s", slot->label,
			answer->path);
		return;
	case CACHE_DONE:
		break;
	}
	atomic_store(&slot->failures, 0);
	atomic_store(&slot->ready.until, ready_until(judgement));
	atomic_store(&slot->ready.end, judgement->usable_until * 1000);
	atomic_store(&slot->ready.state, READY_HOLDS);
	log_info("%s: stapling the ready-made response in %s until %s", slot->label, answer->path,
		clock_text(judgement->usable_until, time));
}

static const char *instead_text(
	const struct supply *supply, const struct slot *slot, char text[static 64])
{
	if (cache_usable_until(slot) <= clock_wall() / 1000 && can_ask(supply, slot))
		return "asking its responder";
	return held_text(slot, text);
}

static void take_answer(const struct supply *supply, struct slot *slot,
	const struct ready_answer *answer, bool is_new)
{
	enum verdict verdict = answer->judgement.verdict;
	char text[64];

	if (verdict == VERDICT_GOOD)
		take_good_ready(supply, slot, answer);
	else if (verdict == VERDICT_REVOKED)
		take_revoked(supply, slot, &answer->judgement, buffer_bytes(&answer->response),
			answer->path);
	else if (is_new)
		log_error("%s: the ready-made response in %s is not stapled: %s; %s", slot->label,
			answer->path, verdict_text(verdict), instead_text(supply, slot, text));
}

/* Says, once each, that it was not replaced in time, and that its time is over. */
static void watch_end(const struct supply *supply, struct slot *slot)
{
	int64_t now = clock_wall(), end = atomic_load(&slot->ready.end);
	uint32_t state = atomic_load(&slot->ready.state);
	bool is_over = state == READY_ENDING && now >= end;
	char path[PATH_MAX], time[CLOCK_TEXT_SIZE], text[64];

	if (!is_over && (state != READY_HOLDS || now < atomic_load(&slot->ready.until)))
		return;
	if (!atomic_compare_exchange_strong(
		    &slot->ready.state, &state, is_over ? READY_ENDED : READY_ENDING))
		return;
	ready_place(supply->ready, serial_of(supply, slot), path);
	if (is_over)
		log_error("%s: the ready-made response in %s ended at %s and was not replaced; %s",
			slot->label, path, clock_text(end / 1000, time),
			instead_text(supply, slot, text));
	else
		log_warning(
			"%s: the ready-made response in %s ends at %s and is to be replaced; "
			"%s",
			slot->label, path, clock_text(end / 1000, time),
			can_ask(supply, slot) ? "asking its responder"
					      : "nothing will be stapled then");
}

/* Also after the same one as before was of no use, which it may be by now: the issuer is known, its
 * time has come. */
static bool is_to_be_judged(const struct slot *slot, uint64_t stamp)
{
	if (stamp == 0)
		return false;
	return stamp != atomic_load(&slot->ready.stamp) ||
	       (cache_usable_until(slot) <= clock_wall() / 1000 &&
		       atomic_load(&slot->state) != SLOT_REVOKED &&
		       clock_steady() - atomic_load(&slot->ready.judged) >= READY_AGAIN);
}

/* Nobody else says it where nobody can be asked; but the chain may be loaded yet. */
static void report_not_judged(const struct supply *supply, struct slot *slot, uint64_t stamp)
{
	char path[PATH_MAX];

	if (clock_steady() - slot->registered < CHAIN_GRACE)
		return;
	if (!can_ask(supply, slot) && atomic_load(&slot->ready.stamp) != stamp) {
		ready_place(supply->ready, serial_of(supply, slot), path);
		log_error(
			"%s: the ready-made response in %s is not stapled: its issuer's "
			"certificate is neither in the server's chain nor in OCSPRELOAD_TRUSTED "
			"nor in the system's store",
			slot->label, path);
	}
	atomic_store(&slot->ready.judged, clock_steady());
	atomic_store(&slot->ready.stamp, stamp);
}

static bool take_ready(const struct supply *supply, struct slot *slot, bool in_files)
{
	uint64_t serial = serial_of(supply, slot);
	uint64_t stamp = ready_stamp(supply->ready, serial);
	const struct issuer_entry *issuer;
	struct ready_answer answer;
	bool is_new;

	watch_end(supply, slot);
	if (!is_to_be_judged(slot, stamp))
		return false;
	issuer = find_issuer(supply, slot, in_files);
	if (!issuer) {
		report_not_judged(supply, slot, stamp);
		return true;
	}
	is_new = atomic_exchange(&slot->ready.stamp, stamp) != stamp;
	atomic_store(&slot->ready.judged, clock_steady());
	if (ready_judge(supply->ready, supply->crypto, serial, slot->certificate, issuer->der,
		    clock_wall() / 1000, &answer))
		take_answer(supply, slot, &answer, is_new);
	buffer_free(&answer.response);
	return true;
}

void supply_from_ready(const struct supply *supply, struct slot *slot, bool is_loading)
{
	if (!ready_lock(supply->ready, is_loading ? READY_PATIENCE : 0))
		return;
	while (ready_step(supply->ready, supply->crypto))
		;
	take_ready(supply, slot, is_loading);
	ready_unlock(supply->ready);
}

bool supply_look_ready(const struct supply *supply)
{
	return ready_look(supply->ready, supply->crypto);
}

bool supply_take_ready(const struct supply *supply, struct slot *slot)
{
	bool did;

	/* To decode certificates for their serial numbers takes long when they are many. */
	if (supply->ready && supply->ready->path && atomic_load(&slot->ready.serial) == 0) {
		serial_of(supply, slot);
		gate_pause(supply->crypto->gate);
	}
	if (!ready_lock(supply->ready, 0))
		return false;
	did = is_to_be_judged(slot, ready_stamp(supply->ready, serial_of(supply, slot)));
	if (did) {
		/* A search opens the gate, and a process that ends there keeps the lock. */
		ready_unlock(supply->ready);
		find_issuer(supply, slot, true);
		if (!ready_lock(supply->ready, 0))
			return true;
	}
	did = take_ready(supply, slot, false) || did;
	ready_unlock(supply->ready);
	return did;
}

bool supply_has_ready(const struct supply *supply, struct slot *slot)
{
	bool has;

	if (!ready_lock(supply->ready, 0))
		return false;
	has = ready_stamp(supply->ready, serial_of(supply, slot)) != 0;
	ready_unlock(supply->ready);
	return has;
}

/*
 * The agent
 */

/* One that did sign the certificate, whoever says so. */
static const struct issuer_entry *issuer_from_agent(
	const struct supply *supply, struct slot *slot, struct bytes der)
{
	const struct issuer_entry *entry = NULL;

	if (issuer_signed(supply->crypto, slot->certificate, der))
		entry = pool_issuer(supply, der);
	if (entry)
		know_issuer(supply, slot, entry);
	return entry;
}

static bool is_held(const struct slot *slot, const struct judgement *judgement)
{
	return judgement->verdict == VERDICT_GOOD && atomic_load(&slot->state) == SLOT_GOOD &&
	       atomic_load(&slot->this_update) == judgement->this_update &&
	       cache_usable_until(slot) == judgement->usable_until;
}

/* False if it is of no use. The agent is to us what a cache is that says how long it is fresh. */
static bool take_of_agent(const struct supply *supply, struct slot *slot,
	const struct agent_answer *answer, struct bytes issuer, bool keeps)
{
	int64_t now = clock_wall(), fresh_until = 0, end;
	struct judgement judgement =
		ocsp_judge(supply->crypto, answer->response, slot->certificate, issuer, now / 1000);

	if (judgement.verdict != VERDICT_GOOD && judgement.verdict != VERDICT_REVOKED) {
		log_info("%s: the agent's response is of no use: %s", slot->label,
			verdict_text(judgement.verdict));
		return false;
	}
	end = judgement.usable_until * 1000;
	if (answer->status == AGENT_HOLDS)
		fresh_until = answer->due < end ? answer->due : end;
	if (!is_held(slot, &judgement)) {
		if (take(supply, slot, &judgement, answer->response, now, "the agent",
			    fresh_until) != CACHE_DONE)
			return false;
		if (keeps && store_write(supply->store, slot->key, answer->response))
			atomic_store(&slot->stamp, store_look(supply->store, slot->key));
	} else if (fresh_until > 0) {
		atomic_store(&slot->failures, 0);
		atomic_store(&slot->due,
			freshness_due(now + SCHEDULE_LEAST, fresh_until, now, end, supply_draw()));
	}
	return true;
}

bool supply_from_agent(const struct supply *supply, struct slot *slot,
	const struct agent_manner *manner, bool without_issuer)
{
	const struct issuer_entry *issuer;
	struct agent_question question;
	struct agent_answer answer;
	struct buffer message = {0};
	bool asks = false;

	if (!supply->config->agent)
		return false;
	issuer = find_issuer(supply, slot, false);
	if (!issuer && !without_issuer)
		return false;
	question = (struct agent_question){.certificate = slot->certificate,
		.issuer = issuer ? issuer->der : (struct bytes){0}};
	if (!agent_ask(supply->config->agent, &question, manner, &message) ||
		!agent_decode_answer(buffer_bytes(&message), &answer))
		goto out;
	if (!issuer && answer.issuer.size > 0)
		issuer = issuer_from_agent(supply, slot, answer.issuer);
	if (issuer && answer.response.size > 0 &&
		!take_of_agent(supply, slot, &answer, issuer->der, !manner->begin))
		goto out;
	asks = answer.status == AGENT_ASKS;
	if (answer.why.size > 0)
		log_debug("%s: the agent says: %.*s", slot->label, (int)answer.why.size,
			(const char *)answer.why.data);
out:
	buffer_free(&message);
	return asks;
}
