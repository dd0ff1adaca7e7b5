/* SPDX-License-Identifier: MIT */
/* links: fetcher/clock.c */
#include "../../fetcher/clock.h"

#include "check.h"

#include <stdlib.h>
#include <time.h>

static void test_known_times(void)
{
	static const struct {
		int64_t seconds;
		const char *text;
	} known[] = {
		{0, "1970-01-01T00:00:00Z"},
		{-1, "1969-12-31T23:59:59Z"},
		{951782400, "2000-02-29T00:00:00Z"},
		{951868800, "2000-03-01T00:00:00Z"},
		{1708992000, "2024-02-27T00:00:00Z"},
		{1709164800, "2024-02-29T00:00:00Z"},
		{1795253400, "2026-11-21T09:30:00Z"},
		{2147483648, "2038-01-19T03:14:08Z"},
		{4107542400, "2100-03-01T00:00:00Z"},
		{253402300799, "9999-12-31T23:59:59Z"},
		{-2203891200, "1900-03-01T00:00:00Z"},
		{-62167219200, "0000-01-01T00:00:00Z"},
	};
	char text[CLOCK_TEXT_SIZE];

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		CHECK_STR(clock_text(known[i].seconds, text), known[i].text);
}

static void test_times_that_have_no_text(void)
{
	char text[CLOCK_TEXT_SIZE];

	CHECK_STR(clock_text(INT64_MAX, text), "9999-12-31T23:59:59Z");
	CHECK_STR(clock_text(INT64_MIN, text), "0000-01-01T00:00:00Z");
}

/* The C library is the reference; a day and an odd time of it, over a thousand years. */
static void test_against_gmtime(void)
{
	int wrong = 0;

	for (int64_t day = -150000; day < 300000; day += 1) {
		time_t seconds = day * 86400 + (day * 7919 % 86400 + 86400) % 86400;
		struct tm tm;
		char text[CLOCK_TEXT_SIZE], wanted[CLOCK_TEXT_SIZE];

		if (!CHECK(gmtime_r(&seconds, &tm)))
			return;
		strftime(wanted, sizeof(wanted), "%Y-%m-%dT%H:%M:%SZ", &tm);
		wrong += strcmp(clock_text(seconds, text), wanted) != 0;
		wrong += clock_from_civil(tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour,
				 tm.tm_min, tm.tm_sec) != seconds;
	}
	CHECK_EQ(wrong, 0);
}

static void test_time_zone_is_ignored(void)
{
	char text[CLOCK_TEXT_SIZE];

	setenv("TZ", "XXX-5:30", 1);
	tzset();
	CHECK_EQ(clock_from_civil(1970, 1, 1, 0, 0, 0), 0);
	CHECK_STR(clock_text(0, text), "1970-01-01T00:00:00Z");
}

static void test_clocks(void)
{
	int64_t before = (int64_t)time(NULL) * 1000;
	int64_t wall = clock_wall();
	int64_t first = clock_steady();

	CHECK(wall >= before - 1000 && wall < before + 3600 * 1000);
	CHECK(first >= 0 && clock_steady() >= first);
}

int main(void)
{
	test_known_times();
	test_times_that_have_no_text();
	test_against_gmtime();
	test_time_zone_is_ignored();
	test_clocks();
	return check_result();
}
