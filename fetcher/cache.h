/* SPDX-License-Identifier: MIT */
/*
 * The cache: the one thing that the host's threads and the fetching thread both touch.
 *
 * It lies in shared anonymous memory that is made before the first fork, so that every process of a
 * tree sees the same slots, and it holds all that a fetch needs (certificate, issuers, URLs,
 * times): any process of the tree can go on where a dead one stopped. Memory is never given back,
 * so that a reader may follow any pointer it finds at any time.
 *
 *  - Host threads add (cache_add, cache_add_issuer: a short critical section without I/O) and read
 *    (cache_read: never blocks, never sees a torn response).
 *  - One thread per tree, the leader, fetches and publishes.
 */
#ifndef OCSPRELOAD_CACHE_H
#define OCSPRELOAD_CACHE_H

#include "bytes.h"
#include "certificate.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* The largest response that is kept; the largest seen in the wild are below 10 KiB. */
enum { CACHE_RESPONSE_LIMIT = 64 * 1024 };

struct cache;

enum slot_state {
	SLOT_PENDING,   /* no answer yet: the first fetch is due or under way */
	SLOT_NO_ISSUER, /* waits for an issuer certificate to turn up */
	SLOT_FAILING,   /* the last attempt failed; a response may still be held */
	SLOT_GOOD,
	SLOT_REVOKED,
	SLOT_UNKNOWN, /* the responder does not know the certificate */
};

/* One of two places for a response; the leader fills the one that is not current. */
struct slot_response {
	_Atomic uint32_t sequence; /* odd while it is written */
	_Atomic uint32_t size;
	_Atomic int64_t usable_until; /* seconds since 1970 */
	_Atomic(_Atomic uint64_t *) words;
	_Atomic uint32_t capacity; /* bytes behind words; the leader's own */
};

struct issuer_entry {
	unsigned char key[CERTIFICATE_KEY_SIZE];
	uint32_t subject;   /* see struct certificate */
	int64_t not_before; /* seconds since 1970 */
	int64_t not_after;
	struct bytes der;
};

enum ready_state {
	READY_NONE,   /* or nothing that could be used */
	READY_HOLDS,  /* until slot_ready.until nobody is asked */
	READY_ENDING, /* it has not been replaced in time */
	READY_ENDED,
};

/* What is known of the certificate's ready-made responses (ready.h). All zero at first. */
struct slot_ready {
	_Atomic uint64_t serial; /* ready_serial, once it is known */
	_Atomic uint64_t stamp;  /* ready_stamp of what was judged last */
	_Atomic int64_t judged;  /* steady clock: when */
	_Atomic uint32_t state;  /* enum ready_state */
	_Atomic int64_t until;   /* wall clock, milliseconds */
	_Atomic int64_t end;     /* its usable_until: wall clock, milliseconds */
};

struct slot {
	/* Constant once the slot can be found. */
	unsigned char key[CERTIFICATE_KEY_SIZE];
	unsigned char issuer_key[CERTIFICATE_KEY_SIZE]; /* see struct certificate */
	uint32_t issuer_name;                           /* its hash */
	struct bytes certificate;
	const char *responders; /* see struct certificate; empty: there is nobody to ask */
	const char *label;
	int64_t registered; /* steady clock, milliseconds */
	struct slot *next_in_bucket;

	/* Written by the leader, or by a host's thread that fills it from the store; read by
	 * anybody. */
	_Atomic uint32_t state;        /* enum slot_state */
	_Atomic uint32_t issuers_seen; /* cache_issuer_count at the last search for an issuer */
	_Atomic uint32_t current;      /* 0: nothing held; n: response[n - 1] */
	struct slot_response response[2];

	/* What is known of it and when it is due, for whoever leads next. */
	_Atomic(const struct issuer_entry *) issuer;
	_Atomic int64_t due;         /* wall clock, milliseconds; 0: at once */
	_Atomic int64_t this_update; /* of the newest accepted response, seconds since 1970 */
	_Atomic uint32_t failures;   /* in a row */
	_Atomic uint64_t stamp;      /* of what was last read from or written to the store */
	_Atomic int64_t looked;      /* steady clock: when a host's thread last looked there */
	_Atomic int64_t sought;      /* and in the context's stores, for an issuer */
	struct slot_ready ready;
};

