/* SPDX-License-Identifier: MIT */
/*
 * ocspctl: what the shim would do about a certificate, from the command line, by the same code.
 */
#include "ocspctl.h"

#include "clock.h"
#include "log.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef OCSPRELOAD_VERSION
#define OCSPRELOAD_VERSION "0"
#endif

static const struct command {
	const char *name;
	int (*run)(struct tool *tool, char **operands);
	const char *options; /* for getopt */
	int operands;
	const char *usage;
	const char *summary;
} commands[] = {
	{"fetch", command_fetch, "fi:u:t:o:", 1,
		"[-f] [-i ISSUER.pem] [-u URL] [-t SECONDS] [-o OUT.der] CERT.pem",
		"ask the certificate's responders; a verified answer goes into the store that\n"
		"      servers staple from (not asked while that is fresh, but for -f) or OUT.der"},
	{"status", command_status, "i:", 1, "[-i ISSUER.pem] CERT.pem",
		"say what the store, OCSPRELOAD_RESPONSES and the agent have for a certificate"},
	{"check", command_check, "i:a:", 2, "[-i ISSUER.pem] [-a TIME] CERT.pem RESPONSE.der",
		"judge a response as of now, or of TIME (seconds since 1970)"},
	{"doctor", command_doctor, "i:u:t:", 1,
		"[-i ISSUER.pem] [-u URL] [-t SECONDS] CERT.pem|PID",
		"say whether a server with this certificate would be stapled, or whether this\n"
		"      process can staple, or why not; a file of digits is ./DIGITS"},
	{"agent", command_agent, "U:", 0, "[-U USER]",
		"fetch for servers that cannot, and for all others once; they ask at\n"
		"      OCSPRELOAD_AGENT (@ocspreload); -U gives up root for USER"},
};

enum { COMMANDS = sizeof(commands) / sizeof(*commands) };

static void print_usage(FILE *out)
{
	fputs("Usage: ocspctl COMMAND [OPTION]... FILE...\n\n", out);
	for (size_t i = 0; i < COMMANDS; i++)
		fprintf(out, "  ocspctl %s %s\n      %s\n", commands[i].name, commands[i].usage,
			commands[i].summary);
	fputs("  ocspctl help | --help | --version\n\n"
	      "CERT.pem may hold the chain, the server's certificate first. The issuer is looked\n"
	      "for in it, in ISSUER.pem and in the system's trust store. OUT.der may be - for\n"
	      "standard output. The variables of ocspreload (proxy, timeout, ...) apply.\n"
	      "Exit status: 0 good, 1 not good, 2 wrong usage.\n",
		out);
}

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < COMMANDS; i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

static bool parse_number(const char *text, int64_t least, int64_t most, int64_t *number)
{
	char *end;

	errno = 0;
	*number = strtoll(text, &end, 10);
	return errno == 0 && end != text && *end == '\0' && *number >= least && *number <= most;
}

/* False if the value is of no use. */
static bool apply_option(struct tool *tool, int option, const char *value)
{
	/* What libcrypto can hold as a time: the years 1 to 9999 and more. */
	static const int64_t last = 253402300799;

	switch (option) {
	case 'i':
		tool->issuer = value;
		return true;
	case 'u':
		tool->config.responder = value;
		return true;
	case 'f':
		tool->force = true;
		return true;
	case 'o':
		tool->output = value;
		return true;
	case 'U':
		tool->user = value;
		return true;
	case 'a':
		return parse_number(value, 0, last, &tool->at);
	default: /* 't' */
		if (!parse_number(value, 1, 86400, &tool->config.timeout))
			return false;
		tool->config.timeout *= 1000;
		return true;
	}
}

/* argv[0] is the subcommand. Returns the operands, or NULL after having said what is wrong. */
static char **parse_options(
	struct tool *tool, const struct command *command, int argc, char *argv[])
{
	int option;

	opterr = 0;
	while ((option = getopt(argc, argv, command->options)) != -1) {
		if (option == '?') {
			fprintf(stderr,
				"ocspctl %s: -%c is not an option or needs a value; see ocspctl "
				"--help\n",
				command->name, optopt);
			return NULL;
		}
		if (!apply_option(tool, option, optarg)) {
			fprintf(stderr, "ocspctl %s: -%c cannot be %s\n", command->name, option,
				optarg);
			return NULL;
		}
	}
	if (argc - optind != command->operands) {
		fprintf(stderr, "ocspctl %s: it is used as ocspctl %s %s; see ocspctl --help\n",
			command->name, command->name, command->usage);
		return NULL;
	}
	return argv + optind;
}

/* The newest that is installed: it is what a server would most likely use. */
static bool bind_libcrypto(struct libcrypto *crypto)
{
	static const char *const names[] = {"libcrypto.so.4", "libcrypto.so.3", "libcrypto.so.1.1"};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		void *handle = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
		const char *missing;

		if (!handle)
			continue;
		missing = libcrypto_bind(crypto, handle);
		if (!missing)
			return true;
		fprintf(stderr, "ocspctl: %s has no %s\n", names[i], missing);
		dlclose(handle);
	}
	fputs("ocspctl: no OpenSSL found: one of libcrypto.so.4, libcrypto.so.3 and "
	      "libcrypto.so.1.1 is needed\n",
		stderr);
	return false;
}

static bool load_config(struct config *config)
{
	size_t count = 0, size = 0;
	const char **mine;

	while (environ[size])
		size++;
	mine = calloc(size + 1, sizeof(*mine));
	if (!mine) {
		fputs("ocspctl: memory ran out\n", stderr);
		return false;
	}
	for (size_t i = 0; i < size; i++)
		if (config_concerns(environ[i]))
			mine[count++] = environ[i];
	log_start();
	config_load(config, mine, CONFIG_FILE);
	free(mine);
	return true;
}

static int run_command(const struct command *command, int argc, char *argv[])
{
	struct tool tool = {.at = clock_wall() / 1000};
	char **operands;

	if (!load_config(&tool.config))
		return EXIT_NOT_GOOD;
	/* The agent opens its own, as the user that it becomes. */
	if (command->run != command_agent)
		store_open(&tool.store, &tool.config);
	operands = parse_options(&tool, command, argc, argv);
	if (!operands)
		return EXIT_USAGE;
	if (!bind_libcrypto(&tool.crypto))
		return EXIT_NOT_GOOD;
	return command->run(&tool, operands);
}

int main(int argc, char *argv[])
{
	const char *name = argc > 1 ? argv[1] : "";
	const struct command *command = find_command(name);

	if (command && !(argc == 3 && strcmp(argv[2], "--help") == 0))
		return run_command(command, argc - 1, argv + 1);
	if (strcmp(name, "--version") == 0) {
		puts("ocspctl " OCSPRELOAD_VERSION);
		return EXIT_GOOD;
	}
	if (command || strcmp(name, "help") == 0 || strcmp(name, "--help") == 0) {
		print_usage(stdout);
		return EXIT_GOOD;
	}
	if (argc > 1)
		fprintf(stderr, "ocspctl: no such command: %s\n", name);
	print_usage(stderr);
	return EXIT_USAGE;
}
