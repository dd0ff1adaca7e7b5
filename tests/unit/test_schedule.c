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
		/* A response of seven days that its delegated signer ends after two: usable_until
		 * is the earlier of the two. And one that comes when that has nearly happened. */
		{0, 0, 2 * DAY, 0, DAY},
		{36 * HOUR, 0, 2 * DAY, 0.5, 42 * HOUR + 36 * MINUTE},
		/* Ten days, and what is longer; also where the same is still given out later. */
		{0, 0, 10 * DAY, 0, 5 * DAY},
		{0, 0, 11 * DAY, 0, 5 * DAY},
		{0, 0, 365 * DAY, 0.5, 5 * DAY + 12 * HOUR},
		{100 * DAY, 0, 365 * DAY, 0, 105 * DAY},
		{364 * DAY, 0, 365 * DAY, 0, 364 * DAY + 12 * HOUR},
		{0, 0, 2900000 * DAY, almost_one, 6 * DAY - 1}, /* the year 9999 */
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

static void test_retry_of_a_new_certificate(void)
{
	static const struct {
		unsigned failures;
		int64_t least, most; /* seconds */
	} cases[] = {
		/* Ten seconds to a minute for some minutes. */
		{1, 10, 15},
		{2, 20, 30},
		{3, 40, 60},
		{4, 40, 60},
		{10, 40, 60},
		/* Then it is one that is not known. */
		{11, 60, 120},
		{12, 120, 240},
		{15, 960, 1920},
		{16, 1800, 3600},
		{4294967295U, 1800, 3600},
		{0, 10, 15},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		if (!CHECK_EQ(schedule_retry_new(cases[i].failures, 0), cases[i].least * 1000) ||
			!CHECK_EQ((schedule_retry_new(cases[i].failures, almost_one) + 1) / 1000,
				cases[i].most))
			fprintf(stderr, "  in case %zu\n", i);
}

static void test_backoff_of_a_responder(void)
{
	static const struct {
		unsigned failures;
		int64_t least, most;
	} cases[] = {
		{1, 500, 1000},
		{2, 1000, 2000},
		{6, 16 * 1000, 32 * 1000},
		{10, 256 * 1000, 512 * 1000},
		/* Ten minutes at the most. */
		{11, 5 * MINUTE, 10 * MINUTE},
		{4294967295U, 5 * MINUTE, 10 * MINUTE},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		if (!CHECK_EQ(schedule_backoff(cases[i].failures, 0), cases[i].least) ||
			!CHECK_EQ(
				schedule_backoff(cases[i].failures, almost_one) + 1, cases[i].most))
			fprintf(stderr, "  in case %zu\n", i);
}

static void test_what_ends_soon_presses_a_responder(void)
{
	static const struct {
		int64_t wait, left, wanted;
	} cases[] = {
		/* The half of what is left. */
		{10 * MINUTE, HOUR, 10 * MINUTE},
		{10 * MINUTE, 10 * MINUTE, 5 * MINUTE},
		{10 * MINUTE, MINUTE, 30 * 1000},
		/* Never sooner than it can bear; but what is sooner anyway stays so. */
		{10 * MINUTE, 20 * 1000, 10 * 1000},
		{10 * MINUTE, 2, 10 * 1000},
		{3000, 2, 3000},
		/* Nothing is held, or no more. */
		{10 * MINUTE, 0, 10 * MINUTE},
		{10 * MINUTE, -5000, 10 * MINUTE},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		int64_t until = cases[i].left ? origin + cases[i].left : 0;

		if (!CHECK_EQ(schedule_press(cases[i].wait, origin, until), cases[i].wanted))
			fprintf(stderr, "  in case %zu\n", i);
	}
}

static void test_what_a_clock_that_was_set_back_leaves_behind(void)
{
	static const struct {
		int64_t due;
		bool failing;
		int64_t this_update, usable_until; /* from origin; 0 and 0: nothing is held */
		bool sane;
	} cases[] = {
		/* What is held ends after it is due, as ever. */
		{12 * HOUR, false, -DAY, DAY, true},
		{-HOUR, false, -DAY, DAY, true},
		/* Held, but it begins tomorrow; or in a minute, which is the responder's clock. */
		{36 * HOUR, false, DAY, 2 * DAY, false},
		{12 * HOUR, false, MINUTE, DAY, true},
		{12 * HOUR, false, 5 * MINUTE + 1, DAY, false},
		/* Due when it will have ended. */
		{DAY + 1001, false, -DAY, DAY, false},
		{DAY + 1000, false, -DAY, DAY, true},
		/* A retry is at most an hour away. */
		{HOUR, true, 0, 0, true},
		{HOUR + 1, true, 0, 0, false},
		{HOUR + 1, true, -DAY, DAY, false},
		/* But that is the only thing wrong with it, whatever is held. */
		{HOUR, true, -2 * DAY, -DAY, true},
		{HOUR, true, DAY, 2 * DAY, true},
		/* Revoked: as long as the responder said. */
		{30 * DAY, false, 0, 0, true},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		bool held = cases[i].usable_until != 0;

		if (!CHECK_EQ(schedule_is_sane(origin, origin + cases[i].due, cases[i].failing,
				      held ? origin + cases[i].this_update : 0,
				      held ? origin + cases[i].usable_until : 0, 5 * MINUTE),
			    cases[i].sane))
			fprintf(stderr, "  in case %zu\n", i);
	}
}

/* Loaded together, refreshed apart: over the tenth of the life that follows its half, evenly. */
static void test_refreshes_spread_over_their_window(void)
{
	enum { CERTIFICATES = 10000, BINS = 20 };
	int64_t window = 7 * DAY / 10;
	int bins[BINS] = {0};

	for (int i = 0; i < CERTIFICATES; i++) {
		double draw = (i * 7919 % CERTIFICATES + 0.5) / CERTIFICATES;
		int64_t at = schedule_refresh(origin, origin, origin + 7 * DAY, draw);
		int64_t into = at - origin - 7 * DAY / 2;

		if (CHECK(into >= 0 && into < window))
			bins[into * BINS / window]++;
	}
	for (int i = 0; i < BINS; i++)
		CHECK_EQ(bins[i], CERTIFICATES / BINS);
}

int main(void)
{
	test_retry_of_a_new_certificate();
	test_backoff_of_a_responder();
	test_what_ends_soon_presses_a_responder();
	test_what_a_clock_that_was_set_back_leaves_behind();
	test_refreshes_spread_over_their_window();
	test_refresh();
	test_yield();
	test_refresh_comes_before_the_end();
	test_retry();
	test_retry_stays_in_its_bounds();
	return check_result();
}
