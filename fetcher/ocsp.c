/* SPDX-License-Identifier: MIT */
#include "ocsp.h"

#include "certificate.h"

#include <limits.h>
#include <string.h>

/* What a judgement is about, while it is being made. Whatever is set is ours to free. */
struct trial {
	const struct libcrypto *crypto;
	int64_t now;
	OCSP_BASICRESP *basic;
	X509 *certificate;
	X509 *issuer;
	STACK_OF(X509) * issuers; /* the issuer alone, as OpenSSL's functions want it */
	OCSP_SINGLERESP *single;  /* belongs to basic */
	int64_t first_end;        /* of all that are about our certificate */
	bool is_disputed;         /* not all of them say good */
	X509 *signer;             /* the issuer, or belongs to basic */
	int status;               /* V_OCSP_CERTSTATUS_… */
	struct judgement judgement;
};

static enum verdict judge_status(const struct libcrypto *crypto, OCSP_RESPONSE *response)
{
	switch (crypto->OCSP_response_status(response)) {
	case OCSP_RESPONSE_STATUS_SUCCESSFUL:
		return VERDICT_GOOD;
	case OCSP_RESPONSE_STATUS_MALFORMEDREQUEST:
		return VERDICT_MALFORMED_REQUEST;
	case OCSP_RESPONSE_STATUS_INTERNALERROR:
		return VERDICT_INTERNAL_ERROR;
	case OCSP_RESPONSE_STATUS_TRYLATER:
		return VERDICT_TRY_LATER;
	case OCSP_RESPONSE_STATUS_SIGREQUIRED:
		return VERDICT_SIG_REQUIRED;
	case OCSP_RESPONSE_STATUS_UNAUTHORIZED:
		return VERDICT_UNAUTHORIZED;
	default:
		return VERDICT_BAD_STATUS;
	}
}

/*
 * OpenSSL decodes BER, and verifies what it would have encoded itself; others verify the bytes as
 * they came. So the bytes must be what OpenSSL would have encoded. The BasicOCSPResponse is the
 * last thing in DER of an OCSPResponse, and bytes that follow it in its OCTET STRING would be seen.
 */
static bool is_der(const struct libcrypto *crypto, OCSP_RESPONSE *outer, OCSP_BASICRESP *basic,
	struct bytes response)
{
	unsigned char *der = NULL;
	int size = crypto->i2d_OCSP_RESPONSE(outer, &der);
	bool is = size > 0 && (size_t)size == response.size &&
		  memcmp(der, response.data, response.size) == 0;

	crypto->CRYPTO_free(der, __FILE__, __LINE__);
	if (!is || !basic)
		return is;
	der = NULL;
	size = crypto->i2d_OCSP_BASICRESP(basic, &der);
	is = size > 0 && (size_t)size <= response.size &&
	     memcmp(der, response.data + response.size - size, (size_t)size) == 0;
	crypto->CRYPTO_free(der, __FILE__, __LINE__);
	return is;
}

/* What is inside of the DER of a SEQUENCE. */
static struct bytes open_sequence(struct bytes der)
{
	size_t head = 2 + (der.data[1] & 0x80 ? der.data[1] & 0x7f : 0);

	return (struct bytes){der.data + head, der.size - head};
}

/*
 * ResponseData begins with its version (RFC 6960, 4.2.1) or, if that is v1 as it has to be, with
 * something else. DER leaves out what is the default; but there are responders that do not, and
 * clients that are strict in all else let it pass. OpenSSL has no function that tells.
 */
static bool is_version_1(
	const struct libcrypto *crypto, const OCSP_BASICRESP *basic, struct bytes response)
{
	static const unsigned char version_1[] = {0xa0, 0x03, 0x02, 0x01, 0x00};
	int size = crypto->i2d_OCSP_BASICRESP((OCSP_BASICRESP *)basic, NULL);
	struct bytes data = {response.data + response.size - size, (size_t)size};

	data = open_sequence(open_sequence(data));
	return data.data[0] != version_1[0] || memcmp(data.data, version_1, sizeof(version_1)) == 0;
}

static enum verdict open_response(struct trial *trial, struct bytes response)
{
	const struct libcrypto *crypto = trial->crypto;
	const unsigned char *at = response.data;
	OCSP_RESPONSE *outer = NULL;
	enum verdict verdict = VERDICT_NOT_A_RESPONSE;

