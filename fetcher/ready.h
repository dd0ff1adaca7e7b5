/* SPDX-License-Identifier: MIT */
/*
 * Ready-made responses (OCSPRELOAD_RESPONSES): a file, or a directory of files, each of them the
 * DER of one OCSP response, that somebody else keeps fresh, as for nginx's ssl_stapling_file and
 * HAProxy's .ocsp.
 *
 * What they are called says nothing: a response belongs to the certificates whose serial numbers
 * are in it, and is judged for them like one from the network. What is not a response is left
 * alone; of such a file no more than its first bytes are read, since it may be a key.
 *
 * This is an index of the files by serial number, one for each process. Files are looked at once a
 * second (one stat each, through links, so that it does not matter how they are replaced) and read
 * when they have changed. What has been read is not kept.
 */
#ifndef OCSPRELOAD_READY_H
#define OCSPRELOAD_READY_H

#include "bytes.h"
#include "libcrypto.h"
#include "ocsp.h"

#include <limits.h>
#include <pthread.h>
#include <stdint.h>

struct ready_file;
struct ready_entry;

struct ready {
	pthread_mutex_t lock; /* see ready_lock */
	const char *path;     /* NULL: there is nothing, ever */
	bool is_directory;
	uint64_t directory;       /* its stamp when its names were read; 0: to be read again */
	int64_t next_round;       /* steady clock */
	struct ready_file *files; /* in no order */
	size_t count;
	size_t room;                 /* for files, and in buckets */
	uint32_t *buckets;           /* by the hashes of their names */
	struct buffer names;         /* of the directory, to be gone through before the files */
	size_t names_at;             /* the next of them */
	size_t at;                   /* the next file to be looked at; count: they all were */
	struct ready_entry *entries; /* by serial number, as far as they are sorted */
	size_t entry_count;
	size_t entry_room;
	size_t sorted;
	bool is_useless; /* the path, for now; it has been said */
};

/* path is absolute or NULL and must outlive *ready. */
void ready_open(struct ready *ready, const char *path);

/* For tools and tests. */
void ready_close(struct ready *ready);

/*
 * All below, but for ready_look, is done with the lock held. Waits for it for at most patience
 * milliseconds: a host's thread may be reading from a slow disk, and the fetching thread must not
 * wait for it with its gate held. False if it was not to be had, or if there is no path (or ready
 * is NULL).
 */
bool ready_lock(struct ready *ready, int64_t patience);
void ready_unlock(struct ready *ready);

/*
 * In the child of a fork. What another thread was in the middle of is lost there, and read again;
 * so nobody who forks has to wait.
 */
void ready_forked(struct ready *ready);

/*
 * Looks at the next few files if it is time to. True if there are more to be looked at; the work of
 * one call is short. Says once of a path that it cannot be used, and why; what was found before
 * then stays found.
 */
bool ready_step(struct ready *ready, const struct libcrypto *crypto);

/*
 * The same for the thread, which has the gate (crypto->gate) and opens it while it reads the names
 * in a directory: it takes the lock itself, and does nothing if that is not to be had.
 */
bool ready_look(struct ready *ready, const struct libcrypto *crypto);

/* By what responses for a certificate (DER) are found; never 0. */
uint64_t ready_serial(const struct libcrypto *crypto, struct bytes certificate);

/* Differs when the responses for a serial number do; 0 if there is none, or none can be seen now.
 */
uint64_t ready_stamp(struct ready *ready, uint64_t serial);

/* Where one of them is, or would be looked for. */
void ready_place(struct ready *ready, uint64_t serial, char path[static PATH_MAX]);

struct ready_answer {
	struct judgement judgement;
	struct buffer response; /* freed by the caller, in any case */
	char path[PATH_MAX];    /* where it is */
};

/*
 * Reads and judges (ocsp_judge) what there is for a certificate: the newest that is good or
 * revoked, else any. False if there is none for this very certificate.
 */
bool ready_judge(struct ready *ready, const struct libcrypto *crypto, uint64_t serial,
	struct bytes certificate, struct bytes issuer, int64_t now, struct ready_answer *out);

#endif
