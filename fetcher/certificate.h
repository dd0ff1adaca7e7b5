/* SPDX-License-Identifier: MIT */
/*
 * What the fetcher has to know of a certificate, copied out of an X509 that may belong to a host.
 */
#ifndef OCSPRELOAD_CERTIFICATE_H
#define OCSPRELOAD_CERTIFICATE_H

#include "bytes.h"
#include "libcrypto.h"

#include <stdint.h>

enum {
	CERTIFICATE_KEY_SIZE = 32,
	CERTIFICATE_LABEL_SIZE = 128,
	CERTIFICATE_URLS_SIZE = 1024,
};

struct certificate {
	unsigned char
		key[CERTIFICATE_KEY_SIZE]; /* SHA-256 of the DER: the certificate's identity */
	/*
	 * Hashes of the names as they compare (RFC 5280, 7.1): the same for all encodings of the
	 * same name, and now and then for another.
	 */
	uint32_t subject;
	uint32_t issuer;
	bool is_self_issued; /* the two names compare equal */
	/*
	 * SHA-256 of all that it says about its issuer: the name's DER, the key identifier, and
	 * where to get it. Certificates with the same have the same issuer.
	 */
	unsigned char issuer_key[CERTIFICATE_KEY_SIZE];
	int64_t not_before; /* seconds since 1970 */
	int64_t not_after;
	struct buffer der;
	/* For log lines: "www.example.org (serial 03AB9F)"; printable ASCII only. */
	char label[CERTIFICATE_LABEL_SIZE];
	/*
	 * The OCSP URLs of authorityInfoAccess (RFC 5280, 4.2.2.1) in the certificate's order,
	 * separated by one space; empty if there are none. URLs with a space or a control character
	 * in them are left out, as are those that no longer fit.
	 */
	char responders[CERTIFICATE_URLS_SIZE];
	/* The caIssuers URLs of the same extension, in the same way. */
	char issuers[CERTIFICATE_URLS_SIZE];
	/* False if an extendedKeyUsage is present and has neither serverAuth nor
	 * anyExtendedKeyUsage. */
	bool may_be_server;
};

/*
 * Fills *out from x, which stays the caller's and is not changed. Any thread; the caller keeps the
 * error queue clean. False when memory ran out or x cannot be encoded; *out is then empty.
 * certificate_free releases what it holds.
 */
bool certificate_read(const struct libcrypto *crypto, X509 *x, struct certificate *out);

/* The same from DER, which must be used up to its last byte. */
bool certificate_decode(const struct libcrypto *crypto, struct bytes der, struct certificate *out);

void certificate_free(struct certificate *certificate);

/* The seconds since 1970 of a time in a certificate or a response. False if it is none. */
bool certificate_time(const struct libcrypto *crypto, const ASN1_TIME *time, int64_t *seconds);

/*
 * An X509 from DER that must be used up to its last byte, or NULL. Freed with crypto->X509_free;
 * not to be changed, since with a memo others may be given the same.
 */
X509 *certificate_x509(const struct libcrypto *crypto, struct bytes der);

/*
 * What certificate_x509 decoded lately. To decode a certificate costs more than to verify a
 * signature (OpenSSL 3 looks through all its decoders for the key), and one fetch needs the
 * certificate and its issuer three times. It keeps no more than places certificates. NULL when
 * memory ran out, which is fine as a memo.
 */
struct certificate_memo *certificate_memo_new(size_t places);

/*
 * Lends it a certificate that somebody else has decoded: x, whose DER der is. Both stay the
 * caller's, and are looked at until the next call, which may lend NULL. NULL is allowed as a memo.
 */
void certificate_memo_lend(struct certificate_memo *memo, struct bytes der, X509 *x);

/* Forgets all. crypto is the table that has the memo. NULL is allowed as a memo in both. */
void certificate_memo_clear(const struct libcrypto *crypto);
void certificate_memo_free(const struct libcrypto *crypto);

/* Appends the DER of x to *out. False when memory ran out or x cannot be encoded. */
bool certificate_encode(const struct libcrypto *crypto, X509 *x, struct buffer *out);

#endif
