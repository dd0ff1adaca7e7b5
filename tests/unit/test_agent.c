/* SPDX-License-Identifier: MIT */
/* links: agent.c bytes.c clock.c descriptor.c */
#include "agent.h"
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

static struct bytes bytes_of(const char *text)
{
	return (struct bytes){(const unsigned char *)text, strlen(text)};
}

static bool is_text(struct bytes bytes, const char *text)
{
	return bytes.size == strlen(text) && memcmp(bytes.data, text, bytes.size) == 0;
}

static void test_questions(void)
{
	struct agent_question question = {true, bytes_of("certificate"), bytes_of("issuer")};
	struct agent_question read = {0};
	struct buffer message = {0};

	CHECK(agent_encode_question(&question, &message));
	CHECK(agent_decode_question(buffer_bytes(&message), &read));
	CHECK(read.only_looks);
	CHECK(is_text(read.certificate, "certificate"));
	CHECK(is_text(read.issuer, "issuer"));
	/* Whatever is cut off or comes after it, it is no question any more. */
	for (size_t size = 0; size < message.size; size++)
		CHECK(!agent_decode_question((struct bytes){message.data, size}, &read));
	CHECK(buffer_append(&message, "x", 1));
	CHECK(!agent_decode_question(buffer_bytes(&message), &read));
	buffer_free(&message);
	question.certificate.size = 0;
	CHECK(agent_encode_question(&question, &message));
	CHECK(!agent_decode_question(buffer_bytes(&message), &read));
	buffer_free(&message);
}

static bool read_answer(const struct agent_answer *answer, struct agent_answer *read)
{
	static struct buffer message;

	buffer_free(&message);
	return agent_encode_answer(answer, &message) &&
	       agent_decode_answer(buffer_bytes(&message), read);
}

static void test_answers(void)
{
	struct agent_answer answer = {AGENT_FAILED, 1795268412701, bytes_of("response"),
		bytes_of("issuer"), bytes_of("it said no")};
	struct agent_answer read = {0};

	CHECK(read_answer(&answer, &read));
	CHECK_EQ(read.status, AGENT_FAILED);
	CHECK_EQ(read.due, 1795268412701);
	CHECK(is_text(read.response, "response"));
	CHECK(is_text(read.issuer, "issuer"));
	CHECK(is_text(read.why, "it said no"));
	answer.due = INT64_MAX;
	CHECK(read_answer(&answer, &read));
	answer.due = -1;
	CHECK(!read_answer(&answer, &read));
	answer.due = 0;
	answer.status = AGENT_STATUS_COUNT;
	CHECK(!read_answer(&answer, &read));
	answer.status = AGENT_HOLDS;
	answer.why = bytes_of("two\nlines");
	CHECK(!read_answer(&answer, &read));
}

static void test_addresses(void)
{
	struct sockaddr_un address;
	char longest[sizeof(address.sun_path) + 1];
	socklen_t size;

	CHECK(agent_address("@name", &address, &size));
	CHECK_EQ(size, offsetof(struct sockaddr_un, sun_path) + 5);
	CHECK(memcmp(address.sun_path, "\0name", 5) == 0);
	CHECK(agent_address("/run/agent", &address, &size));
	CHECK_STR(address.sun_path, "/run/agent");
	CHECK(!agent_address("", &address, &size));
	CHECK(!agent_address("@", &address, &size));
	CHECK(!agent_address("/", &address, &size));
	CHECK(!agent_address("name", &address, &size));
	memset(longest, 'a', sizeof(longest));
	longest[0] = '/';
	longest[sizeof(longest) - 1] = '\0';
	CHECK(!agent_address(longest, &address, &size));
	longest[sizeof(longest) - 2] = '\0';
	CHECK(agent_address(longest, &address, &size));
}

/*
 * A server that does one thing.
 */

static const struct agent_question anything = {false, {(const unsigned char *)"c", 1}, {NULL, 0}};
static char name[64];
static int listener;
static int begun, ended, left, entered;

static void count_begin(void)
{
	begun++;
}

static void count_end(void)
{
	ended++;
}

static void count_leave(void)
{
	left++;
}

static void count_enter(void)
{
	entered++;
}

static void start_listening(void)
{
	struct sockaddr_un address;
	static int number;
	socklen_t size;

	snprintf(name, sizeof(name), "@ocspreload-unit-%d-%d", (int)getpid(), ++number);
	listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	CHECK(agent_address(name, &address, &size));
	CHECK_EQ(bind(listener, (struct sockaddr *)&address, size), 0);
	CHECK_EQ(listen(listener, 4), 0);
}

