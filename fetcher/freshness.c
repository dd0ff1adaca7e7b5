/* SPDX-License-Identifier: MIT */
#include "freshness.h"

#include "clock.h"

#include <stddef.h>
#include <string.h>
#include <strings.h>

/* The largest span that RFC 9111, 1.2.2 wants to be told from a larger one. */
static const int64_t longest = 2147483648;

void freshness_init(struct freshness *freshness)
{
	*freshness = (struct freshness){-1, -1, -1, -1, -1, -1, -1, false};
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/*
 * Dates
 */

/* count digits, of at most most; -1 if they are not. */
static int read_number(const char *text, size_t count, int most)
{
	int number = 0;

	for (size_t i = 0; i < count; i++) {
		if (!is_digit(text[i]))
			return -1;
		number = number * 10 + (text[i] - '0');
	}
	return number <= most ? number : -1;
}

/* 1..12, or -1. */
static int read_month(const char *text)
{
	static const char names[] = "JanFebMarAprMayJunJulAugSepOctNovDec";

	for (int month = 0; month < 12; month++)
		if (strncmp(text, names + (size_t)month * 3, 3) == 0)
			return month + 1;
	return -1;
}

static bool has_day_name(const char *text)
{
	static const char names[] = "SunMonTueWedThuFriSat";

	for (size_t day = 0; day < 7; day++)
		if (strncmp(text, names + day * 3, 3) == 0)
			return true;
	return false;
}

/* The two older forms have been forbidden to senders since 1997. */
bool freshness_parse_date(const char *text, int64_t *seconds)
{
	static const char form[] = "Sun, 06 Nov 1994 08:49:37 GMT";
	static const size_t fixed[] = {3, 4, 7, 11, 16, 19, 22, 25, 26, 27, 28};
	int year, month, day, hour, minute, second;

	if (strlen(text) != strlen(form) || !has_day_name(text))
		return false;
	for (size_t i = 0; i < sizeof(fixed) / sizeof(*fixed); i++)
		if (text[fixed[i]] != form[fixed[i]])
			return false;
	day = read_number(text + 5, 2, 31);
	month = read_month(text + 8);
	year = read_number(text + 12, 4, 9999);
	hour = read_number(text + 17, 2, 23);
	minute = read_number(text + 20, 2, 59);
	second = read_number(text + 23, 2, 60); /* there are leap seconds */
	if (day < 1 || month < 0 || year < 1970 || hour < 0 || minute < 0 || second < 0)
		return false;
	*seconds = clock_from_civil(year, month, day, hour, minute, second);
	return true;
}

/*
 * Headers
 */

/* Decimal digits and nothing else but, for a list, what follows a comma; -1 if it is not. */
static int64_t read_seconds(const char *text, size_t size)
{
	int64_t seconds = 0;

	if (size == 0)
		return -1;
	for (size_t i = 0; i < size; i++) {
		if (!is_digit(text[i]))
			return -1;
		seconds = seconds * 10 + (text[i] - '0');
		if (seconds > longest)
			seconds = longest;
	}
	return seconds;
}

/* Where a header is there twice, the shorter time is the safer one. */
static void keep_shorter(int64_t *kept, int64_t seconds)
{
	if (seconds >= 0 && (*kept < 0 || seconds < *kept))
		*kept = seconds;
}

static bool is_directive(const char *text, size_t size, const char *name)
{
	return strlen(name) == size && strncasecmp(text, name, size) == 0;
}

/* One of Cache-Control's: name, name=5 or name="5" (RFC 9111, 5.2). */
static void read_directive(struct freshness *freshness, const char *text, size_t size)
{
	size_t name_size = 0;
	const char *value;
	size_t value_size;

	while (name_size < size && text[name_size] != '=')
		name_size++;
	value = text + name_size + (name_size < size);
	value_size = size - (size_t)(value - text);
	if (value_size >= 2 && value[0] == '"' && value[value_size - 1] == '"') {
		value++;
		value_size -= 2;
	}
	/* Also no-cache="field": it is rare, and to ask once too often is the safe side. */
	if (is_directive(text, name_size, "no-store") || is_directive(text, name_size, "no-cache"))
		freshness->is_uncacheable = true;
	else if (is_directive(text, name_size, "max-age"))
		keep_shorter(&freshness->max_age, read_seconds(value, value_size));
	else if (is_directive(text, name_size, "s-maxage"))
		keep_shorter(&freshness->s_maxage, read_seconds(value, value_size));
}

static void read_cache_control(struct freshness *freshness, const char *value)
{
	while (*value) {
		size_t size, end;

		value += strspn(value, " \t,");
		size = end = strcspn(value, ",");
		while (size > 0 && (value[size - 1] == ' ' || value[size - 1] == '\t'))
			size--;
		read_directive(freshness, value, size);
		value += end;
	}
}

static void read_date(int64_t *kept, const char *value)
{
	int64_t seconds;

	if (*kept < 0 && freshness_parse_date(value, &seconds))
		*kept = seconds;
}

void freshness_read(struct freshness *freshness, const char *name, const char *value)
{
	if (strcasecmp(name, "cache-control") == 0) {
		read_cache_control(freshness, value);
	} else if (strcasecmp(name, "age") == 0) {
		/* A list's first member is the oldest cache's, RFC 9111, 5.1. */
		if (freshness->age < 0)
			freshness->age = read_seconds(value, strcspn(value, ", \t"));
	} else if (strcasecmp(name, "date") == 0) {
		read_date(&freshness->date, value);
	} else if (strcasecmp(name, "expires") == 0) {
		read_date(&freshness->expires, value);
		/* "0", which is no date, is the usual way to say so: RFC 9111, 5.3. */
		if (freshness->expires < 0)
			freshness->expires = 0;
	} else if (strcasecmp(name, "retry-after") == 0) {
		if (freshness->retry_after < 0)
			freshness->retry_after = read_seconds(value, strlen(value));
		read_date(&freshness->retry_date, value);
	}
}

/*
 * Judgement
 */

/* RFC 9111, 4.2.1, as a shared cache reckons; nobody need guess where nothing is said. */
static int64_t lifetime(const struct freshness *freshness, int64_t now)
{
	if (freshness->is_uncacheable)
		return 0;
	if (freshness->s_maxage >= 0)
		return freshness->s_maxage;
	if (freshness->max_age >= 0)
		return freshness->max_age;
	if (freshness->expires < 0)
		return 0;
	return freshness->expires - (freshness->date >= 0 ? freshness->date : now);
}

/* RFC 9111, 4.2.3. A clock of the responder's that is behind makes it older: to ask is safe. */
static int64_t current_age(const struct freshness *freshness, int64_t now, int64_t delay)
{
	int64_t corrected = (freshness->age > 0 ? freshness->age : 0) + (delay + 999) / 1000;
	int64_t apparent = freshness->date >= 0 ? now - freshness->date : 0;

	return apparent > corrected ? apparent : corrected;
}

int64_t freshness_until(const struct freshness *freshness, int64_t now, int64_t delay)
{
	int64_t left = lifetime(freshness, now / 1000) - current_age(freshness, now / 1000, delay);

	return left > 0 ? now + left * 1000 : 0;
}

int64_t freshness_retry_after(const struct freshness *freshness, int64_t now)
{
	int64_t wait = freshness->retry_after;

	if (wait < 0 && freshness->retry_date >= 0)
		wait = freshness->retry_date -
		       (freshness->date >= 0 ? freshness->date : now / 1000);
	if (wait <= 0)
		return 0;
	return wait < FRESHNESS_RETRY_MOST / 1000 ? wait * 1000 : FRESHNESS_RETRY_MOST;
}

int64_t freshness_due(
	int64_t due, int64_t fresh_until, int64_t now, int64_t usable_until, double draw)
{
	/* Ages are whole seconds, cut off: a cache may think itself fresh that much longer. */
	int64_t fresh = fresh_until + 1000;
	int64_t half = now + (usable_until - now) / 2;

	if (fresh_until == 0)
		return due;
	fresh += (int64_t)((double)(usable_until - fresh) / 10 * draw);
	if (fresh > half)
		fresh = half;
	return fresh > due ? fresh : due;
}

int64_t freshness_wait(int64_t wait, int64_t now, int64_t usable_until)
{
	int64_t half = (usable_until - now) / 2;

	return half > 0 && wait > half ? half : wait;
}
