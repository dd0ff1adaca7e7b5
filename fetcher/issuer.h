/* SPDX-License-Identifier: MIT */
/*
 * Who signed this certificate?
 */
#ifndef OCSPRELOAD_ISSUER_H
#define OCSPRELOAD_ISSUER_H

#include "bytes.h"
#include "libcrypto.h"

/*
 * True if candidate (DER) carries the issuer name of certificate (DER) as its subject and the
 * signature of certificate verifies under its key. A self-signed certificate is its own issuer.
 */
bool issuer_signed(
	const struct libcrypto *crypto, struct bytes certificate, struct bytes candidate);

/*
 * Looks for the issuer in a file of PEM certificates and appends its DER to *out. False if it is
 * not there or the file cannot be read; *why is then a phrase for a log line. Reads the file each
 * time.
 */
bool issuer_from_file(const struct libcrypto *crypto, struct bytes certificate, const char *path,
	struct buffer *out, const char **why);

/*
 * The same from the system's trust store: the default paths of this libcrypto, with SSL_CERT_FILE
 * and SSL_CERT_DIR honoured by it.
 */
bool issuer_from_system(
	const struct libcrypto *crypto, struct bytes certificate, struct buffer *out);

#endif
