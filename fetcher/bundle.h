/* SPDX-License-Identifier: MIT */
/*
 * The certificates in a certs-only PKCS#7 (RFC 5652, 5.1) as skim_pkcs7 finds them, but in BER:
 * some tools write lengths that end where they end. Without libcrypto, which decodes all or none. A
 * pure function of bytes.
 */
#ifndef OCSPRELOAD_BUNDLE_H
#define OCSPRELOAD_BUNDLE_H

#include "bytes.h"

/*
 * All of them, one after the other, in *all, which points into the content; for skim_next. False if
 * it is none, or one that only libcrypto can read.
 */
bool bundle_open(struct bytes content, struct bytes *all);

#endif
