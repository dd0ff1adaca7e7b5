/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "agent.h"
#include "http.h"
#include "proxy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_LIMIT = 64 * 1024, REPORTS = 16 };

/* Parsers take a value and return whether they could use it; NULL in `expected` takes anything. */
struct variable {
	const char *name;
	bool (*parse)(const char *value, void *field);
	size_t field;
	const char *expected;
	const char *fallback; /* where nothing else is said, for the report */
};

/* Of the C locale, whatever the host has set. */
static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool parse_switch(const char *value, void *field)
{
	static const char *const yes[] = {"on", "yes", "true", "1"};
	static const char *const no[] = {"off", "no", "false", "0"};

	for (size_t i = 0; i < sizeof(yes) / sizeof(*yes); i++) {
		bool is_yes = strcasecmp(value, yes[i]) == 0;

		if (is_yes || strcasecmp(value, no[i]) == 0) {
			*(bool *)field = is_yes;
			return true;
		}
	}
	return false;
}

static bool parse_text(const char *value, void *field)
{
	*(const char **)field = value;
	return true;
}

static bool parse_path(const char *value, void *field)
{
	return value[0] == '/' && parse_text(value, field);
}

/* Into two fields: whether, and where. */
static bool parse_store(const char *value, void *field)
{
	struct config *config = (struct config *)((char *)field - offsetof(struct config, store));

	if (value[0] != '/' && strcasecmp(value, "off") != 0)
		return false;
	config->store = value[0] == '/' ? value : NULL;
	config->use_store = config->store;
	return true;
}

/* A switch, or where it listens. */
static bool parse_agent(const char *value, void *field)
{
	struct sockaddr_un address;
	socklen_t size;
	bool on;

	if (agent_address(value, &address, &size))
		return parse_text(value, field);
	if (!parse_switch(value, &on))
		return false;
	return parse_text(on ? AGENT_NAME : NULL, field);
}

/* Not ours to complain about. */
static bool parse_foreign_path(const char *value, void *field)
{
	if (value[0] == '/')
		*(const char **)field = value;
	return true;
}

static bool parse_url(const char *value, void *field)
{
	struct url url;

	return !url_parse(value, &url) && parse_text(value, field);
}

static bool parse_proxy(const char *value, void *field)
{
	struct proxy proxy;

	if (strcasecmp(value, "off") == 0)
		return parse_text(NULL, field);
	return !proxy_parse(value, &proxy) && parse_text(value, field);
}

