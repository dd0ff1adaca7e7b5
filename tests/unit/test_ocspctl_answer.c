/* SPDX-License-Identifier: MIT */
/* links: ocspctl_answer.c agent.c cache.c descriptor.c bytes.c */
/*
 * What the agent remembers of whom. Certificates are words, time goes by on command, and nobody
 * fetches. "mute" names no responder, "self" is self-signed, and "junk" is none at all.
 */
#include "ocspctl_answer.h"

#include "certificate.h"
#include "check.h"
#include "clock.h"
#include "issuer.h"

#include <stdarg.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

enum { ROOT = 0, SOMEBODY = 1234, SOMEBODY_ELSE = 1235 };
#define DAY ((int64_t)24 * 3600 * 1000)

static int64_t now = 1000000;

int64_t clock_wall(void)
{
	return now;
}

int64_t clock_steady(void)
{
	return now;
}

void log_write(enum log_level level, const char *format, ...)
{
	(void)level;
	(void)format;
}

/* As little as a cache can have, for one test. */
static rlim_t address_space = RLIM_INFINITY;

int getrlimit(__rlimit_resource_t resource, struct rlimit *limit)
{
	(void)resource;
	*limit = (struct rlimit){address_space, RLIM_INFINITY};
	return 0;
}

bool certificate_decode(const struct libcrypto *crypto, struct bytes der, struct certificate *out)
{
	(void)crypto;
	memset(out, 0, sizeof(*out));
	if (der.size > CERTIFICATE_KEY_SIZE || memcmp(der.data, "junk", 4) == 0)
		return false;
	memcpy(out->key, der.data, der.size);
	out->is_self_issued = memcmp(der.data, "self", 4) == 0;
	if (memcmp(der.data, "mute", 4) != 0)
		strcpy(out->responders, "http://responder.test/");
	return buffer_append(&out->der, der.data, der.size);
}

void certificate_free(struct certificate *certificate)
{
	buffer_free(&certificate->der);
}

/* An issuer's word begins with an I. */
bool issuer_signed(const struct libcrypto *crypto, struct bytes certificate, struct bytes candidate)
{
	(void)crypto;
	(void)certificate;
	return candidate.data[0] == 'I';
}

int64_t supply_due(const struct supply *supply, const struct slot *slot)
{
	(void)supply;
	return atomic_load(&slot->due);
}

bool supply_is_due(const struct supply *supply, const struct slot *slot)
{
	return supply_due(supply, slot) <= now;
}

bool supply_from_store(const struct supply *supply, struct slot *slot, bool is_loading)
{
	(void)supply;
	(void)slot;
	(void)is_loading;
	return false;
}

/*
 * The book under test, and what it answered last
 */

static struct config config;
static struct supply supply;
static struct book *book;
static struct buffer message;
static struct agent_answer answer;

static void open_book(void)
{
	config = (struct config){0};
	supply = (struct supply){.cache = cache_create(), .config = &config};
	book = book_open(&supply);
}

static struct bytes bytes_of(const char *text)
{
	return (struct bytes){(const unsigned char *)text, strlen(text)};
}

static enum agent_status put(const char *word, const char *issuer, bool only_looks, uid_t uid)
{
	struct agent_question question = {only_looks, bytes_of(word), bytes_of(issuer)};
	struct buffer asked = {0};

	buffer_free(&message);
	answer = (struct agent_answer){.status = AGENT_STATUS_COUNT};
	if (!CHECK(agent_encode_question(&question, &asked)) ||
		!CHECK(book_answer(book, buffer_bytes(&asked), uid, &message)) ||
		!CHECK(agent_decode_answer(buffer_bytes(&message), &answer)))
		answer.status = AGENT_STATUS_COUNT;
	buffer_free(&asked);
	return answer.status;
}

static enum agent_status ask(const char *word, uid_t uid)
{
	return put(word, "", false, uid);
}

