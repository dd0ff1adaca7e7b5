/* SPDX-License-Identifier: MIT */
/* links: ready.c file.c descriptor.c bytes.c certificate.c clock.c log.c ocsp.c libcrypto.c */
/* links: -lcrypto */
/*
 * The index of ready-made responses: a directory in which everything changes all the time, a fork
 * in the middle of a look, and thousands of files, during which a host does what it likes.
 */
#include "../../fetcher/ready.h"

#include "../../fetcher/descriptor.h"
#include "../../fetcher/gate.h"
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
	MANY = 1000,
	/* In one piece of work at the most. */
	NAMES_AT_ONCE = 600,
	READ_AT_ONCE = 10,
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

/*
 * Thousands of files, and what happens whenever the gate is open
 */

static struct crowd {
	char path[128];
	struct ready ready;
	size_t files, entries; /* when the gate was last closed */
	int pieces;
	int descriptors; /* while nothing is being read */
	void (*disturb)(struct crowd *crowd);
} crowd;

/* Thousands of names for two files, about the first certificate and the second. */
static void link_file(int number)
{
	char path[160], known[128];

	name_file(known, number % 2, "");
	snprintf(path, sizeof(path), "%s/%d.ocsp", crowd.path, number);
	CHECK(link(known, path) == 0);
}

static void unlink_file(int number)
{
	char path[160];

	snprintf(path, sizeof(path), "%s/%d.ocsp", crowd.path, number);
	CHECK(unlink(path) == 0);
}

static void begin_piece(void)
{
	crowd.files = crowd.ready.count;
	crowd.entries = crowd.ready.entry_count;
}

static void end_piece(void)
{
	crowd.pieces++;
	CHECK(crowd.ready.count <= crowd.files + NAMES_AT_ONCE);
	CHECK(crowd.ready.entry_count <= crowd.entries + READ_AT_ONCE);
	/* Others need not wait. */
	if (CHECK(ready_lock(&crowd.ready, 0)))
		ready_unlock(&crowd.ready);
	if (crowd.disturb)
		crowd.disturb(&crowd);
}

static const struct gate gate = {.enter = begin_piece, .leave = end_piece};

/* As the thread does it. */
static void look_at_crowd(void)
{
	crypto.gate = &gate;
	crowd.pieces = 0;
	crowd.ready.next_round = 0;
	begin_piece();
	while (ready_look(&crowd.ready, &crypto))
		gate_pause(&gate);
	end_piece();
	crypto.gate = NULL;
	CHECK_EQ(count_descriptors(), crowd.descriptors);
}

/* All that is there, and in the order in which whoever comes anew has it. */
static void check_crowd(int count)
{
	struct ready anew;

	ready_open(&anew, crowd.path);
	while (ready_step(&anew, &crypto))
		;
	CHECK_EQ(anew.count, count);
	CHECK_EQ(crowd.ready.count, count);
	CHECK_EQ(crowd.ready.entry_count, count);
	CHECK_EQ(crowd.ready.sorted, count);
	for (int court = 0; court < COURTS; court++) {
		CHECK(ready_stamp(&anew, serials[court]) != 0);
		CHECK(ready_stamp(&anew, serials[court]) ==
			ready_stamp(&crowd.ready, serials[court]));
	}
	ready_close(&anew);
}

static void gather_crowd(void)
{
	memset(&crowd, 0, sizeof(crowd));
	snprintf(crowd.path, sizeof(crowd.path), "%s-crowd", directory);
	CHECK(mkdir(crowd.path, 0755) == 0);
	show(0, 0, true);
	show(1, 2, true);
	for (int i = 0; i < MANY; i++)
		link_file(i);
	ready_open(&crowd.ready, crowd.path);
	crowd.descriptors = count_descriptors();
}

static void scatter_crowd(int from, int to)
{
	ready_close(&crowd.ready);
	for (int i = from; i < to; i++)
		unlink_file(i);
	CHECK(rmdir(crowd.path) == 0);
}

