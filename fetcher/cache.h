/* SPDX-License-Identifier: MIT */
/*
 * The cache: the one thing that the host's threads and the fetching thread both touch.
 *
 * It lies in shared anonymous memory that is made before the first fork, so that every process of a
 * tree sees the same slots, and it holds all that a fetch needs (certificate, issuers, URLs,
 * times): any process of the tree can go on where a dead one stopped. Memory is never given back,
 * so that a reader may follow any pointer it finds at any time; but the slot of a certificate that
 * nobody has loaded any more is used again, for another.
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
#include <sys/types.h>

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

/* When what nobody has loaded is refreshed. */
#define SLOT_NEVER INT64_MAX

/* One of two places for a response, or a revocation; what is not current is filled. */
struct slot_response {
	_Atomic uint32_t sequence; /* odd while it is written */
	_Atomic uint32_t size;
	_Atomic int64_t usable_from; /* seconds since 1970 */
	_Atomic int64_t usable_until;
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

/* Memory that a slot has for good; size is never set before memory. Under add. */
struct slot_room {
	unsigned char *memory;
	_Atomic uint32_t size;
};

struct slot {
	/*
	 * Odd: the slot stands for a certificate, the same one for as long as this does not change.
	 * It may be anybody's, or nobody's, for those who have not pinned it.
	 */
	_Atomic uint32_t generation;
	_Atomic uint32_t
		pins; /* one who dies keeps his: then the slot is not used again, no more */

	/* Constant while it is pinned. */
	unsigned char key[CERTIFICATE_KEY_SIZE];
	unsigned char issuer_key[CERTIFICATE_KEY_SIZE]; /* see struct certificate */
	uint32_t issuer_name;                           /* its hash */
	struct bytes certificate;
	const char *responders; /* see struct certificate; empty: there is nobody to ask */
	const char *label;
	struct slot_room certificate_room, text_room;
	_Atomic uint64_t tag; /* the beginning of key */
	_Atomic(struct slot *) next_in_bucket;

	/* Who has loaded it. */
	_Atomic int64_t registered; /* steady clock, milliseconds */
	_Atomic int64_t held;       /* steady clock: the last sign that somebody has */
	_Atomic pid_t witness;      /* a process that said so and has not taken it back; 0: none */

	/* Written by the leader, or by a host's thread that fills it from the store; read by
	 * anybody. */
	_Atomic uint32_t state;        /* enum slot_state */
	_Atomic uint32_t issuers_seen; /* cache_issuer_count at the last search for an issuer */
	_Atomic uint32_t files_seen;   /* the same and 1, at the last that went beyond the pool */
	_Atomic uint32_t current;      /* 0: nothing held; n: response[n - 1] */
	_Atomic uint32_t revocation;   /* the same for the response that says so */
	struct slot_response response[2];

