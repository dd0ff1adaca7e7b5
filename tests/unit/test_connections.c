/* SPDX-License-Identifier: MIT */
/* links: connections.c descriptor.c http.c freshness.c bytes.c clock.c */
/*
 * Each connection is a pair of sockets, of which the test holds the server's end. Time is what the
 * test says.
 */
#include "../../fetcher/connections.h"

#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { START = 1000000, ANY = ~0U };

static const struct url a = {"a.test", "80", "/", "a.test"};

static struct connections *pool;
static struct connection out;

/* Keeps a connection to peer that was opened at opened, and returns the server's end. */
static int keep_of(
	const struct url *peer, enum address_kind kind, int64_t opened, struct descriptor *kept)
{
	struct connection connection = {.kind = kind, .opened = opened};
	int pair[2];

	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
	CHECK(descriptor_adopt(&connection.socket, pair[0]));
	snprintf(connection.endpoint, sizeof(connection.endpoint), "192.0.2.1:%d", pair[0]);
	connections_keep(pool, peer, &connection, START);
	CHECK_EQ(connection.socket.number, -1);
	if (kept)
		kept->number = pair[0];
	return pair[1];
}

static int keep(void)
{
	return keep_of(&a, ADDRESS_PUBLIC, START, NULL);
}

static bool take_at(const struct url *peer, unsigned kinds, int64_t now)
{
	return connections_take(pool, peer, kinds, now, &out);
}

static bool take(void)
{
	return take_at(&a, ANY, START);
}

/* True if nobody on this side has the other end open any more. */
static bool is_closed(int server)
{
	char byte;
	ssize_t size = recv(server, &byte, 1, MSG_PEEK);

	return size == 0 || (size < 0 && errno != EAGAIN);
}

static void begin(void)
{
	pool = connections_new();
}

static void end(int server)
{
	descriptor_close(&out.socket);
	connections_free(pool);
	CHECK(is_closed(server));
	close(server);
}

static void test_one_is_taken_as_it_was_kept(void)
{
	struct descriptor kept;
	char endpoint[ENDPOINT_SIZE];
	struct connection other;
	int server;

	begin();
	CHECK(!take());
	server = keep_of(&a, ADDRESS_PRIVATE, START - 5, &kept);
	snprintf(endpoint, sizeof(endpoint), "192.0.2.1:%d", kept.number);
	CHECK(take());
	CHECK_EQ(out.socket.number, kept.number);
	CHECK(descriptor_check(&out.socket));
	CHECK_EQ(out.kind, ADDRESS_PRIVATE);
	CHECK_EQ(out.opened, START - 5);
	CHECK_STR(out.endpoint, endpoint);
	/* And by nobody else. */
	CHECK(!connections_take(pool, &a, ANY, START, &other));
	CHECK(!is_closed(server));
	end(server);
}

static void test_peers_are_told_apart(void)
{
	static const struct url others[] = {
		{"b.test", "80", "/", "b.test"},
		{"a.test", "81", "/", "a.test:81"},
		{"a.test.", "80", "/", "a.test."},
		{"a.tes", "80", "/", "a.tes"},
		{"", "80", "/", ""},
	};
	static const struct url same = {"A.Test", "80", "/another/path", "A.Test"};
	int server;

	begin();
	server = keep();
	for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++)
		CHECK(!take_at(&others[i], ANY, START));
	CHECK(take_at(&same, ANY, START));
	end(server);
}

/* As far as somebody else's wish may lead, and no further, also where it led before. */
static void test_kinds_are_told_apart(void)
{
	unsigned public = ADDRESS_BIT(ADDRESS_PUBLIC);
	int server;

	begin();
	server = keep_of(&a, ADDRESS_LOOPBACK, START, NULL);
	CHECK(!take_at(&a, public, START));
	CHECK(!take_at(&a, public | ADDRESS_BIT(ADDRESS_PRIVATE), START));
	CHECK(!take_at(&a, public | ADDRESS_BIT(ADDRESS_LINK_LOCAL), START));
	CHECK(!is_closed(server));
	CHECK(take_at(&a, public | ADDRESS_BIT(ADDRESS_LOOPBACK), START));
	end(server);
}