static bool says(struct bytes bytes, const char *text)
{
	return bytes.size == strlen(text) && memcmp(bytes.data, text, bytes.size) == 0;
}

static struct slot *slot_of(const char *word)
{
	unsigned char key[CERTIFICATE_KEY_SIZE] = {0};
	struct slot *slot;

	for (size_t i = 0; word[i]; i++)
		key[i] = (unsigned char)word[i];
	slot = cache_find(supply.cache, key);
	if (slot)
		cache_unpin(slot);
	return slot;
}

/* As the loop would, for an hour. */
static void fetch(const char *word, const char *response)
{
	CHECK_EQ(cache_publish(supply.cache, slot_of(word), bytes_of(response), now / 1000,
			 now / 1000 + 3600, now / 1000),
		CACHE_DONE);
	atomic_store(&slot_of(word)->due, now + 1800000);
}

static void test_an_answer_says_how_things_stand(void)
{
	open_book();
	CHECK_EQ(ask("one", SOMEBODY), AGENT_ASKS);
	CHECK_EQ(answer.response.size, 0);
	fetch("one", "good");
	CHECK_EQ(ask("one", SOMEBODY), AGENT_HOLDS);
	CHECK(says(answer.response, "good"));
	CHECK_EQ(answer.due, now + 1800000);
	/* A refresh is due: it is asked for, and the old one is still good. */
	now += 1800000;
	CHECK_EQ(ask("one", SOMEBODY), AGENT_ASKS);
	CHECK(says(answer.response, "good"));
	/* It failed. */
	atomic_store(&slot_of("one")->due, now + 1000);
	cache_set_state(supply.cache, slot_of("one"), SLOT_FAILING);
	CHECK_EQ(ask("one", SOMEBODY), AGENT_FAILED);
	CHECK(says(answer.response, "good"));
	/* And the old one is good no more. */
	now += 1800000;
	atomic_store(&slot_of("one")->due, now + 1000);
	CHECK_EQ(ask("one", SOMEBODY), AGENT_FAILED);
	CHECK_EQ(answer.response.size, 0);
	/* A revocation is passed on, too. */
	cache_revoke(supply.cache, slot_of("one"), bytes_of("revoked"), now / 1000, now / 1000);
	CHECK_EQ(ask("one", SOMEBODY), AGENT_HOLDS);
	CHECK(says(answer.response, "revoked"));
}

static void test_what_nobody_could_fetch_is_refused(void)
{
	open_book();
	CHECK_EQ(ask("mute", ROOT), AGENT_REFUSES);
	CHECK(says(answer.why, "the certificate names no OCSP responder"));
	CHECK_EQ(ask("self", ROOT), AGENT_REFUSES);
	CHECK_EQ(ask("junk", ROOT), AGENT_REFUSES);
	CHECK_EQ(cache_slot_count(supply.cache), 0);
	config.responder = "http://named.test/";
	CHECK_EQ(ask("mute", ROOT), AGENT_ASKS);
	CHECK_STR(slot_of("mute")->responders, "http://named.test/");
}

static void test_who_only_looks_leaves_no_trace(void)
{
	open_book();
	CHECK_EQ(put("one", "Issuer", true, ROOT), AGENT_REFUSES);
	CHECK_EQ(cache_slot_count(supply.cache), 0);
	CHECK_EQ(ask("one", SOMEBODY), AGENT_ASKS);
	fetch("one", "good");
	CHECK_EQ(put("one", "", true, SOMEBODY_ELSE), AGENT_HOLDS);
	/* Nor does it keep anything alive. */
	now += 15 * DAY;
	CHECK_EQ(put("one", "", true, SOMEBODY_ELSE), AGENT_ASKS);
	CHECK(book_sweep(book));
	CHECK_EQ(atomic_load(&slot_of("one")->due), INT64_MAX);
}