	/* What is known of it and when it is due, for whoever leads next. */
	_Atomic(const struct issuer_entry *) issuer;
	_Atomic int64_t due;         /* wall clock, milliseconds; 0: at once; or SLOT_NEVER */
	_Atomic int64_t this_update; /* of the newest accepted response, seconds since 1970 */
	_Atomic uint32_t failures;   /* in a row */
	_Atomic uint64_t stamp;      /* of what was last read from or written to the store */
	_Atomic int64_t yielded;     /* this_update of what others were let refresh first */
	_Atomic int64_t barred;      /* steady clock: since when another process is to ask */
	_Atomic int64_t looked;      /* steady clock: when a host's thread last looked there */
	_Atomic int64_t asked;       /* and when one last asked the agent */
	_Atomic int64_t sought;      /* and in the context's stores, for an issuer */
	struct slot_ready ready;
};

/* NULL when the kernel refuses the memory (RLIMIT_AS, a cgroup). */
struct cache *cache_create(void);

/* Gives the memory back; for tools and tests, a host keeps its cache for ever. */
void cache_destroy(struct cache *cache);

/*
 * The slot of a certificate, pinned, or NULL. Any thread, wait-free.
 */
struct slot *cache_find(const struct cache *cache, const unsigned char *key);

/*
 * The slot of a certificate that this process has loaded, pinned: the one that there is, as
 * cache_touch and cache_claim leave it, or one made in state SLOT_PENDING, with everything copied;
 * then the leader is woken. now is on the steady clock. NULL when the cache is full of certificates
 * that somebody has loaded.
 */
struct slot *cache_add(struct cache *cache, const struct certificate *certificate,
	const char *responders, int64_t now);

/*
 * Between the two, a slot stands for the certificate that it stood for when generation was read.
 * False if it no longer does. Any thread of any process; no lock.
 */
bool cache_pin(struct slot *slot, uint32_t generation);
void cache_unpin(struct slot *slot);

/*
 * A sign that somebody has it loaded. now is on the steady clock. True if cache_claim is to be
 * called: nobody stands up for it, or it is not refreshed any more. Any thread; no lock. Pinned.
 */
bool cache_touch(struct slot *slot, int64_t now);

/*
 * This process has it loaded; if it was not refreshed any more, it is as if newly added. Not for
 * the child of a raw clone. Pinned.
 */
void cache_claim(struct cache *cache, struct slot *slot, int64_t now);

/* This process no longer has it loaded. generation as in cache_pin. Not for a raw clone's child. */
void cache_release(struct cache *cache, struct slot *slot, uint32_t generation);

/*
 * Leader: true if a process that lives has the certificate loaded, or if there was a sign of that
 * since the response that is held, or an hour, began. now is on the steady clock. Only processes
 * can tell, and one that is killed cannot any more: so a sign counts for as long as a response
 * lives, and the word of a process for as long as the process does.
 */
bool cache_is_wanted(struct cache *cache, struct slot *slot, int64_t now);

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

/*
 * Slots and pool entries are numbered from 0 in the order of their arrival and never move. There
 * never are more slots than cache_slot_limit.
 */
size_t cache_slot_limit(const struct cache *cache);
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

/*
 * The same for the response that said that the certificate is revoked, to be passed on, never to be
 * stapled.
 */
size_t cache_read_revocation(const struct slot *slot, void *out, size_t room);

/* Until when what is held may be stapled (seconds since 1970), 0 if nothing is held. */
int64_t cache_usable_until(const struct slot *slot);

enum cache_result {
	CACHE_DONE,
	CACHE_OLDER, /* than the answer before, which stays */
	CACHE_FULL,
};

/*
 * Makes response the one to staple, from OCSP_SKEW before this_update on: earlier is only a clock
 * that was set back, and what it says of all other times is not to be believed either. this_update
 * orders answers: whoever can replay an old one must
 * not be able to take back a newer one, not a revocation, and not a response that can still be
 * stapled. All times in seconds since 1970. Any thread.
 */
enum cache_result cache_publish(struct cache *cache, struct slot *slot, struct bytes response,
	int64_t this_update, int64_t usable_until, int64_t now);

/*
 * The certificate is revoked: nothing is stapled any more; SLOT_REVOKED from now on. The response
 * that says so is kept if there is room, and may be empty. Any thread.
 */
enum cache_result cache_revoke(struct cache *cache, struct slot *slot, struct bytes response,
	int64_t this_update, int64_t now);

/* Sets the state and wakes those who wait in cache_await. */
void cache_set_state(struct cache *cache, struct slot *slot, enum slot_state state);

/*
 * Blocks until the first answer for slot is there, or was found to be impossible, or the steady
 * clock is at deadline. Any thread that may block.
 */
void cache_await(struct cache *cache, const struct slot *slot, int64_t deadline);

/*
 * Leader: sleeps until something was added since the last call, or for timeout milliseconds. True
 * if something was.
 */
bool cache_sleep(struct cache *cache, int timeout);

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

/*
 * The standby then sleeps until those before it are gone, and leads until its thread ends or
 * resigns. Within a second of the moment from which on ends says true (NULL never does), it gives
 * its place back and is nobody.
 *
 * A leader that has not come back from its sleep for seconds was stopped (SIGSTOP, a debugger, a
 * frozen cgroup), and the kernel hands nothing on. Then the first standby is its deputy: it keeps
 * its place, does what a leader does for as long as cache_is_silent, and calls this again with
 * place 0.
 */
enum cache_rank { CACHE_NOBODY, CACHE_LEADER, CACHE_DEPUTY };
enum cache_rank cache_lead(struct cache *cache, int place, bool (*ends)(void));

/* The leader is at work; to be called between two pieces of it. From others it means nothing. */
void cache_beat(struct cache *cache);

/* True if the leader has not come back. Any thread. */
bool cache_is_silent(const struct cache *cache);

/*
 * The leader leads no longer, or its deputy gives its place back; only for its thread, which must
 * not touch the cache any more. For others it does nothing.
 */
void cache_resign(struct cache *cache);

/* True if a leader lives, or is about to. */
bool cache_is_led(struct cache *cache);

/* True if a standby's place is free, so that a thread that calls cache_stand_by now would be of
 * use. */
bool cache_wants_standby(struct cache *cache);

#endif