	if (response.size == 0 || response.size > INT_MAX)
		return verdict;
	outer = crypto->d2i_OCSP_RESPONSE(NULL, &at, (long)response.size);
	if (!outer)
		return verdict;
	verdict = judge_status(crypto, outer);
	if (verdict == VERDICT_GOOD) {
		trial->basic = crypto->OCSP_response_get1_basic(outer);
		if (!trial->basic)
			verdict = VERDICT_NOT_BASIC;
	}
	if (!is_der(crypto, outer, trial->basic, response))
		verdict = VERDICT_NOT_A_RESPONSE;
	else if (trial->basic && !is_version_1(crypto, trial->basic, response))
		verdict = VERDICT_BAD_VERSION;
	crypto->OCSP_RESPONSE_free(outer);
	return verdict;
}

static enum verdict open_certificates(
	struct trial *trial, struct bytes certificate, struct bytes issuer)
{
	const struct libcrypto *crypto = trial->crypto;

	trial->certificate = certificate_x509(crypto, certificate);
	trial->issuer = certificate_x509(crypto, issuer);
	if (!trial->certificate || !trial->issuer)
		return VERDICT_BAD_CERTIFICATE;
	trial->issuers = (STACK_OF(X509) *)crypto->OPENSSL_sk_new_null();
	if (!trial->issuers ||
		crypto->OPENSSL_sk_push((OPENSSL_STACK *)trial->issuers, trial->issuer) <= 0)
		return VERDICT_OUT_OF_MEMORY;
	return VERDICT_GOOD;
}

/* A responder may answer with another digest than we asked with (RFC 5019, 2.2.1). */
static bool is_ours(const struct trial *trial, OCSP_SINGLERESP *single)
{
	const struct libcrypto *crypto = trial->crypto;
	/* 1.1.1's OCSP_id_get0_info wants it without const, and only reads. */
	OCSP_CERTID *theirs = (OCSP_CERTID *)crypto->OCSP_SINGLERESP_get0_id(single);
	ASN1_OBJECT *algorithm = NULL;
	const EVP_MD *digest = NULL;
	OCSP_CERTID *ours = NULL;
	const char *name;
	bool is;

	crypto->OCSP_id_get0_info(NULL, &algorithm, NULL, NULL, theirs);
	name = crypto->OBJ_nid2sn(crypto->OBJ_obj2nid(algorithm));
	if (name)
		digest = crypto->EVP_get_digestbyname(name);
	if (digest)
		ours = crypto->OCSP_cert_to_id(digest, trial->certificate, trial->issuer);
	is = ours && crypto->OCSP_id_cmp(ours, theirs) == 0;
	crypto->OCSP_CERTID_free(ours);
	return is;
}

/* The times of a SingleResponse into *out; the status, or -1 if the times cannot be read. */
static int read_single(
	const struct libcrypto *crypto, OCSP_SINGLERESP *single, struct judgement *out)
{
	ASN1_GENERALIZEDTIME *revoked, *this_update, *next_update;
	int status = crypto->OCSP_single_get0_status(
		single, &out->revocation_reason, &revoked, &this_update, &next_update);

	if (!certificate_time(crypto, this_update, &out->this_update))
		return -1;
	out->next_update = out->this_update + OCSP_DEFAULT_LIFE;
	if (next_update && !certificate_time(crypto, next_update, &out->next_update))
		return -1;
	if (status != V_OCSP_CERTSTATUS_REVOKED)
		out->revocation_reason = -1;
	else if (!certificate_time(crypto, revoked, &out->revoked_at))
		return -1;
	return status;
}

/*
 * Of several answers about our certificate, the newest counts; of equally new ones, the worst. What
 * is stapled has to please those too who look at another one: see first_end and is_disputed.
 */
static bool counts_more(const struct trial *trial, int status, int64_t this_update)
{
	if (!trial->single || this_update != trial->judgement.this_update)
		return !trial->single || this_update > trial->judgement.this_update;
	if (status == V_OCSP_CERTSTATUS_REVOKED)
		return trial->status != V_OCSP_CERTSTATUS_REVOKED;
	return status != V_OCSP_CERTSTATUS_GOOD && trial->status == V_OCSP_CERTSTATUS_GOOD;
}

