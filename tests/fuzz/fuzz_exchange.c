/* SPDX-License-Identifier: MIT */
/*
 * Two exchanges with one server, the second over the first one's connection if that is fit for it.
 * Whatever the server says to the first, and unasked in between, the second ends as if what it says
 * to the second were all that it had ever said. Input: a byte of flags, two with the length of the
 * first answer, one with that of what comes unasked; then these two, and the second answer.
 */
#include "connections.h"
#include "exchange.h"
#include "fuzz.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	CLOSES_AFTER_FIRST = 1, /* without a word */
	CLOSES_ON_SECOND = 2,   /* the connection that was used before, once it has the request */
	NOW = 1000000,
	LATER = NOW + 10000,
	SERVERS = 4,
};

static const char request[] = "GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n";
static const struct url peer = {"a.test", "80", "/x", "a.test"};

/* The server's ends of the connections; -1: closed. */
static int servers[SERVERS];
static size_t count;

/*
 * The network's and the resolver's stand-ins
 */

/* The linker's --wrap wants these names. */
/* NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp) */
int __wrap_socket(int family, int type, int protocol);
int __wrap_connect(int number, const struct sockaddr *address, socklen_t size);
int __wrap_getsockname(int number, struct sockaddr *address, socklen_t *size);
int __wrap_getpeername(int number, struct sockaddr *address, socklen_t *size);
/* NOLINTEND(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp) */

int __wrap_socket(int family, int type, int protocol)
{
	int pair[2];

	(void)family;
	(void)protocol;
	RULE(count < SERVERS);
	RULE(socketpair(AF_UNIX, type, 0, pair) == 0);
	servers[count++] = pair[1];
	return pair[0];
}

int __wrap_connect(int number, const struct sockaddr *address, socklen_t size)
{
	(void)number;
	(void)address;
	(void)size;
	return 0;
}

/* As if the pair were the new socket that was asked for. */
int __wrap_getsockname(int number, struct sockaddr *address, socklen_t *size)
{
	(void)number;
	memset(address, 0, *size);
	address->sa_family = AF_INET;
	return 0;
}

int __wrap_getpeername(int number, struct sockaddr *address, socklen_t *size)
{
	(void)number;
	(void)address;
	(void)size;
	errno = ENOTCONN;
	return -1;
}

void resolver_start(struct resolver *resolver, const char *host, const char *port,
	resolve_done *done, void *argument)
{
	struct addresses addresses = {.count = 1};
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(80)};

	(void)resolver;
	(void)host;
	(void)port;
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	memcpy(&addresses.list[0].address, &address, sizeof(address));
	addresses.list[0].size = sizeof(address);
	done(argument, &addresses);
}

void resolver_cancel(struct resolver *resolver, void *argument)
{
	(void)resolver;
	(void)argument;
	RULE(false);
}

/*
 * The server
 */

static void close_server(size_t i)
{
	if (i < count && servers[i] >= 0)
		close(servers[i]);
	if (i < count)
		servers[i] = -1;
}

/* That exactly one request has come, whole. */
static void check_request(void)
{
	char input[2 * sizeof(request)];

	RULE(recv(servers[count - 1], input, sizeof(input), 0) == sizeof(request) - 1);
	RULE(memcmp(input, request, sizeof(request) - 1) == 0);
}

/* What the other side has no room for, or no ear, is lost. */
static void say(size_t i, struct bytes words)
{
	if (i < count && servers[i] >= 0)
		(void)!send(servers[i], words.data, words.size, MSG_NOSIGNAL);
}

/*
 * The exchanges
 */

/* To where it waits for the server: that a connection is there is seen at the second look. */
static enum exchange_state step(struct exchange *exchange)
{
	enum exchange_state state = exchange_step(exchange, 0, NOW);

	return state == EXCHANGE_CONNECTING ? exchange_step(exchange, 0, NOW) : state;
}

static struct exchange *begin_exchange(struct connections *connections)
{
	struct bytes bytes = {(const unsigned char *)request, sizeof(request) - 1};
	struct exchange *exchange = exchange_start(NULL, &peer, bytes, LATER);

	RULE(exchange != NULL);
	exchange_reuse(exchange, connections);
	RULE(step(exchange) == EXCHANGE_RECEIVING);
	return exchange;
}

/* The server answers on whatever connection it is asked, and ends it if that was not the end. */
static void answer(struct exchange *exchange, struct bytes words)
{
	enum exchange_state state = EXCHANGE_RECEIVING;

	for (int turn = 0; state < EXCHANGE_DONE && turn < 2; turn++) {
		size_t before = count;

		check_request();
		say(count - 1, words);
		state = step(exchange);
		if (state < EXCHANGE_DONE && count == before) {
			shutdown(servers[count - 1], SHUT_WR);
			state = step(exchange);
		}
	}
	RULE(state >= EXCHANGE_DONE);
}

/* That it ended as the reader alone ends with these words. */
static void check_answer(const struct exchange *exchange, struct bytes words)
{
	const struct http_reader *got = exchange_response(exchange);
	struct http_reader wanted;
	enum http_state state;

	http_reader_init(&wanted, EXCHANGE_LIMIT);
	state = http_reader_feed(&wanted, words);
	if (state == HTTP_MORE)
		state = http_reader_end(&wanted);
	RULE((exchange_why(exchange)[0] == '\0') == (state == HTTP_DONE));
	if (state == HTTP_DONE) {
		RULE(got->status == wanted.status);
		RULE(is_same(buffer_bytes(&got->body), buffer_bytes(&wanted.body)));
	}
	http_reader_free(&wanted);
}

static struct bytes cut(struct bytes *input, size_t size)
{
	struct bytes part = {input->data, size < input->size ? size : input->size};

	input->data += part.size;
	input->size -= part.size;
	return part;
}

static void play(unsigned flags, struct bytes first, struct bytes unasked, struct bytes second)
{
	struct connections *connections = connections_new();
	struct exchange *exchange = begin_exchange(connections);
	bool persists;

	answer(exchange, first);
	check_answer(exchange, first);
	persists = exchange_why(exchange)[0] == '\0' && exchange_response(exchange)->persists;
	exchange_free(exchange);

	say(0, unasked);
	if (flags & CLOSES_AFTER_FIRST)
		close_server(0);
	exchange = begin_exchange(connections);
	if (count == 1) {
		RULE(persists && unasked.size == 0 && !(flags & CLOSES_AFTER_FIRST));
		if (flags & CLOSES_ON_SECOND) {
			check_request();
			close_server(0);
			RULE(step(exchange) == EXCHANGE_RECEIVING);
			RULE(count == 2);
		}
	}
	answer(exchange, second);
	check_answer(exchange, second);
	exchange_free(exchange);
	connections_free(connections);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct bytes rest, first, unasked;
	char byte;

	if (size < 4)
		return 0;
	rest = (struct bytes){data + 4, size - 4};
	first = cut(&rest, (size_t)data[1] << 8 | data[2]);
	unasked = cut(&rest, data[3]);
	count = 0;
	play(data[0], first, unasked, rest);
	for (size_t i = 0; i < count; i++) {
		/* Nothing is left open, nor anything said that nobody has looked at. */
		RULE(servers[i] < 0 || recv(servers[i], &byte, 1, 0) <= 0);
		close_server(i);
	}
	return 0;
}
