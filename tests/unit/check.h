/* SPDX-License-Identifier: MIT */
/*
 * The whole test harness: a check that fails says where and goes on; main returns check_result().
 */
#ifndef OCSPRELOAD_CHECK_H
#define OCSPRELOAD_CHECK_H

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static int check_count, check_failures;

static inline bool check_that(bool good, const char *file, int line, const char *text)
{
	check_count++;
	if (!good) {
		check_failures++;
		fprintf(stderr, "%s:%d: not so: %s\n", file, line, text);
	}
	return good;
}

static inline bool check_equal(
	long long got, long long wanted, const char *file, int line, const char *text)
{
	bool good = check_that(got == wanted, file, line, text);

	if (!good)
		fprintf(stderr, "  got %lld, wanted %lld\n", got, wanted);
	return good;
}

static inline bool check_string(
	const char *got, const char *wanted, const char *file, int line, const char *text)
{
	bool same = got && wanted ? strcmp(got, wanted) == 0 : got == wanted;
	bool good = check_that(same, file, line, text);

	if (!good)
		fprintf(stderr, "  got \"%s\", wanted \"%s\"\n", got ? got : "(null)",
			wanted ? wanted : "(null)");
	return good;
}

/* Each is a bool expression too: what depends on it can be skipped. The first argument is got. */
#define CHECK(cond) check_that(cond, __FILE__, __LINE__, #cond)
#define CHECK_EQ(got, wanted) \
	check_equal((long long)(got), (long long)(wanted), __FILE__, __LINE__, #got " == " #wanted)
#define CHECK_STR(got, wanted) check_string(got, wanted, __FILE__, __LINE__, #got " is " #wanted)

/* What main returns. */
static inline int check_result(void)
{
	printf("%d checks, %d failed\n", check_count, check_failures);
	return check_failures || !check_count ? 1 : 0;
}

#endif
