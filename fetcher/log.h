/* SPDX-License-Identifier: MIT */
/*
 * The one way in which anything is said. A line is formatted whole and written by one call; a line
 * that cannot be written at once goes to standard error, and if that cannot take it either (a full
 * pipe), it is dropped: nobody waits for a log. No descriptor is kept open, no lock is held, errno
 * is as it was, no signal is raised. Any thread.
 */
#ifndef OCSPRELOAD_LOG_H
#define OCSPRELOAD_LOG_H

#include <stdbool.h>

enum log_level {
	LOG_LEVEL_ERROR,   /* a certificate that cannot be stapled, and will not be by waiting */
	LOG_LEVEL_WARNING, /* something failed that will be tried again */
	LOG_LEVEL_INFO,    /* what was fetched and what happens next */
	LOG_LEVEL_DEBUG,
};

/*
 * Remembers what standard error is, so that another file that a daemon has since opened under
 * number 2 is never written to. Called once, before the host's main.
 */
void log_start(void);

/* Where lines go: "stderr", "syslog", or the path of a file. The string is kept, not copied. */
void log_open(const char *target, enum log_level most);

void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
