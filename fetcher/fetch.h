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

/* What a fetch works with; outlives it. */
struct fetch_tools {
	const struct libcrypto *crypto;
	const struct config *config;
	struct resolver *resolver;
};

enum fetch_state {
	FETCH_RUNNING,
	FETCH_ANSWERED, /* verified: the judgement is good, revoked or unknown */
	FETCH_FAILED,
};

/*
 * Starts a fetch. certificate and issuer are DER and must outlive it, as must responders: URLs
 * separated by spaces. NULL when memory ran out.
 */
struct fetch *fetch_start(const struct fetch_tools *tools, struct bytes certificate,
	struct bytes issuer, const char *responders);

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

/* The responder that was asked last, and what went wrong with it, in words for a log line. */
const char *fetch_responder(const struct fetch *fetch);
const char *fetch_why(const struct fetch *fetch);

#endif
