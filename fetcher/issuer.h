/* SPDX-License-Identifier: MIT */
/*
 * Who signed this certificate?
 *
 * There may be several: a CA that is cross-signed, or whose certificate was renewed, has more than
 * one certificate with the same name and key, and all of them make the same CertID and verify the
 * same responses. But none may be used outside its time. So they are weighed, and every search here
 * gives the best that it finds. Those of the same name with another key have signed nothing.
 *
 * Searches may take long. With a gate in crypto it is opened again and again meanwhile; what they
 * are given must stay as it is.
 */
#ifndef OCSPRELOAD_ISSUER_H
#define OCSPRELOAD_ISSUER_H

#include "bytes.h"
#include "libcrypto.h"

#include <stdint.h>

/* What makes one issuer better than another, in this order. */
struct issuer_weight {
	bool is_in_time;
	/* Its subject has the very bytes of the certificate's issuer, which clients' CertIDs are
	 * made of; other encodings of the same name are not good enough for all of them. */
	bool is_named_alike;
	int64_t not_after; /* seconds since 1970 */
};

/*
 * False if candidate (DER) is not an issuer of certificate (DER): its subject must be the same name
 * as the issuer's of certificate (RFC 5280, 7.1), and the signature of certificate verify under its
 * key. A self-signed certificate is its own issuer. now in seconds since 1970. *out is only then
 * set. Any thread; the error queue is left as it was; so in all of these.
 */
bool issuer_weigh(const struct libcrypto *crypto, struct bytes certificate, struct bytes candidate,
	int64_t now, struct issuer_weight *out);

bool issuer_outweighs(const struct issuer_weight *one, const struct issuer_weight *other);

/* issuer_weigh where the weight does not matter. */
bool issuer_signed(
	const struct libcrypto *crypto, struct bytes certificate, struct bytes candidate);

/*
 * Looks for the issuer among all certificates in content, which may be PEM, with anything in
 * between, or DER of a certificate, or a certs-only PKCS#7 in either (RFC 5280, 4.2.2.1), and
 * appends its DER to *out. False if it is not there.
 */
bool issuer_from_content(const struct libcrypto *crypto, struct bytes certificate,
	struct bytes content, int64_t now, struct buffer *out);

/*
 * The same for the file at path or, if that is a directory, for the files in it: those that are
 * named by a hash of their subject (as c_rehash does) or end in .pem, .crt or .cer. False if it is
 * not there or cannot be read; *why is then a phrase for a log line. Reads anew each time.
 */
bool issuer_from_path(const struct libcrypto *crypto, struct bytes certificate, const char *path,
	int64_t now, struct buffer *out, const char **why);

/*
 * The same from the system's trust store: the default paths of this libcrypto, or what SSL_CERT_DIR
 * (directories, each hashed) and SSL_CERT_FILE say. They are paths here, never OpenSSL 3's URIs.
 */
bool issuer_from_system(
	const struct libcrypto *crypto, struct bytes certificate, int64_t now, struct buffer *out);

#endif