static void test_one_that_is_old_is_closed(void)
{
	int server;

	begin();
	server = keep();
	CHECK(!take_at(&a, ANY, START + CONNECTION_LIFE));
	end(server);

	begin();
	server = keep();
	CHECK(take_at(&a, ANY, START + CONNECTION_LIFE - 1));
	end(server);

	begin();
	server = keep();
	connections_sweep(pool, true, START + CONNECTION_LIFE - 1);
	CHECK(!is_closed(server));
	connections_sweep(pool, true, START + CONNECTION_LIFE);
	CHECK(is_closed(server));
	end(server);

	begin();
	server = keep_of(&a, ADDRESS_PUBLIC, START - CONNECTION_LIFE, NULL);
	CHECK(is_closed(server));
	end(server);
}

/* By the peer: with something to say that nobody asked for, or without. */
static void test_one_that_has_ended_is_closed(void)
{
	int server;

	for (int by_sweep = 0; by_sweep < 2; by_sweep++) {
		begin();
		server = keep();
		CHECK(send(server, "H", 1, MSG_NOSIGNAL) == 1);
		if (by_sweep)
			connections_sweep(pool, true, START);
		else
			CHECK(!take());
		CHECK(is_closed(server));
		end(server);

		begin();
		server = keep();
		CHECK(shutdown(server, SHUT_WR) == 0);
		if (by_sweep)
			connections_sweep(pool, true, START);
		else
			CHECK(!take());
		CHECK(is_closed(server));
		end(server);
	}
}

/* The one beside it is still good. */
static void test_a_dead_one_hides_no_living_one(void)
{
	int dead, living;
	char byte;

	begin();
	dead = keep();
	living = keep();
	close(dead);
	CHECK(take());
	CHECK(send(out.socket.number, "x", 1, MSG_NOSIGNAL) == 1);
	CHECK(!is_closed(living));
	CHECK(recv(living, &byte, 1, 0) == 1);
	end(living);
}

static void test_one_that_nobody_takes_is_closed(void)
{
	int server;

	begin();
	server = keep();
	connections_sweep(pool, false, START);
	CHECK(!is_closed(server));
	connections_sweep(pool, false, START);
	CHECK(is_closed(server));
	end(server);
}

static int count_open(const int *servers, int count)
{
	int open = 0;

	for (int i = 0; i < count; i++)
		open += !is_closed(servers[i]);
	return open;
}

/* More is waiting, perhaps not for all of them. */
static void test_only_a_few_of_a_peer_wait_for_more(void)
{
	static const struct url b = {"b.test", "80", "/", "b.test"};
	int servers[2 * CONNECTIONS_SPARE + 2];
	int count = 0;

	begin();
	for (int i = 0; i < CONNECTIONS_SPARE + 1; i++) {
		servers[count++] = keep();
		servers[count++] = keep_of(&b, ADDRESS_PUBLIC, START, NULL);
	}
	connections_sweep(pool, true, START);
	CHECK_EQ(count_open(servers, count), count);
	connections_sweep(pool, true, START);
	CHECK_EQ(count_open(servers, count), 2 * CONNECTIONS_SPARE);
	for (int i = 0; i < CONNECTIONS_SPARE; i++) {
		CHECK(take());
		descriptor_close(&out.socket);
	}
	CHECK(!take());
	CHECK_EQ(count_open(servers, count), CONNECTIONS_SPARE);
	/* One that has just come back is not one that was left. */
	close(servers[0]);
	servers[0] = keep();
	connections_sweep(pool, false, START);
	CHECK_EQ(count_open(servers, count), 1);
	connections_close(pool);
	CHECK_EQ(count_open(servers, count), 0);
	for (int i = 1; i < count; i++)
		close(servers[i]);
	end(servers[0]);
}

