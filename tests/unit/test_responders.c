/* SPDX-License-Identifier: MIT */
/* links: responders.c schedule.c */
#include "../../fetcher/responders.h"

#include "../../fetcher/schedule.h"
#include "check.h"

enum { NOW = 1000000 };

static const double almost_one = 0.999999999;

static size_t found(struct responders *responders, const char *authority)
{
	size_t number = 12345;

	CHECK(responders_find(responders, authority, &number));
	return number;
}

/* Begins as many as may be. */
static int begin_all(struct responders *responders, size_t host, bool first, int64_t now)
{
	int begun = 0;

	for (; responders_may_begin(responders, host, first, now); begun++)
		responders_begin(responders, host);
	return begun;
}

static void test_a_host_is_found_again_by_its_name(void)
{
	struct responders responders = {0};
	size_t first = found(&responders, "ocsp.example.org");
	char name[32];

	CHECK_EQ(found(&responders, "OCSP.Example.ORG"), first);
	CHECK(found(&responders, "ocsp.example.org:8080") != first);
	for (int i = 0; i < 2000; i++) {
		snprintf(name, sizeof(name), "h%d", i);
		CHECK_EQ(found(&responders, name), 3 + i);
	}
	for (int i = 0; i < 2000; i++) {
		snprintf(name, sizeof(name), "h%d", i);
		CHECK_EQ(found(&responders, name), 3 + i);
	}
	CHECK_EQ(found(&responders, "ocsp.example.org"), first);
	responders_free(&responders);
}

static void test_a_host_gets_a_few_requests_at_first(void)
{
	struct responders responders = {0};
	size_t host = found(&responders, "a");

	CHECK_EQ(begin_all(&responders, host, true, NOW), RESPONDER_START);
	CHECK_EQ(begin_all(&responders, host, false, NOW), 0);
	responders_withdraw(&responders, host);
	CHECK_EQ(begin_all(&responders, host, false, NOW), 1);
	responders_free(&responders);
}

static void test_the_allowance_grows_with_good_answers_while_firsts_wait(void)
{
	struct responders responders = {0};
	size_t host = found(&responders, "a");

	begin_all(&responders, host, true, NOW);
	for (unsigned wanted = RESPONDER_START + 1; wanted <= RESPONDER_MOST; wanted++) {
		responders_good(&responders, host, true, NOW);
		/* One more than ended. */
		CHECK_EQ(begin_all(&responders, host, true, NOW), 2);
		CHECK_EQ(responders.list[host].in_flight, wanted);
	}
	responders_good(&responders, host, true, NOW);
	CHECK_EQ(begin_all(&responders, host, true, NOW), 1);
	CHECK_EQ(responders.in_flight, RESPONDER_MOST);
	/* Refreshes do not profit from it. */
	for (int i = 0; i < RESPONDER_MOST - RESPONDER_START; i++)
		responders_good(&responders, host, true, NOW);
	CHECK(!responders_may_begin(&responders, host, false, NOW));
	CHECK(responders_may_begin(&responders, host, true, NOW));
	responders_good(&responders, host, true, NOW);
	CHECK(responders_may_begin(&responders, host, false, NOW));
	/* And when no firsts wait any more, it is what it was. */
	responders_good(&responders, host, false, NOW);
	CHECK_EQ(responders.list[host].allowance, RESPONDER_START);
	responders_free(&responders);
}

static void test_bad_answers_halve_the_allowance_and_stop_at_one(void)
{
	struct responders responders = {0};
	size_t host = found(&responders, "a");

	for (int i = 0; i < 36; i++) {
		responders_begin(&responders, host);
		responders_good(&responders, host, true, NOW);
	}
	for (unsigned before = 40; before > 1; before /= 2) {
		CHECK_EQ(begin_all(&responders, host, true, NOW), before);
		for (unsigned i = 1; i < before; i++)
			responders_withdraw(&responders, host);
		responders_bad(&responders, host, NOW);
		CHECK_EQ(responders.list[host].allowance, before / 2);
	}
	responders_begin(&responders, host);
	responders_bad(&responders, host, NOW);
	/* It answers: it is not left alone, and it grows again without anybody waiting. */
	CHECK_EQ(begin_all(&responders, host, false, NOW), 1);
	responders_good(&responders, host, false, NOW);
	CHECK_EQ(begin_all(&responders, host, false, NOW), 2);
	responders_free(&responders);
}

