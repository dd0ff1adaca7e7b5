/* SPDX-License-Identifier: MIT */
/*
 * OCSP (RFC 6960, RFC 5019) as pure functions of bytes: no I/O, no clock, no state.
 */
#ifndef OCSPRELOAD_OCSP_H
#define OCSPRELOAD_OCSP_H

#include "bytes.h"
#include "libcrypto.h"

#include <stdint.h>

/*
 * A judgement. The first three are about the certificate and come from a response that is verified,
 * for this certificate and inside its time; all others refuse the response itself.
 */
enum verdict {
	VERDICT_GOOD,
	VERDICT_REVOKED,
	VERDICT_UNKNOWN,
	VERDICT_NOT_A_RESPONSE,    /* not DER of an OCSPResponse, or bytes after it */
	VERDICT_MALFORMED_REQUEST, /* responseStatus, RFC 6960, 4.2.1 */
	VERDICT_INTERNAL_ERROR,
	VERDICT_TRY_LATER,
	VERDICT_SIG_REQUIRED,
	VERDICT_UNAUTHORIZED,
	VERDICT_BAD_STATUS,
	VERDICT_NOT_BASIC,         /* no id-pkix-ocsp-basic in it */
	VERDICT_BAD_VERSION,       /* not v1 */
	VERDICT_BAD_SIGNATURE,     /* or a signer without the issuer's authority */
	VERDICT_BAD_ALGORITHM,     /* signatureAlgorithm is not encoded as its algorithm demands */
	VERDICT_WEAK_DIGEST,       /* signed with MD5 or an older one */
	VERDICT_WEAK_DELEGATE,     /* the delegated signer's certificate is */
	VERDICT_SIGNER_NOT_FIRST,  /* certificates came along, and the first is not the signer's */
	VERDICT_OTHER_CERTIFICATE, /* no SingleResponse with our CertID */
	VERDICT_DISPUTED,          /* the newest SingleResponse says good, an older one does not */
	VERDICT_NOT_YET_VALID,     /* thisUpdate or producedAt more than OCSP_SKEW in the future, or
				      the signer's notBefore at all */
	VERDICT_EXPIRED,           /* nextUpdate, or the signer's notAfter, is past */
	VERDICT_BAD_TIMES,         /* unreadable, or nextUpdate not after thisUpdate */
	VERDICT_BAD_TIME_FORM,   /* of what would be stapled: not as RFC 5280, 4.1.2.5.2 wants it */
	VERDICT_BAD_EXTENSION,   /* critical, and not one that we know */
	VERDICT_BAD_CERTIFICATE, /* our own certificate or issuer cannot be decoded */
	VERDICT_OUT_OF_MEMORY,
	VERDICT_COUNT,
};

enum {
	OCSP_SKEW = 300,          /* seconds a responder's clock may be ahead of ours */
	OCSP_DEFAULT_LIFE = 3600, /* seconds after thisUpdate, where nextUpdate is absent */
};

/* All times in seconds since 1970. Meaningful for the first three verdicts only. */
struct judgement {
	enum verdict verdict;
	int64_t this_update;
	int64_t next_update;   /* thisUpdate + OCSP_DEFAULT_LIFE if the response has none */
	int64_t usable_until;  /* the earliest of next_update and the notAfter of signer and issuer
				*/
	int64_t revoked_at;    /* VERDICT_REVOKED only */
	int revocation_reason; /* CRLReason (RFC 5280, 5.3.1), or -1 */
};

/*
 * Judges a response as a strict client would at the time now (seconds since 1970): everything of
 * RFC 6960, 3.2, plus the authority of the signer (4.2.2.2). certificate and issuer are DER.
 *
 * Two things in a response no signature covers, so that anyone on its way can change them:
 *
 * - The parameters of signatureAlgorithm must be what the algorithm demands: NULL or absent for RSA
 *   (RFC 4055, 5), one of three encodings for RSASSA-PSS, absent for all else (RFC 5758, RFC 8410).
 *   PSS with another salt or another digest for the mask is legal (RFC 4055, 3.1), but Go and
 *   mozilla::pkix read no PSS in responses at all, and what their CAs may sign with besides are
 *   these three (CA/Browser Forum's Baseline Requirements, 7.1.3.2.1). To take more would be to
 *   parse what OpenSSL does not parse to its end, for responses that hardly a client accepts.
 * - If certificates come along, the signer's must be the first, also where the issuer signed
 *   itself. RFC 6960 knows no order, but responders keep this one, and Go looks at no other
 *   certificate: it refuses a response whose first does not verify the signature, though a later
 *   one would. Those after it are not looked at and may be anything that is DER.
 *
 * Of several SingleResponses about the certificate the newest counts; but if that is good, none may
 * say otherwise or have ended: OpenSSL and Go look at the first, mozilla::pkix believes the worst.
 *
 * Times must be written as RFC 5280, 4.1.2.5.2 says, since mozilla::pkix reads no others (RFC 6960,
 * 4.2.2.1).
 *
 * Whether a delegated signer has been revoked is not asked, be id-pkix-ocsp-nocheck in its
 * certificate or not: RFC 6960, 4.2.2.2.1 leaves that to the client's policy, and OpenSSL, Go and
 * mozilla::pkix do not ask either.
 *
 * The error queue of the calling thread is left as it was.
 */
struct judgement ocsp_judge(const struct libcrypto *crypto, struct bytes response,
	struct bytes certificate, struct bytes issuer, int64_t now);

/* Words for a log line, as in "the responder answered: %s". Never NULL. */
const char *verdict_text(enum verdict verdict);

/*
 * The DER of an OCSPRequest for one certificate as RFC 5019, 2.1 wants it: one Request, CertID with
 * SHA-1, no nonce, no signature. Appended to *out. False when the certificate or the issuer cannot
 * be decoded or memory ran out.
 */
bool ocsp_request(const struct libcrypto *crypto, struct bytes certificate, struct bytes issuer,
	struct buffer *out);

#endif
