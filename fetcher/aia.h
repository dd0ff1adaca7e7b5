/* SPDX-License-Identifier: MIT */
/*
 * The last resort for an issuer: the caIssuers URLs that a certificate names (authorityInfoAccess,
 * RFC 5280, 4.2.2.1), each in turn until one gives a certificate that has signed it and is in its
 * time. A state machine that its owner drives from poll, like a fetch. Whatever is downloaded is
 * used for nothing else: a certificate that did not sign this one is not kept.
 */
#ifndef OCSPRELOAD_AIA_H
#define OCSPRELOAD_AIA_H

#include "bytes.h"
#include "fetch.h"

#include <poll.h>
#include <stdint.h>

struct aia;

enum aia_state {
	AIA_RUNNING,
	AIA_FOUND,
	AIA_FAILED,
};

/*
 * Starts a download for certificate (DER, copied). The tools must outlive it; of them the
 * connections are not used. NULL when the certificate names no URL,
 * cannot be decoded, or memory ran out.
 */
struct aia *aia_start(struct fetch_tools *tools, struct bytes certificate);

/* In any state. NULL is allowed. */
void aia_free(struct aia *aia);

/* As exchange_poll. now is on the steady clock. */
struct pollfd aia_poll(const struct aia *aia, int64_t now, int *timeout);

/* Goes as far as it can without blocking. Both clocks in milliseconds. */
enum aia_state aia_step(struct aia *aia, short revents, int64_t now_steady, int64_t now_wall);

/* AIA_FOUND: the issuer's DER; alive as long as the download. */
struct bytes aia_issuer(const struct aia *aia);

/* The URL that was asked last, and what went wrong with it, in words for a log line. */
const char *aia_url(const struct aia *aia);
const char *aia_why(const struct aia *aia);

#endif