static void test_a_host_that_fails_is_left_alone_for_all(void)
{
	struct responders responders = {0};
	size_t host = found(&responders, "a");
	int64_t now = NOW;

	begin_all(&responders, host, true, now);
	for (int i = 0; i < RESPONDER_START; i++)
		CHECK(responders_failed(&responders, host, now, now + 10, 0, 0));
	/* Four that were under way together are one failure. */
	CHECK_EQ(responders.list[host].failures, 1);
	CHECK(!responders_may_begin(&responders, host, true, now + 509));
	CHECK(responders_is_left_alone(&responders, host, now + 509));
	CHECK(!responders_is_left_alone(&responders, host, now + 510));
	/* One probe, each after a longer wait. */
	for (unsigned failures = 2; failures < 30; failures++) {
		now = responders.list[host].until;
		CHECK_EQ(begin_all(&responders, host, true, now), 1);
		CHECK(responders_failed(&responders, host, now, now + 1, 0, almost_one));
		CHECK_EQ(responders.list[host].until - now - 1,
			schedule_backoff(failures, almost_one));
	}
	/* It is back: the others follow, slowly at first. */
	now = responders.list[host].until;
	begin_all(&responders, host, true, now);
	responders_good(&responders, host, true, now);
	CHECK_EQ(begin_all(&responders, host, true, now), 2);
	responders_begin(&responders, host);
	CHECK(responders_failed(&responders, host, now + 1, now + 2, 0, 0));
	CHECK_EQ(responders.list[host].failures, 1);
	responders_free(&responders);
}

static void test_one_answer_shows_that_the_host_is_not_to_blame(void)
{
	struct responders responders = {0};
	size_t host = found(&responders, "a");

	responders_begin(&responders, host);
	responders_begin(&responders, host);
	responders_good(&responders, host, false, NOW + 500);
	CHECK(!responders_failed(&responders, host, NOW, NOW + 10000, 0, 0));
	CHECK(!responders_is_left_alone(&responders, host, NOW + 10000));
	CHECK_EQ(responders.in_flight, 0);
	/* An answer from before the request began shows nothing. */
	responders_begin(&responders, host);
	CHECK(responders_failed(&responders, host, NOW + 501, NOW + 10501, 0, 0));
	responders_free(&responders);
}

static void test_an_answer_ends_the_wait(void)
{
	struct responders responders = {0};
	size_t host = found(&responders, "a");

	begin_all(&responders, host, true, NOW);
	CHECK(responders_failed(&responders, host, NOW, NOW + 10, 60000, 0));
	CHECK(responders_is_left_alone(&responders, host, NOW + 11));
	responders_good(&responders, host, false, NOW + 11);
	CHECK(!responders_is_left_alone(&responders, host, NOW + 11));
	responders_free(&responders);
}

static void test_a_host_is_left_alone_for_as_long_as_it_wants_to(void)
{
	struct responders responders = {0};
	size_t host = found(&responders, "a");

	responders_begin(&responders, host);
	CHECK(responders_failed(&responders, host, NOW, NOW, 120000, 0));
	CHECK(responders_is_left_alone(&responders, host, NOW + 119999));
	CHECK(!responders_is_left_alone(&responders, host, NOW + 120000));
	responders_press(&responders, host, NOW, NOW, 0, true);
	CHECK_EQ(responders.list[host].until, NOW + 120000);
	/* But not past the half of what somebody has left. */
	responders_press(&responders, host, NOW, 5000000, 5000000 + 60000, false);
	CHECK_EQ(responders.list[host].until, NOW + 30000);
	responders_press(&responders, host, NOW, 5000000, 5000000 + 90000, false);
	CHECK_EQ(responders.list[host].until, NOW + 30000);
	responders_press(&responders, host, NOW, 5000000, 5000000 + 100, false);
	CHECK_EQ(responders.list[host].until, NOW + SCHEDULE_BEARABLE);
	responders_free(&responders);
}