/* NULL when the kernel refuses the memory (RLIMIT_AS, a cgroup). */
struct cache *cache_create(void);

/* Gives the memory back; for tools and tests, a host keeps its cache for ever. */
void cache_destroy(struct cache *cache);

/* The slot of a certificate, or NULL. Any thread, wait-free. */
struct slot *cache_find(const struct cache *cache, const unsigned char *key);

/*
 * The slot of a certificate, made in state SLOT_PENDING if there is none, with everything copied;
 * then the leader is woken. now is on the steady clock. NULL when the cache is full.
 */
struct slot *cache_add(struct cache *cache, const struct certificate *certificate,
	const char *responders, int64_t now);

/*
 * Adds a certificate that may be somebody's issuer to the pool, once, and wakes the leader. False
 * when the cache is full.
 */
bool cache_add_issuer(struct cache *cache, const struct certificate *certificate);

/*
 * The same for an issuer that the leader found elsewhere. Does not wake it. The entry, or NULL when
 * the cache is full.
 */
const struct issuer_entry *cache_keep_issuer(
	struct cache *cache, const struct certificate *certificate);

/* Slots and pool entries are numbered from 0 in the order of their arrival and never move. */
size_t cache_slot_count(const struct cache *cache);
struct slot *cache_slot(struct cache *cache, size_t index);
size_t cache_slot_index(const struct cache *cache, const struct slot *slot);
uint32_t cache_issuer_count(const struct cache *cache);
const struct issuer_entry *cache_issuer(const struct cache *cache, uint32_t index);

/*
 * The response to staple at now (seconds since 1970), copied to out if it fits into room bytes.
 * Returns its size, 0 if there is none. A return greater than room means that nothing was copied.
 * Any thread, any process; never blocks.
 */
size_t cache_read(const struct slot *slot, int64_t now, void *out, size_t room);

/* Until when what is held may be stapled (seconds since 1970), 0 if nothing is held. */
int64_t cache_usable_until(const struct slot *slot);

enum cache_result {
	CACHE_DONE,
	CACHE_OLDER, /* than the answer before, which stays */
	CACHE_FULL,
};

/*
 * Makes response the one to staple. this_update orders answers: whoever can replay an old one must
 * not be able to take back a newer one, not a revocation, and not a response that can still be
 * stapled. All times in seconds since 1970. Any thread.
 */
enum cache_result cache_publish(struct cache *cache, struct slot *slot, struct bytes response,
	int64_t this_update, int64_t usable_until, int64_t now);

/* The certificate is revoked: nothing is stapled any more; SLOT_REVOKED from now on. Any thread. */
enum cache_result cache_revoke(
	struct cache *cache, struct slot *slot, int64_t this_update, int64_t now);

/* Sets the state and wakes those who wait in cache_await. */
void cache_set_state(struct cache *cache, struct slot *slot, enum slot_state state);

/*
 * Blocks until the first answer for slot is there, or was found to be impossible, or the steady
 * clock is at deadline. Any thread that may block.
 */
void cache_await(struct cache *cache, const struct slot *slot, int64_t deadline);

/* Leader: sleeps until something was added since the last call, or for timeout milliseconds. */
void cache_sleep(struct cache *cache, int timeout);

/* True if something was added since the last cache_sleep. */
bool cache_has_news(const struct cache *cache);

/* Wakes the leader, whichever process it is in. */
void cache_wake(struct cache *cache);

/*
 * Leadership. One thread leads, two may stand by; the places are robust mutexes, so that the kernel
 * hands a dead owner's place on. Two, because at the moment in which a daemon's first standby
 * begins to lead, nobody forks any more who could send another.
 *
 * A thread first takes a standby's place: its number, or -1 if there is none free.
 */
enum { CACHE_STANDBYS = 2 };
int cache_stand_by(struct cache *cache);

/* The standby then sleeps until those before it are gone, and leads until its thread ends. */
bool cache_lead(struct cache *cache, int place);

/* The leader leads no longer; only for its thread, which must not touch the cache any more. */
void cache_resign(struct cache *cache);

/* True if a leader lives, or is about to. */
bool cache_is_led(struct cache *cache);

/* True if a standby's place is free, so that a thread that calls cache_stand_by now would be of
 * use. */
bool cache_wants_standby(struct cache *cache);

#endif