/* Answers with as many bytes as the argument says. */
static void *answer_one(void *argument)
{
	int number = accept(listener, NULL, NULL);
	unsigned char *bytes = calloc(1, 1 << 20);

	recv(number, bytes, 1 << 20, 0);
	send(number, bytes, (size_t)(uintptr_t)argument, MSG_NOSIGNAL);
	free(bytes);
	close(number);
	return NULL;
}

static size_t ask_for(size_t size)
{
	static const struct agent_manner manner = {
		5000, count_begin, count_end, count_leave, count_enter};
	struct buffer message = {0};
	pthread_t thread;
	size_t got;

	start_listening();
	pthread_create(&thread, NULL, answer_one, (void *)(uintptr_t)size);
	agent_ask(name, &anything, &manner, &message);
	pthread_join(thread, NULL);
	close(listener);
	got = message.size;
	buffer_free(&message);
	return got;
}

/* The lowest number that is free: the same as before if nobody keeps one. */
static int lowest_number(void)
{
	int number = dup(STDERR_FILENO);

	close(number);
	return number;
}

static void test_an_answer_comes_whole_or_not_at_all(void)
{
	int lowest = lowest_number();

	CHECK_EQ(ask_for(1), 1);
	CHECK(agent_is_there());
	CHECK_EQ(ask_for(4096), 4096);
	CHECK_EQ(ask_for(4097), 4097);
	CHECK_EQ(ask_for(AGENT_MESSAGE_LIMIT), AGENT_MESSAGE_LIMIT);
	CHECK_EQ(ask_for(AGENT_MESSAGE_LIMIT + 1), 0);
	CHECK(!agent_is_there());
	CHECK_EQ(ask_for(0), 0);
	CHECK_EQ(lowest_number(), lowest);
	CHECK(begun == 6 && ended == 6 && left == 6 && entered == 6);
}

static void test_nobody_there_costs_no_wait(void)
{
	const struct agent_manner manner = {.patience = 60000};
	struct buffer message = {0};

	CHECK(!agent_ask("@ocspreload-nobody-is-called-so", &anything, &manner, &message));
	CHECK(!agent_ask("/nonexistent/agent", &anything, &manner, &message));
	CHECK_EQ(message.size, 0);
}

/* The host closes and reuses the number while the agent takes its time. */
static int thief = -1;

static void steal(void)
{
	int fds[2];

	CHECK_EQ(pipe(fds), 0);
	CHECK(dup2(fds[0], thief) == thief);
	CHECK_EQ(write(fds[1], "x", 1), 1);
	close(fds[0]);
	close(fds[1]);
}

static void test_a_number_that_the_host_has_taken_is_left_to_it(void)
{
	const struct agent_manner manner = {5000, count_begin, count_end, steal, count_enter};
	struct buffer message = {0};
	char byte;

	start_listening();
	thief = lowest_number();
	CHECK(!agent_ask(name, &anything, &manner, &message));
	/* Neither read from nor closed. */
	CHECK_EQ(read(thief, &byte, 1), 1);
	CHECK_EQ(close(thief), 0);
	close(listener);
}

/* Last: the agent is left alone for a while after that. */
static void test_silence_ends_and_is_not_asked_again(void)
{
	/* It is left alone for some times as long: even where the machine stops between the two. */
	const struct agent_manner manner = {.patience = 2000};
	struct buffer message = {0};
	int number;

	start_listening();
	CHECK(!agent_ask(name, &anything, &manner, &message));
	number = accept(listener, NULL, NULL);
	CHECK(number >= 0);
	CHECK(!agent_ask(name, &anything, &manner, &message));
	close(number);
	/* Nobody came. */
	CHECK_EQ(fcntl(listener, F_SETFL, O_NONBLOCK), 0);
	CHECK(accept(listener, NULL, NULL) < 0 && errno == EAGAIN);
	close(listener);
}

int main(void)
{
	test_questions();
	test_answers();
	test_addresses();
	test_an_answer_comes_whole_or_not_at_all();
	test_nobody_there_costs_no_wait();
	test_a_number_that_the_host_has_taken_is_left_to_it();
	test_silence_ends_and_is_not_asked_again();
	return check_result();
}
