/* SPDX-License-Identifier: MIT */
/*
 * ocsp_judge. Input: a response. It is judged twice: as it is, and with its signature taken for
 * good, so that what comes after the signature is reached, too. OpenSSL, linked with and called the
 * way its manual says, has to agree with every good; and nothing can be good that says anything
 * else than one of the good responses of the corpus, because only the CA could have signed it.
 */
#include "court.h"
#include "ocsp.h"

#include <dirent.h>
#include <openssl/ocsp.h>
#include <stdbool.h>

enum { SIGNED_MOST = 32 };

static struct libcrypto credulous;
static struct buffer signed_data[SIGNED_MOST];
static size_t signed_count;

static int believe(OCSP_BASICRESP *basic, STACK_OF(X509) * certificates, X509_STORE *store,
	unsigned long flags)
{
	(void)basic;
	(void)certificates;
	(void)store;
	(void)flags;
	return 1;
}

static X509 *decode(const struct buffer *der)
{
	const unsigned char *at = der->data;
	X509 *x = d2i_X509(NULL, &at, (long)der->size);

	RULE(x != NULL);
	return x;
}

static OCSP_BASICRESP *open_basic(struct bytes der)
{
	const unsigned char *at = der.data;
	OCSP_RESPONSE *response = d2i_OCSP_RESPONSE(NULL, &at, (long)der.size);
	OCSP_BASICRESP *basic = NULL;

	if (response && at == der.data + der.size &&
		OCSP_response_status(response) == OCSP_RESPONSE_STATUS_SUCCESSFUL)
		basic = OCSP_response_get1_basic(response);
	OCSP_RESPONSE_free(response);
	return basic;
}

/* One SingleResponse, looked up with a CertID made with its own digest. */
static bool says_good(OCSP_BASICRESP *basic, int at, X509 *leaf, X509 *issuer)
{
	OCSP_CERTID *theirs = (OCSP_CERTID *)OCSP_SINGLERESP_get0_id(OCSP_resp_get0(basic, at));
	ASN1_GENERALIZEDTIME *this_update, *next_update;
	ASN1_OBJECT *algorithm;
	const EVP_MD *digest;
	OCSP_CERTID *id;
	bool good = false;

	OCSP_id_get0_info(NULL, &algorithm, NULL, NULL, theirs);
	digest = EVP_get_digestbyobj(algorithm);
	id = digest ? OCSP_cert_to_id(digest, leaf, issuer) : NULL;
	/* -1: before its time; NULL is for an hour. */
	if (id && OCSP_id_cmp(id, theirs) == 0 &&
		OCSP_single_get0_status(OCSP_resp_get0(basic, at), NULL, NULL, &this_update,
			&next_update) == V_OCSP_CERTSTATUS_GOOD)
		good = ASN1_TIME_cmp_time_t(this_update, (time_t)(moment + OCSP_SKEW)) <= 0 &&
		       (next_update ? ASN1_TIME_cmp_time_t(next_update, (time_t)moment) > 0
				    : ASN1_TIME_cmp_time_t(this_update,
					      (time_t)(moment - OCSP_DEFAULT_LIFE)) > 0);
	OCSP_CERTID_free(id);
	return good;
}

static bool is_signed(OCSP_BASICRESP *basic, X509 *issuer)
{
	X509_STORE *store = X509_STORE_new();
	STACK_OF(X509) *certificates = sk_X509_new_null();
	bool is;

	RULE(store && certificates && X509_STORE_add_cert(store, issuer) == 1);
	RULE(sk_X509_push(certificates, issuer) > 0);
	X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN);
	X509_VERIFY_PARAM_set_time(X509_STORE_get0_param(store), (time_t)moment);
	is = OCSP_basic_verify(basic, certificates, store, 0) == 1;
	sk_X509_free(certificates);
	X509_STORE_free(store);
	return is;
}

/* As a client sees it that takes the first certificate for the signer's, or else the issuer's. */
static bool is_signed_by_first(OCSP_BASICRESP *basic, X509 *issuer)
{
	X509 *first = sk_X509_value(OCSP_resp_get0_certs(basic), 0);
	EVP_PKEY *key = X509_get0_pubkey(first ? first : issuer);

	return key &&
	       ASN1_item_verify(ASN1_ITEM_rptr(OCSP_RESPDATA), OCSP_resp_get0_tbs_sigalg(basic),
		       OCSP_resp_get0_signature(basic), OCSP_resp_get0_respdata(basic), key) == 1;
}

static struct bytes encode_data(OCSP_BASICRESP *basic)
{
	unsigned char *der = NULL;
	int size = i2d_OCSP_RESPDATA((OCSP_RESPDATA *)OCSP_resp_get0_respdata(basic), &der);

