/* SPDX-License-Identifier: MIT */
/*
 * Living in somebody else's process: its start, its forks, its end, and the birth of the one
 * thread.
 */
#ifndef OCSPRELOAD_HOST_H
#define OCSPRELOAD_HOST_H

#include "../fetcher/cache.h"
#include "../fetcher/config.h"
#include "../fetcher/libcrypto.h"
#include "../fetcher/supply.h"

#include <stdbool.h>

/*
 * What every visit to a host's thread leaves as it was. Between the two calls, the error queue of
 * crypto may be written to and errno be changed.
 */
struct visit {
	const struct libcrypto *crypto;
	int saved_errno;
	int cancel_state;
};
struct visit host_enter(const struct libcrypto *crypto);
void host_leave(struct visit visit);

/* Read on the first call; any thread. */
const struct config *host_config(void);

/*
 * Before a chroot: reads what is needed later and is out of reach then. Any thread of the host's.
 */
void host_leaves_root(void);

/* False if this process is to be left alone: OCSPRELOAD=off, or not listed in OCSPRELOAD_ONLY. */
bool host_is_wanted(void);

/*
 * The cache, which the first call makes; NULL if the kernel refuses it. Any thread. Also where the
 * store is opened, and where fork and exit begin to be watched: a process that never loads a server
 * certificate has no handlers, and makes no directory.
 */
struct cache *host_cache(void);

/* What a host's thread fills slots with, its own libcrypto among it; only with a cache. */
struct supply host_supply(const struct libcrypto *crypto);

/*
 * A certificate was added: the startup window opens. crypto is what the thread will work with. Any
 * thread; never waits.
 */
void host_registered(const struct libcrypto *crypto);

/*
 * From now on there must be a thread somewhere that fetches. Any thread; waits for no more than its
 * birth; says once in the log if no thread can be had.
 */
void host_want_thread(void);

/*
 * Called on every handshake: sees to it that there is a thread for what is due, and for all once
 * the startup window is over; looks at most once a second. Fork handlers may not have run, and the
 * leader may have died with its process. True if nobody fetches all the same.
 */
bool host_check_thread(bool due);

/*
 * False in a child of a raw clone: to pthreads it looks like its parent, so that it must not take a
 * mutex that outlives it, nor start a thread. It reads the cache, and changes nothing there.
 */
bool host_is_itself(void);

/*
 * Around the making of a child without fork handlers (clone.c): takes the gate, so that the child
 * inherits no lock of the thread's, and lock, so that it inherits no descriptor of a host's thread
 * that asks the agent. Returns what was taken, for the parent to give back. With may_wait, there
 * must be a thread first, and the startup window is waited for, as in fork; without, it is safe in
 * a signal handler.
 */
enum host_locks { HOST_NO_LOCK, HOST_GATE, HOST_GATE_AND_LOCK };
enum host_locks host_prepare_clone(bool may_wait);
void host_parent_cloned(enum host_locks taken);

/*
 * For what the kernel refuses to a process with a second thread (clone.c): waits for the startup
 * window, as fork does, and then until the thread is gone, two seconds at the most. True if it is;
 * then the caller must have it back. False, at once, if there is no thread of ours in this process,
 * or are others of the host's.
 */
bool host_dismiss_thread(void);

/* Another is born, unless enough other processes have one. */
void host_recall_thread(void);

/* In the child, taken or not. libc knows of a child of _Fork, but not of one of a raw clone. */
void host_child_cloned(bool is_known_to_libc);

/*
 * The library that function lies in is about to be torn down: if it is the one that the thread
 * works with, the thread never will again.
 */
void host_crypto_ends(const void *function);

/*
 * Waits for the first answer for slot, as long as the startup window is open and there is hope.
 * False, at once, if it is open but nobody leads who could bring one.
 */
bool host_await(const struct slot *slot);

/* True while that window is open. */
bool host_may_wait(const struct slot *slot);

enum host_occasion {
	HOST_LOADS,  /* a certificate, whose chain may be yet to come */
	HOST_WAITS,  /* for a first answer, in the startup window */
	HOST_PASSES, /* in a handshake that is not to be held up */
};

/*
 * A copy of crypto with a memo (certificate.h) that the calling thread alone has until
 * host_return_memo, to which x is lent as what der is of. So the issuers of many certificates that
 * a host loads one after the other are decoded once, and its own certificates not at all. What the
 * memo keeps in between is gone before libcrypto ends. Any thread; waits for nobody: who finds the
 * memo lent gets a new one, or none. Without a memo it all works, too.
 */
struct libcrypto host_borrow_memo(const struct libcrypto *crypto, struct bytes der, X509 *x);
void host_return_memo(const struct libcrypto *crypto);

/*
 * Asks the machine's agent for slot: supply_from_agent on a host's thread. For who waits, true also
 * while the agent is left alone because it did not answer in time: it may yet.
 */
bool host_ask_agent(const struct supply *supply, struct slot *slot, enum host_occasion occasion);

/* Protects what the host's threads share in this process (registry.c, staple.c); fork-safe. */
void host_lock(void);
void host_unlock(void);

#endif