static enum verdict choose_single(struct trial *trial)
{
	const struct libcrypto *crypto = trial->crypto;
	int count = crypto->OCSP_resp_count(trial->basic);
	enum verdict verdict = VERDICT_OTHER_CERTIFICATE;

	for (int i = 0; i < count; i++) {
		OCSP_SINGLERESP *single = crypto->OCSP_resp_get0(trial->basic, i);
		struct judgement times = {.revocation_reason = -1};
		int status;

		if (!is_ours(trial, single))
			continue;
		status = read_single(crypto, single, &times);
		if (status < 0)
			return VERDICT_BAD_TIMES;
		if (times.next_update < trial->first_end)
			trial->first_end = times.next_update;
		trial->is_disputed |= status != V_OCSP_CERTSTATUS_GOOD;
		if (!counts_more(trial, status, times.this_update))
			continue;
		trial->single = single;
		trial->status = status;
		trial->judgement = times;
		verdict = VERDICT_GOOD;
	}
	return verdict;
}

static bool is_known(const struct libcrypto *crypto, X509_EXTENSION *extension)
{
	/* RFC 6960, 4.4, and the CRL entry extensions that 4.4.5 allows here. */
	static const int known[] = {
		NID_id_pkix_OCSP_Nonce,
		NID_id_pkix_OCSP_CrlID,
		NID_id_pkix_OCSP_archiveCutoff,
		NID_id_pkix_OCSP_extendedStatus,
		NID_crl_reason,
		NID_invalidity_date,
	};
	int nid = crypto->OBJ_obj2nid(crypto->X509_EXTENSION_get_object(extension));

	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
		if (nid == known[i])
			return true;
	return false;
}

/* RFC 5280, 4.2: who does not know a critical extension has to refuse what carries it. */
static enum verdict judge_extensions(struct trial *trial)
{
	const struct libcrypto *crypto = trial->crypto;
	int at = -1;

	while ((at = crypto->OCSP_BASICRESP_get_ext_by_critical(trial->basic, 1, at)) >= 0)
		if (!is_known(crypto, crypto->OCSP_BASICRESP_get_ext(trial->basic, at)))
			return VERDICT_BAD_EXTENSION;
	at = -1;
	while ((at = crypto->OCSP_SINGLERESP_get_ext_by_critical(trial->single, 1, at)) >= 0)
		if (!is_known(crypto, crypto->OCSP_SINGLERESP_get_ext(trial->single, at)))
			return VERDICT_BAD_EXTENSION;
	return VERDICT_GOOD;
}

/* Of a time that OpenSSL can read: also fractions, offsets and, up to 3.0, no seconds. */
static bool is_plain_time(const struct libcrypto *crypto, const ASN1_GENERALIZEDTIME *time)
{
	enum { SIZE = sizeof("YYYYMMDDHHMMSSZ") - 1 };

	return !time || (crypto->ASN1_STRING_length(time) == SIZE &&
				crypto->ASN1_STRING_get0_data(time)[SIZE - 1] == 'Z');
}

/* See ocsp.h. A revocation counts in whatever form it can be read. */
static enum verdict judge_time_forms(struct trial *trial)
{
	const struct libcrypto *crypto = trial->crypto;
	ASN1_GENERALIZEDTIME *this_update, *next_update;

	if (trial->status != V_OCSP_CERTSTATUS_GOOD)
		return VERDICT_GOOD;
	crypto->OCSP_single_get0_status(trial->single, NULL, NULL, &this_update, &next_update);
	if (is_plain_time(crypto, crypto->OCSP_resp_get0_produced_at(trial->basic)) &&
		is_plain_time(crypto, this_update) && is_plain_time(crypto, next_update))
		return VERDICT_GOOD;
	return VERDICT_BAD_TIME_FORM;
}

static enum verdict judge_times(struct trial *trial)
{
	struct judgement *times = &trial->judgement;
	bool is_good = trial->status == V_OCSP_CERTSTATUS_GOOD;
	int64_t end = is_good ? trial->first_end : times->next_update;
	int64_t produced_at;

