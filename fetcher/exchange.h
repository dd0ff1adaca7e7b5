/* SPDX-License-Identifier: MIT */
/*
 * One HTTP exchange: name, connection, request, response. Non-blocking, with one deadline over all
 * of it and a byte cap; a state machine that its owner drives from poll.
 *
 *     beginning ─► resolving ─► connecting ─► sending ─► receiving ─► done
 *         │            └────────────┴───────────┴───────────┴───────► failed
 *         └─ over a kept connection: to sending, and back to resolving if it turns out dead
 *
 * From receiving it goes back to connecting where there is another address, and this one has ended
 * or become nonsense before a status line.
 */
#ifndef OCSPRELOAD_EXCHANGE_H
#define OCSPRELOAD_EXCHANGE_H

#include "address.h"
#include "bytes.h"
#include "connections.h"
#include "http.h"
#include "resolve.h"

#include <poll.h>
#include <stdint.h>

enum exchange_state {
	EXCHANGE_BEGINNING,
	EXCHANGE_RESOLVING,
	EXCHANGE_CONNECTING,
	EXCHANGE_SENDING,
	EXCHANGE_RECEIVING,
	EXCHANGE_DONE,
	EXCHANGE_FAILED,
};

enum {
	/* The most bytes of headers and body that are read of one answer. */
	EXCHANGE_LIMIT = 64 * 1024,
	/* An address that stays silent for so many milliseconds gets a rival, RFC 8305, 5. */
	EXCHANGE_HEAD_START = 250,
};

struct exchange;

/*
 * Starts an exchange with the server at peer (the responder's, or a proxy's, host and port);
 * request is the whole HTTP request and is copied. deadline is on the steady clock, in
 * milliseconds. NULL when memory ran out.
 */
struct exchange *exchange_start(
	struct resolver *resolver, const struct url *peer, struct bytes request, int64_t deadline);

/*
 * To be called before the first step: of the peer's addresses only those are used that are public
 * or of this kind. For a peer that somebody on the network has named.
 */
void exchange_restrict(struct exchange *exchange, enum address_kind kind);

/*
 * To be called before the first step: a connection from there is used where there is one, and the
 * exchange's own goes there if the response leaves it fit for another. They must outlive it.
 */
void exchange_reuse(struct exchange *exchange, struct connections *connections);

/* Closes and frees everything, in any state. NULL is allowed. */
void exchange_free(struct exchange *exchange);

/*
 * What to wait for: a descriptor (-1 while only the resolver is waited for) and events. Lowers
 * *timeout (milliseconds, -1: none) so that no deadline is overslept.
 */
struct pollfd exchange_poll(const struct exchange *exchange, int64_t now, int *timeout);

/*
 * Goes as far as it can without blocking; to be called after each poll, whatever revents says. The
 * addresses of the peer race as RFC 8305, 5 describes: each is tried when the one before has failed
 * or had its head start, and the first that accepts the connection is used. A kept connection that
 * ends before the first byte of a response has met its server's closing it: the request is sent
 * once more, on a new one (RFC 9112, 9.3.1; what we POST asks, and changes nothing). Where a new
 * one ends before a status line, or sends something else, the peer's other addresses get the
 * request, each once at the most. One that stays silent has until the deadline, but is the last
 * that the next exchange with the same connections turns to.
 */
enum exchange_state exchange_step(struct exchange *exchange, short revents, int64_t now);

/* EXCHANGE_DONE: the response as it was read (any status); lives as long as the exchange. */
const struct http_reader *exchange_response(const struct exchange *exchange);

/* EXCHANGE_DONE: where the peer was. */
enum address_kind exchange_peer_kind(const struct exchange *exchange);

/* EXCHANGE_FAILED: why, in words for a log line ("connection refused"), alive as long as it. */
const char *exchange_why(const struct exchange *exchange);

#endif