static bool parse_duration(const char *value, void *field)
{
	static const struct {
		const char *name;
		int64_t milliseconds;
	} units[] = {{"", 1000}, {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
	char *end;
	long number;

	if (!is_digit(value[0]))
		return false;
	number = strtol(value, &end, 10);
	if (number > 1000000)
		return false;
	for (size_t i = 0; i < sizeof(units) / sizeof(*units); i++) {
		if (strcmp(end, units[i].name) == 0) {
			*(int64_t *)field = number * units[i].milliseconds;
			return true;
		}
	}
	return false;
}

static bool parse_timeout(const char *value, void *field)
{
	int64_t timeout;

	if (!parse_duration(value, &timeout) || timeout == 0)
		return false;
	*(int64_t *)field = timeout;
	return true;
}

static bool parse_log(const char *value, void *field)
{
	if (strcmp(value, "stderr") != 0 && strcmp(value, "syslog") != 0 && value[0] != '/')
		return false;
	return parse_text(value, field);
}

static bool parse_level(const char *value, void *field)
{
	static const char *const names[] = {
		[LOG_LEVEL_ERROR] = "error",
		[LOG_LEVEL_WARNING] = "warning",
		[LOG_LEVEL_INFO] = "info",
		[LOG_LEVEL_DEBUG] = "debug",
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		if (strcasecmp(value, names[i]) == 0) {
			*(enum log_level *)field = (enum log_level)i;
			return true;
		}
	}
	return false;
}

static const struct config defaults = {
	.enabled = true,
	.use_store = true,
	.fetch = true,
	.agent = AGENT_NAME,
	.timeout = 10000,
	.startup_wait = 3000,
	.log = "stderr",
	.log_level = LOG_LEVEL_WARNING,
};

#define FIELD(name) offsetof(struct config, name)
static const struct variable variables[] = {
	{"OCSPRELOAD", parse_switch, FIELD(enabled), "on or off", "on"},
	{"OCSPRELOAD_ONLY", parse_text, FIELD(only), NULL, NULL},
	{"OCSPRELOAD_RESPONDER", parse_url, FIELD(responder), "an http:// URL",
		"the certificates' own"},
	{"OCSPRELOAD_RESPONSES", parse_path, FIELD(responses), "an absolute path", "none"},
	{"OCSPRELOAD_TRUSTED", parse_path, FIELD(trusted), "an absolute path", "none"},
	{"OCSPRELOAD_STORE", parse_store, FIELD(store), "an absolute path or off",
		"the default directories"},
	{"OCSPRELOAD_FETCH", parse_switch, FIELD(fetch), "on or off", "on"},
	{"OCSPRELOAD_AGENT", parse_agent, FIELD(agent), "on, off, @NAME or an absolute path",
		"@ocspreload"},
	{"OCSPRELOAD_HTTP_PROXY", parse_proxy, FIELD(http_proxy),
		"an http:// URL, with or without \"direct\" after it, or off", "http_proxy"},
	{"OCSPRELOAD_TIMEOUT", parse_timeout, FIELD(timeout), "a time such as 10s or 500ms", "10s"},
	{"OCSPRELOAD_STARTUP_WAIT", parse_duration, FIELD(startup_wait), "a time such as 3s or 0",
		"3s"},
	{"OCSPRELOAD_LOG", parse_log, FIELD(log), "stderr, syslog or an absolute path", "stderr"},
	{"OCSPRELOAD_LOG_LEVEL", parse_level, FIELD(log_level), "error, warning, info or debug",
		"warning"},
	{"no_proxy", parse_text, FIELD(no_proxy), NULL, NULL},
	{"XDG_CACHE_HOME", parse_foreign_path, FIELD(cache_home), NULL, NULL},
	{"HOME", parse_foreign_path, FIELD(home), NULL, NULL},
};
#undef FIELD

enum { VARIABLES = sizeof(variables) / sizeof(*variables) };

/* What is wrong can be said only once it is known where to. */
struct reports {
	size_t count;
	char line[REPORTS][256];
};

static void __attribute__((format(printf, 2, 3)))
report(struct reports *reports, const char *format, ...)
{
	va_list arguments;

	if (reports->count == REPORTS)
		return;
	va_start(arguments, format);
	vsnprintf(reports->line[reports->count++], sizeof(reports->line[0]), format, arguments);
	va_end(arguments);
}

static bool has_prefix(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

bool config_concerns(const char *assignment)
{
	/* http_proxy in lower case only: in a CGI, HTTP_PROXY is what the client sent. */
	return has_prefix(assignment, "OCSPRELOAD=") || has_prefix(assignment, "OCSPRELOAD_") ||
	       has_prefix(assignment, "http_proxy=") || has_prefix(assignment, "no_proxy=") ||
	       has_prefix(assignment, "XDG_CACHE_HOME=") || has_prefix(assignment, "HOME=");
}

static const struct variable *find_variable(const char *name, size_t size)
{
	for (size_t i = 0; i < VARIABLES; i++)
		if (strlen(variables[i].name) == size &&
			strncmp(variables[i].name, name, size) == 0)
			return &variables[i];
	return NULL;
}

static void apply(struct config *config, const struct variable *variable, const char *value,
	const char *origin, struct reports *reports)
{
	/* Empty is as good as unset, as everywhere in Unix. */
	if (value[0] == '\0' || variable->parse(value, (char *)config + variable->field))
		return;
	/* Whatever stands before an @ may be a password. */
	report(reports, "%s=%s in %s is not %s; ignored (the default is %s)", variable->name,
		strchr(value, '@') ? "(not shown)" : value, origin, variable->expected,
		variable->fallback);
}

/* One NAME=value, from the file or the environment. */
static void apply_assignment(
	struct config *config, const char *assignment, const char *origin, struct reports *reports)
{
	const char *equals = strchr(assignment, '=');
	const struct variable *variable;
	size_t size = equals ? (size_t)(equals - assignment) : strlen(assignment);

	if (!equals) {
		report(reports, "\"%s\" in %s is not of the form NAME=value; ignored", assignment,
			origin);
		return;
	}
	variable = find_variable(assignment, size);
	if (variable)
		apply(config, variable, equals + 1, origin, reports);
	else if (!has_prefix(assignment, "OCSPRELOAD_LIBRARY="))
		report(reports, "%.*s in %s is no variable of ocspreload; ignored", (int)size,
			assignment, origin);
}

static void apply_environment(
	struct config *config, const char *const *environment, struct reports *reports)
{
	for (; *environment; environment++)
		if (!has_prefix(*environment, "http_proxy="))
			apply_assignment(config, *environment, "the environment", reports);
}

/* The weakest source of all, and everybody's: what cannot be used in it is not worth a word. */
static void apply_http_proxy(struct config *config, const char *const *environment)
{
	for (; *environment; environment++)
		if (has_prefix(*environment, "http_proxy="))
			parse_proxy(*environment + strlen("http_proxy="), &config->http_proxy);
}

/* The whole file, ended by NUL, for ever; NULL if there is none that may be used. */
static char *read_file(const char *path, struct reports *reports)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat status;
	char *text = NULL;
	ssize_t size = -1;

	if (fd < 0) {
		if (errno != ENOENT)
			report(reports, "%s cannot be read: %s; ignored", path, strerror(errno));
		return NULL;
	}
	if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) || status.st_uid != 0 ||
		(status.st_mode & (S_IWGRP | S_IWOTH)) || status.st_size >= FILE_LIMIT) {
		report(reports,
			"%s must be a file that root owns and no one else may write; ignored",
			path);
		goto out;
	}
	text = malloc((size_t)status.st_size + 1);
	if (text)
		size = read(fd, text, (size_t)status.st_size);
	if (size < 0) {
		free(text);
		text = NULL;
	} else {
		text[size] = '\0';
	}
out:
	close(fd);
	return text;
}