static void test_a_new_certificate_gives_a_failing_host_another_try(void)
{
	struct responders responders = {0};
	size_t host = found(&responders, "a");
	int64_t now = NOW;

	for (int i = 0; i < 8; i++) {
		responders_begin(&responders, host);
		CHECK(responders_failed(&responders, host, now, now, 0, 0));
		now = responders.list[host].until;
	}
	now = responders.list[host].failed;
	CHECK(responders.list[host].until >= now + 64000);
	/* Within a second of the last, and no sooner, however many come. */
	responders_press(&responders, host, now + 300, 0, 0, true);
	responders_press(&responders, host, now + 400, 0, 0, true);
	CHECK_EQ(responders.list[host].until, now + 1000);
	responders_press(&responders, host, now + 2000, 0, 0, true);
	CHECK_EQ(responders.list[host].until, now + 1000);
	responders_free(&responders);
}

/* However many hosts hang, the others have places; and the sum is kept. */
static void test_hosts_that_hang_do_not_fill_the_places(void)
{
	struct responders responders = {0};
	char name[32];
	int hanging = 0, greedy = 0;

	for (int i = 0; i < 100; i++) {
		snprintf(name, sizeof(name), "hangs%d", i);
		hanging += begin_all(&responders, found(&responders, name), true, NOW);
	}
	CHECK_EQ(hanging, RESPONDERS_GREEDY);
	/* Some that answered before, all at once with much to do. */
	for (int i = 0; i < 10; i++) {
		size_t host;

		snprintf(name, sizeof(name), "answers%d", i);
		host = found(&responders, name);
		responders.list[host].has_answered = true;
		responders.list[host].allowance = RESPONDER_MOST;
		greedy += begin_all(&responders, host, true, NOW);
	}
	CHECK_EQ(greedy, RESPONDERS_PLACES - RESPONDERS_GREEDY);
	CHECK_EQ(responders.in_flight, RESPONDERS_PLACES);
	responders_free(&responders);
}

static void test_a_greedy_host_leaves_places_to_others(void)
{
	struct responders responders = {0};
	size_t host = found(&responders, "greedy");

	responders_begin(&responders, host);
	responders_good(&responders, host, true, NOW);
	responders.list[host].allowance = 1000;
	CHECK_EQ(begin_all(&responders, host, true, NOW), RESPONDERS_GREEDY);
	host = found(&responders, "another");
	CHECK_EQ(begin_all(&responders, host, false, NOW), RESPONDER_START);
	responders_free(&responders);
}

static void test_what_is_under_way_to_unknown_hosts_is_counted_right(void)
{
	struct responders responders = {0};
	size_t a = found(&responders, "a"), b = found(&responders, "b");

	begin_all(&responders, a, true, NOW);
	begin_all(&responders, b, true, NOW);
	CHECK_EQ(responders.unknown_in_flight, 8);
	responders_good(&responders, a, false, NOW);
	CHECK_EQ(responders.unknown_in_flight, 4);
	CHECK_EQ(responders.in_flight, 7);
	responders_failed(&responders, a, NOW + 1, NOW + 2, 0, 0);
	CHECK_EQ(responders.unknown_in_flight, 6);
	responders_failed(&responders, a, NOW + 1, NOW + 2, 0, 0);
	responders_bad(&responders, a, NOW + 3);
	CHECK_EQ(responders.unknown_in_flight, 4);
	for (int i = 0; i < 4; i++)
		responders_withdraw(&responders, b);
	CHECK_EQ(responders.unknown_in_flight, 0);
	CHECK_EQ(responders.in_flight, 0);
	responders_free(&responders);
}

int main(void)
{
	test_a_host_is_found_again_by_its_name();
	test_a_host_gets_a_few_requests_at_first();
	test_the_allowance_grows_with_good_answers_while_firsts_wait();
	test_bad_answers_halve_the_allowance_and_stop_at_one();
	test_a_host_that_fails_is_left_alone_for_all();
	test_one_answer_shows_that_the_host_is_not_to_blame();
	test_an_answer_ends_the_wait();
	test_a_host_is_left_alone_for_as_long_as_it_wants_to();
	test_a_new_certificate_gives_a_failing_host_another_try();
	test_hosts_that_hang_do_not_fill_the_places();
	test_a_greedy_host_leaves_places_to_others();
	test_what_is_under_way_to_unknown_hosts_is_counted_right();
	return check_result();
}
