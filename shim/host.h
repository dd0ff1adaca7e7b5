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

/* False if this process is to be left alone: OCSPRELOAD=off, or not listed in OCSPRELOAD_ONLY. */
bool host_is_wanted(void);

/*
 * The cache, which the first call makes; NULL if the kernel refuses it. Any thread. Also where fork
 * and exit begin to be watched: a process that never loads a server certificate has no handlers.
 */
struct cache *host_cache(void);

/* The same if it is there already, else NULL. */
struct cache *host_cache_if_any(void);

/*
 * A certificate was added: from now on there must be a thread somewhere that fetches. crypto is
 * what it works with. Any thread; never waits; says once in the log if no thread can be had.
 */
void host_want_thread(const struct libcrypto *crypto);

/*
 * The leader may have died with its process, and fork handlers may not have run. Called on every
 * handshake: looks at most once a second whether a place is empty, and takes it.
 */
void host_check_thread(void);

/* Waits for the first answer for slot, as long as the startup window is open and there is hope. */
void host_await(const struct slot *slot);

/* Protects what the host's threads share in this process (registry.c, staple.c); fork-safe. */
void host_lock(void);
void host_unlock(void);

#endif
