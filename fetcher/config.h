/* SPDX-License-Identifier: MIT */
/*
 * The configuration: environment variables over /etc/ocspreload.conf over defaults. This is the one
 * place that knows their names. Read once; every string lives as long as the process.
 */
#ifndef OCSPRELOAD_CONFIG_H
#define OCSPRELOAD_CONFIG_H

#include "log.h"

#include <stdbool.h>
#include <stdint.h>

#define CONFIG_FILE "/etc/ocspreload.conf"

struct config {
	bool enabled;           /* OCSPRELOAD */
	const char *only;       /* OCSPRELOAD_ONLY: program names; NULL: all */
	const char *responder;  /* OCSPRELOAD_RESPONDER: a URL in place of the certificates' */
	const char *responses;  /* OCSPRELOAD_RESPONSES: see ready.h; or NULL */
	const char *trusted;    /* OCSPRELOAD_TRUSTED: a file or directory of issuers, or NULL */
	bool use_store;         /* OCSPRELOAD_STORE is not off */
	const char *store;      /* OCSPRELOAD_STORE: a directory; NULL: see store_open */
	const char *cache_home; /* XDG_CACHE_HOME, or NULL */
	const char *home;       /* HOME, or NULL */
	bool fetch;             /* OCSPRELOAD_FETCH */
	const char *agent;      /* OCSPRELOAD_AGENT: see agent_address; NULL: none is asked */
	const char *http_proxy; /* OCSPRELOAD_HTTP_PROXY, else http_proxy; see proxy.h */
	const char *no_proxy;   /* no_proxy, or NULL; see proxy.h */
	int64_t timeout;      /* OCSPRELOAD_TIMEOUT: milliseconds for one exchange, name and all */
	int64_t startup_wait; /* OCSPRELOAD_STARTUP_WAIT: milliseconds */
	const char *log;      /* OCSPRELOAD_LOG: see log_open */
	enum log_level log_level; /* OCSPRELOAD_LOG_LEVEL */
};

/*
 * True if a variable of this name has a meaning here or looks as if somebody thought so, and must
 * be among the environment that config_load is given.
 */
bool config_concerns(const char *assignment);

/*
 * Fills *config from environment ("NAME=value" strings, ended by NULL; it must outlive *config)
 * and, where that says nothing, from the file at path, which is used only if root owns it and
 * nobody else may write it. Then opens the log accordingly and reports, once and in one line each,
 * what could not be used. Never fails: defaults stand in.
 */
void config_load(struct config *config, const char *const *environment, const char *path);

/* True if name is in the list of names that are separated by spaces or commas. */
bool config_lists(const char *list, const char *name);

#endif
