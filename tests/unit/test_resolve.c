/* SPDX-License-Identifier: MIT */
/* links: fetcher/resolve.c fetcher/descriptor.c fetcher/file.c fetcher/bytes.c fetcher/clock.c */
/*
 * The name server is in this program: connect, as this program defines it, leads there what is
 * meant for a name server, and recvfrom says that the answers come from where the question was
 * sent.
 */
#include "../../fetcher/resolve.h"

#include "check.h"
#include "fixtures.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MOST_DESCRIPTORS = 1024 };

static struct sockaddr_in name_server;
static struct sockaddr_storage meant[MOST_DESCRIPTORS]; /* by descriptor */

static bool is_dns(const struct sockaddr *address)
{
	return ((const struct sockaddr_in *)address)->sin_port == htons(53);
}

int connect(int number, const struct sockaddr *address, socklen_t size)
{
	if (number < MOST_DESCRIPTORS && is_dns(address)) {
		memcpy(&meant[number], address, size);
		address = (const struct sockaddr *)&name_server;
		size = sizeof(name_server);
	}
	return (int)syscall(SYS_connect, number, address, size);
}

ssize_t recvfrom(int number, void *restrict to, size_t room, int flags,
	struct sockaddr *restrict from, socklen_t *restrict from_size)
{
	ssize_t size = syscall(SYS_recvfrom, number, to, room, flags, from, from_size);

	if (size > 0 && from && number < MOST_DESCRIPTORS && meant[number].ss_family == AF_INET)
		memcpy(from, &meant[number], sizeof(struct sockaddr_in));
	return size;
}

/*
 * The name server: what it says is in the name that is asked for.
 */

struct reply {
	unsigned char data[512];
	size_t size;
};

static void reply_add(struct reply *reply, const void *data, size_t size)
{
	memcpy(reply->data + reply->size, data, size);
	reply->size += size;
}

static void reply_add_address(struct reply *reply, int type, int last)
{
	/* A pointer to the question's name; type; class IN; a time to live of 60 s; a size. */
	const unsigned char head[] = {
		0xc0, 12, 0, (unsigned char)type, 0, 1, 0, 0, 0, 60, 0, type == 1 ? 4 : 16};
	const unsigned char v4[] = {127, 0, 0, (unsigned char)last};
	const unsigned char v6[] = {
		0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (unsigned char)last};

	reply_add(reply, head, sizeof(head));
	reply_add(reply, type == 1 ? v4 : v6, type == 1 ? sizeof(v4) : sizeof(v6));
	reply->data[7]++;
}

static bool starts_with(const unsigned char *question, const char *label)
{
	size_t size = strlen(label);

	return question[0] == size && memcmp(question + 1, label, size) == 0;
}

/* How often a question came that had come before, of those for IPv6 addresses that nobody answers.
 */
static int repeated;

static void note_repetition(const unsigned char *asked)
{
	static unsigned char known[64][2];
	static int count;

	for (int i = 0; i < count; i++)
		repeated += memcmp(known[i], asked, 2) == 0;
	if (count < 64)
		memcpy(known[count++], asked, 2);
}

static void answer_question(int number)
{
	struct reply reply = {0};
	struct sockaddr_storage asker;
	socklen_t asker_size = sizeof(asker);
	unsigned char asked[512];
	ssize_t size = syscall(
		SYS_recvfrom, number, asked, sizeof(asked), MSG_DONTWAIT, &asker, &asker_size);
	const unsigned char *question = asked + 12;
	size_t end = 12;
	int type;

	if (size < 17 || starts_with(question, "silent"))
		return;
	while (end < (size_t)size && asked[end])
		end += asked[end] + 1U;
	type = asked[end + 2];
	if (type != 1 && starts_with(question, "half")) {
		note_repetition(asked);
		return;
	}
	reply_add(&reply, asked, end + 5);
	memcpy(reply.data + 2, "\x81\x80\0\1\0\0\0\0\0\0", 10);
	for (int i = 1; i <= 6; i++)
		if (starts_with(question, "both") || starts_with(question, "half") ||
			starts_with(question, type == 1 ? "v4" : "v6"))
			reply_add_address(&reply, type, i);
	if (starts_with(question, "missing"))
		reply.data[3] |= 3;
	if (starts_with(question, "refused"))
		reply.data[3] |= 5;
	sendto(number, reply.data, reply.size, 0, (struct sockaddr *)&asker, asker_size);
}

