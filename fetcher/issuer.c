/* SPDX-License-Identifier: MIT */
#include "issuer.h"

#include "certificate.h"
#include "file.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

enum {
	/* The whole of the Web's roots is a quarter of a mebibyte. */
	FILE_LIMIT = 16 * 1024 * 1024,
	PATH_SIZE = 4096,
	DIGEST_SIZE = 32,
	/* Certificates of one name in a directory, and of any in one that is not hashed. */
	HASHED_LIMIT = 64,
	DIRECTORY_LIMIT = 4096,
};

/* A search for the issuer of x; the best so far is ours to free. */
struct search {
	const struct libcrypto *crypto;
	X509 *x;
	int64_t now;
	X509 *best;
	struct issuer_weight weight;
};

static bool is_issuer(const struct libcrypto *crypto, X509 *x, X509 *candidate)
{
	EVP_PKEY *key;

	if (crypto->X509_NAME_cmp(
		    crypto->X509_get_subject_name(candidate), crypto->X509_get_issuer_name(x)) != 0)
		return false;
	key = crypto->X509_get0_pubkey(candidate);
	return key && crypto->X509_verify(x, key) == 1;
}

static bool is_named_alike(const struct libcrypto *crypto, X509 *x, X509 *candidate)
{
	const EVP_MD *sha256 = crypto->EVP_sha256();
	unsigned char issuer[DIGEST_SIZE], subject[DIGEST_SIZE];

	return crypto->X509_NAME_digest(crypto->X509_get_issuer_name(x), sha256, issuer, NULL) ==
		       1 &&
	       crypto->X509_NAME_digest(
		       crypto->X509_get_subject_name(candidate), sha256, subject, NULL) == 1 &&
	       memcmp(issuer, subject, sizeof(issuer)) == 0;
}

bool issuer_outweighs(const struct issuer_weight *one, const struct issuer_weight *other)
{
	if (one->is_in_time != other->is_in_time)
		return one->is_in_time;
	if (one->is_named_alike != other->is_named_alike)
		return one->is_named_alike;
	return one->not_after > other->not_after;
}

static void weigh(const struct search *search, X509 *candidate, struct issuer_weight *out)
{
	const struct libcrypto *crypto = search->crypto;
	int64_t from = 0, to = 0;
	bool readable = certificate_time(crypto, crypto->X509_get0_notBefore(candidate), &from) &&
			certificate_time(crypto, crypto->X509_get0_notAfter(candidate), &to);

	out->is_in_time = readable && from <= search->now && search->now < to;
	out->is_named_alike = is_named_alike(crypto, search->x, candidate);
	out->not_after = to;
}

static void consider(struct search *search, X509 *candidate)
{
	struct issuer_weight weight;

	if (!candidate || !is_issuer(search->crypto, search->x, candidate))
		return;
	weigh(search, candidate, &weight);
	if (search->best && !issuer_outweighs(&weight, &search->weight))
		return;
	if (search->crypto->X509_up_ref(candidate) != 1)
		return;
	search->crypto->X509_free(search->best);
	search->best = candidate;
	search->weight = weight;
}

/* False if the certificate cannot be decoded; end_search in either case. */
static bool begin_search(struct search *search, const struct libcrypto *crypto,
	struct bytes certificate, int64_t now)
{
	*search = (struct search){.crypto = crypto, .now = now};
	crypto->ERR_set_mark();
	search->x = certificate_x509(crypto, certificate);
	return search->x;
}

/* Appends what was found to *out. */
static bool end_search(struct search *search, struct buffer *out)
{
	const struct libcrypto *crypto = search->crypto;
	bool found = search->best && certificate_encode(crypto, search->best, out);

	crypto->X509_free(search->best);
	crypto->X509_free(search->x);
	crypto->ERR_pop_to_mark();
	return found;
}

