/* SPDX-License-Identifier: MIT */
/*
 * What is read from files: a stored response and a ready-made one. Input: the file. Of the store
 * comes what is in it, whole, or nothing. A ready-made response is found for exactly the
 * certificates that it is about, and judged as if it had come from the network; an index that has
 * seen every file before this one, in the same place, finds the same as a new one.
 */
#include "cache.h"
#include "court.h"
#include "log.h"
#include "ocsp.h"
#include "ready.h"
#include "store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static char directory[] = "/dev/shm/fuzz_store-XXXXXX";
static char file[sizeof(directory) + 2 * CERTIFICATE_KEY_SIZE + sizeof("/.der")];
static struct store store;
static struct ready seasoned;
static uint64_t serials[COURTS];
static const unsigned char key[CERTIFICATE_KEY_SIZE];

/* In place of log.c. */
void log_write(enum log_level level, const char *format, ...)
{
	RULE(level <= LOG_LEVEL_DEBUG && format);
}

static void clean_up(void)
{
	unlink(file);
	rmdir(directory);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct config config = {.use_store = true, .store = directory};

	(void)argc;
	(void)argv;
	open_courts();
	RULE(mkdtemp(directory) != NULL);
	store_open(&store, &config);
	RULE(store.writable);
	RULE(store_write(&store, key, buffer_bytes(&courts[0].leaf)));
	snprintf(file, sizeof(file), "%s/%064d.der", directory, 0);
	RULE(access(file, R_OK) == 0);
	atexit(clean_up);
	ready_open(&seasoned, directory);
	for (int court = 0; court < COURTS; court++)
		serials[court] = ready_serial(&crypto, buffer_bytes(&courts[court].leaf));
	return 0;
}

static void write_file(struct bytes content)
{
	int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	RULE(fd >= 0 && write(fd, content.data, content.size) == (ssize_t)content.size);
	close(fd);
}

static void check_store(struct bytes content)
{
	struct stored stored;
	bool is_response = content.size > 0 && content.size <= CACHE_RESPONSE_LIMIT;

	RULE(store_read(&store, key, &stored) == is_response);
	if (is_response)
		RULE(is_same(buffer_bytes(&stored.response), content));
	buffer_free(&stored.response);
}

/* The lock is held by who calls. */
static void look(struct ready *ready)
{
	ready->next_round = 0;
	while (ready_step(ready, &crypto))
		;
}

static struct judgement judge(struct bytes content, int court)
{
	return ocsp_judge(&crypto, content, buffer_bytes(&courts[court].leaf),
		buffer_bytes(&courts[court].issuer), moment);
}

static void check_answer(struct ready *ready, struct bytes content, int court)
{
	struct judgement wanted = judge(content, court);
	struct ready_answer answer;
	bool found = ready_judge(ready, &crypto, serials[court], buffer_bytes(&courts[court].leaf),
		buffer_bytes(&courts[court].issuer), moment, &answer);

	/* Once it is known whom it is about, it must not be lost. */
	if (wanted.verdict <= VERDICT_UNKNOWN)
		RULE(found);
	if (found) {
		RULE(ready_stamp(ready, serials[court]) != 0);
		RULE(answer.judgement.verdict == wanted.verdict);
		RULE(answer.judgement.verdict != VERDICT_OTHER_CERTIFICATE);
		RULE(answer.judgement.usable_until == wanted.usable_until);
		RULE(is_same(buffer_bytes(&answer.response), content));
		RULE(strcmp(answer.path, file) == 0);
	}
	buffer_free(&answer.response);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct bytes content = {data, size};
	struct ready fresh;

	write_file(content);
	check_store(content);
	ready_open(&fresh, file);
	RULE(ready_lock(&fresh, 0) && ready_lock(&seasoned, 0));
	look(&fresh);
	look(&seasoned);
	for (int court = 0; court < COURTS; court++) {
		check_answer(&fresh, content, court);
		check_answer(&seasoned, content, court);
		RULE(ready_stamp(&fresh, serials[court]) == ready_stamp(&seasoned, serials[court]));
	}
	RULE(ERR_peek_error() == 0);
	ready_unlock(&seasoned);
	ready_unlock(&fresh);
	ready_close(&fresh);
	return 0;
}
