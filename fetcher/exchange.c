/* SPDX-License-Identifier: MIT */
#include "exchange.h"

#include "clock.h"
#include "descriptor.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	HTTP_REQUEST_TIMEOUT = 408,
	/* exchange_poll has one descriptor to give; while several race, the others wait so long. */
	RACE_TICK = 20,
};

struct exchange {
	enum exchange_state state;
	struct resolver *resolver;
	int64_t started, deadline;
	struct url peer;
	struct connections *connections; /* NULL: none is taken, none kept */
	unsigned allowed;                /* kinds of addresses, ADDRESS_BIT */
	bool is_reused;                  /* the connection is one of those */
	bool was_lost;                   /* the host has closed one already */
	bool is_resolving;
	struct addresses addresses;
	struct descriptor sockets[RESOLVE_ADDRESSES]; /* those that race, by address */
	bool has_failed[RESOLVE_ADDRESSES];           /* by address: not to be tried again */
	size_t next;                                  /* address to try */
	int64_t next_at;                              /* when, if none fails before */
	struct descriptor *socket;                    /* of the address that won; else NULL */
	enum address_kind kind;                       /* of that address */
	int64_t opened;                               /* when that socket was */
	char endpoint[ENDPOINT_SIZE]; /* the address that was turned to last, for words */
	struct buffer request;
	size_t sent;
	struct http_reader reader;
	char why[512];
};

/*
 * The end
 */