static void test_only_an_issuer_that_signed_is_learnt(void)
{
	open_book();
	CHECK_EQ(put("one", "stranger", false, SOMEBODY), AGENT_ASKS);
	CHECK_EQ(cache_issuer_count(supply.cache), 0);
	CHECK_EQ(put("one", "Issuer", false, SOMEBODY_ELSE), AGENT_ASKS);
	CHECK_EQ(cache_issuer_count(supply.cache), 1);
	atomic_store(&slot_of("one")->issuer, cache_issuer(supply.cache, 0));
	/* Told to those who do not know it. */
	CHECK_EQ(put("one", "Issuer", false, SOMEBODY), AGENT_ASKS);
	CHECK_EQ(answer.issuer.size, 0);
	CHECK_EQ(ask("one", SOMEBODY), AGENT_ASKS);
	CHECK(says(answer.issuer, "Issuer"));
}

static int count_refused(const char *prefix, int count, uid_t uid)
{
	int refused = 0;

	for (int i = 0; i < count; i++) {
		char word[32];

		snprintf(word, sizeof(word), "%d-%s", i, prefix);
		refused += ask(word, uid) == AGENT_REFUSES;
	}
	return refused;
}

static void test_a_user_has_so_many_and_gets_them_back_with_time(void)
{
	open_book();
	CHECK_EQ(count_refused("a", 130, SOMEBODY), 2);
	CHECK_EQ(count_refused("a", 128, SOMEBODY), 0);
	/* Neither at the expense of others, */
	CHECK_EQ(count_refused("b", 130, SOMEBODY_ELSE), 2);
	CHECK_EQ(count_refused("c", 300, ROOT), 0);
	CHECK_EQ(count_refused("d", 300, geteuid()), 0);
	/* nor counted twice: what others brought is there for all. */
	CHECK_EQ(count_refused("c", 300, SOMEBODY), 0);
	now += 13 * DAY;
	CHECK(book_sweep(book));
	CHECK_EQ(count_refused("e", 1, SOMEBODY), 1);
	CHECK_EQ(count_refused("a", 1, SOMEBODY), 0);
	now += 2 * DAY;
	CHECK(book_sweep(book));
	CHECK_EQ(count_refused("e", 128, SOMEBODY), 1);
	/* What was asked for two days ago is still kept. */
	CHECK(atomic_load(&slot_of("0-a")->due) != INT64_MAX);
	CHECK_EQ(atomic_load(&slot_of("1-a")->due), INT64_MAX);
	/* Whoever comes for one that was let go, pays for it. */
	CHECK_EQ(ask("1-a", SOMEBODY), AGENT_REFUSES);
	CHECK_EQ(ask("1-a", SOMEBODY_ELSE), AGENT_ASKS);
	CHECK_EQ(atomic_load(&slot_of("1-a")->due), 0);
}

static void test_full_of_what_nobody_wants_is_a_reason_to_start_anew(void)
{
	address_space = 16 << 20;
	open_book();
	address_space = RLIM_INFINITY;
	CHECK_EQ(count_refused("a", 300, ROOT), 300 - 256);
	CHECK(says(answer.why, "the agent has too many certificates"));
	/* They are all wanted. */
	CHECK(book_sweep(book));
	now += 15 * DAY;
	CHECK_EQ(count_refused("a", 200, ROOT), 0);
	CHECK(book_sweep(book));
	now += 15 * DAY;
	CHECK_EQ(count_refused("a", 10, ROOT), 0);
	CHECK(!book_sweep(book));
}

int main(void)
{
	test_an_answer_says_how_things_stand();
	test_what_nobody_could_fetch_is_refused();
	test_who_only_looks_leaves_no_trace();
	test_only_an_issuer_that_signed_is_learnt();
	test_a_user_has_so_many_and_gets_them_back_with_time();
	test_full_of_what_nobody_wants_is_a_reason_to_start_anew();
	return check_result();
}
