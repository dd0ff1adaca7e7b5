/* SPDX-License-Identifier: MIT */
#include "clock.h"

#include <time.h>

enum {
	SECONDS_PER_DAY = 86400,
	DAYS_PER_ERA = 146097,
	DAYS_TO_1970 = 719468, /* from 0000-03-01 */
};

static int64_t clock_read(clockid_t id)
{
	struct timespec now = {0};

	clock_gettime(id, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

__attribute__((weak)) int64_t clock_wall(void)
{
	return clock_read(CLOCK_REALTIME);
}

__attribute__((weak)) int64_t clock_steady(void)
{
	return clock_read(CLOCK_MONOTONIC);
}

static int64_t divide_floor(int64_t number, int64_t divisor)
{
	return number / divisor - (number % divisor < 0);
}

/*
 * Years are counted from March, so that the leap day is the last of its year and the lengths of the
 * months before it follow one rule: (153 * m + 2) / 5 days come before month m. The Gregorian
 * calendar repeats after an era of 400 years.
 */
int64_t clock_from_civil(int year, int month, int day, int hour, int minute, int second)
{
	int64_t march_year = (int64_t)year - (month <= 2);
	int64_t era = divide_floor(march_year, 400);
	int64_t year_of_era = march_year - era * 400;
	int64_t march_month = month + (month > 2 ? -3 : 9);
	int64_t day_of_year = (153 * march_month + 2) / 5 + day - 1;
	int64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
	int64_t days = era * DAYS_PER_ERA + day_of_era - DAYS_TO_1970;

	return days * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second;
}

/* Right-aligned in width characters at *to, which moves on past them and the separator. */
static void put_number(char **to, int width, int64_t number, char separator)
{
	for (int i = width - 1; i >= 0; i--, number /= 10)
		(*to)[i] = (char)('0' + number % 10);
	*to += width;
	*(*to)++ = separator;
}

const char *clock_text(int64_t seconds, char text[static CLOCK_TEXT_SIZE])
{
	const int64_t first = -62167219200, last = 253402300799; /* years 0000 to 9999 */
	int64_t shown = seconds < first ? first : seconds > last ? last : seconds;
	int64_t days = divide_floor(shown, SECONDS_PER_DAY);
	int64_t rest = shown - days * SECONDS_PER_DAY;
	int64_t era = divide_floor(days + DAYS_TO_1970, DAYS_PER_ERA);
	int64_t day_of_era = days + DAYS_TO_1970 - era * DAYS_PER_ERA;
	int64_t year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 -
				      day_of_era / (DAYS_PER_ERA - 1)) /
			      365;
	int64_t day_of_year =
		day_of_era - (year_of_era * 365 + year_of_era / 4 - year_of_era / 100);
	int64_t march_month = (5 * day_of_year + 2) / 153;
	int64_t month = march_month + (march_month < 10 ? 3 : -9);
	char *to = text;

	put_number(&to, 4, era * 400 + year_of_era + (month <= 2), '-');
	put_number(&to, 2, month, '-');
	put_number(&to, 2, day_of_year - (153 * march_month + 2) / 5 + 1, 'T');
	put_number(&to, 2, rest / 3600, ':');
	put_number(&to, 2, rest / 60 % 60, ':');
	put_number(&to, 2, rest % 60, 'Z');
	*to = '\0';
	return text;
}
