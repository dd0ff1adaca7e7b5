/* SPDX-License-Identifier: MIT */
/* links: fetcher/freshness.c fetcher/clock.c */
#include "../../fetcher/freshness.h"

#include "check.h"

#include <stdint.h>

/* Tue, 15 Nov 1994 08:12:31 GMT, the example of RFC 9110, in seconds; and as a wall clock. */
enum { DATE = 784887151 };
#define DATE_TEXT "Tue, 15 Nov 1994 08:12:31 GMT"
#define AN_HOUR_LATER "Tue, 15 Nov 1994 09:12:31 GMT"
#define NOW ((int64_t)DATE * 1000)
#define SECOND ((int64_t)1000)

static void test_dates(void)
{
	static const struct {
		const char *text;
		int64_t seconds; /* -1: none */
	} dates[] = {
		{DATE_TEXT, DATE},
		{"Sun, 06 Nov 1994 08:49:37 GMT", 784111777},
		{"Thu, 01 Jan 1970 00:00:00 GMT", 0},
		{"Fri, 31 Dec 9999 23:59:59 GMT", 253402300799},
		{"Thu, 29 Feb 2024 12:00:00 GMT", 1709208000},
		{"Sat, 31 Dec 2016 23:59:60 GMT", 1483228800},
		{"Sunday, 06-Nov-94 08:49:37 GMT", -1},
		{"Sun Nov  6 08:49:37 1994", -1},
		{"Sun, 06 Nov 1994 08:49:37 UTC", -1},
		{"Sun, 06 Nov 1994 08:49:37 GMT ", -1},
		{"Sun, 6 Nov 1994 08:49:37 GMT", -1},
		{"Sun, 00 Nov 1994 08:49:37 GMT", -1},
		{"Sun, 32 Nov 1994 08:49:37 GMT", -1},
		{"Sun, 06 Now 1994 08:49:37 GMT", -1},
		{"Sun, 06 Nov 1994 24:49:37 GMT", -1},
		{"Sun, 06 Nov 1994 08:60:37 GMT", -1},
		{"Sun, 06 Nov 1994 08:49:61 GMT", -1},
		{"Sun, 06 Nov 1994 +8:49:37 GMT", -1},
		{"Sun, 06 Nov 1869 08:49:37 GMT", -1},
		{"Xun, 06 Nov 1994 08:49:37 GMT", -1},
		{"Sun, 06 NovX1994 08:49:37 GMT", -1},
		{"", -1},
		{"0", -1},
		{"-1", -1},
	};

	for (size_t i = 0; i < sizeof(dates) / sizeof(*dates); i++) {
		int64_t seconds = -1;

		CHECK_EQ(freshness_parse_date(dates[i].text, &seconds), dates[i].seconds >= 0);
		if (!CHECK_EQ(seconds, dates[i].seconds))
			fprintf(stderr, "  %s\n", dates[i].text);
	}
}

/* Headers as lines of "name: value\n". */
static struct freshness read_headers(const char *lines)
{
	struct freshness freshness;

	freshness_init(&freshness);
	while (*lines) {
		char name[64], value[256];
		int used = 0;

		if (!CHECK(sscanf(lines, "%63[^:]: %255[^\n]%n", name, value, &used) == 2))
			break;
		freshness_read(&freshness, name, value);
		lines += used + (lines[used] == '\n');
	}
	return freshness;
}

static void test_how_long_caches_keep_a_response(void)
{
	static const struct {
		const char *headers;
		int64_t seconds; /* from NOW; 0: not said */
	} cases[] = {
		{"Server: x", 0},
		{"Date: " DATE_TEXT, 0},
		/* Cache-Control. */
		{"Cache-Control: max-age=3600", 3600},
		{"cache-control: public, MAX-AGE=3600 , no-transform,must-revalidate", 3600},
		{"Cache-Control: max-age=\"3600\"", 3600},
		{"Cache-Control: max-age=3600, max-age=60", 60},
		{"Cache-Control: max-age=3600\nCache-Control: max-age=60", 60},
		{"Cache-Control: max-age=60, s-maxage=3600", 3600},
		{"Cache-Control: max-age=3600, s-maxage=0", 0},
		{"Cache-Control: max-age=0", 0},
		{"Cache-Control: max-age", 0},
		{"Cache-Control: max-age=", 0},
		{"Cache-Control: max-age=-5", 0},
		{"Cache-Control: max-age=5x", 0},
		{"Cache-Control: max-age=99999999999999999999", 2147483648},
		{"Cache-Control: no-store, max-age=3600", 0},
		{"Cache-Control: max-age=3600\nCache-Control: no-cache", 0},
		{"Cache-Control: no-cache=\"x\", max-age=3600", 0},
		{"Cache-Control: ,, ,", 0},
		{"Cache-Control: x-max-age=5", 0},
		/* Expires, and what overrules it. */
		{"Expires: " AN_HOUR_LATER, 3600},
		{"Date: " DATE_TEXT "\nExpires: " AN_HOUR_LATER, 3600},
		{"Expires: " AN_HOUR_LATER "\nCache-Control: max-age=60", 60},
		{"Expires: 0", 0},
		{"Expires: -1\nCache-Control: max-age=60", 60},
		{"Expires: " DATE_TEXT, 0},
		{"Date: " AN_HOUR_LATER "\nExpires: " DATE_TEXT, 0},
		/* Age. */
		{"Cache-Control: max-age=3600\nAge: 600", 3000},
		{"Cache-Control: max-age=3600\nAge: 600, 5", 3000},
		{"Cache-Control: max-age=3600\nAge: 3600", 0},
		{"Cache-Control: max-age=3600\nAge: 9999", 0},
		{"Cache-Control: max-age=3600\nAge: -5", 3600},
		{"Cache-Control: max-age=3600\nAge: soon", 3600},
		{"Cache-Control: max-age=3600\nDate: Tue, 15 Nov 1994 08:02:31 GMT", 3000},
		{"Cache-Control: max-age=3600\nDate: Tue, 15 Nov 1994 08:02:31 GMT\nAge: 60", 3000},
		{"Cache-Control: max-age=3600\nDate: Tue, 15 Nov 1994 08:12:01 GMT\nAge: 600",
			3000},
		/* A clock of the responder's that is ahead takes nothing away. */
		{"Cache-Control: max-age=3600\nDate: " AN_HOUR_LATER, 3600},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct freshness freshness = read_headers(cases[i].headers);
		int64_t until = freshness_until(&freshness, NOW, 0);

		if (!CHECK_EQ(until ? (until - NOW) / SECOND : 0, cases[i].seconds))
			fprintf(stderr, "  %s\n", cases[i].headers);
	}
}

