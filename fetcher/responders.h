/* SPDX-License-Identifier: MIT */
/*
 * What is known of the responders' hosts: how many requests each may have under way, and which of
 * them are left alone for a while. Pure: it asks nobody and reads no clock. Times are in
 * milliseconds on the steady clock. Of one thread.
 *
 * What one certificate's answer tells of its host holds for all certificates of that host:
 *
 *  - An allowance of requests under way begins at RESPONDER_START. Each good answer raises it by
 *    one: up to RESPONDER_START, and beyond, up to RESPONDER_MOST, while certificates with nothing
 *    to staple wait for it. Only for these is what exceeds RESPONDER_START. An answer that cannot
 *    be used halves it.
 *  - A host that fails (no connection, no answer, an answer that says so) is left alone, ever
 *    longer; then it gets one request, to see. When that is answered, the others follow as the
 *    allowance grows again.
 *  - The places, for requests to all hosts together, are shared out so that no host that hangs
 *    keeps them from the others: see responders_may_begin.
 */
#ifndef OCSPRELOAD_RESPONDERS_H
#define OCSPRELOAD_RESPONDERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	RESPONDERS_PLACES = 64,  /* requests under way, to all hosts together */
	RESPONDERS_GREEDY = 48,  /* of these for hosts that have RESPONDER_START or more */
	RESPONDERS_UNKNOWN = 16, /* for a second and third to hosts that have not answered yet */
	RESPONDER_START = 4,
	RESPONDER_MOST = 48,
};

struct responder {
	uint64_t name; /* a hash of its authority; 0: of whom there was no memory to know more */
	uint32_t next_in_bucket;
	int32_t waiting; /* the owner's: a queue of certificates (queue.h) */
	unsigned in_flight;
	unsigned allowance;
	unsigned failures; /* in a row */
	bool has_answered; /* since it was found, or last failed */
	int64_t answered;  /* when it last did */
	int64_t failed;    /* when it last did */
	int64_t until;     /* it is left alone */
	int64_t wanted;    /* it wants to be */
};

/* Zero at first. */
struct responders {
	struct responder *list;
	size_t count, room;
	uint32_t *buckets; /* as many as there is room */
	unsigned in_flight, unknown_in_flight;
};

void responders_free(struct responders *responders);

/*
 * The number of the host with this authority, "host" or "host:port", found or made. Those for whom
 * memory ran out share number 0. False if there is not even that.
 */
bool responders_find(struct responders *responders, const char *authority, size_t *number);

/*
 * True if one more request to it may begin at now. first: it is for a certificate that has nothing
 * to staple.
 */
bool responders_may_begin(
	const struct responders *responders, size_t number, bool first, int64_t now);

/* A request begins. */
void responders_begin(struct responders *responders, size_t number);

/* It ended before anything was asked. */
void responders_withdraw(struct responders *responders, size_t number);

/* It brought what was asked for. firsts_wait: certificates that have nothing to staple do. */
void responders_good(struct responders *responders, size_t number, bool firsts_wait, int64_t now);

/* There was an answer, of no use for that one certificate. */
void responders_bad(struct responders *responders, size_t number, int64_t now);

/*
 * The request that began at begun found the host failing. It is left alone for a while, at least
 * for as long as it wants to (0: it has not said), and true is returned; unless it has answered
 * others meanwhile: then this was the certificate's own bad luck, and false is returned. draw as in
 * schedule.h.
 */
bool responders_failed(struct responders *responders, size_t number, int64_t begun, int64_t now,
	int64_t wanted, double draw);

/* True while it is left alone. */
bool responders_is_left_alone(const struct responders *responders, size_t number, int64_t now);

/*
 * Somebody waits for a host that is left alone who has, on the wall clock, until usable_until; 0:
 * holds nothing. is_new: nobody has asked about it yet, which gives the host another try within a
 * second of the last, unless it has said that it does not want one.
 */
void responders_press(struct responders *responders, size_t number, int64_t now, int64_t now_wall,
	int64_t usable_until, bool is_new);

#endif