static void set_why(struct exchange *exchange, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static void set_why(struct exchange *exchange, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(exchange->why, sizeof(exchange->why), format, arguments);
	va_end(arguments);
}

/* The one place where a connection ends; but is spared. */
static void close_sockets(struct exchange *exchange, const struct descriptor *but)
{
	for (size_t i = 0; i < RESOLVE_ADDRESSES; i++)
		if (&exchange->sockets[i] != but)
			descriptor_close(&exchange->sockets[i]);
}

static void finish(struct exchange *exchange, enum exchange_state state)
{
	close_sockets(exchange, NULL);
	exchange->socket = NULL;
	exchange->state = state;
}

/* With why set. */
static void fail(struct exchange *exchange)
{
	finish(exchange, EXCHANGE_FAILED);
}

static bool is_over(const struct exchange *exchange)
{
	return exchange->state >= EXCHANGE_DONE;
}

static void describe_stage(const struct exchange *exchange, char *text, size_t room)
{
	switch (exchange->state) {
	case EXCHANGE_BEGINNING:
	case EXCHANGE_RESOLVING:
		snprintf(text, room, "looking up the name %s", exchange->peer.host);
		break;
	case EXCHANGE_CONNECTING:
		snprintf(text, room, "connecting to %s", exchange->endpoint);
		break;
	case EXCHANGE_SENDING:
		snprintf(text, room, "sending the request to %s", exchange->endpoint);
		break;
	default:
		snprintf(text, room, "waiting for the response of %s", exchange->endpoint);
	}
}

/* With the connection, and nothing that HTTP begins with. */
static bool is_unanswered(const struct exchange *exchange)
{
	return exchange->socket && exchange->reader.status == 0;
}

/*
 * Who is silent is waited for to the end: to ask at another address in the meantime would double
 * what a responder that is merely slow has to do. But the next exchange turns to it last.
 */
static void note_silence(struct exchange *exchange, int64_t now)
{
	size_t i = (size_t)(exchange->socket - exchange->sockets);

	if (exchange->connections && i < exchange->addresses.count)
		connections_note_silence(
			exchange->connections, &exchange->addresses.list[i].address, now);
}

static void fail_late(struct exchange *exchange, int64_t now)
{
	/* Tenths of a second, rounded; a decimal point of printf's would be the locale's. */
	long long tenths = (exchange->deadline - exchange->started + 50) / 100;
	char stage[400];

	if (is_unanswered(exchange))
		note_silence(exchange, now);
	describe_stage(exchange, stage, sizeof(stage));
	if (tenths % 10 == 0)
		set_why(exchange, "no answer within %lld s (%s)", tenths / 10, stage);
	else
		set_why(exchange, "no answer within %lld.%lld s (%s)", tenths / 10, tenths % 10,
			stage);
	fail(exchange);
}

/*
 * Connecting
 */

static void describe_endpoint(struct exchange *exchange, size_t i)
{
	const struct sockaddr_storage *address = &exchange->addresses.list[i].address;
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;
	bool is_v6 = address->ss_family == AF_INET6;
	char text[INET6_ADDRSTRLEN] = "?";

	inet_ntop(address->ss_family,
		is_v6 ? (const void *)&v6->sin6_addr : (const void *)&v4->sin_addr, text,
		sizeof(text));
	snprintf(exchange->endpoint, sizeof(exchange->endpoint), is_v6 ? "[%s]:%s" : "%s:%s", text,
		exchange->peer.port);
}

/* The first at or after i that has not failed. */
static void turn_to(struct exchange *exchange, size_t i)
{
	while (i < exchange->addresses.count && exchange->has_failed[i])
		i++;
	exchange->next = i;
}

/*
 * How the address at i failed, and that the next may start at once: the same once more if it was
 * the host that closed the socket (see try_afresh).
 */
static void take_refusal(struct exchange *exchange, size_t i, int error, int64_t now)
{
	size_t count = exchange->addresses.count;
	char others[48] = "";

	descriptor_close(&exchange->sockets[i]);
	exchange->next_at = now;
	describe_endpoint(exchange, i);
	if (error == EBADF && !exchange->was_lost && exchange->next == i + 1) {
		exchange->was_lost = true;
		exchange->next = i;
	} else {
		exchange->has_failed[i] = true;
	}
	if (count > 1)
		snprintf(others, sizeof(others), ", the last of %zu addresses", count);
	if (error == ECONNREFUSED)
		set_why(exchange, "connection refused by %s%s", exchange->endpoint, others);
	else if (error == ETIMEDOUT)
		set_why(exchange, "no connection in time with %s%s", exchange->endpoint, others);
	else if (error == EBADF)
		set_why(exchange, "the connection with %s was closed by this program",
			exchange->endpoint);
	else
		set_why(exchange, "no connection with %s%s: %s", exchange->endpoint, others,
			strerror(error));
}

/* True if the address is in the race. */
static bool connect_next(struct exchange *exchange, int64_t now)
{
	size_t i = exchange->next;
	const struct sockaddr *address =
		(const struct sockaddr *)&exchange->addresses.list[i].address;
	struct descriptor *socket = &exchange->sockets[i];

	describe_endpoint(exchange, i);
	turn_to(exchange, i + 1);
	exchange->next_at = now + EXCHANGE_HEAD_START;
	if (!descriptor_open(socket, address->sa_family, SOCK_STREAM, 0) ||
		(connect(socket->number, address, exchange->addresses.list[i].size) != 0 &&
			errno != EINPROGRESS && errno != EINTR))
		take_refusal(exchange, i, errno, now);
	return socket->number >= 0;
}

/* What has become of the attempt at i: 0 if it is connected, EINPROGRESS, or why it failed. */
static int attempt_result(struct exchange *exchange, size_t i)
{
	struct pollfd fd = {exchange->sockets[i].number, POLLOUT, 0};
	int error = 0;
	socklen_t size = sizeof(error);

	if (!descriptor_check(&exchange->sockets[i]))
		return EBADF;
	if (poll(&fd, 1, 0) <= 0)
		return EINPROGRESS;
	return getsockopt(fd.fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
}

static void take_winner(struct exchange *exchange, size_t i, int64_t now)
{
	struct address address = address_of(&exchange->addresses.list[i].address);

	exchange->socket = &exchange->sockets[i];
	exchange->kind = address_kind(&address);
	exchange->opened = now;
	close_sockets(exchange, exchange->socket);
	describe_endpoint(exchange, i);
	exchange->state = EXCHANGE_SENDING;
}

/* How many are still racing, or 0 with a winner. */
static size_t take_results(struct exchange *exchange, int64_t now)
{
	size_t racing = 0;

	for (size_t i = 0; i < exchange->next; i++) {
		int result;

		if (exchange->sockets[i].number < 0)
			continue;
		result = attempt_result(exchange, i);
		if (result == 0) {
			take_winner(exchange, i, now);
			return 0;
		}
		if (result == EINPROGRESS)
			racing++;
		else
			take_refusal(exchange, i, result, now);
	}
	return racing;
}

/* True if there was progress. */
static bool step_connecting(struct exchange *exchange, int64_t now)
{
	size_t racing = take_results(exchange, now);

	if (exchange->socket)
		return true;
	while (exchange->next < exchange->addresses.count &&
		(racing == 0 || now >= exchange->next_at)) {
		racing += connect_next(exchange, now);
	}
	if (racing == 0)
		fail(exchange);
	return false;
}

/* A name on the network must not lead a request to where only this machine can send it. */
static void drop_forbidden(struct exchange *exchange)
{
	struct addresses *addresses = &exchange->addresses;
	size_t kept = 0;

	for (size_t i = 0; i < addresses->count; i++) {
		struct address address = address_of(&addresses->list[i].address);
		enum address_kind kind = address_kind(&address);

		if (exchange->allowed & ADDRESS_BIT(kind))
			addresses->list[kept++] = addresses->list[i];
	}
	if (kept == 0 && addresses->count > 0)
		set_why(exchange,
			"%s has but loopback, private or link-local addresses, where a redirect "
			"must not lead",
			exchange->peer.host);
	addresses->count = kept;
}

static void addresses_arrived(void *argument, const struct addresses *addresses)
{
	struct exchange *exchange = argument;

	exchange->is_resolving = false;
	exchange->addresses = *addresses;
	exchange->addresses.why = NULL; /* lives no longer than this call */
	if (addresses->count == 0)
		set_why(exchange, "%s", addresses->why);
}

static void begin_resolving(struct exchange *exchange)
{
	exchange->state = EXCHANGE_RESOLVING;
	exchange->is_resolving = true;
	resolver_start(exchange->resolver, exchange->peer.host, exchange->peer.port,
		addresses_arrived, exchange);
}

/* Those that were silent when they were last asked come last, the latest of them at the end. */
static void put_off_silent(struct exchange *exchange)
{
	struct addresses *addresses = &exchange->addresses;
	int64_t silent[RESOLVE_ADDRESSES];

	for (size_t i = 0; exchange->connections && i < addresses->count; i++) {
		struct endpoint one = addresses->list[i];
		int64_t at = connections_last_silence(exchange->connections, &one.address);
		size_t to = i;

		for (; to > 0 && silent[to - 1] > at; to--) {
			silent[to] = silent[to - 1];
			addresses->list[to] = addresses->list[to - 1];
		}
		silent[to] = at;
		addresses->list[to] = one;
	}
}

static void begin_connecting(struct exchange *exchange)
{
	drop_forbidden(exchange);
	put_off_silent(exchange);
	exchange->state = EXCHANGE_CONNECTING;
}

/*
 * Kept connections
 */

static bool take_kept(struct exchange *exchange, int64_t now)
{
	struct connection kept;

	if (!exchange->connections || !connections_take(exchange->connections, &exchange->peer,
					      exchange->allowed, now, &kept))
		return false;
	exchange->socket = &exchange->sockets[0];
	descriptor_move(exchange->socket, &kept.socket);
	exchange->next = 1;
	exchange->kind = kept.kind;
	exchange->opened = kept.opened;
	memcpy(exchange->endpoint, kept.endpoint, sizeof(exchange->endpoint));
	exchange->is_reused = true;
	return true;
}

static void keep(struct exchange *exchange, int64_t now)
{
	struct connection connection = {.kind = exchange->kind, .opened = exchange->opened};

	/* A response that did not wait for the whole request leaves a server in the middle of it.
	 */
	if (!exchange->connections || !exchange->reader.persists ||
		exchange->sent < exchange->request.size)
		return;
	memcpy(connection.endpoint, exchange->endpoint, sizeof(connection.endpoint));
	descriptor_move(&connection.socket, exchange->socket);
	connections_keep(exchange->connections, &exchange->peer, &connection, now);
}

/* Without connection, request or response. */
static void start_over(struct exchange *exchange, enum exchange_state state)
{
	finish(exchange, state);
	exchange->sent = 0;
	http_reader_free(&exchange->reader);
	http_reader_init(&exchange->reader, EXCHANGE_LIMIT);
}

/*
 * On a new connection, if this one was kept too long: it has ended without a byte, or all that its
 * server says is that it waited for us in vain. Also once if the host has closed it: those that
 * close all that they do not know (uWSGI at a reload) do it as they start, when a handshake waits.
 */
static bool try_afresh(struct exchange *exchange)
{
	struct http_reader *reader = &exchange->reader;
	bool is_lost = !exchange->socket || !descriptor_check(exchange->socket);

	if (is_lost && !exchange->was_lost)
		exchange->was_lost = true;
	else if (!exchange->is_reused ||
		 (reader->seen > 0 && reader->status != HTTP_REQUEST_TIMEOUT))
		return false;
	start_over(exchange, EXCHANGE_BEGINNING);
	exchange->is_reused = false;
	memset(exchange->has_failed, 0, sizeof(exchange->has_failed));
	exchange->next = 0;
	begin_resolving(exchange);
	return true;
}

/*
 * With why set. On to another address, if this one has said nothing in HTTP: a name may stand for
 * several machines, one of which is dead, or not what it should be. None is asked twice.
 */
static void break_off(struct exchange *exchange)
{
	if (is_unanswered(exchange)) {
		exchange->has_failed[exchange->socket - exchange->sockets] = true;
		turn_to(exchange, 0);
		if (exchange->next < exchange->addresses.count) {
			start_over(exchange, EXCHANGE_CONNECTING);
			return;
		}
	}
	fail(exchange);
}

static void begin(struct exchange *exchange, int64_t now)
{
	if (take_kept(exchange, now))
		exchange->state = EXCHANGE_SENDING;
	else
		begin_resolving(exchange);
}

/*
 * Talking
 */

static bool would_block(int error)
{
	return error == EAGAIN || error == EWOULDBLOCK;
}

static bool step_sending(struct exchange *exchange)
{
	ssize_t sent = send(exchange->socket->number, exchange->request.data + exchange->sent,
		exchange->request.size - exchange->sent, MSG_NOSIGNAL);

	if (sent < 0 && errno == EINTR)
		return true;
	if (sent < 0 && would_block(errno))
		return false;
	if (sent >= 0)
		exchange->sent += (size_t)sent;
	/* On an error, too: a server may refuse a request that it has not read to its end. */
	if (sent < 0 || exchange->sent == exchange->request.size)
		exchange->state = EXCHANGE_RECEIVING;
	return true;
}

static void take_reader_state(struct exchange *exchange, enum http_state state, int64_t now)
{
	if (state == HTTP_MORE || try_afresh(exchange))
		return;
	if (state == HTTP_DONE) {
		keep(exchange, now);
		finish(exchange, EXCHANGE_DONE);
	} else {
		set_why(exchange, "%s (%s)", exchange->reader.why, exchange->endpoint);
		break_off(exchange);
	}
}

static bool step_receiving(struct exchange *exchange, int64_t now)
{
	unsigned char input[4096];
	ssize_t size = recv(exchange->socket->number, input, sizeof(input), 0);

	if (size < 0 && errno == EINTR)
		return true;
	if (size < 0 && would_block(errno))
		return false;
	if (size > 0) {
		take_reader_state(exchange,
			http_reader_feed(&exchange->reader, (struct bytes){input, (size_t)size}),
			now);
	} else if (size == 0) {
		take_reader_state(exchange, http_reader_end(&exchange->reader), now);
	} else if (!try_afresh(exchange)) {
		set_why(exchange, "the connection with %s broke: %s", exchange->endpoint,
			strerror(errno));
		break_off(exchange);
	}
	return !is_over(exchange);
}

/*
 * The whole
 */

struct exchange *exchange_start(
	struct resolver *resolver, const struct url *peer, struct bytes request, int64_t deadline)
{
	struct exchange *exchange = calloc(1, sizeof(*exchange));

	if (!exchange)
		return NULL;
	exchange->resolver = resolver;
	exchange->started = clock_steady();
	exchange->deadline = deadline;
	exchange->peer = *peer;
	exchange->allowed = UINT_MAX;
	for (size_t i = 0; i < RESOLVE_ADDRESSES; i++)
		exchange->sockets[i].number = -1;
	http_reader_init(&exchange->reader, EXCHANGE_LIMIT);
	if (!buffer_append(&exchange->request, request.data, request.size)) {
		free(exchange);
		return NULL;
	}
	return exchange;
}

void exchange_restrict(struct exchange *exchange, enum address_kind kind)
{
	exchange->allowed = ADDRESS_BIT(ADDRESS_PUBLIC) | ADDRESS_BIT(kind);
}

void exchange_reuse(struct exchange *exchange, struct connections *connections)
{
	exchange->connections = connections;
}

void exchange_free(struct exchange *exchange)
{
	if (!exchange)
		return;
	if (exchange->is_resolving)
		resolver_cancel(exchange->resolver, exchange);
	close_sockets(exchange, NULL);
	http_reader_free(&exchange->reader);
	buffer_free(&exchange->request);
	free(exchange);
}

/* The one that began last, since those before are the more likely to stay silent; NULL: none. */
static const struct descriptor *last_racing(const struct exchange *exchange, size_t *racing)
{
	const struct descriptor *last = NULL;

	*racing = 0;
	for (size_t i = 0; i < exchange->next; i++) {
		if (exchange->sockets[i].number < 0)
			continue;
		last = &exchange->sockets[i];
		(*racing)++;
	}
	return last;
}

static int64_t next_timer(const struct exchange *exchange, size_t racing, int64_t now)
{
	int64_t next = exchange->deadline;

	if (is_over(exchange) || exchange->state == EXCHANGE_BEGINNING ||
		(exchange->state == EXCHANGE_RESOLVING && !exchange->is_resolving))
		return now;
	if (exchange->state != EXCHANGE_CONNECTING)
		return next;
	if (exchange->next < exchange->addresses.count && exchange->next_at < next)
		next = exchange->next_at;
	if (racing != 1 && now + RACE_TICK < next)
		next = now + RACE_TICK;
	return next;
}

struct pollfd exchange_poll(const struct exchange *exchange, int64_t now, int *timeout)
{
	size_t racing;
	const struct descriptor *socket = last_racing(exchange, &racing);
	int64_t wait = next_timer(exchange, racing, now) - now;
	bool reading = exchange->state == EXCHANGE_RECEIVING;

	if (wait < 0)
		wait = 0;
	if (wait > INT32_MAX)
		wait = INT32_MAX;
	if (*timeout < 0 || wait < *timeout)
		*timeout = (int)wait;
	return (struct pollfd){socket ? socket->number : -1, reading ? POLLIN : POLLOUT, 0};
}

static bool step_talking(struct exchange *exchange, int64_t now)
{
	if (!exchange->socket || !descriptor_check(exchange->socket)) {
		if (try_afresh(exchange))
			return true;
		set_why(exchange, "the connection with %s was closed by this program",
			exchange->endpoint);
		fail(exchange);
		return false;
	}
	return exchange->state == EXCHANGE_SENDING ? step_sending(exchange)
						   : step_receiving(exchange, now);
}

/* True if the next step may go on at once. */
static bool step_once(struct exchange *exchange, int64_t now)
{
	switch (exchange->state) {
	case EXCHANGE_BEGINNING:
		begin(exchange, now);
		return true;
	case EXCHANGE_RESOLVING:
		if (exchange->is_resolving)
			return false;
		begin_connecting(exchange);
		return true;
	case EXCHANGE_CONNECTING:
		return step_connecting(exchange, now);
	case EXCHANGE_SENDING:
	case EXCHANGE_RECEIVING:
		return step_talking(exchange, now);
	default:
		return false;
	}
}

enum exchange_state exchange_step(struct exchange *exchange, short revents, int64_t now)
{
	(void)revents; /* each step finds out for itself */
	while (step_once(exchange, now))
		;
	if (!is_over(exchange) && now >= exchange->deadline)
		fail_late(exchange, now);
	return exchange->state;
}

const struct http_reader *exchange_response(const struct exchange *exchange)
{
	return &exchange->reader;
}

enum address_kind exchange_peer_kind(const struct exchange *exchange)
{
	return exchange->kind;
}

const char *exchange_why(const struct exchange *exchange)
{
	return exchange->why;
}