static void test_the_time_on_the_way_counts(void)
{
	struct freshness freshness = read_headers("Cache-Control: max-age=60\nAge: 10");

	CHECK_EQ(freshness_until(&freshness, NOW, 0), NOW + 50 * SECOND);
	CHECK_EQ(freshness_until(&freshness, NOW, 1), NOW + 49 * SECOND);
	CHECK_EQ(freshness_until(&freshness, NOW, 9000), NOW + 41 * SECOND);
	CHECK_EQ(freshness_until(&freshness, NOW, 50000), 0);
}

static void test_retry_after(void)
{
	static const struct {
		const char *headers;
		int64_t seconds;
	} cases[] = {
		{"Server: x", 0},
		{"Retry-After: 120", 120},
		{"Retry-After: 0", 0},
		{"Retry-After: -1", 0},
		{"Retry-After: 1.5", 0},
		{"Retry-After: soon", 0},
		{"Retry-After: 3600", 3600},
		{"Retry-After: 3601", 3600},
		{"Retry-After: 99999999999999999999", 3600},
		{"Retry-After: Tue, 15 Nov 1994 08:22:31 GMT", 600},
		{"Retry-After: Tue, 15 Nov 1994 08:02:31 GMT", 0},
		{"Retry-After: Wed, 15 Nov 2094 08:02:31 GMT", 3600},
		/* By the responder's own clock, where it is known. */
		{"Retry-After: " AN_HOUR_LATER "\nDate: Tue, 15 Nov 1994 09:02:31 GMT", 600},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct freshness freshness = read_headers(cases[i].headers);

		if (!CHECK_EQ(freshness_retry_after(&freshness, NOW), cases[i].seconds * SECOND))
			fprintf(stderr, "  %s\n", cases[i].headers);
	}
}

static void test_when_to_ask_a_cache_again(void)
{
	const int64_t now = NOW, end = NOW + 1000 * SECOND;

	/* Not known, or long before the schedule: as it says. */
	CHECK_EQ(freshness_due(now + 300 * SECOND, 0, now, end, 0.5), now + 300 * SECOND);
	CHECK_EQ(freshness_due(now + 300 * SECOND, now + 100 * SECOND, now, end, 0),
		now + 300 * SECOND);
	/* After the cache has let go, with jitter of a tenth of what is left then. */
	CHECK_EQ(freshness_due(now + 300 * SECOND, now + 399 * SECOND, now, end, 0),
		now + 400 * SECOND);
	CHECK_EQ(freshness_due(now + 300 * SECOND, now + 399 * SECOND, now, end, 0.5),
		now + 430 * SECOND);
	/* Never later than the half of what is left, unless the schedule is. */
	CHECK_EQ(freshness_due(now + 300 * SECOND, end, now, end, 0), now + 500 * SECOND);
	CHECK_EQ(freshness_due(now + 300 * SECOND, end + end, now, end, 0.9), now + 500 * SECOND);
	CHECK_EQ(freshness_due(now + 300 * SECOND, now + 490 * SECOND, now, end, 0.9),
		now + 500 * SECOND);
	CHECK_EQ(freshness_due(now + 550 * SECOND, end, now, end, 0.9), now + 550 * SECOND);
}

static void test_how_long_to_obey(void)
{
	CHECK_EQ(freshness_wait(600 * SECOND, NOW, 0), 600 * SECOND);
	CHECK_EQ(freshness_wait(600 * SECOND, NOW, NOW), 600 * SECOND);
	CHECK_EQ(freshness_wait(600 * SECOND, NOW, NOW + 1000 * SECOND), 500 * SECOND);
	CHECK_EQ(freshness_wait(400 * SECOND, NOW, NOW + 1000 * SECOND), 400 * SECOND);
	CHECK_EQ(freshness_wait(0, NOW, NOW + 1000 * SECOND), 0);
}

int main(void)
{
	test_dates();
	test_how_long_caches_keep_a_response();
	test_the_time_on_the_way_counts();
	test_retry_after();
	test_when_to_ask_a_cache_again();
	test_how_long_to_obey();
	return check_result();
}