static int open_name_server(void)
{
	socklen_t size = sizeof(name_server);
	int number = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	name_server.sin_family = AF_INET;
	name_server.sin_port = 0;
	name_server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	CHECK(bind(number, (struct sockaddr *)&name_server, size) == 0);
	CHECK(getsockname(number, (struct sockaddr *)&name_server, &size) == 0);
	return number;
}

/*
 * The asking side
 */

struct result {
	int calls;
	struct addresses addresses;
	char why[256];
};

static void take_result(void *argument, const struct addresses *addresses)
{
	struct result *result = argument;

	result->calls++;
	result->addresses = *addresses;
	snprintf(result->why, sizeof(result->why), "%s", addresses->why ? addresses->why : "");
}

static void turn(struct resolver *resolver, int server)
{
	struct pollfd fds[16] = {{server, POLLIN, 0}};
	int timeout = 1000;
	size_t count = resolver_poll(resolver, fds + 1, 15, &timeout);

	for (size_t i = 1; i <= count; i++)
		CHECK(fcntl(fds[i].fd, F_GETFD) & FD_CLOEXEC);
	CHECK(count == 0 || timeout >= 0);
	poll(fds, count + 1, timeout);
	if (fds[0].revents)
		answer_question(server);
	resolver_step(resolver, fds + 1, count);
}

static struct result look_up(const char *host)
{
	struct resolver *resolver = resolver_new();
	int server = open_name_server();
	struct result result = {0};
	time_t give_up = time(NULL) + 20;

	resolver_start(resolver, host, "8080", take_result, &result);
	while (result.calls == 0 && CHECK(time(NULL) < give_up))
		turn(resolver, server);
	CHECK_EQ(resolver_poll(resolver, NULL, 0, &(int){-1}), 0);
	resolver_free(resolver);
	CHECK_EQ(result.calls, 1);
	close(server);
	return result;
}

/* "4" or "6" for each address, in order. */
static void check_families(const struct result *result, const char *wanted, const char *instead)
{
	char families[RESOLVE_ADDRESSES + 1] = "";

	for (size_t i = 0; i < result->addresses.count; i++) {
		const struct sockaddr_storage *address = &result->addresses.list[i].address;
		bool v6 = address->ss_family == AF_INET6;

		families[i] = v6 ? '6' : '4';
		CHECK_EQ(result->addresses.list[i].size,
			v6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in));
		CHECK_EQ(ntohs(v6 ? ((const struct sockaddr_in6 *)address)->sin6_port
				  : ((const struct sockaddr_in *)address)->sin_port),
			8080);
	}
	if (!instead || strcmp(families, instead) != 0)
		CHECK_STR(families, wanted);
	CHECK_STR(result->why, "");
}

static void test_literals(void)
{
	struct result result = look_up("127.0.0.9");
	const struct sockaddr_in *v4 = (struct sockaddr_in *)&result.addresses.list[0].address;
	const struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&result.addresses.list[0].address;
	char text[INET6_ADDRSTRLEN];

	check_families(&result, "4", NULL);
	CHECK_STR(inet_ntop(AF_INET, &v4->sin_addr, text, sizeof(text)), "127.0.0.9");
	result = look_up("2001:db8::9");
	check_families(&result, "6", NULL);
	CHECK_STR(inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof(text)), "2001:db8::9");
}

static void test_names(void)
{
	struct result result;

	result = look_up("v4.test.");
	check_families(&result, "444444", NULL);
	result = look_up("v6.test.");
	check_families(&result, "666666", NULL);
	result = look_up("both.test.");
	check_families(&result, "46464646", "64646464");
	result = look_up("localhost");
	CHECK(result.addresses.count > 0);
}

static void test_names_that_fail(void)
{
	struct result result;

	result = look_up("missing.test.");
	CHECK_EQ(result.addresses.count, 0);
	CHECK_STR(result.why, "the name missing.test. does not exist");
	result = look_up("empty.test.");
	CHECK_EQ(result.addresses.count, 0);
	CHECK_STR(result.why, "the name empty.test. has no address");
	result = look_up("refused.test.");
	CHECK_EQ(result.addresses.count, 0);
	CHECK_STR(result.why, "all name servers refused to look up refused.test.");
	result = look_up("a..b");
	CHECK_EQ(result.addresses.count, 0);
	CHECK_STR(result.why, "a..b is not a possible name");
}

