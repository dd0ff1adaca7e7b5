/* SPDX-License-Identifier: MIT */
/*
 * A network that is a script, in the place of exchange.c: exchanges are recorded, and answered with
 * what comes next in it.
 */
#ifndef OCSPRELOAD_NETWORK_H
#define OCSPRELOAD_NETWORK_H

#include "../../fetcher/exchange.h"

struct step {
	const char *answer;     /* an HTTP response, whole unless there is a why; NULL: none */
	const char *why;        /* it fails in the end; "": it never ends */
	enum address_kind kind; /* of the peer */

	/* What was asked. */
	char peer[sizeof(((struct url *)NULL)->authority)];
	char request[1024];
	int64_t deadline;
	bool restricted;
	enum address_kind allowed;
	struct connections *connections;
};

enum { SCRIPT_STEPS = 12 };

extern struct step script[SCRIPT_STEPS];
extern size_t asked;  /* steps done */
extern int exchanges; /* alive */

/* A new world, in which the answers of a list ended by NULL come, and then none. */
void set_script(const char *const *answers);

#define SCRIPT(...) set_script((const char *const[]){__VA_ARGS__, NULL})

#define STATUS(number) ("HTTP/1.1 " #number " X\r\nContent-Length: 0\r\n\r\n")
#define REDIRECT(number, location) \
	"HTTP/1.1 " #number " X\r\nLocation: " location "\r\nContent-Length: 0\r\n\r\n"

#endif
