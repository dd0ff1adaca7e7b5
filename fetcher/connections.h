/* SPDX-License-Identifier: MIT */
/*
 * Connections that have carried an exchange and may carry the next one to the same peer (RFC 9112,
 * 9.3). Only for moments: a descriptor in a stranger's process is on loan. And which addresses had
 * better not be connected with first. For the loop's thread alone.
 */
#ifndef OCSPRELOAD_CONNECTIONS_H
#define OCSPRELOAD_CONNECTIONS_H

#include "address.h"
#include "descriptor.h"
#include "http.h"

#include <netinet/in.h>
#include <stdint.h>

enum {
	/* As many as there are exchanges at a time; what finds no room is closed. */
	CONNECTIONS = 64,
	/* Of one peer, once nobody has taken them at the first occasion. */
	CONNECTIONS_SPARE = 4,
	/*
	 * Milliseconds from its opening on, after which one is not used again: the name may mean
	 * another machine by then, and a responder that serves one connection at a time keeps
	 * others of ours waiting.
	 */
	CONNECTION_LIFE = 2000,
	/* Addresses whose silence is remembered, the latest. */
	CONNECTIONS_SILENT = 16,
	ENDPOINT_SIZE = INET6_ADDRSTRLEN + sizeof("[]:65535"),
};

/* Where a connection leads, and since when. */
struct connection {
	struct descriptor socket;
	enum address_kind kind;       /* of the peer's address */
	char endpoint[ENDPOINT_SIZE]; /* that address and port, for words */
	int64_t opened;               /* steady clock, milliseconds */
};

struct connections;

/* NULL when memory ran out. */
struct connections *connections_new(void);

/* Closes them all. NULL is allowed. */
void connections_free(struct connections *connections);

/*
 * Takes over *connection, whose socket is none afterwards; it leads to the host and port of peer
 * and nothing is expected on it. Closed where there is no room for it.
 */
void connections_keep(struct connections *connections, const struct url *peer,
	struct connection *connection, int64_t now);

/*
 * Fills *connection with one to peer, under the same name, whose address is of one of the kinds (a
 * bit for each, ADDRESS_BIT). It was open and silent a moment ago, which does not mean that it
 * still is. False if there is none.
 */
bool connections_take(struct connections *connections, const struct url *peer, unsigned kinds,
	int64_t now, struct connection *connection);

/*
 * Closes those that are too old, that the peer has closed or sent something on unasked, and all
 * that nobody has taken since the last call; but where more is waiting to be asked, up to
 * CONNECTIONS_SPARE of a peer stay. To be called after each turn of exchanges. NULL is allowed.
 */
void connections_sweep(struct connections *connections, bool more, int64_t now);

/*
 * Whoever is at this address has let a request go unanswered until now (steady clock); and when it
 * last did so, 0: never, or long ago. The port belongs to it; compared byte by byte.
 */
void connections_note_silence(
	struct connections *connections, const struct sockaddr_storage *address, int64_t now);
int64_t connections_last_silence(
	const struct connections *connections, const struct sockaddr_storage *address);

/* Closes them all: when there is nothing in flight, and nobody will sweep. NULL is allowed. */
void connections_close(struct connections *connections);

#endif
