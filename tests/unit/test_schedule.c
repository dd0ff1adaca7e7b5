/* SPDX-License-Identifier: MIT */
/* links: fetcher/schedule.c */
#include "../../fetcher/schedule.h"
#include "check.h"

enum { MINUTE = 60 * 1000, HOUR = 60 * MINUTE };
#define DAY ((int64_t)24 * HOUR)

/* A moment of 2026; every time below is counted from it. */
static const int64_t origin = 1795000000000;

static const double almost_one = 0.999999999;

static void test_refresh(void)
{
	static const struct {
		int64_t now, this_update, usable_until;
		double draw;
		int64_t wanted;
	} cases[] = {
		/* Fresh: half of its life, and up to a tenth of it more. */
		{0, 0, 100 * HOUR, 0, 50 * HOUR},
		{0, 0, 100 * HOUR, 0.5, 55 * HOUR},
		/* Some hours old. */
		{20 * HOUR, 0, 100 * HOUR, 0, 50 * HOUR},
		{50 * HOUR, 0, 100 * HOUR, 0.5, 55 * HOUR},
		/* From the responder's future, within the skew. */
		{0, 5 * MINUTE, 65 * MINUTE, 0, 35 * MINUTE},
		/* Late from a cache: half of what is left, and up to a tenth of that. */
		{60 * HOUR, 0, 100 * HOUR, 0, 80 * HOUR},
		{60 * HOUR, 0, 100 * HOUR, 0.5, 82 * HOUR},
		{99 * HOUR, 0, 100 * HOUR, 0.5, 99 * HOUR + 33 * MINUTE},
		/* Seconds. */
		{0, 0, 10000, 0, 5000},
		{0, 0, 4000, 0.5, 2200},
		/* Never sooner than a second from now, at the end and after it. */
		{0, 0, 1000, 0, 1000},
		{99900, 0, 100000, 0, 100900},
		{100000, 0, 100000, 0.5, 101000},
		{200000, 0, 100000, 0.5, 201000},
		/* Just before the half. */
		{49999 * 1000LL, 0, 100000 * 1000LL, 0, 50000 * 1000LL},
		{49999999, 0, 100000000, 0, 50000999},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		if (!CHECK_EQ(schedule_refresh(origin + cases[i].now, origin + cases[i].this_update,
				      origin + cases[i].usable_until, cases[i].draw),
			    origin + cases[i].wanted))
			fprintf(stderr, "  in case %zu\n", i);
}

static void test_yield(void)
{
	CHECK_EQ(schedule_yield(origin, origin + 60 * HOUR, 0), origin + 20 * HOUR);
	CHECK_EQ(schedule_yield(origin, origin + 60 * HOUR, 0.5), origin + 23 * HOUR);
	/* Never sooner than a second from now: the caller sees that it is too late to yield. */
	CHECK_EQ(schedule_yield(origin, origin + 900, 0.5), origin + 1000);
	CHECK_EQ(schedule_yield(origin, origin - HOUR, 0.5), origin + 1000);
}

/* Whatever is drawn and whenever it came: refreshed before the end, with time to try again. */
static void test_refresh_comes_before_the_end(void)
{
	static const double draws[] = {0, 0.25, 0.5, almost_one};

	for (int64_t age = 0; age < 7 * DAY - HOUR; age += HOUR) {
		for (size_t i = 0; i < sizeof(draws) / sizeof(*draws); i++) {
			int64_t now = origin + age, until = origin + 7 * DAY;
			int64_t at = schedule_refresh(now, origin, until, draws[i]);

			CHECK(at >= now + SCHEDULE_LEAST);
			CHECK(until - at >= (until - now) / 3);
		}
	}
}

static void test_retry(void)
{
	static const struct {
		unsigned failures;
		int64_t left; /* of the response that is held; 0: none is */
		double draw;
		int64_t wanted;
	} cases[] = {
		/* Doubles from a second; the upper half is drawn. */
		{1, 0, 0, 500},
		{1, 0, 0.5, 750},
		{2, 0, 0, 1000},
		{2, 0, 0.5, 1500},
		{3, 0, 0, 2000},
		{7, 0, 0.5, 48 * 1000},
		{0, 0, 0, 500},
		/* At most an hour, however often. */
		{12, 0, 0, 1024 * 1000},
		{13, 0, 0, 30 * MINUTE},
		{13, 0, 0.5, 45 * MINUTE},
		{1000, 0, 0.5, 45 * MINUTE},
		{4294967295U, 0, 0, 30 * MINUTE},
		/* Never past the half of what is left. */
		{13, DAY, 0.5, 45 * MINUTE},
		{13, HOUR, 0.5, 30 * MINUTE},
		{13, 10 * 1000, 0.5, 5 * 1000},
		/* Nor in ever smaller steps towards the end. */
		{13, 1000, 0.5, 1000},
		{13, 10, 0.5, 1000},
		{1, 10, 0.5, 750},
		/* What has ended is no reason to hurry. */
		{13, -1, 0.5, 45 * MINUTE},
		{13, -DAY, 0.5, 45 * MINUTE},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		int64_t until = cases[i].left ? origin + cases[i].left : 0;

		if (!CHECK_EQ(schedule_retry(origin, cases[i].failures, until, cases[i].draw),
			    cases[i].wanted))
			fprintf(stderr, "  in case %zu\n", i);
	}
}

static void test_retry_stays_in_its_bounds(void)
{
	for (unsigned failures = 1; failures < 40; failures++) {
		int64_t least = schedule_retry(origin, failures, 0, 0);
		int64_t most = schedule_retry(origin, failures, 0, almost_one);

		CHECK(least >= 500);
		CHECK(most > least);
		CHECK(most <= HOUR);
		CHECK(most <= 2 * least);
	}
}

int main(void)
{
	test_refresh();
	test_yield();
	test_refresh_comes_before_the_end();
	test_retry();
	test_retry_stays_in_its_bounds();
	return check_result();
}
