/* SPDX-License-Identifier: MIT */
/*
 * What the bytes of certificates tell without libcrypto, which takes a thousand times as long to
 * decode one: enough to pass over those that are of another name. Pure functions of bytes.
 *
 * Wherever something is not as it should be, or only as a generous reader would have it, they say
 * so: then it is for libcrypto to say what it is.
 */
#ifndef OCSPRELOAD_SKIM_H
#define OCSPRELOAD_SKIM_H

#include "bytes.h"

#include <stdint.h>

/*
 * The Names (RFC 5280, 4.1) in a certificate's DER, which may be cut off after them; they point
 * into it.
 */
bool skim_issuer(struct bytes der, struct bytes *name);
bool skim_subject(struct bytes der, struct bytes *name);

/*
 * The same number for all names that are the same (RFC 5280, 7.1), whatever their encoding, and now
 * and then for others.
 */
bool skim_print(struct bytes name, uint64_t *print);

/*
 * Takes the first block of PEM (RFC 7468) off *text: from the line of its beginning up to where the
 * next one begins, so that no broken one can hide another. False if there is none.
 */
bool skim_pem(struct bytes *text, struct bytes *block);

/* True if such a block may be a certificate, or certificates, by its label. */
bool skim_is_certificate(struct bytes block);

/*
 * The bytes that a block encodes, size at the most; returns how many. 0 if it has headers, or
 * anything that is not base64.
 */
size_t skim_base64(struct bytes block, unsigned char *out, size_t size);

/*
 * The certificates of a certs-only PKCS#7 (RFC 5652, 5.1) in DER, one after the other in *all;
 * skim_next takes the first of them off. False if it is none or, for skim_next, if there is no
 * more.
 */
bool skim_pkcs7(struct bytes der, struct bytes *all);
bool skim_next(struct bytes *all, struct bytes *certificate);

#endif