	if (!certificate_time(trial->crypto,
		    trial->crypto->OCSP_resp_get0_produced_at(trial->basic), &produced_at))
		return VERDICT_BAD_TIMES;
	if (produced_at > trial->now + OCSP_SKEW)
		return VERDICT_NOT_YET_VALID;
	if (times->next_update <= times->this_update)
		return VERDICT_BAD_TIMES;
	if (times->this_update > trial->now + OCSP_SKEW)
		return VERDICT_NOT_YET_VALID;
	if (end <= trial->now)
		return VERDICT_EXPIRED;
	times->usable_until = end;
	return VERDICT_GOOD;
}

static enum verdict judge_validity(struct trial *trial, const X509 *x)
{
	const struct libcrypto *crypto = trial->crypto;
	int64_t not_before, not_after;

	if (!certificate_time(crypto, crypto->X509_get0_notBefore(x), &not_before) ||
		!certificate_time(crypto, crypto->X509_get0_notAfter(x), &not_after))
		return VERDICT_BAD_TIMES;
	if (not_before > trial->now)
		return VERDICT_NOT_YET_VALID;
	if (not_after <= trial->now)
		return VERDICT_EXPIRED;
	if (trial->judgement.usable_until > not_after)
		trial->judgement.usable_until = not_after;
	return VERDICT_GOOD;
}

/* OpenSSL reads these parameters when it verifies, but not down to the last byte. */
static bool is_common_pss(const struct libcrypto *crypto, const X509_ALGOR *algorithm)
{
	/* SHA-256, MGF1 with the same, a salt of its length; the others differ in three bytes. */
	static const unsigned char sha256[] = {0x30, 0x41, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7,
		0x0d, 0x01, 0x01, 0x0a, 0x30, 0x34, 0xa0, 0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86,
		0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0xa1, 0x1c, 0x30, 0x1a, 0x06,
		0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08, 0x30, 0x0d, 0x06, 0x09,
		0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0xa2, 0x03, 0x02,
		0x01, 0x20};
	enum { HASH = 29, MGF_HASH = 59, SALT = 66 };
	unsigned char expected[sizeof(sha256)];
	unsigned char *der = NULL;
	/* 1.1.1 wants it without const, and only reads. */
	int size = crypto->i2d_X509_ALGOR((X509_ALGOR *)algorithm, &der);
	bool is = false;

	memcpy(expected, sha256, sizeof(sha256));
	for (unsigned char i = 1; size == (int)sizeof(expected) && i <= 3 && !is; i++) {
		expected[HASH] = expected[MGF_HASH] = i;
		expected[SALT] = (unsigned char)(16 * (i + 1));
		is = memcmp(der, expected, sizeof(expected)) == 0;
	}
	crypto->CRYPTO_free(der, __FILE__, __LINE__);
	return is;
}

/* Those before SHA-1. OpenSSL verifies them all the same; GnuTLS, NSS and Go do not. */
static bool is_forgeable(int digest)
{
	return digest == NID_md2 || digest == NID_md4 || digest == NID_md5 ||
	       digest == NID_md5_sha1;
}

/* Outside what is signed, and OpenSSL verifies whatever stands there: see ocsp.h. */
static enum verdict judge_algorithm(struct trial *trial)
{
	const struct libcrypto *crypto = trial->crypto;
	const X509_ALGOR *algorithm = crypto->OCSP_resp_get0_tbs_sigalg(trial->basic);
	const ASN1_OBJECT *object;
	int type, digest = NID_undef, key = NID_undef;
	bool is;

	crypto->X509_ALGOR_get0(&object, &type, NULL, algorithm);
	crypto->OBJ_find_sigid_algs(crypto->OBJ_obj2nid(object), &digest, &key);
	if (is_forgeable(digest))
		return VERDICT_WEAK_DIGEST;
	if (key == NID_rsassaPss)
		is = is_common_pss(crypto, algorithm);
	else
		is = type == V_ASN1_UNDEF || (type == V_ASN1_NULL && key == NID_rsaEncryption);
	return is ? VERDICT_GOOD : VERDICT_BAD_ALGORITHM;
}

/*
 * The digest that the issuer has signed a delegate's certificate with; also where RSASSA-PSS has it
 * in its parameters. What the issuer's own was signed with does not matter: it is trusted as it is.
 */