static void test_thousands_are_read_in_pieces(void)
{
	gather_crowd();
	look_at_crowd();
	check_crowd(MANY);
	CHECK(crowd.pieces > MANY / READ_AT_ONCE);
	/* And forgotten, but for the last two. */
	for (int i = 0; i < MANY - 2; i++)
		unlink_file(i);
	crowd.ready.directory = 0;
	look_at_crowd();
	check_crowd(2);
	scatter_crowd(MANY - 2, MANY);
}

/* What a daemon does at its beginning; and the next file that it opens has the same number. */
static void take_descriptors(struct crowd *all)
{
	int highest = all->descriptors + 4;

	for (int fd = 3; fd < highest; fd++) {
		int other = open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		struct stat is, others;

		/* Only what is not the test's own. */
		if (other >= 0 && fstat(fd, &is) == 0 && fstat(other, &others) == 0 &&
			S_ISDIR(is.st_mode) && is.st_dev != others.st_dev)
			dup3(other, fd, O_CLOEXEC);
		close(other);
	}
}

static void return_descriptors(void)
{
	for (int fd = 3; fd < crowd.descriptors + 4; fd++) {
		struct stat is;

		if (fstat(fd, &is) == 0 && S_ISDIR(is.st_mode))
			close(fd);
	}
}

static void test_a_host_that_takes_the_directorys_number(void)
{
	gather_crowd();
	look_at_crowd();
	link_file(MANY);
	crowd.ready.directory = 0;
	crowd.disturb = take_descriptors;
	crypto.gate = &gate;
	crowd.ready.next_round = 0;
	CHECK(!ready_look(&crowd.ready, &crypto));
	crypto.gate = NULL;
	crowd.disturb = NULL;
	/* The host's directory is open still, and was not taken for ours. */
	CHECK_EQ(count_descriptors(), crowd.descriptors + 1);
	return_descriptors();
	CHECK(!crowd.ready.is_useless);
	CHECK_EQ(crowd.ready.count, MANY);
	CHECK_EQ(crowd.ready.entry_count, MANY);
	look_at_crowd();
	check_crowd(MANY + 1);
	scatter_crowd(0, MANY + 1);
}

/* The numbers of files that are there are those from first to the last. */
static int first, last;

static void change_files(struct crowd *all)
{
	(void)all;
	link_file(last++);
	unlink_file(first++);
}

static void test_names_that_come_and_go_meanwhile(void)
{
	gather_crowd();
	first = 0;
	last = MANY;
	crowd.disturb = change_files;
	look_at_crowd();
	CHECK(first > 2 && crowd.ready.count > 0);
	crowd.disturb = NULL;
	crowd.ready.directory = 0;
	look_at_crowd();
	check_crowd(MANY);
	scatter_crowd(first, last);
}

static void fork_in_between(struct crowd *all)
{
	int status = -1;
	pid_t pid;

	/* While names are read, while they are gone through, while files are read. */
	if (all->pieces != 3 && all->pieces != 6 && all->pieces % 50 != 0)
		return;
	pid = fork();
	if (pid == 0) {
		all->disturb = NULL;
		descriptor_close_all();
		ready_forked(&all->ready);
		if (count_descriptors() != all->descriptors)
			_exit(2);
		all->ready.next_round = 0;
		while (ready_look(&all->ready, &crypto))
			;
		look_at_crowd();
		check_crowd(MANY);
		_exit(check_failures ? 1 : 0);
	}
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_a_child_that_is_made_meanwhile(void)
{
	gather_crowd();
	crowd.disturb = fork_in_between;
	look_at_crowd();
	check_crowd(MANY);
	scatter_crowd(0, MANY);
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
	test_thousands_are_read_in_pieces();
	test_a_host_that_takes_the_directorys_number();
	test_names_that_come_and_go_meanwhile();
	test_a_child_that_is_made_meanwhile();
	test_nothing_is_nothing();
	for (int i = 0; i < NAMES; i++)
		show(i, -1, false);
	CHECK(rmdir(directory) == 0);
	return check_result();
}
