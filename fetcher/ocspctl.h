/* SPDX-License-Identifier: MIT */
/*
 * What the subcommands of ocspctl share. Unlike everything else here they may block and print.
 */
#ifndef OCSPRELOAD_OCSPCTL_H
#define OCSPRELOAD_OCSPCTL_H

#include "aia.h"
#include "certificate.h"
#include "config.h"
#include "fetch.h"
#include "libcrypto.h"
#include "ocsp.h"
#include "ready.h"
#include "store.h"

#include <stdio.h>
#include <sys/types.h>

enum { EXIT_GOOD = 0, EXIT_NOT_GOOD = 1, EXIT_USAGE = 2 };

struct tool {
	struct libcrypto crypto;
	struct config config; /* as the shim would have it in this environment */
	struct store store;

	const char *user;   /* -U, or NULL */
	const char *issuer; /* -i, or NULL */
	const char *output; /* -o, or NULL */
	bool force;         /* -f */
	int64_t at;         /* -a, else now: seconds since 1970 */
};

/* A certificate and what is needed to ask about it. */
struct subject {
	struct certificate leaf;
	struct buffer issuer; /* DER */
	char unhelpful[512];  /* what -i or OCSPRELOAD_TRUSTED names, and why it is not in there */
	bool is_unsent;       /* it came from elsewhere than the server's file or the store */
	char origin[CERTIFICATE_URLS_SIZE]; /* whence the issuer was downloaded; "" if it was not */
	char why[CERTIFICATE_URLS_SIZE + 1024];
};

/*
 * Reads the first certificate of a PEM file. Returns NULL, or why not, in words that follow the
 * path. subject_free in either case.
 */
const char *subject_read(const struct tool *tool, const char *path, struct subject *out);

/*
 * Looks for its issuer where the fetcher would: among what else is in the file, in what -i and the
 * configuration name, in the store and the system's trust store, and where the certificate says.
 * Returns NULL, or words that say what to do; they live as long as the subject.
 */
const char *subject_find_issuer(const struct tool *tool, const char *path, struct subject *subject);

void subject_free(struct subject *subject);

/* A fetch from beginning to end, while the tool has nothing else to do. */
struct inquiry {
	struct fetch_tools tools;
	struct fetch *fetch;
	enum fetch_state state;
};

/*
 * Asks the responders about a subject that has its issuer, and blocks until one has answered or all
 * have failed. False when memory ran out. The subject must outlive it; inquiry_free in either case.
 */
bool inquiry_run(const struct tool *tool, const struct subject *subject, struct inquiry *out);

void inquiry_free(struct inquiry *inquiry);

/* The download of a subject's issuer, in the same way; false, too, if there is no URL, or
 * OCSPRELOAD_FETCH is off. download_free in either case. */
struct download {
	struct fetch_tools tools;
	struct aia *aia;
	enum aia_state state;
};
bool download_run(const struct tool *tool, const struct subject *subject, struct download *out);

void download_free(struct download *download);

/*
 * Judges what the store has for a subject that has its issuer. False if it has nothing; *written is
 * in milliseconds on the wall clock.
 */
bool stored_judge(const struct tool *tool, const struct subject *subject,
	struct judgement *judgement, int64_t *written);

/*
 * Judges what OCSPRELOAD_RESPONSES has for a subject that has its issuer. False if it has nothing.
 * out->response is freed by the caller, in any case.
 */
bool ready_answer(const struct tool *tool, const struct subject *subject, struct ready_answer *out);

/*
 * Prints what the machine's agent has for a subject that has its issuer, in one line; nothing if
 * there is no agent. True if that is a good response.
 */
bool print_agent(const struct tool *tool, const struct subject *subject);

/* Says why nothing came of it. Returns the exit code. */
int print_failure(const char *path, const char *why);

/* Prints a judgement as one line. Returns the exit code. */
int print_judgement(FILE *out, const struct judgement *judgement);

/*
 * Says in one line whether a running process can staple, or why not; pid is in decimal. Returns the
 * exit code.
 */
int examine_process(const char *pid);

/*
 * Why the loader could not take an entry of LD_PRELOAD in a process of this user and group; NULL if
 * nothing shows that speaks against it. pid is in decimal. Entries that are longer are cut.
 */
enum { PRELOAD_PATH_SIZE = 512 };
const char *preload_examine(const char *pid, const char *entry, uid_t uid, gid_t gid);

/* The subcommands: the operands are as many as the table in ocspctl.c says. */
int command_agent(struct tool *tool, char **operands);
int command_check(struct tool *tool, char **operands);
int command_doctor(struct tool *tool, char **operands);
int command_fetch(struct tool *tool, char **operands);
int command_status(struct tool *tool, char **operands);

#endif
