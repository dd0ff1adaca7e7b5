/* SPDX-License-Identifier: MIT */
/* links: fetcher/cache.c fetcher/clock.c */
#include "../../fetcher/cache.h"
#include "../../fetcher/clock.h"
#include "check.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	PATIENCE = 20000, /* milliseconds that anything may take before it counts as never */
	PUBLICATIONS = 20000,
	READERS = 3, /* threads, and processes, each */
	KILLS = 100,
};

static const int64_t far_future = INT64_MAX;

/* What the processes of a test tell each other. */
struct shared {
	_Atomic uint32_t published;
	_Atomic uint32_t reading;
	_Atomic uint32_t reads;
	_Atomic uint32_t torn;
	_Atomic uint32_t missed;
	atomic_bool done;
};

static struct shared *map_shared(void)
{
	struct shared *shared = mmap(
		NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (shared == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	return shared;
}

static struct cache *make_cache(void)
{
	struct cache *cache = cache_create();

	if (!CHECK(cache))
		exit(1);
	return cache;
}

/* Not under qemu-user: there a dead owner's mutex stays locked for ever. */
static bool kernel_knows_robust_mutexes(void)
{
	void *head;
	size_t size;

	return syscall(SYS_get_robust_list, 0, &head, &size) == 0;
}

static struct certificate make_certificate(unsigned number, unsigned char *der, size_t size)
{
	struct certificate certificate = {.der = {der, size, size}};

	/* Numbers that differ by a multiple of the buckets' number share one. */
	memcpy(certificate.key, &number, sizeof(number));
	certificate.subject = number;
	certificate.issuer = 1;
	memset(der, (int)number, size);
	snprintf(certificate.label, sizeof(certificate.label), "number %u", number);
	return certificate;
}

static struct slot *add_number(struct cache *cache, unsigned number)
{
	unsigned char der[100];
	struct certificate certificate = make_certificate(number, der, sizeof(der));

	return cache_add(cache, &certificate, "http://ocsp.example/", 1000 + number);
}

static struct slot *find_number(struct cache *cache, unsigned number)
{
	unsigned char key[CERTIFICATE_KEY_SIZE] = {0};

	memcpy(key, &number, sizeof(number));
	return cache_find(cache, key);
}

static bool slot_is_whole(const struct slot *slot)
{
	char label[CERTIFICATE_LABEL_SIZE];
	unsigned number;

	if (!slot)
		return false;
	memcpy(&number, slot->key, sizeof(number));
	snprintf(label, sizeof(label), "number %u", number);
	for (size_t i = 0; i < slot->certificate.size; i++)
		if (slot->certificate.data[i] != (unsigned char)number)
			return false;
	return slot->certificate.size == 100 && strcmp(slot->label, label) == 0 &&
	       strcmp(slot->responders, "http://ocsp.example/") == 0;
}

static bool publish(struct cache *cache, struct slot *slot, const void *data, size_t size)
{
	return cache_publish(cache, slot, (struct bytes){data, size}, 10, far_future, 20) ==
	       CACHE_DONE;
}

static void test_a_certificate_has_one_slot(void)
{
	struct cache *cache = make_cache();
	struct slot *slot = add_number(cache, 7);

	CHECK(slot);
	CHECK(slot_is_whole(slot));
	CHECK_EQ(slot->registered, 1007);
	CHECK_EQ(slot->state, SLOT_PENDING);
	CHECK(add_number(cache, 7) == slot);
	CHECK(find_number(cache, 7) == slot);
	CHECK(!find_number(cache, 8));
	CHECK_EQ(cache_slot_count(cache), 1);
	CHECK(cache_slot(cache, 0) == slot);
	cache_destroy(cache);
}

static void test_a_full_cache_refuses_and_keeps_what_it_has(void)
{
	struct cache *cache = make_cache();
	unsigned count = 0, missing = 0;

	while (count < 1000000 && add_number(cache, count * 5))
		count++;
	CHECK(count >= 10000);
	CHECK_EQ(cache_slot_count(cache), count);
	for (unsigned i = 0; i < count; i++) {
		struct slot *slot = find_number(cache, i * 5);

		missing += slot != cache_slot(cache, i) || !slot_is_whole(slot);
	}
	CHECK_EQ(missing, 0);
	CHECK(add_number(cache, 0) == cache_slot(cache, 0));
	CHECK(!add_number(cache, count * 5));
	cache_destroy(cache);
}

static void test_a_cache_without_memory_refuses_and_keeps_what_it_has(void)
{
	static unsigned char der[1 << 20];
	struct cache *cache = make_cache();
	struct slot *slot = add_number(cache, 1);
	struct certificate certificate = make_certificate(2, der, sizeof(der));
	unsigned char out[16];

	CHECK(publish(cache, slot, der, 10));
	for (unsigned i = 2; i < 1000 && cache_add(cache, &certificate, "http://a/", 0); i++)
		certificate = make_certificate(i + 1, der, sizeof(der));
	CHECK(cache_slot_count(cache) < 999);
	CHECK(!cache_add_issuer(cache, &certificate));
	/* What is left of the memory after that is less than a certificate, but may do for some. */
	while (add_number(cache, 100000 + (unsigned)cache_slot_count(cache)))
		;
	CHECK(!publish(cache, slot, der, CACHE_RESPONSE_LIMIT));
	CHECK_EQ(cache_read(slot, 0, out, sizeof(out)), 10);
	cache_destroy(cache);
}

static void test_issuers_are_kept_once_and_in_order(void)
{
	struct cache *cache = make_cache();
	unsigned char der[10];
	unsigned count = 0;

	CHECK_EQ(cache_issuer_count(cache), 0);
	for (;;) {
		struct certificate certificate = make_certificate(count, der, sizeof(der));

		if (count == 100000 || !cache_add_issuer(cache, &certificate))
			break;
		count++;
		if (count > 3)
			continue;
		CHECK(cache_has_news(cache));
		cache_sleep(cache, PATIENCE);
		CHECK(!cache_has_news(cache));
		CHECK(cache_add_issuer(cache, &certificate));
		CHECK(!cache_has_news(cache));
		CHECK(cache_keep_issuer(cache, &certificate) == cache_issuer(cache, count - 1));
	}
	CHECK(count >= 1000);
	CHECK_EQ(cache_issuer_count(cache), count);
	for (unsigned i = 0; i < 10; i++)
		CHECK_EQ(cache_issuer(cache, i)->der.data[5], i);
	cache_destroy(cache);
}

static void test_a_response_is_read_until_its_time_is_over(void)
{
	static unsigned char large[CACHE_RESPONSE_LIMIT + 1], out[CACHE_RESPONSE_LIMIT];
	struct bytes first = {(const unsigned char *)"first", 5};
	struct cache *cache = make_cache();
	struct slot *slot = add_number(cache, 1);

	CHECK_EQ(cache_read(slot, 0, out, sizeof(out)), 0);
	CHECK_EQ(cache_usable_until(slot), 0);
	CHECK_EQ(cache_publish(cache, slot, first, 10, 100, 20), CACHE_DONE);
	CHECK_EQ(slot->state, SLOT_GOOD);
	CHECK_EQ(cache_usable_until(slot), 100);
	CHECK_EQ(cache_read(slot, 99, out, sizeof(out)), 5);
	CHECK(memcmp(out, "first", 5) == 0);
	CHECK_EQ(cache_read(slot, 100, out, sizeof(out)), 0);
	/* Asked for its size. */
	out[0] = 'x';
	CHECK_EQ(cache_read(slot, 99, out, 4), 5);
	CHECK_EQ(out[0], 'x');

	CHECK(!publish(cache, slot, large, sizeof(large)));
	CHECK(!publish(cache, slot, large, 0));
	CHECK_EQ(cache_read(slot, 99, out, sizeof(out)), 5);
	memset(large, 'L', sizeof(large));
	for (size_t size = 4090; size <= CACHE_RESPONSE_LIMIT; size += size < 4100 ? 1 : 10239) {
		memset(out, 0, sizeof(out));
		CHECK(publish(cache, slot, large, size));
		CHECK_EQ(cache_read(slot, 199, out, sizeof(out)), size);
		CHECK(memcmp(out, large, size) == 0);
	}
	CHECK(publish(cache, slot, large, 3));
	CHECK_EQ(cache_read(slot, 299, out, sizeof(out)), 3);
	cache_destroy(cache);
}

/* The wall clock was set back: what it says of this response is not to be believed. */
static void test_a_response_of_tomorrow_is_not_read(void)
{
	struct bytes response = {(const unsigned char *)"response", 8};
	struct cache *cache = make_cache();
	struct slot *slot = add_number(cache, 1);
	unsigned char out[100];

	CHECK_EQ(cache_publish(cache, slot, response, 10000, 20000, 10000), CACHE_DONE);
	CHECK_EQ(cache_read(slot, 10000, out, sizeof(out)), 8);
	/* A responder's clock may be five minutes ahead. */
	CHECK_EQ(cache_read(slot, 9700, out, sizeof(out)), 8);
	CHECK_EQ(cache_read(slot, 9699, out, sizeof(out)), 0);
	CHECK_EQ(cache_read(slot, 19999, out, sizeof(out)), 8);
	cache_destroy(cache);
}

/* With certificates and responses of the size that delegated signers with RSA keys give them. */
static void test_ten_thousand_certificates_have_room(void)
{
	enum { CERTIFICATES = 10000, REFRESHES = 10 };
	static unsigned char der[1500], response[2000];
	struct cache *cache = make_cache();
	int refused = 0;

	for (unsigned i = 0; i < CERTIFICATES; i++) {
		struct certificate certificate = make_certificate(i, der, sizeof(der));

		refused += !cache_add(
			cache, &certificate, "http://ocsp.some-authority.example/with/a/path", 0);
	}
	for (int refresh = 0; refresh < REFRESHES; refresh++)
		for (unsigned i = 0; i < CERTIFICATES && refused == 0; i++)
			/* No two are of exactly the same size. */
			refused += !publish(cache, find_number(cache, i), response,
				sizeof(response) - (i + (unsigned)refresh * 7) % 24);
	CHECK_EQ(refused, 0);
	cache_destroy(cache);
}

/* Whoever makes responses cannot fill the cache by having each a little larger. */
static void test_responses_that_grow_take_no_more_than_twice_their_size(void)
{
	static unsigned char response[CACHE_RESPONSE_LIMIT];
	struct cache *cache = make_cache();
	int refused = 0;

	/* Two places of 64 KiB each, and what they had before. */
	for (unsigned i = 0; i < 200; i++)
		for (size_t size = 1; size <= CACHE_RESPONSE_LIMIT; size += 509)
			refused += !publish(cache, add_number(cache, i), response, size);
	CHECK_EQ(refused, 0);
	cache_destroy(cache);
}

static void test_an_older_answer_never_replaces_a_newer_one(void)
{
	enum { NOW = 1000 };
	struct bytes older = {(const unsigned char *)"older", 5};
	struct bytes newer = {(const unsigned char *)"the newer", 9};
	struct bytes revoked = {(const unsigned char *)"revoked", 7};
	struct cache *cache = make_cache();
	struct slot *slot = add_number(cache, 1);
	unsigned char out[100];

	CHECK_EQ(cache_publish(cache, slot, newer, 500, 2000, NOW), CACHE_DONE);
	CHECK_EQ(cache_publish(cache, slot, older, 499, 3000, NOW), CACHE_OLDER);
	CHECK_EQ(cache_revoke(cache, slot, older, 499, NOW), CACHE_OLDER);
	CHECK_EQ(cache_read(slot, NOW, out, sizeof(out)), newer.size);
	/* Unless the newer one's time is over. */
	CHECK_EQ(cache_publish(cache, slot, older, 499, 3000, 2000), CACHE_DONE);
	CHECK_EQ(cache_read(slot, 2000, out, sizeof(out)), older.size);

	CHECK_EQ(cache_read_revocation(slot, out, sizeof(out)), 0);
	CHECK_EQ(cache_revoke(cache, slot, revoked, 600, NOW), CACHE_DONE);
	CHECK_EQ(slot->state, SLOT_REVOKED);
	/* It can be passed on, and was never to be stapled: not by one who is slow, either. */
	CHECK_EQ(cache_read_revocation(slot, out, sizeof(out)), revoked.size);
	CHECK(memcmp(out, revoked.data, revoked.size) == 0);
	for (uint32_t place = 1; place <= 2; place++) {
		atomic_store(&slot->current, place);
		size_t size = cache_read(slot, NOW, out, sizeof(out));
		CHECK(size == 0 || memcmp(out, revoked.data, size) != 0);
	}
	atomic_store(&slot->current, 0);
	CHECK_EQ(cache_read(slot, NOW, out, sizeof(out)), 0);
	CHECK_EQ(cache_usable_until(slot), 0);
	/* A revocation's time is never over. */
	CHECK_EQ(cache_publish(cache, slot, older, 599, 9000, 8000), CACHE_OLDER);
	CHECK_EQ(cache_read(slot, NOW, out, sizeof(out)), 0);
	CHECK_EQ(cache_publish(cache, slot, newer, 601, 9000, NOW), CACHE_DONE);
	CHECK_EQ(slot->state, SLOT_GOOD);
	CHECK_EQ(cache_read(slot, NOW, out, sizeof(out)), newer.size);
	CHECK_EQ(cache_read_revocation(slot, out, sizeof(out)), 0);
	/* Without a word of why. */
	CHECK_EQ(cache_revoke(cache, slot, (struct bytes){0}, 602, NOW), CACHE_DONE);
	CHECK_EQ(cache_read_revocation(slot, out, sizeof(out)), 0);
	cache_destroy(cache);
}

/* A response that proves itself: every byte follows from the first four and the size. */
static size_t make_response(uint32_t seed, unsigned char *out)
{
	static const size_t sizes[] = {471, 1500, 4096, 9000, 12, 2300, CACHE_RESPONSE_LIMIT, 801};
	/* The large ones now and then: copying them would be all that the test does. */
	size_t size = sizes[seed % 64 == 6 ? 6 : seed % 6];
	uint32_t state = seed * 2654435761U + (uint32_t)size;

	memcpy(out, &seed, sizeof(seed));
	for (size_t i = sizeof(seed); i < size; i++) {
		state = state * 1664525U + 1013904223U;
		out[i] = (unsigned char)(state >> 24);
	}
	return size;
}

static bool response_is_whole(const unsigned char *response, size_t size)
{
	static _Thread_local unsigned char wanted[CACHE_RESPONSE_LIMIT];
	uint32_t seed;

	if (size < sizeof(seed))
		return false;
	memcpy(&seed, response, sizeof(seed));
	return make_response(seed, wanted) == size && memcmp(wanted, response, size) == 0;
}

struct reader {
	const struct slot *slot;
	struct shared *shared;
	pthread_t thread;
};

static void *run_reader(void *argument)
{
	static _Thread_local unsigned char out[CACHE_RESPONSE_LIMIT];
	const struct reader *reader = argument;
	struct shared *shared = reader->shared;

	atomic_fetch_add(&shared->reading, 1);
	while (!atomic_load(&shared->done)) {
		size_t size = cache_read(reader->slot, 0, out, sizeof(out));

		atomic_fetch_add(&shared->reads, 1);
		if (size == 0)
			atomic_fetch_add(&shared->missed, 1);
		else if (!response_is_whole(out, size))
			atomic_fetch_add(&shared->torn, 1);
	}
	return NULL;
}

static bool publish_number(struct cache *cache, struct slot *slot, uint32_t number)
{
	static unsigned char response[CACHE_RESPONSE_LIMIT];

	return publish(cache, slot, response, make_response(number, response));
}

static pid_t start_reader(struct reader *reader)
{
	pid_t child = fork();

	if (child != 0)
		return child;
	run_reader(reader);
	_exit(0);
}

static void test_no_reader_sees_a_torn_response(void)
{
	struct cache *cache = make_cache();
	struct shared *shared = map_shared();
	struct reader reader[READERS];
	pid_t child[READERS];
	unsigned failed = 0;
	int status;

	for (size_t i = 0; i < READERS; i++)
		reader[i] = (struct reader){add_number(cache, 1), shared, 0};
	CHECK(publish_number(cache, cache_slot(cache, 0), 1));
	for (size_t i = 0; i < READERS; i++)
		child[i] = start_reader(&reader[i]);
	for (size_t i = 0; i < READERS; i++)
		CHECK_EQ(pthread_create(&reader[i].thread, NULL, run_reader, &reader[i]), 0);
	while (atomic_load(&shared->reading) < 2 * READERS)
		sched_yield();
	for (uint32_t i = 0; i < PUBLICATIONS; i++)
		failed += !publish_number(cache, cache_slot(cache, 0), i);
	atomic_store(&shared->done, true);
	for (size_t i = 0; i < READERS; i++) {
		CHECK_EQ(pthread_join(reader[i].thread, NULL), 0);
		CHECK_EQ(waitpid(child[i], &status, 0), child[i]);
		CHECK_EQ(status, 0);
	}
	CHECK_EQ(failed, 0);
	CHECK(atomic_load(&shared->reads) > 2 * READERS);
	CHECK_EQ(atomic_load(&shared->torn), 0);
	CHECK_EQ(atomic_load(&shared->missed), 0);
	munmap(shared, sizeof(*shared));
	cache_destroy(cache);
}

static void wait_until_above(_Atomic uint32_t *word, uint32_t value)
{
	while (atomic_load(word) <= value)
		sched_yield();
}

static void end_child(pid_t child)
{
	kill(child, SIGKILL);
	CHECK_EQ(waitpid(child, NULL, 0), child);
}

static void publish_for_ever(struct cache *cache, struct shared *shared)
{
	for (;;)
		publish_number(
			cache, cache_slot(cache, 0), atomic_fetch_add(&shared->published, 1));
}

static void test_a_writer_killed_at_any_moment_leaves_a_whole_response(void)
{
	static unsigned char out[CACHE_RESPONSE_LIMIT];
	struct cache *cache = make_cache();
	struct shared *shared = map_shared();
	struct slot *slot = add_number(cache, 1);
	unsigned torn = 0;

	CHECK(publish_number(cache, slot, 1));
	for (unsigned i = 0; i < KILLS; i++) {
		uint32_t before = atomic_load(&shared->published);
		pid_t child = fork();
		size_t size;

		if (child == 0)
			publish_for_ever(cache, shared);
		wait_until_above(&shared->published, before + i % 7);
		end_child(child);
		size = cache_read(slot, 0, out, sizeof(out));
		torn += !response_is_whole(out, size);
	}
	CHECK_EQ(torn, 0);
	CHECK(publish_number(cache, slot, 5));
	CHECK(response_is_whole(out, cache_read(slot, 0, out, sizeof(out))));
	munmap(shared, sizeof(*shared));
	cache_destroy(cache);
}

static void add_for_ever(struct cache *cache, struct shared *shared)
{
	for (;;) {
		unsigned char der[100];
		uint32_t number = atomic_fetch_add(&shared->published, 1);
		struct certificate certificate = make_certificate(number, der, sizeof(der));

		add_number(cache, number % 8000);
		if (number % 4 == 0)
			cache_add_issuer(cache, &certificate);
	}
}

static void test_who_is_killed_while_adding_locks_nobody_out(void)
{
	struct cache *cache = make_cache();
	struct shared *shared = map_shared();
	unsigned broken = 0, lost = 0;

	for (unsigned i = 0; i < KILLS; i++) {
		uint32_t before = atomic_load(&shared->published);
		pid_t child = fork();

		if (child == 0)
			add_for_ever(cache, shared);
		wait_until_above(&shared->published, before + i % 7);
		end_child(child);
		broken += !add_number(cache, 10000 + i);
	}
	CHECK_EQ(broken, 0);
	for (size_t i = 0; i < cache_slot_count(cache); i++) {
		const struct slot *slot = cache_slot(cache, i);

		broken += !slot_is_whole(slot);
		lost += cache_find(cache, slot->key) != slot;
	}
	CHECK_EQ(broken, 0);
	/* Counted, and its writer killed before it could be found. */
	CHECK(lost <= KILLS);
	munmap(shared, sizeof(*shared));
	cache_destroy(cache);
}

/* Answers that come through a pipe: what did happen, or 0 for nothing. */
static char hear(int fd, int patience)
{
	struct pollfd item = {.fd = fd, .events = POLLIN};
	char said = 0;

	if (poll(&item, 1, patience) != 1 || read(fd, &said, 1) != 1)
		return 0;
	return said;
}

static void say(int fd, char word)
{
	if (write(fd, &word, 1) != 1)
		_exit(1);
}

/* In shared memory: who led last. */
static _Atomic pid_t *leading;

/* A process that says 's' when it stands by, 'L' when it leads, 'n' when the place is taken. */
static pid_t start_candidate(struct cache *cache, int fd)
{
	pid_t child = fork();
	int place;

	if (child != 0)
		return child;
	place = cache_stand_by(cache);
	if (place < 0) {
		say(fd, 'n');
		_exit(0);
	}
	say(fd, 's');
	if (cache_lead(cache, place, NULL) != CACHE_LEADER)
		_exit(1);
	atomic_store(leading, getpid());
	say(fd, 'L');
	/* Until it is killed, or told that it leads no more. */
	while (atomic_load(leading) == getpid()) {
		cache_beat(cache);
		usleep(1000);
	}
	cache_resign(cache);
	for (;;)
		pause();
}

/* While the standbys move up, both places are held for an instant. */
static bool comes_to_want_standby(struct cache *cache)
{
	int64_t until = clock_steady() + PATIENCE;

	while (!cache_wants_standby(cache))
		if (clock_steady() > until)
			return false;
	return true;
}

static void test_the_standby_leads_when_the_leader_is_killed(void)
{
	struct cache *cache = make_cache();
	pid_t third;
	int fd[2];

	leading = mmap(
		NULL, sizeof(*leading), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(leading != MAP_FAILED);
	CHECK_EQ(pipe(fd), 0);
	CHECK(!cache_is_led(cache));
	CHECK(cache_wants_standby(cache));
	start_candidate(cache, fd[1]);
	CHECK_EQ(hear(fd[0], PATIENCE), 's');
	CHECK_EQ(hear(fd[0], PATIENCE), 'L');
	CHECK(cache_is_led(cache));
	start_candidate(cache, fd[1]);
	CHECK_EQ(hear(fd[0], PATIENCE), 's');

	for (unsigned i = 0; i < 10; i++) {
		CHECK(comes_to_want_standby(cache));
		start_candidate(cache, fd[1]);
		CHECK_EQ(hear(fd[0], PATIENCE), 's');
		CHECK(!cache_wants_standby(cache));
		third = start_candidate(cache, fd[1]);
		CHECK_EQ(hear(fd[0], PATIENCE), 'n');
		CHECK_EQ(waitpid(third, NULL, 0), third);
		CHECK_EQ(hear(fd[0], 0), 0);
		end_child(atomic_load(leading));
		CHECK_EQ(hear(fd[0], PATIENCE), 'L');
		CHECK(cache_is_led(cache));
	}

	/* With nobody to send another, the last standby leads in the end. */
	end_child(atomic_load(leading));
	CHECK_EQ(hear(fd[0], PATIENCE), 'L');

	/* A standby that is killed leaves its place to the next. */
	for (unsigned i = 0; i < 3; i++) {
		third = start_candidate(cache, fd[1]);
		CHECK_EQ(hear(fd[0], PATIENCE), 's');
		end_child(third);
		CHECK(cache_wants_standby(cache));
	}
	end_child(atomic_load(leading));
	CHECK(!cache_is_led(cache));
	start_candidate(cache, fd[1]);
	CHECK_EQ(hear(fd[0], PATIENCE), 's');
	CHECK_EQ(hear(fd[0], PATIENCE), 'L');
	end_child(atomic_load(leading));
	munmap((void *)leading, sizeof(*leading));
	close(fd[0]);
	close(fd[1]);
	cache_destroy(cache);
}

static atomic_bool is_over;

static bool say_whether_over(void)
{
	return atomic_load(&is_over);
}

static void *run_standby(void *cache)
{
	int place = cache_stand_by(cache);

	return cache_lead(cache, place, say_whether_over) == CACHE_LEADER ? cache : NULL;
}

static void test_a_standby_goes_when_it_is_told_to_and_a_leader_when_it_wants_to(void)
{
	struct cache *cache = make_cache();
	pthread_t standbys[CACHE_STANDBYS], heir;
	void *led;

	CHECK_EQ(cache_lead(cache, cache_stand_by(cache), NULL), CACHE_LEADER);
	for (int i = 0; i < CACHE_STANDBYS; i++)
		CHECK_EQ(pthread_create(&standbys[i], NULL, run_standby, cache), 0);
	while (cache_wants_standby(cache))
		usleep(1000);
	atomic_store(&is_over, true);
	for (int i = 0; i < CACHE_STANDBYS; i++) {
		CHECK_EQ(pthread_join(standbys[i], &led), 0);
		CHECK(!led);
	}
	atomic_store(&is_over, false);
	CHECK_EQ(pthread_create(&heir, NULL, run_standby, cache), 0);
	cache_resign(cache);
	CHECK_EQ(pthread_join(heir, &led), 0);
	CHECK(led == cache);
	/* Nobody holds any place. */
	for (int i = 0; i < CACHE_STANDBYS; i++)
		CHECK_EQ(cache_stand_by(cache), i);
	cache_destroy(cache);
}

static void *run_short_lived_leader(void *cache)
{
	int place = cache_stand_by(cache);

	return cache_lead(cache, place, NULL) == CACHE_LEADER ? cache : NULL;
}

static void test_the_leader_leads_until_its_thread_ends(void)
{
	struct cache *cache = make_cache();
	pthread_t thread;
	void *led;

	for (unsigned i = 0; i < 3; i++) {
		CHECK_EQ(pthread_create(&thread, NULL, run_short_lived_leader, cache), 0);
		CHECK_EQ(pthread_join(thread, &led), 0);
		CHECK(led == cache);
		CHECK(!cache_is_led(cache));
	}
	cache_destroy(cache);
}

static void test_a_leader_that_is_stopped_has_a_deputy_until_it_goes_on(void)
{
	struct cache *cache = make_cache();
	int fd[2], place;
	pid_t leader;

	leading = mmap(
		NULL, sizeof(*leading), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(leading != MAP_FAILED);
	CHECK_EQ(pipe(fd), 0);
	leader = start_candidate(cache, fd[1]);
	CHECK_EQ(hear(fd[0], PATIENCE), 's');
	CHECK_EQ(hear(fd[0], PATIENCE), 'L');
	place = cache_stand_by(cache);
	CHECK_EQ(place, 0);
	CHECK(!cache_is_silent(cache));
	kill(leader, SIGSTOP);
	CHECK_EQ(cache_lead(cache, place, NULL), CACHE_DEPUTY);
	/* What the deputy does is not the leader's doing. */
	cache_sleep(cache, 1);
	cache_beat(cache);
	CHECK(cache_is_silent(cache));
	kill(leader, SIGCONT);
	while (cache_is_silent(cache))
		cache_sleep(cache, PATIENCE);
	/* The place was kept meanwhile. */
	CHECK_EQ(cache_stand_by(cache), 1);
	/* ThreadSanitizer does not see that a lock within a time may be a dead owner's. */
	atomic_store(leading, 0);
	CHECK_EQ(cache_lead(cache, 0, NULL), CACHE_LEADER);
	end_child(leader);
	cache_resign(cache);
	munmap((void *)leading, sizeof(*leading));
	close(fd[0]);
	close(fd[1]);
	cache_destroy(cache);
}

static void test_whoever_waits_for_an_answer_is_woken_by_it(void)
{
	struct cache *cache = make_cache();
	struct slot *slot = add_number(cache, 1), *other = add_number(cache, 2);
	int64_t start = clock_steady();
	pid_t child[READERS];
	int status, fd[2];

	CHECK_EQ(pipe(fd), 0);
	for (size_t i = 0; i < READERS; i++) {
		child[i] = fork();
		if (child[i] == 0) {
			say(fd[1], 'w');
			cache_await(cache, slot, start + PATIENCE);
			_exit(atomic_load(&slot->state) == SLOT_GOOD ? 0 : 1);
		}
		CHECK_EQ(hear(fd[0], PATIENCE), 'w');
	}
	cache_set_state(cache, other, SLOT_FAILING);
	cache_set_state(cache, slot, SLOT_GOOD);
	for (size_t i = 0; i < READERS; i++) {
		CHECK_EQ(waitpid(child[i], &status, 0), child[i]);
		CHECK_EQ(status, 0);
	}
	CHECK(clock_steady() < start + PATIENCE);
	close(fd[0]);
	close(fd[1]);
	cache_destroy(cache);
}

static void test_the_wait_for_an_answer_ends(void)
{
	struct cache *cache = make_cache();
	struct slot *slot = add_number(cache, 1);
	unsigned char der[10];
	struct certificate issuer = make_certificate(9, der, sizeof(der));
	int64_t start = clock_steady();

	/* At its deadline, which may be over already. */
	cache_await(cache, slot, start + 30);
	CHECK(clock_steady() >= start + 30);
	cache_await(cache, slot, start);
	/* At once when no answer is to be had: there is no issuer, and none has come since. */
	cache_set_state(cache, slot, SLOT_NO_ISSUER);
	start = clock_steady();
	cache_await(cache, slot, start + PATIENCE);
	CHECK(clock_steady() < start + PATIENCE);
	/* One that may be it has come. */
	CHECK(cache_add_issuer(cache, &issuer));
	start = clock_steady();
	cache_await(cache, slot, start + 30);
	CHECK(clock_steady() >= start + 30);
	cache_destroy(cache);
}

static void test_the_leader_is_woken_by_news_of_any_process(void)
{
	struct cache *cache = make_cache();
	int64_t start = clock_steady();
	pid_t child = fork();
	int status;

	if (child == 0)
		_exit(add_number(cache, 1) ? 0 : 1);
	/* A futex may wake for no reason, a leader finds nothing to do then. */
	while (cache_slot_count(cache) == 0 && clock_steady() < start + PATIENCE)
		cache_sleep(cache, PATIENCE);
	CHECK(clock_steady() < start + PATIENCE);
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK_EQ(status, 0);
	/* No news, no waking. */
	if (cache_has_news(cache))
		cache_sleep(cache, PATIENCE);
	start = clock_steady();
	cache_sleep(cache, 30);
	CHECK(clock_steady() >= start + 30);
	cache_destroy(cache);
}

static void release(struct cache *cache, struct slot *slot)
{
	cache_release(cache, slot, atomic_load(&slot->generation));
	cache_unpin(slot);
}

static void test_slots_of_released_certificates_are_used_again(void)
{
	struct cache *cache = make_cache();
	struct slot *kept = add_number(cache, 1000000);
	struct slot *first = add_number(cache, 0);
	uint32_t generation = atomic_load(&first->generation);
	unsigned char out[16];
	unsigned broken = 0;

	CHECK(publish(cache, kept, "kept", 4));
	CHECK(publish(cache, first, "first", 5));
	release(cache, first);
	/* More than there is room for, one after the other. */
	for (unsigned i = 1; i < 40000; i++) {
		struct slot *slot = add_number(cache, i);

		broken += !slot_is_whole(slot) || find_number(cache, i) != slot ||
			  cache_read(slot, 0, out, sizeof(out)) != 0 || slot->due != 0 ||
			  slot->state != SLOT_PENDING;
		if (!slot)
			break;
		broken += !publish(cache, slot, &i, sizeof(i)) ||
			  cache_read(slot, 0, out, sizeof(out)) != sizeof(i) ||
			  memcmp(out, &i, sizeof(i)) != 0;
		cache_unpin(slot); /* find_number's */
		release(cache, slot);
	}
	CHECK_EQ(broken, 0);
	CHECK(cache_slot_count(cache) < 1000);
	/* Who holds on to the first finds that it is another's; who did not let go keeps his. */
	CHECK(!cache_pin(first, generation));
	CHECK(slot_is_whole(first));
	CHECK(!find_number(cache, 0));
	CHECK(find_number(cache, 1000000) == kept);
	CHECK_EQ(cache_read(kept, 0, out, sizeof(out)), 4);
	cache_destroy(cache);
}

static void test_a_slot_is_not_used_again_while_it_is_pinned_or_claimed(void)
{
	struct cache *cache = make_cache();
	struct slot *pinned = add_number(cache, 1), *claimed = add_number(cache, 2);
	struct slot *both = add_number(cache, 3);
	uint32_t generation = atomic_load(&pinned->generation);

	cache_release(cache, pinned, generation);
	release(cache, claimed);
	release(cache, both);
	CHECK(cache_touch(claimed, clock_steady()));
	cache_claim(cache, claimed, clock_steady());
	CHECK(!cache_touch(claimed, clock_steady()));
	for (unsigned i = 10; i < 2000; i++)
		release(cache, add_number(cache, i));
	CHECK(slot_is_whole(pinned) && find_number(cache, 1) == pinned);
	CHECK(slot_is_whole(claimed) && find_number(cache, 2) == claimed);
	CHECK(!find_number(cache, 3));
	cache_destroy(cache);
}

static void test_a_certificate_is_wanted_while_a_process_that_lives_has_it(void)
{
	enum { LIFE = 4 }; /* seconds */
	struct bytes response = {(const unsigned char *)"response", 8};
	struct cache *cache = make_cache();
	int64_t now = clock_steady(), wall = clock_wall() / 1000;
	struct slot *slot = add_number(cache, 1), *orphan;
	pid_t child = fork();

	if (child == 0) {
		unsigned char der[100];
		struct certificate certificate = make_certificate(2, der, sizeof(der));

		_exit(cache_add(cache, &certificate, "http://ocsp.example/", now) ? 0 : 1);
	}
	CHECK_EQ(waitpid(child, NULL, 0), child);
	orphan = find_number(cache, 2);
	CHECK(orphan && orphan->witness == child);
	for (unsigned i = 0; i < 2; i++)
		CHECK_EQ(cache_publish(cache, i ? orphan : slot, response, wall, wall + LIFE, wall),
			CACHE_DONE);
	/* A year on, this process still lives. */
	CHECK(cache_is_wanted(cache, slot, now + 31536000000));
	CHECK(cache_is_wanted(cache, orphan, now + LIFE * 1000));
	CHECK(!cache_is_wanted(cache, orphan, now + LIFE * 1000 + 1));
	CHECK_EQ(orphan->witness, 0);
	/* A handshake of somebody who has it still. */
	cache_touch(orphan, now + LIFE * 1000);
	CHECK(cache_is_wanted(cache, orphan, now + 2 * LIFE * 1000));
	CHECK(!cache_is_wanted(cache, orphan, now + 2 * LIFE * 1000 + 1));
	cache_release(cache, slot, atomic_load(&slot->generation));
	CHECK(cache_is_wanted(cache, slot, clock_steady()));
	CHECK(!cache_is_wanted(cache, slot, clock_steady() + LIFE * 1000 + 1));
	cache_destroy(cache);
}

static void test_a_certificate_that_comes_back_is_due_at_once(void)
{
	struct bytes response = {(const unsigned char *)"response", 8};
	struct cache *cache = make_cache();
	struct slot *slot = add_number(cache, 1);
	int64_t wall = clock_wall() / 1000;

	CHECK_EQ(cache_publish(cache, slot, response, wall, wall + 100, wall), CACHE_DONE);
	release(cache, slot);
	slot->due = SLOT_NEVER;
	/* What it still has can be stapled until there is a new one. */
	CHECK(add_number(cache, 1) == slot);
	CHECK_EQ(slot->due, 0);
	CHECK_EQ(slot->state, SLOT_GOOD);
	CHECK_EQ(cache_usable_until(slot), wall + 100);
	/* Too late for that: then it is as if new. */
	CHECK_EQ(cache_publish(cache, slot, response, wall, wall - 1, wall), CACHE_DONE);
	release(cache, slot);
	slot->due = SLOT_NEVER;
	CHECK(add_number(cache, 1) == slot);
	CHECK_EQ(slot->due, 0);
	CHECK_EQ(slot->state, SLOT_PENDING);
	CHECK_EQ(slot->registered, 1001);
	CHECK_EQ(cache_usable_until(slot), 0);
	CHECK_EQ(cache_slot_count(cache), 1);
	cache_destroy(cache);
}

static void test_the_room_of_dead_processes_is_used_when_there_is_no_other(void)
{
	struct cache *cache = make_cache();
	pid_t child = fork();
	unsigned count = 0;

	if (child == 0) {
		while (add_number(cache, count))
			count++;
		_exit(0);
	}
	CHECK_EQ(waitpid(child, NULL, 0), child);
	/* All are pinned by the dead: that is for ever, and they are still what they were. */
	count = (unsigned)cache_slot_count(cache);
	CHECK(!add_number(cache, count));
	for (unsigned i = 0; i < count; i++)
		cache_unpin(cache_slot(cache, i));
	for (unsigned i = 0; i < 100; i++)
		CHECK(slot_is_whole(add_number(cache, count + i)));
	CHECK_EQ(cache_slot_count(cache), count);
	cache_destroy(cache);
}

/* Certificates come and go; what is read of one is never another's. */
struct traffic {
	struct cache *cache;
	struct shared *shared;
	pthread_t thread;
};

enum { NUMBERS = 600, ROUNDS = 30000 };

static void *find_and_read(void *argument)
{
	const struct traffic *traffic = argument;
	struct shared *shared = traffic->shared;
	uint32_t state = (uint32_t)(uintptr_t)argument | 1;

	atomic_fetch_add(&shared->reading, 1);
	while (!atomic_load(&shared->done)) {
		unsigned number, response[4];
		struct slot *slot;
		size_t size;

		state = state * 1664525U + 1013904223U;
		number = (state >> 16) % NUMBERS;
		slot = find_number(traffic->cache, number);
		if (!slot)
			continue;
		atomic_fetch_add(&shared->reads, 1);
		size = cache_read(slot, 0, response, sizeof(response));
		if (!slot_is_whole(slot) || slot->key[0] != (unsigned char)number ||
			(size > 0 && response[0] != number))
			atomic_fetch_add(&shared->torn, 1);
		cache_touch(slot, (int64_t)state);
		cache_unpin(slot);
	}
	return NULL;
}

static void come_and_go(const struct traffic *traffic, unsigned rounds)
{
	for (unsigned i = 0; i < rounds; i++) {
		unsigned number = i * 7 % NUMBERS;
		struct slot *slot = add_number(traffic->cache, number);

		if (!slot || !publish(traffic->cache, slot, &number, sizeof(number)))
			atomic_fetch_add(&traffic->shared->missed, 1);
		if (slot)
			release(traffic->cache, slot);
	}
}

static void test_nobody_reads_another_certificates_response(void)
{
	struct cache *cache = make_cache();
	struct shared *shared = map_shared();
	struct traffic traffic[READERS];
	pid_t child;
	int status;

	for (size_t i = 0; i < READERS; i++)
		traffic[i] = (struct traffic){cache, shared, 0};
	child = fork();
	if (child == 0) {
		find_and_read(&traffic[0]);
		_exit(0);
	}
	for (size_t i = 0; i < READERS; i++)
		CHECK_EQ(pthread_create(&traffic[i].thread, NULL, find_and_read, &traffic[i]), 0);
	while (atomic_load(&shared->reading) < READERS + 1)
		sched_yield();
	come_and_go(&traffic[0], ROUNDS);
	atomic_store(&shared->done, true);
	for (size_t i = 0; i < READERS; i++)
		CHECK_EQ(pthread_join(traffic[i].thread, NULL), 0);
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK_EQ(status, 0);
	CHECK(atomic_load(&shared->reads) > READERS);
	CHECK_EQ(atomic_load(&shared->torn), 0);
	CHECK_EQ(atomic_load(&shared->missed), 0);
	CHECK(cache_slot_count(cache) < NUMBERS);
	munmap(shared, sizeof(*shared));
	cache_destroy(cache);
}

static void test_who_is_killed_while_certificates_come_and_go_spoils_nothing(void)
{
	struct cache *cache = make_cache();
	struct shared *shared = map_shared();
	struct traffic traffic = {cache, shared, 0};
	unsigned broken = 0;

	come_and_go(&traffic, NUMBERS);
	for (unsigned i = 0; i < KILLS; i++) {
		pid_t child = fork();

		if (child == 0)
			for (;;)
				come_and_go(&traffic, NUMBERS);
		usleep(i * 37 % 2000);
		end_child(child);
		for (unsigned number = 0; number < NUMBERS; number++) {
			struct slot *slot = find_number(cache, number);

			if (!slot)
				continue;
			broken += !slot_is_whole(slot) || slot->key[0] != (unsigned char)number;
			cache_unpin(slot);
		}
	}
	CHECK_EQ(broken, 0);
	atomic_store(&shared->missed, 0);
	come_and_go(&traffic, 2 * NUMBERS);
	CHECK_EQ(atomic_load(&shared->missed), 0);
	munmap(shared, sizeof(*shared));
	cache_destroy(cache);
}

int main(void)
{
	test_a_certificate_has_one_slot();
	test_a_full_cache_refuses_and_keeps_what_it_has();
	test_a_cache_without_memory_refuses_and_keeps_what_it_has();
	test_issuers_are_kept_once_and_in_order();
	test_a_response_is_read_until_its_time_is_over();
	test_a_response_of_tomorrow_is_not_read();
	test_ten_thousand_certificates_have_room();
	test_responses_that_grow_take_no_more_than_twice_their_size();
	test_an_older_answer_never_replaces_a_newer_one();
	test_whoever_waits_for_an_answer_is_woken_by_it();
	test_the_wait_for_an_answer_ends();
	test_the_leader_is_woken_by_news_of_any_process();
	test_slots_of_released_certificates_are_used_again();
	test_a_slot_is_not_used_again_while_it_is_pinned_or_claimed();
	test_a_certificate_is_wanted_while_a_process_that_lives_has_it();
	test_a_certificate_that_comes_back_is_due_at_once();
	test_the_room_of_dead_processes_is_used_when_there_is_no_other();
	if (kernel_knows_robust_mutexes()) {
		test_who_is_killed_while_certificates_come_and_go_spoils_nothing();
		test_a_writer_killed_at_any_moment_leaves_a_whole_response();
		test_who_is_killed_while_adding_locks_nobody_out();
		test_the_standby_leads_when_the_leader_is_killed();
		test_the_leader_leads_until_its_thread_ends();
		test_a_leader_that_is_stopped_has_a_deputy_until_it_goes_on();
		test_a_standby_goes_when_it_is_told_to_and_a_leader_when_it_wants_to();
	} else {
		puts("no robust mutexes (qemu-user?): what needs them is left out");
	}
	/* Last: a process that had threads is one in which fork is less sure. */
	test_nobody_reads_another_certificates_response();
	test_no_reader_sees_a_torn_response();
	return check_result();
}
