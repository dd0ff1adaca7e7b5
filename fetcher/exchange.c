/* SPDX-License-Identifier: MIT */
#include "exchange.h"

#include "clock.h"
#include "descriptor.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ENDPOINT_SIZE = INET6_ADDRSTRLEN + sizeof("[]:65535") };

struct exchange {
	enum exchange_state state;
	struct resolver *resolver;
	int64_t started, deadline;
	struct url peer;
	bool resolved;
	struct addresses addresses;
	size_t next; /* address to try */
	struct descriptor socket;
	int64_t connect_deadline;
	char endpoint[ENDPOINT_SIZE]; /* the address in use, for words */
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

/* The one place where a connection ends. */
static void finish(struct exchange *exchange, enum exchange_state state)
{
	descriptor_close(&exchange->socket);
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

static void fail_late(struct exchange *exchange)
{
	/* Tenths of a second, rounded; a decimal point of printf's would be the locale's. */
	long long tenths = (exchange->deadline - exchange->started + 50) / 100;
	char stage[400];

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

static void describe_endpoint(struct exchange *exchange, const struct sockaddr_storage *address)
{
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

static void describe_refusal(struct exchange *exchange, int error)
{
	size_t count = exchange->addresses.count;
	char others[48] = "";

	if (count > 1)
		snprintf(others, sizeof(others), ", the last of %zu addresses", count);
	if (error == ECONNREFUSED)
		set_why(exchange, "connection refused by %s%s", exchange->endpoint, others);
	else if (error == ETIMEDOUT)
		set_why(exchange, "no connection in time with %s%s", exchange->endpoint, others);
	else
		set_why(exchange, "no connection with %s%s: %s", exchange->endpoint, others,
			strerror(error));
}

/*
 * An address that leads nowhere is silent: each but the last gets half of what is left of the time,
 * so that there is always some for the next.
 */
static void connect_next(struct exchange *exchange, int64_t now)
{
	size_t i = exchange->next++;
	const struct sockaddr_storage *address = &exchange->addresses.list[i].address;
	bool last = i + 1 == exchange->addresses.count;

	describe_endpoint(exchange, address);
	exchange->connect_deadline =
		last ? exchange->deadline : now + (exchange->deadline - now) / 2;
	if (!descriptor_open(&exchange->socket, address->ss_family, SOCK_STREAM, 0)) {
		describe_refusal(exchange, errno);
		return;
	}
	if (connect(exchange->socket.number, (const struct sockaddr *)address,
		    exchange->addresses.list[i].size) == 0 ||
		errno == EINPROGRESS || errno == EINTR)
		return;
	describe_refusal(exchange, errno);
	descriptor_close(&exchange->socket);
}

/* From the address at hand, if any, to the next one that does not fail at once. */
static void connect_any(struct exchange *exchange, int64_t now)
{
	exchange->state = EXCHANGE_CONNECTING;
	descriptor_close(&exchange->socket);
	while (exchange->socket.number < 0 && exchange->next < exchange->addresses.count)
		connect_next(exchange, now);
	if (exchange->socket.number < 0)
		fail(exchange);
}

/* True if there was progress. */
static bool step_connecting(struct exchange *exchange, short revents, int64_t now)
{
	int error = 0;
	socklen_t size = sizeof(error);

	if (revents == 0) {
		if (now < exchange->connect_deadline || now >= exchange->deadline)
			return false;
		error = ETIMEDOUT;
	} else if (getsockopt(exchange->socket.number, SOL_SOCKET, SO_ERROR, &error, &size) != 0) {
		error = errno;
	}
	if (error == 0) {
		exchange->state = EXCHANGE_SENDING;
		return true;
	}
	describe_refusal(exchange, error);
	connect_any(exchange, now);
	return false;
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
	ssize_t sent = send(exchange->socket.number, exchange->request.data + exchange->sent,
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

static void take_reader_state(struct exchange *exchange, enum http_state state)
{
	if (state == HTTP_DONE) {
		finish(exchange, EXCHANGE_DONE);
	} else if (state == HTTP_BAD) {
		set_why(exchange, "%s (%s)", exchange->reader.why, exchange->endpoint);
		fail(exchange);
	}
}

static bool step_receiving(struct exchange *exchange)
{
	unsigned char input[4096];
	ssize_t size = recv(exchange->socket.number, input, sizeof(input), 0);

	if (size < 0 && errno == EINTR)
		return true;
	if (size < 0 && would_block(errno))
		return false;
	if (size > 0) {
		take_reader_state(exchange,
			http_reader_feed(&exchange->reader, (struct bytes){input, (size_t)size}));
	} else if (size == 0) {
		take_reader_state(exchange, http_reader_end(&exchange->reader));
	} else {
		set_why(exchange, "the connection with %s broke: %s", exchange->endpoint,
			strerror(errno));
		fail(exchange);
	}
	return !is_over(exchange);
}

/*
 * The whole
 */

static void addresses_arrived(void *argument, const struct addresses *addresses)
{
	struct exchange *exchange = argument;

	exchange->resolved = true;
	exchange->addresses = *addresses;
	exchange->addresses.why = NULL; /* lives no longer than this call */
	if (addresses->count == 0)
		set_why(exchange, "%s", addresses->why);
}

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
	exchange->socket.number = -1;
	http_reader_init(&exchange->reader, EXCHANGE_LIMIT);
	if (!buffer_append(&exchange->request, request.data, request.size)) {
		free(exchange);
		return NULL;
	}
	resolver_start(resolver, peer->host, peer->port, addresses_arrived, exchange);
	return exchange;
}

void exchange_free(struct exchange *exchange)
{
	if (!exchange)
		return;
	if (!exchange->resolved)
		resolver_cancel(exchange->resolver, exchange);
	descriptor_close(&exchange->socket);
	http_reader_free(&exchange->reader);
	buffer_free(&exchange->request);
	free(exchange);
}

static int64_t next_timer(const struct exchange *exchange, int64_t now)
{
	if (is_over(exchange) || (exchange->state == EXCHANGE_RESOLVING && exchange->resolved))
		return now;
	if (exchange->state == EXCHANGE_CONNECTING &&
		exchange->connect_deadline < exchange->deadline)
		return exchange->connect_deadline;
	return exchange->deadline;
}

struct pollfd exchange_poll(const struct exchange *exchange, int64_t now, int *timeout)
{
	int64_t wait = next_timer(exchange, now) - now;
	bool reading = exchange->state == EXCHANGE_RECEIVING;

	if (wait < 0)
		wait = 0;
	if (wait > INT32_MAX)
		wait = INT32_MAX;
	if (*timeout < 0 || wait < *timeout)
		*timeout = (int)wait;
	return (struct pollfd){exchange->socket.number, reading ? POLLIN : POLLOUT, 0};
}

/* True if the next step may go on at once. */
static bool step_once(struct exchange *exchange, short revents, int64_t now)
{
	if (exchange->socket.number >= 0 && !descriptor_check(&exchange->socket)) {
		set_why(exchange, "the connection with %s was closed by this program",
			exchange->endpoint);
		fail(exchange);
		return false;
	}
	switch (exchange->state) {
	case EXCHANGE_RESOLVING:
		if (!exchange->resolved)
			return false;
		connect_any(exchange, now);
		return false;
	case EXCHANGE_CONNECTING:
		return step_connecting(exchange, revents, now);
	case EXCHANGE_SENDING:
		return step_sending(exchange);
	case EXCHANGE_RECEIVING:
		return step_receiving(exchange);
	default:
		return false;
	}
}

enum exchange_state exchange_step(struct exchange *exchange, short revents, int64_t now)
{
	while (step_once(exchange, revents, now))
		revents = 0;
	if (!is_over(exchange) && now >= exchange->deadline)
		fail_late(exchange);
	return exchange->state;
}

const struct http_reader *exchange_response(const struct exchange *exchange)
{
	return &exchange->reader;
}

const char *exchange_why(const struct exchange *exchange)
{
	return exchange->why;
}