	RULE(size > 0);
	return (struct bytes){der, (size_t)size};
}

static bool is_known(OCSP_BASICRESP *basic)
{
	struct bytes data = encode_data(basic);
	bool is = false;

	for (size_t i = 0; i < signed_count; i++)
		is = is || is_same(data, buffer_bytes(&signed_data[i]));
	OPENSSL_free((void *)data.data);
	return is;
}

static void check_good(struct bytes response, const struct court *court, bool believed)
{
	OCSP_BASICRESP *basic = open_basic(response);
	X509 *leaf = decode(&court->leaf), *issuer = decode(&court->issuer);
	bool good = false;

	RULE(basic != NULL);
	for (int i = 0; i < OCSP_resp_count(basic); i++)
		good = good || says_good(basic, i, leaf, issuer);
	RULE(good);
	if (!believed) {
		RULE(is_signed(basic, issuer));
		RULE(is_signed_by_first(basic, issuer));
		RULE(is_known(basic));
	}
	X509_free(issuer);
	X509_free(leaf);
	OCSP_BASICRESP_free(basic);
}

static void check_judgement(const struct judgement *judgement)
{
	RULE((unsigned)judgement->verdict < VERDICT_COUNT);
	RULE(verdict_text(judgement->verdict)[0] != '?');
	if (judgement->verdict > VERDICT_UNKNOWN)
		return;
	RULE(judgement->this_update <= moment + OCSP_SKEW);
	RULE(judgement->next_update > moment && judgement->next_update > judgement->this_update);
	RULE(judgement->usable_until > moment);
	RULE(judgement->usable_until <= judgement->next_update);
}

static enum verdict judge(const struct libcrypto *table, struct bytes response, int court)
{
	struct judgement judgement = ocsp_judge(table, response, buffer_bytes(&courts[court].leaf),
		buffer_bytes(&courts[court].issuer), moment);

	check_judgement(&judgement);
	RULE(ERR_peek_error() == 0);
	if (judgement.verdict == VERDICT_GOOD)
		check_good(response, &courts[court], table == &credulous);
	ERR_clear_error();
	return judgement.verdict;
}

/* Every single bit: what is not signed has its own rules, and they leave no room either. */
static void flip_all(const struct buffer *response, int court)
{
	for (size_t bit = 0; bit < 8 * response->size; bit++) {
		unsigned char *copy = copy_of(buffer_bytes(response));

		copy[bit / 8] ^= (unsigned char)(1 << bit % 8);
		RULE(judge(&crypto, (struct bytes){copy, response->size}, court) != VERDICT_GOOD);
		free(copy);
	}
}

/* good-ec-… and good-rsa-…; all bits of those with -flip in their names are tried. */
static void learn(const char *name)
{
	struct buffer response = {0};
	OCSP_BASICRESP *basic;
	struct bytes data;
	char path[512];
	int court = strncmp(name, "good-rsa-", 9) == 0;

	snprintf(path, sizeof(path), "tests/fuzz/corpus/judge/%s", name);
	read_whole(path, &response);
	basic = open_basic(buffer_bytes(&response));
	RULE(basic && signed_count < SIGNED_MOST);
	data = encode_data(basic);
	RULE(buffer_append(&signed_data[signed_count++], data.data, data.size));
	OPENSSL_free((void *)data.data);
	OCSP_BASICRESP_free(basic);
	RULE(judge(&crypto, buffer_bytes(&response), court) == VERDICT_GOOD);
	RULE(judge(&crypto, buffer_bytes(&response), !court) == VERDICT_OTHER_CERTIFICATE);
	if (strstr(name, "-flip"))
		flip_all(&response, court);
	buffer_free(&response);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct dirent *entry;
	DIR *seeds;

	(void)argc;
	(void)argv;
	open_courts();
	credulous = crypto;
	credulous.OCSP_basic_verify = believe;
	seeds = opendir("tests/fuzz/corpus/judge");
	RULE(seeds != NULL);
	while ((entry = readdir(seeds)) != NULL)
		if (strncmp(entry->d_name, "good-", 5) == 0)
			learn(entry->d_name);
	closedir(seeds);
	RULE(signed_count > 0);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned char *copy = copy_of((struct bytes){data, size});
	struct bytes response = {copy, size};

	for (int court = 0; court < COURTS; court++) {
		enum verdict verdict = judge(&crypto, response, court);
		enum verdict believed = judge(&credulous, response, court);

		/* The signature is all that the two differ in. */
		RULE(verdict == believed || verdict == VERDICT_BAD_SIGNATURE);
	}
	free(copy);
	return 0;
}