/* Strips white space and one pair of quotes in place, as systemd's EnvironmentFile does. */
static char *trim(char *text)
{
	size_t size;

	while (is_space(*text))
		text++;
	size = strlen(text);
	while (size > 0 && is_space(text[size - 1]))
		text[--size] = '\0';
	return text;
}

static void unquote(char *assignment)
{
	char *value = strchr(assignment, '=');
	size_t size = value ? strlen(++value) : 0;

	if (size >= 2 && (value[0] == '"' || value[0] == '\'') && value[size - 1] == value[0]) {
		memmove(value, value + 1, size - 2);
		value[size - 2] = '\0';
	}
}

static void apply_file(struct config *config, const char *path, struct reports *reports)
{
	char *text = read_file(path, reports);
	char *rest = text;
	char *line;

	while ((line = strsep(&rest, "\n")) != NULL) {
		line = trim(line);
		if (line[0] == '\0' || line[0] == '#')
			continue;
		unquote(line);
		apply_assignment(config, line, path, reports);
	}
}

void config_load(struct config *config, const char *const *environment, const char *path)
{
	struct reports reports;

	reports.count = 0;
	*config = defaults;
	apply_http_proxy(config, environment);
	apply_file(config, path, &reports);
	apply_environment(config, environment, &reports);
	log_open(config->log, config->log_level);
	if (!config->enabled)
		return;
	for (size_t i = 0; i < reports.count; i++)
		log_warning("%s", reports.line[i]);
}

bool config_lists(const char *list, const char *name)
{
	size_t size = strlen(name);

	while (*list) {
		size_t here = strcspn(list, " ,");

		if (here == size && strncmp(list, name, size) == 0)
			return true;
		list += here;
		list += strspn(list, " ,");
	}
	return false;
}