bool issuer_weigh(const struct libcrypto *crypto, struct bytes certificate, struct bytes candidate,
	int64_t now, struct issuer_weight *out)
{
	struct search search;
	X509 *other = NULL;
	bool is = false;

	if (begin_search(&search, crypto, certificate, now)) {
		other = certificate_x509(crypto, candidate);
		consider(&search, other);
		is = search.best;
		if (is)
			*out = search.weight;
	}
	crypto->X509_free(other);
	crypto->X509_free(search.best);
	crypto->X509_free(search.x);
	crypto->ERR_pop_to_mark();
	return is;
}

bool issuer_signed(const struct libcrypto *crypto, struct bytes certificate, struct bytes candidate)
{
	struct issuer_weight weight;

	return issuer_weigh(crypto, certificate, candidate, 0, &weight);
}

/*
 * Content
 */

/* OpenSSL's own would ask on the host's terminal. */
static int refuse_password(char *buffer, int size, int writing, void *argument)
{
	(void)buffer;
	(void)size;
	(void)writing;
	(void)argument;
	return -1;
}

/* RFC 5652, 5.1: SignedData without signers or content, but with certificates. */
static void search_pkcs7(struct search *search, const PKCS7 *bundle)
{
	const struct libcrypto *crypto = search->crypto;
	const OPENSSL_STACK *certificates;

	if (!bundle || crypto->OBJ_obj2nid(bundle->type) != NID_pkcs7_signed || !bundle->d.sign)
		return;
	certificates = (const OPENSSL_STACK *)bundle->d.sign->cert;
	for (int i = 0; i < crypto->OPENSSL_sk_num(certificates); i++)
		consider(search, crypto->OPENSSL_sk_value(certificates, i));
}

static void search_der(struct search *search, struct bytes content)
{
	const struct libcrypto *crypto = search->crypto;
	const unsigned char *at = content.data;
	X509 *candidate = certificate_x509(crypto, content);
	PKCS7 *bundle = NULL;

	if (!candidate)
		bundle = crypto->d2i_PKCS7(NULL, &at, (long)content.size);
	consider(search, candidate);
	search_pkcs7(search, bundle);
	crypto->PKCS7_free(bundle);
	crypto->X509_free(candidate);
}

/* What cannot be decoded hides nothing that comes after it. */
static void search_pem_certificates(struct search *search, BIO *bio)
{
	const struct libcrypto *crypto = search->crypto;

	while (bio && crypto->BIO_ctrl(bio, BIO_CTRL_PENDING, 0, NULL) > 0) {
		X509 *candidate = crypto->PEM_read_bio_X509(bio, NULL, refuse_password, NULL);

		consider(search, candidate);
		crypto->X509_free(candidate);
	}
}

static void search_pem_bundles(struct search *search, BIO *bio)
{
	const struct libcrypto *crypto = search->crypto;

	while (bio && crypto->BIO_ctrl(bio, BIO_CTRL_PENDING, 0, NULL) > 0) {
		PKCS7 *bundle = crypto->PEM_read_bio_PKCS7(bio, NULL, refuse_password, NULL);

		search_pkcs7(search, bundle);
		crypto->PKCS7_free(bundle);
	}
}

/* Not empty, and of FILE_LIMIT at the most. */
static void search_content(struct search *search, struct bytes content)
{
	static void (*const readers[])(struct search * search, BIO * bio) = {
		search_pem_certificates, search_pem_bundles};
	const struct libcrypto *crypto = search->crypto;

	/* A SEQUENCE, or the figure 0 of a text before the first PEM block. */
	if (content.data[0] == 0x30)
		search_der(search, content);
	for (size_t i = 0; i < sizeof(readers) / sizeof(*readers) && !search->best; i++) {
		BIO *bio = crypto->BIO_new_mem_buf(content.data, (int)content.size);

		readers[i](search, bio);
		crypto->BIO_free(bio);
	}
}

