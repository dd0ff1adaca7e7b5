/* SPDX-License-Identifier: MIT */
/* links: ready.c file.c bytes.c certificate.c clock.c log.c ocsp.c libcrypto.c -lcrypto */
/*
 * The index of ready-made responses: a directory in which everything changes all the time, and a
 * fork in the middle of a look.
 */
#include "../../fetcher/ready.h"

#include "../../fetcher/log.h"
#include "../fuzz/court.h"
#include "check.h"
#include "fixtures.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* What may be in a file: about the first certificate, the second, both or none. */
static const struct content {
	const char *path;
	bool is_about[COURTS];
} contents[] = {
	{"tests/fuzz/corpus/store/good-ec-direct", {true, false}},
	{"tests/fuzz/corpus/store/good-ec-several", {true, false}},
	{"tests/fuzz/corpus/store/good-rsa-delegate", {false, true}},
	{"tests/fuzz/corpus/store/sibling", {false, false}},
	{"tests/fuzz/corpus/store/error", {false, false}},
	{"tests/fuzz/court/ec-leaf.der", {false, false}},
};

enum {
	CONTENTS = sizeof(contents) / sizeof(*contents),
	NAMES = 300, /* several steps' worth */
	ROUNDS = 100,
};

static char directory[] = "/tmp/test_ready-XXXXXX";
static struct buffer bodies[CONTENTS];
static int shown[NAMES]; /* a number of contents, or -1 */
static uint64_t serials[COURTS];

static void name_file(char path[static 128], int number, const char *prefix)
{
	snprintf(path, 128, "%s/%sfile-%d.der", directory, prefix, number);
}

static void write_file(const char *path, const struct buffer *body)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	CHECK(fd >= 0 && write(fd, body->data, body->size) == (ssize_t)body->size);
	close(fd);
}

static void show(int number, int content, bool by_rename)
{
	char path[128], hidden[128];

	name_file(path, number, "");
	name_file(hidden, number, ".");
	shown[number] = content;
	if (content < 0) {
		unlink(path);
	} else if (by_rename) {
		write_file(hidden, &bodies[content]);
		CHECK(rename(hidden, path) == 0);
	} else {
		write_file(path, &bodies[content]);
	}
}

static void look(struct ready *ready)
{
	ready->next_round = 0;
	while (ready_step(ready, &crypto))
		;
}

/* How many files there are about a certificate, and what can be found of them. */
static void check_found(struct ready *ready, int court)
{
	struct ready_answer answer;
	bool wanted = false, found;

	for (int i = 0; i < NAMES; i++)
		wanted = wanted || (shown[i] >= 0 && contents[shown[i]].is_about[court]);
	CHECK_EQ(ready_stamp(ready, serials[court]) != 0, wanted);
	found = ready_judge(ready, &crypto, serials[court], buffer_bytes(&courts[court].leaf),
		buffer_bytes(&courts[court].issuer), moment, &answer);
	CHECK_EQ(found, wanted);
	if (found) {
		CHECK_EQ(answer.judgement.verdict, VERDICT_GOOD);
		CHECK_EQ(access(answer.path, R_OK) == 0 ? 0 : errno, 0);
	}
	buffer_free(&answer.response);
}

static void test_what_changes_is_seen(void)
{
	struct ready ready;

	for (int i = 0; i < NAMES; i++)
		show(i, -1, false);
	ready_open(&ready, directory);
	CHECK(ready_lock(&ready, 0));
	for (int round = 0; round < ROUNDS; round++) {
		/* From nearly empty to full and back, so that the last one goes, too. */
		int busy = round % 50 < 25 ? 40 : NAMES;

		for (int i = 0; i < busy; i++)
			show((int)draw(NAMES), round % 50 < 25 ? (int)draw(CONTENTS) : -1,
				draw(2) == 0);
		look(&ready);
		for (int court = 0; court < COURTS; court++)
			check_found(&ready, court);
	}
	ready_unlock(&ready);
	ready_close(&ready);
}

static int run_child(struct ready *ready, bool look_first)
{
	ready_forked(ready);
	if (!ready_lock(ready, 0))
		return 1;
	if (look_first)
		look(ready);
	return ready_stamp(ready, serials[0]) != 0 ? 0 : 2;
}

static int fork_one(struct ready *ready, bool look_first)
{
	int status = -1;
	pid_t pid = fork();

	if (pid == 0)
		_exit(run_child(ready, look_first));
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void test_a_child_has_what_its_parent_had(void)
{
	struct ready ready;

	show(0, 0, true);
	ready_open(&ready, directory);
	CHECK(ready_lock(&ready, 0));
	look(&ready);
	/* In the middle of something: it is not there, but can be read again. */
	CHECK_EQ(fork_one(&ready, false), 2);
	CHECK_EQ(fork_one(&ready, true), 0);
	ready_unlock(&ready);
	CHECK_EQ(fork_one(&ready, false), 0);
	ready_close(&ready);
}

/* Returns its argument if it could lock it. */
static void *try_lock(void *argument)
{
	return ready_lock(argument, 0) || ready_lock(argument, 50) ? argument : NULL;
}

static void test_who_finds_it_locked_goes_on(void)
{
	struct ready ready;
	void *locked = &ready;
	pthread_t other;

	ready_open(&ready, directory);
	CHECK(ready_lock(&ready, 0));
	CHECK(pthread_create(&other, NULL, try_lock, &ready) == 0);
	pthread_join(other, &locked);
	CHECK(!locked);
	ready_unlock(&ready);
	ready_close(&ready);
}

static void test_what_cannot_be_seen_is_not_forgotten(void)
{
	struct ready ready;
	char elsewhere[128], path[PATH_MAX];
	uint64_t before;

	show(0, 0, true);
	ready_open(&ready, directory);
	CHECK(ready_lock(&ready, 0));
	look(&ready);
	before = ready_stamp(&ready, serials[0]);
	CHECK(before != 0);
	snprintf(elsewhere, sizeof(elsewhere), "%s-moved", directory);
	CHECK(rename(directory, elsewhere) == 0);
	look(&ready);
	CHECK(ready_stamp(&ready, serials[0]) == 0);
	ready_place(&ready, serials[0], path);
	CHECK(strncmp(path, directory, strlen(directory)) == 0 && strlen(path) > strlen(directory));
	CHECK(rename(elsewhere, directory) == 0);
	look(&ready);
	CHECK(ready_stamp(&ready, serials[0]) == before);
	ready_unlock(&ready);
	ready_close(&ready);
}

static void test_nothing_is_nothing(void)
{
	struct ready ready;

	ready_open(&ready, NULL);
	CHECK(!ready_lock(&ready, 0));
	CHECK(!ready_lock(&ready, 10));
	ready_forked(&ready);
	ready_close(&ready);
}

int main(void)
{
	log_open("stderr", LOG_LEVEL_ERROR);
	open_courts();
	CHECK(mkdtemp(directory) != NULL);
	for (int i = 0; i < CONTENTS; i++)
		read_whole(contents[i].path, &bodies[i]);
	for (int court = 0; court < COURTS; court++)
		serials[court] = ready_serial(&crypto, buffer_bytes(&courts[court].leaf));
	CHECK(serials[0] != serials[1]);
	test_what_changes_is_seen();
	test_a_child_has_what_its_parent_had();
	test_who_finds_it_locked_goes_on();
	test_what_cannot_be_seen_is_not_forgotten();
	test_nothing_is_nothing();
	for (int i = 0; i < NAMES; i++)
		show(i, -1, false);
	CHECK(rmdir(directory) == 0);
	return check_result();
}
