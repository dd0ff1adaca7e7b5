/* SPDX-License-Identifier: MIT */
/*
 * Responses on disk: what makes a restart staple at once, and unrelated processes share one fetch.
 *
 * One file per certificate, KEY.der (the key in hexadecimal), holds the response as it came, and
 * KEY.crt an issuer that no server sent along (the key is struct certificate's issuer_key); one
 * file named "lock" has a byte for each certificate that is being fetched. Nothing in a store is
 * trusted: what is read is judged like what the network brings. So the worst that somebody who may
 * write there can do is to make us fetch; and only root and the owner of this process may.
 */
#ifndef OCSPRELOAD_STORE_H
#define OCSPRELOAD_STORE_H

#include "bytes.h"
#include "certificate.h"
#include "config.h"
#include "descriptor.h"
#include "gate.h"

#include <stdint.h>

enum { STORE_DIRECTORIES = 2, STORE_PATH_SIZE = 512 };

struct store {
	/* The one that is written to comes first; empty: there is none. */
	char directory[STORE_DIRECTORIES][STORE_PATH_SIZE];
	bool writable; /* directory[0] is */
};

/*
 * Finds the directories: OCSPRELOAD_STORE, or /var/cache/ocspreload and the user's cache directory,
 * made where they are missing and may be made. Never fails: a store may have no directory at all.
 */
void store_open(struct store *store, const struct config *config);

struct stored {
	struct buffer response; /* freed by the caller */
	int64_t written;        /* when, wall clock, milliseconds */
	uint64_t stamp;         /* differs from that of any other response under this key */
};

/* The stamp of what is there for a certificate, 0 if nothing is: a look without reading. */
uint64_t store_look(const struct store *store, const unsigned char *key);

/*
 * True if something may have come or gone, for any certificate, since the call that left *seen as
 * it is (0 at first): one stat for each directory, which changes when a file in it is replaced.
 */
bool store_has_changed(const struct store *store, uint64_t *seen);

/* False if there is nothing that could be read. */
bool store_read(const struct store *store, const unsigned char *key, struct stored *stored);

/* Puts a response in the place of what is there, at once and whole. False if it cannot, with errno.
 */
bool store_write(const struct store *store, const unsigned char *key, struct bytes response);

/*
 * What store_look gave stamp for is still the newest: makes it as if it had been written now, so
 * that others need not ask. Returns its stamp from now on; 0 if it is not there any more, or is not
 * ours to change.
 */
uint64_t store_touch(const struct store *store, const unsigned char *key, uint64_t stamp);

/*
 * The same for an issuer, by the issuer_key of those that it has issued. What is read is to be
 * searched by issuer_from_content; freed by the caller.
 */
bool store_read_issuer(const struct store *store, const unsigned char *key, struct buffer *out);
bool store_write_issuer(const struct store *store, const unsigned char *key, struct bytes der);

/*
 * Removes what has long been dead. now in seconds since 1970. For the thread alone, which holds the
 * gate, if there is one: it is opened again and again.
 */
void store_prune(const struct store *store, int64_t now, const struct gate *gate);

/*
 * Takes the right to fetch for a certificate, or an issuer. False if another process has it. True,
 * too, where there can be no lock (no store that this process may write): then lock->number is -1,
 * and all is as if it had it. Released by store_unlock, by the closing of the descriptor, or with
 * the process.
 */
bool store_lock(const struct store *store, const unsigned char *key, struct descriptor *lock);
void store_unlock(struct descriptor *lock);

#endif