static void test_there_is_an_end_of_room(void)
{
	int servers[CONNECTIONS + 1];

	begin();
	for (int i = 0; i <= CONNECTIONS; i++)
		servers[i] = keep();
	CHECK_EQ(count_open(servers, CONNECTIONS + 1), CONNECTIONS);
	connections_close(pool);
	CHECK_EQ(count_open(servers, CONNECTIONS + 1), 0);
	CHECK(!take());
	for (int i = 1; i <= CONNECTIONS; i++)
		close(servers[i]);
	end(servers[0]);
	connections_sweep(NULL, false, START);
	connections_close(NULL);
	connections_free(NULL);
}

/* Its number is free, or another file's by now; that one is neither used nor closed. */
static void test_one_that_the_host_has_closed(void)
{
	for (int way = 0; way < 4; way++) {
		bool reused = way & 1, by_sweep = way & 2;
		struct descriptor kept;
		int server, other = -1;

		begin();
		server = keep_of(&a, ADDRESS_PUBLIC, START, &kept);
		if (reused) {
			other = open("/dev/null", O_RDWR | O_CLOEXEC);
			CHECK(dup2(other, kept.number) == kept.number);
			close(other);
		} else {
			close(kept.number);
		}
		CHECK(is_closed(server));
		if (by_sweep)
			connections_sweep(pool, true, START);
		CHECK(!take());
		connections_close(pool);
		CHECK_EQ(fcntl(kept.number, F_GETFD) >= 0, reused);
		if (reused)
			close(kept.number);
		end(server);
	}
}

/* What a child of fork inherits it lets go of, and the parent's is as it was. */
static void test_a_fork(void)
{
	int server, status = 1;
	pid_t child;

	begin();
	server = keep();
	child = fork();
	if (child == 0) {
		descriptor_close_all();
		_exit(take() ? 1 : 0);
	}
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	CHECK(!is_closed(server));
	CHECK(take());
	end(server);
}

static struct sockaddr_storage address_at(int number)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(80)};
	struct sockaddr_storage address = {0};

	v4.sin_addr.s_addr = htonl(0xc0000200U + (unsigned)number);
	memcpy(&address, &v4, sizeof(v4));
	return address;
}

static int64_t last_silence(int number)
{
	struct sockaddr_storage address = address_at(number);

	return connections_last_silence(pool, &address);
}

static void note_silence(int number, int64_t now)
{
	struct sockaddr_storage address = address_at(number);

	connections_note_silence(pool, &address, now);
}

static void test_the_latest_silences_are_remembered(void)
{
	struct sockaddr_storage other_port = address_at(1);

	begin();
	CHECK_EQ(last_silence(1), 0);
	for (int i = 1; i <= CONNECTIONS_SILENT; i++)
		note_silence(i, START + i);
	for (int i = 1; i <= CONNECTIONS_SILENT; i++)
		CHECK_EQ(last_silence(i), START + i);
	((struct sockaddr_in *)&other_port)->sin_port = htons(8080);
	CHECK_EQ(connections_last_silence(pool, &other_port), 0);
	/* Again, which takes no place; and another, which takes that of the longest ago. */
	note_silence(1, START + 100);
	note_silence(99, START + 101);
	CHECK_EQ(last_silence(1), START + 100);
	CHECK_EQ(last_silence(2), 0);
	CHECK_EQ(last_silence(3), START + 3);
	CHECK_EQ(last_silence(99), START + 101);
	connections_free(pool);
}

int main(void)
{
	out.socket.number = -1;
	test_one_is_taken_as_it_was_kept();
	test_peers_are_told_apart();
	test_kinds_are_told_apart();
	test_one_that_is_old_is_closed();
	test_one_that_has_ended_is_closed();
	test_a_dead_one_hides_no_living_one();
	test_one_that_nobody_takes_is_closed();
	test_only_a_few_of_a_peer_wait_for_more();
	test_there_is_an_end_of_room();
	test_one_that_the_host_has_closed();
	test_a_fork();
	test_the_latest_silences_are_remembered();
	return check_result();
}
