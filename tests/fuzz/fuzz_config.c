/* SPDX-License-Identifier: MIT */
/*
 * The configuration. Input: a configuration file, a byte 0xFF, the strings of an environment, each
 * ended by a NUL.
 */
#include "config.h"
#include "fuzz.h"
#include "http.h"

#include <stdarg.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_STRINGS = 64 };

/* The linker's --wrap wants these names. */
/* NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp) */
int __real_fstat(int fd, struct stat *status);
int __wrap_fstat(int fd, struct stat *status);
void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);

/* What config_load keeps for the life of a process, which is long here. */
static void *kept[8];
static size_t kept_count;
static bool loading;

/* The file is root's whoever runs the fuzzer. */
int __wrap_fstat(int fd, struct stat *status)
{
	int result = __real_fstat(fd, status);

	status->st_uid = 0;
	return result;
}

void *__wrap_malloc(size_t size)
{
	void *memory = __real_malloc(size);

	if (loading) {
		RULE(kept_count < sizeof(kept) / sizeof(*kept));
		kept[kept_count++] = memory;
	}
	return memory;
}

/* NOLINTEND(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp) */

/* In place of log.c: a target that the input names is never opened. */
void log_open(const char *target, enum log_level most)
{
	RULE(target && (unsigned)most <= LOG_LEVEL_DEBUG);
}

void log_write(enum log_level level, const char *format, ...)
{
	char line[1024];
	va_list arguments;

	va_start(arguments, format);
	RULE(vsnprintf(line, sizeof(line), format, arguments) > 0);
	va_end(arguments);
	RULE(level == LOG_LEVEL_WARNING);
}

static void check_url(const char *text)
{
	struct url url;

	RULE(!text || !url_parse(text, &url));
}

static void check_path(const char *text)
{
	RULE(!text || text[0] == '/');
}

/* The same as config_lists, by another way. */
static bool is_listed(const char *list, const char *name)
{
	char *copy = string_of((struct bytes){(const unsigned char *)list, strlen(list)});
	char *rest = copy;
	char *word;
	bool found = false;

	while ((word = strsep(&rest, " ,")) != NULL)
		found = found || (word[0] && strcmp(word, name) == 0);
	free(copy);
	return found;
}

static void check_config(const struct config *config)
{
	check_url(config->responder);
	RULE(!config->http_proxy || config->http_proxy[0]);
	check_path(config->responses);
	check_path(config->trusted);
	check_path(config->store);
	check_path(config->cache_home);
	check_path(config->home);
	RULE(config->timeout > 0 && config->timeout <= 3600000000000);
	RULE(config->startup_wait >= 0 && config->startup_wait <= 3600000000000);
	RULE(config->log && (strcmp(config->log, "stderr") == 0 ||
				    strcmp(config->log, "syslog") == 0 || config->log[0] == '/'));
	RULE((unsigned)config->log_level <= LOG_LEVEL_DEBUG);
	RULE(!config->only || config->only[0]);
	RULE(!config->no_proxy || config->no_proxy[0]);
	if (config->only)
		RULE(config_lists(config->only, "nginx") == is_listed(config->only, "nginx"));
}

static void load(struct config *config, const char *const *environment, struct bytes file)
{
	char path[64];
	int fd = memfd_create("conf", MFD_CLOEXEC);

	RULE(fd >= 0 && fchmod(fd, 0600) == 0);
	RULE(write(fd, file.data, file.size) == (ssize_t)file.size);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	loading = true;
	config_load(config, environment, path);
	loading = false;
	close(fd);
	check_config(config);
}

static void unload(void)
{
	while (kept_count > 0)
		free(kept[--kept_count]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *mark = size ? memchr(data, 0xff, size) : NULL;
	size_t file_size = mark ? (size_t)(mark - data) : size;
	struct bytes rest = {mark ? mark + 1 : NULL, mark ? size - file_size - 1 : 0};
	char *text = string_of(rest);
	const char *environment[MOST_STRINGS + 4];
	struct config config;
	size_t count = 0;

	for (const char *at = text; at < text + rest.size && count < MOST_STRINGS;
		at += strlen(at) + 1)
		if (config_concerns(at))
			environment[count++] = at;
	environment[count] = NULL;
	load(&config, environment, (struct bytes){data, file_size});
	unload();
	/* Whatever the file says, the environment has the last word, and in it the last one. */
	environment[count++] = "OCSPRELOAD_TIMEOUT=7s";
	environment[count++] = "OCSPRELOAD_LOG=syslog";
	environment[count++] = "OCSPRELOAD=off";
	environment[count] = NULL;
	load(&config, environment, (struct bytes){data, file_size});
	RULE(config.timeout == 7000 && strcmp(config.log, "syslog") == 0 && !config.enabled);
	unload();
	free(text);
	return 0;
}
