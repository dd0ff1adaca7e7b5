/* SPDX-License-Identifier: MIT */
/*
 * The two clocks, in milliseconds. Whatever has to do with certificates and responses uses the wall
 * clock; whatever waits uses the steady one, which is the same in all processes of a machine.
 *
 * Nothing else reads a clock. Both functions are weak symbols, so that a test has clocks of its own
 * by defining them.
 */
#ifndef OCSPRELOAD_CLOCK_H
#define OCSPRELOAD_CLOCK_H

#include <stdint.h>

/* Milliseconds since 1970-01-01T00:00:00Z, CLOCK_REALTIME. Any thread; never fails. */
int64_t clock_wall(void);

/* CLOCK_MONOTONIC, from an arbitrary start. Any thread; never fails. */
int64_t clock_steady(void);

/* Seconds since 1970 of a UTC civil time; no time zone, no lock, unlike timegm. month is 1..12. */
int64_t clock_from_civil(int year, int month, int day, int hour, int minute, int second);

enum { CLOCK_TEXT_SIZE = 32 };

/* "2026-11-21T09:30:00Z" from seconds since 1970; no time zone, no lock, unlike gmtime_r. */
const char *clock_text(int64_t seconds, char text[static CLOCK_TEXT_SIZE]);

#endif