static bool is_forgeable_delegate(const struct trial *trial)
{
	const struct libcrypto *crypto = trial->crypto;
	int digest = NID_undef;

	if (crypto->X509_cmp(trial->signer, trial->issuer) == 0)
		return false;
	crypto->X509_get_signature_info(trial->signer, &digest, NULL, NULL, NULL);
	return is_forgeable(digest);
}

/*
 * OCSP_basic_verify would also find these, but cannot say so, or would not. A delegated signer is
 * often the first to end: what it signed dies with it, whatever nextUpdate says.
 */
static enum verdict judge_signer(struct trial *trial)
{
	const struct libcrypto *crypto = trial->crypto;
	enum verdict verdict;
	X509 *signer = NULL;

	if (crypto->OCSP_resp_get0_signer(trial->basic, &signer, trial->issuers) != 1)
		return VERDICT_BAD_SIGNATURE;
	trial->signer = signer;
	if (is_forgeable_delegate(trial))
		return VERDICT_WEAK_DELEGATE;
	verdict = judge_validity(trial, signer);
	return verdict == VERDICT_GOOD ? judge_validity(trial, trial->issuer) : verdict;
}

/*
 * The one way to call it that gives the same answer from 1.1.1 to 4.0. With the issuer as the only
 * anchor, the signer is the issuer or a certificate that the issuer itself signed and that has the
 * OCSPSigning EKU (RFC 6960, 4.2.2.2).
 */
static enum verdict judge_signature(struct trial *trial)
{
	const struct libcrypto *crypto = trial->crypto;
	X509_STORE *store = crypto->X509_STORE_new();
	enum verdict verdict = VERDICT_OUT_OF_MEMORY;

	if (!store || crypto->X509_STORE_add_cert(store, trial->issuer) != 1 ||
		crypto->X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN) != 1)
		goto out;
	crypto->X509_VERIFY_PARAM_set_time(
		crypto->X509_STORE_get0_param(store), (time_t)trial->now);
	if (crypto->OCSP_basic_verify(trial->basic, trial->issuers, store, 0) == 1)
		verdict = VERDICT_GOOD;
	else
		verdict = VERDICT_BAD_SIGNATURE;
out:
	crypto->X509_STORE_free(store);
	return verdict;
}

/* No signature covers the order of the certificates: see ocsp.h. */
static enum verdict judge_order(struct trial *trial)
{
	const struct libcrypto *crypto = trial->crypto;
	const OPENSSL_STACK *along =
		(const OPENSSL_STACK *)crypto->OCSP_resp_get0_certs(trial->basic);

	if (crypto->OPENSSL_sk_num(along) <= 0 ||
		crypto->X509_cmp(crypto->OPENSSL_sk_value(along, 0), trial->signer) == 0)
		return VERDICT_GOOD;
	return VERDICT_SIGNER_NOT_FIRST;
}

/* What the response says, once it is known to be true. */
static enum verdict judge_certificate(struct trial *trial)
{
	switch (trial->status) {
	case V_OCSP_CERTSTATUS_GOOD:
		return trial->is_disputed ? VERDICT_DISPUTED : VERDICT_GOOD;
	case V_OCSP_CERTSTATUS_REVOKED:
		return VERDICT_REVOKED;
	default:
		return VERDICT_UNKNOWN;
	}
}

/* From cheap to dear; nothing is believed before the signature. */
static enum verdict judge(
	struct trial *trial, struct bytes response, struct bytes certificate, struct bytes issuer)
{
	static enum verdict (*const steps[])(struct trial * trial) = {
		choose_single,
		judge_times,
		judge_time_forms,
		judge_extensions,
		judge_algorithm,
		judge_signer,
		judge_signature,
		judge_order,
		judge_certificate,
	};
	enum verdict verdict = open_response(trial, response);

	if (verdict == VERDICT_GOOD)
		verdict = open_certificates(trial, certificate, issuer);
	for (size_t i = 0; i < sizeof(steps) / sizeof(*steps) && verdict == VERDICT_GOOD; i++)
		verdict = steps[i](trial);
	return verdict;
}

struct judgement ocsp_judge(const struct libcrypto *crypto, struct bytes response,
	struct bytes certificate, struct bytes issuer, int64_t now)
{
	struct trial trial = {.crypto = crypto,
		.now = now,
		.first_end = INT64_MAX,
		.judgement = {.revocation_reason = -1}};