bool issuer_from_content(const struct libcrypto *crypto, struct bytes certificate,
	struct bytes content, int64_t now, struct buffer *out)
{
	struct search search;

	if (begin_search(&search, crypto, certificate, now) && content.size > 0 &&
		content.size <= FILE_LIMIT)
		search_content(&search, content);
	return end_search(&search, out);
}

/*
 * Files and directories
 */

/* Returns NULL, or why it cannot be read. */
static const char *search_file(struct search *search, const char *path)
{
	struct buffer content = {0};
	const char *why = file_read(path, FILE_LIMIT, &content);

	if (!why && content.size > 0)
		search_content(search, buffer_bytes(&content));
	buffer_free(&content);
	return why;
}

/* HASH.0, HASH.1 and so on, without a gap. */
static void search_hashed(struct search *search, const char *directory)
{
	unsigned long hash = search->crypto->X509_issuer_name_hash(search->x);
	char path[PATH_SIZE];

	for (int i = 0; i < HASHED_LIMIT; i++) {
		int size = snprintf(path, sizeof(path), "%s/%08lx.%d", directory, hash, i);

		if (size < 0 || size >= (int)sizeof(path) || search_file(search, path))
			return;
	}
}

static bool has_certificates(const char *name)
{
	const char *ending = strrchr(name, '.');

	return ending && ending != name &&
	       (strcmp(ending, ".pem") == 0 || strcmp(ending, ".crt") == 0 ||
		       strcmp(ending, ".cer") == 0);
}

static void search_entries(struct search *search, const char *directory, DIR *entries)
{
	char path[PATH_SIZE];
	struct dirent *entry;

	for (int i = 0; i < DIRECTORY_LIMIT && (entry = readdir(entries)) != NULL; i++) {
		int size = snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name);

		/* One that cannot be read hides no other. */
		if (size > 0 && size < (int)sizeof(path) && has_certificates(entry->d_name))
			search_file(search, path);
	}
}

/* All names only where the hashes have led to nothing that can be used now. */
static const char *search_path(struct search *search, const char *path)
{
	DIR *entries = opendir(path);

	if (!entries)
		return errno == ENOTDIR ? search_file(search, path) : strerror(errno);
	search_hashed(search, path);
	if (!search->best || !search->weight.is_in_time)
		search_entries(search, path, entries);
	closedir(entries);
	return NULL;
}

bool issuer_from_path(const struct libcrypto *crypto, struct bytes certificate, const char *path,
	int64_t now, struct buffer *out, const char **why)
{
	struct search search;
	bool found;

	*why = "the certificate cannot be decoded";
	if (begin_search(&search, crypto, certificate, now))
		*why = search_path(&search, path);
	found = end_search(&search, out);
	if (!found && !*why)
		*why = "the issuer is not in it";
	if (found)
		*why = NULL;
	return found;
}

/*
 * The system's store
 */

static void search_system(struct search *search)
{
	const struct libcrypto *crypto = search->crypto;
	X509_STORE *store = crypto->X509_STORE_new();
	X509_STORE_CTX *context = crypto->X509_STORE_CTX_new();
	X509 *issuer = NULL;

	if (store && context && crypto->X509_STORE_set_default_paths(store) == 1 &&
		crypto->X509_STORE_CTX_init(context, store, search->x, NULL) == 1 &&
		crypto->X509_STORE_CTX_get1_issuer(&issuer, context, search->x) == 1) {
		/* The store compares names and key identifiers only. */
		consider(search, issuer);
		crypto->X509_free(issuer);
	}
	crypto->X509_STORE_CTX_free(context);
	crypto->X509_STORE_free(store);
}

bool issuer_from_system(
	const struct libcrypto *crypto, struct bytes certificate, int64_t now, struct buffer *out)
{
	struct search search;

	if (begin_search(&search, crypto, certificate, now))
		search_system(&search);
	return end_search(&search, out);
}
