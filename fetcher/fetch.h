/* SPDX-License-Identifier: MIT */
/*
 * One certificate's question to its responders: each URL in turn until one gives an answer that can
 * be believed. A state machine that its owner drives from poll; it knows no cache and no clock but
 * the times it is handed.
 */
#ifndef OCSPRELOAD_FETCH_H
#define OCSPRELOAD_FETCH_H

#include "bytes.h"
#include "config.h"
#include "ocsp.h"
#include "resolve.h"

#include <poll.h>
#include <stdint.h>

struct fetch;

/* What one fetch has learnt for the next: the responders that want POST, by url_hash. */
struct fetch_memory {
	uint64_t posts[64]; /* 0: free */
	size_t next;        /* to be overwritten */
	int64_t proxy_back; /* steady clock: until then the proxy is passed by */
};

/*
 * What a fetch works with; outlives it. The memory is zero at first. Without connections, each
 * request has its own.
 */
struct fetch_tools {
	const struct libcrypto *crypto;
	const struct config *config;
	struct resolver *resolver;
	struct connections *connections; /* NULL: none is kept */
	struct fetch_memory memory;
};

/* What a responder said a response can be told from its successor by (RFC 9110, 8.8). */
struct fetch_validators {
	uint64_t resource; /* what they are true for; 0: there are none */
	char etag[128];
	char last_modified[32];
};

enum fetch_state {
	FETCH_RUNNING,
	FETCH_ANSWERED,  /* verified: the judgement is good, revoked or unknown */
	FETCH_UNCHANGED, /* what the validators came with is still the newest; there is no other */
	FETCH_FAILED,
};

/*
 * Starts a fetch. certificate and issuer are DER and must outlive it, as must responders: URLs
 * separated by spaces. validators came with the response that is held, and only while it can still
 * be stapled; NULL, and no FETCH_UNCHANGED, where there is none. NULL when memory ran out.
 */
struct fetch *fetch_start(struct fetch_tools *tools, struct bytes certificate, struct bytes issuer,
	const char *responders, const struct fetch_validators *validators);

/* In any state. NULL is allowed. */
void fetch_free(struct fetch *fetch);

/* As exchange_poll. now is on the steady clock. */
struct pollfd fetch_poll(const struct fetch *fetch, int64_t now, int *timeout);

/* Goes as far as it can without blocking. Both clocks in milliseconds. */
enum fetch_state fetch_step(
	struct fetch *fetch, short revents, int64_t now_steady, int64_t now_wall);

/* FETCH_ANSWERED: the verdict and the response it is in; alive as long as the fetch. */
struct judgement fetch_judgement(const struct fetch *fetch);
struct bytes fetch_response(const struct fetch *fetch);

/*
 * FETCH_ANSWERED or FETCH_UNCHANGED: for the next fetch; and until when, in milliseconds of the
 * wall clock, caches may return the same once more (0: not known).
 */
const struct fetch_validators *fetch_validators(const struct fetch *fetch);
int64_t fetch_fresh_until(const struct fetch *fetch);

/* FETCH_FAILED: whose fault it was, as far as the responder that was asked last is concerned. */
enum fetch_fault {
	FETCH_FAULT_ANSWER,       /* what it said about this certificate cannot be used, or ended
				     before its time */
	FETCH_FAULT_UNAUTHORIZED, /* it does not know this certificate, or not yet */
	FETCH_FAULT_RESPONDER,    /* it does not answer, or wants to be left alone */
};
enum fetch_fault fetch_fault(const struct fetch *fetch);

/*
 * FETCH_FAILED: for how many milliseconds the responders want to be left alone, at most
 * FRESHNESS_RETRY_MOST; 0 if one that was asked has not said so.
 */
int64_t fetch_retry_after(const struct fetch *fetch);

/* The responder that was asked last, and what went wrong with it, in words for a log line. */
const char *fetch_responder(const struct fetch *fetch);
const char *fetch_why(const struct fetch *fetch);

#endif