	crypto->ERR_set_mark();
	trial.judgement.verdict = judge(&trial, response, certificate, issuer);
	crypto->OPENSSL_sk_free((OPENSSL_STACK *)trial.issuers);
	crypto->X509_free(trial.issuer);
	crypto->X509_free(trial.certificate);
	crypto->OCSP_BASICRESP_free(trial.basic);
	crypto->ERR_pop_to_mark();
	return trial.judgement;
}

const char *verdict_text(enum verdict verdict)
{
	static const char *const texts[] = {
		[VERDICT_GOOD] = "good",
		[VERDICT_REVOKED] = "the certificate is revoked",
		[VERDICT_UNKNOWN] = "the responder does not know the certificate",
		[VERDICT_NOT_A_RESPONSE] = "this is not an OCSP response",
		[VERDICT_MALFORMED_REQUEST] = "malformedRequest",
		[VERDICT_INTERNAL_ERROR] = "internalError",
		[VERDICT_TRY_LATER] = "tryLater",
		[VERDICT_SIG_REQUIRED] = "sigRequired",
		[VERDICT_UNAUTHORIZED] = "unauthorized (it may not know the certificate yet)",
		[VERDICT_BAD_STATUS] = "a responseStatus that does not exist",
		[VERDICT_NOT_BASIC] = "no BasicOCSPResponse",
		[VERDICT_BAD_VERSION] = "a version that does not exist",
		[VERDICT_BAD_SIGNATURE] =
			"the signature is wrong, or not by the issuer or a delegated signer of it",
		[VERDICT_BAD_ALGORITHM] =
			"the signature's algorithm is not encoded as it has to be",
		[VERDICT_WEAK_DIGEST] = "it is signed with a digest that can be forged",
		[VERDICT_WEAK_DELEGATE] =
			"its signer's certificate is signed with a digest that can be forged",
		[VERDICT_SIGNER_NOT_FIRST] = "the first certificate in it is not the signer's",
		[VERDICT_OTHER_CERTIFICATE] = "an answer about another certificate",
		[VERDICT_DISPUTED] = "two answers that contradict each other",
		[VERDICT_NOT_YET_VALID] = "not valid yet (is the clock right?)",
		[VERDICT_EXPIRED] = "expired (is the clock right?)",
		[VERDICT_BAD_TIMES] = "times that make no sense",
		[VERDICT_BAD_TIME_FORM] = "a time that is not written as YYYYMMDDHHMMSSZ",
		[VERDICT_BAD_EXTENSION] = "an unknown critical extension",
		[VERDICT_BAD_CERTIFICATE] = "the certificate or its issuer cannot be decoded",
		[VERDICT_OUT_OF_MEMORY] = "memory ran out",
	};

	_Static_assert(sizeof(texts) / sizeof(*texts) == VERDICT_COUNT, "a text for every verdict");
	if ((unsigned)verdict >= VERDICT_COUNT)
		return "?";
	return texts[verdict];
}

bool ocsp_request(const struct libcrypto *crypto, struct bytes certificate, struct bytes issuer,
	struct buffer *out)
{
	OCSP_REQUEST *request = NULL;
	OCSP_CERTID *id = NULL;
	unsigned char *der = NULL;
	X509 *x, *signer;
	bool done = false;
	int size;

	crypto->ERR_set_mark();
	x = certificate_x509(crypto, certificate);
	signer = certificate_x509(crypto, issuer);
	if (!x || !signer)
		goto out;
	request = crypto->OCSP_REQUEST_new();
	id = crypto->OCSP_cert_to_id(crypto->EVP_sha1(), x, signer);
	if (!request || !id || !crypto->OCSP_request_add0_id(request, id))
		goto out;
	id = NULL; /* the request's now */
	size = crypto->i2d_OCSP_REQUEST(request, &der);
	done = size > 0 && buffer_append(out, der, (size_t)size);
out:
	crypto->CRYPTO_free(der, __FILE__, __LINE__);
	crypto->OCSP_CERTID_free(id);
	crypto->OCSP_REQUEST_free(request);
	crypto->X509_free(signer);
	crypto->X509_free(x);
	crypto->ERR_pop_to_mark();
	return done;
}