/* RFC 8305, 3: some name servers do not answer when they are asked for IPv6 addresses. */
static void test_a_family_that_nobody_answers_for(void)
{
	enum { TRIES = 3 };

	/* It would ask again if the machine stopped for two seconds just then; not each time. */
	for (int i = 0; i < TRIES && (i == 0 || repeated > 0); i++) {
		struct result result;

		repeated = 0;
		result = look_up("half.test.");
		check_families(&result, "444444", NULL);
	}
	/* c-ares has not waited in vain, nor asked again. */
	CHECK_EQ(repeated, 0);
}

static void test_several_at_once_and_one_cancelled(void)
{
	struct resolver *resolver = resolver_new();
	int server = open_name_server();
	struct result first = {0}, second = {0}, third = {0};
	time_t give_up = time(NULL) + 20;

	resolver_start(resolver, "v4.test.", "8080", take_result, &first);
	resolver_start(resolver, "silent.test.", "8080", take_result, &second);
	resolver_start(resolver, "v6.test.", "8080", take_result, &third);
	while ((!first.calls || !third.calls) && CHECK(time(NULL) < give_up))
		turn(resolver, server);
	check_families(&first, "444444", NULL);
	check_families(&third, "666666", NULL);
	resolver_cancel(resolver, &second);
	CHECK_EQ(resolver_poll(resolver, NULL, 0, &(int){-1}), 0);
	resolver_start(resolver, "v4.test.", "8080", take_result, &first);
	while (first.calls < 2 && CHECK(time(NULL) < give_up))
		turn(resolver, server);
	resolver_free(resolver);
	CHECK_EQ(first.calls, 2);
	CHECK_EQ(second.calls, 0);
	close(server);
}

/* A callback may start the next one, even the last that there is. */
static struct resolver *restarter;

static void start_again(void *argument, const struct addresses *addresses)
{
	(void)addresses;
	resolver_start(restarter, "v6.test.", "8080", take_result, argument);
}

static void test_starting_from_a_callback(void)
{
	int server = open_name_server();
	struct result result = {0};
	time_t give_up = time(NULL) + 20;

	restarter = resolver_new();
	resolver_start(restarter, "v4.test.", "8080", start_again, &result);
	while (!result.calls && CHECK(time(NULL) < give_up))
		turn(restarter, server);
	check_families(&result, "666666", NULL);

	result = (struct result){0};
	resolver_start(restarter, "silent.test.", "8080", start_again, &result);
	resolver_free(restarter);
	CHECK_EQ(result.calls, 1);
	CHECK_STR(result.why, "the resolver is closed");
	close(server);
}

static void test_freeing_calls_back(void)
{
	struct resolver *resolver = resolver_new();
	int server = open_name_server();
	struct result result = {0};

	resolver_start(resolver, "silent.test.", "8080", take_result, &result);
	turn(resolver, server);
	CHECK_EQ(result.calls, 0);
	resolver_free(resolver);
	CHECK_EQ(result.calls, 1);
	CHECK_STR(result.why, "the look-up of silent.test. was given up");
	resolver_free(NULL);
	close(server);
}

/* A host that closes all descriptors and uses the numbers again. */
static void test_stolen_descriptors(void)
{
	struct resolver *resolver = resolver_new();
	int server = open_name_server();
	struct result result = {0};
	struct pollfd fds[16];
	int timeout = -1;
	size_t count;

	resolver_start(resolver, "silent.test.", "8080", take_result, &result);
	count = resolver_poll(resolver, fds, 16, &timeout);
	CHECK(count > 0);
	for (size_t i = 0; i < count; i++) {
		int other = open("/dev/zero", O_RDWR | O_CLOEXEC);

		CHECK(dup2(other, fds[i].fd) == fds[i].fd);
		close(other);
		fds[i].revents = POLLIN | POLLOUT;
	}
	resolver_step(resolver, fds, count);
	resolver_free(resolver);
	CHECK_EQ(result.calls, 1);
	for (size_t i = 0; i < count; i++)
		CHECK(close(fds[i].fd) == 0);
	close(server);
}

int main(void)
{
	int descriptors = count_descriptors();

	test_literals();
	test_names();
	test_names_that_fail();
	test_a_family_that_nobody_answers_for();
	test_several_at_once_and_one_cancelled();
	test_starting_from_a_callback();
	test_freeing_calls_back();
	test_stolen_descriptors();
	CHECK_EQ(count_descriptors(), descriptors);
	return check_result();
}
