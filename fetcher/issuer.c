/* SPDX-License-Identifier: MIT */
#include "issuer.h"

#include "bundle.h"
#include "certificate.h"
#include "file.h"
#include "gate.h"
#include "skim.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
	/* The whole of the Web's roots is a quarter of a mebibyte. */
	FILE_LIMIT = 16 * 1024 * 1024,
	PATH_SIZE = 4096,
	DIGEST_SIZE = 32,
	/* Certificates of one name in a directory, and of any in one that is not hashed. */
	HASHED_LIMIT = 64,
	DIRECTORY_LIMIT = 4096,
	/* Of a certificate in PEM, to find the subject in. */
	SKIM_SIZE = 4096,
};

/* A search for the issuer of x; the best so far is ours to free. */
struct search {
	const struct libcrypto *crypto;
	X509 *x;
	bool has_print;
	uint64_t print; /* of the name that is looked for */
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
	struct bytes name;

	*search = (struct search){.crypto = crypto, .now = now};
	search->has_print = skim_issuer(certificate, &name) && skim_print(name, &search->print);
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

/* False also where that cannot be told without libcrypto. */
static bool is_anothers(const struct search *search, struct bytes der)
{
	struct bytes subject;
	uint64_t print;

	return search->has_print && skim_subject(der, &subject) && skim_print(subject, &print) &&
	       print != search->print;
}

/* One among many, of which most are somebody else's. */
static void consider_der(struct search *search, struct bytes der)
{
	X509 *candidate;

	if (is_anothers(search, der))
		return;
	candidate = certificate_x509(search->crypto, der);
	consider(search, candidate);
	search->crypto->X509_free(candidate);
	gate_pause(search->crypto->gate);
}

/* RFC 5652, 5.1: SignedData without signers or content, but with certificates. */
static void search_decoded_pkcs7(struct search *search, const PKCS7 *bundle)
{
	const struct libcrypto *crypto = search->crypto;
	const OPENSSL_STACK *certificates;

	if (!bundle || crypto->OBJ_obj2nid(bundle->type) != NID_pkcs7_signed || !bundle->d.sign)
		return;
	certificates = (const OPENSSL_STACK *)bundle->d.sign->cert;
	for (int i = 0; i < crypto->OPENSSL_sk_num(certificates); i++)
		consider(search, crypto->OPENSSL_sk_value(certificates, i));
}

/* False if it is none, or an odd one: then it is for libcrypto, in one piece. */
static bool search_plain_pkcs7(struct search *search, struct bytes content)
{
	struct bytes all, der;

	if (!skim_pkcs7(content, &all) && !bundle_open(content, &all))
		return false;
	for (size_t i = 0; skim_next(&all, &der); i++) {
		consider_der(search, der);
		gate_pause_at(search->crypto->gate, i);
	}
	return all.size == 0;
}

static void search_pkcs7(struct search *search, struct bytes content)
{
	const struct libcrypto *crypto = search->crypto;
	const unsigned char *at = content.data;
	PKCS7 *bundle = crypto->d2i_PKCS7(NULL, &at, (long)content.size);

	search_decoded_pkcs7(search, bundle);
	crypto->PKCS7_free(bundle);
}

static void search_der(struct search *search, struct bytes content)
{
	struct bytes subject;

	if (search_plain_pkcs7(search, content))
		return;
	consider_der(search, content);
	if (!skim_subject(content, &subject))
		search_pkcs7(search, content);
}

static void search_pem_certificate(struct search *search, BIO *bio)
{
	const struct libcrypto *crypto = search->crypto;
	/* Those with trust settings, too. */
	X509 *candidate = crypto->PEM_read_bio_X509_AUX(bio, NULL, refuse_password, NULL);

	consider(search, candidate);
	crypto->X509_free(candidate);
}

static void search_pem_pkcs7(struct search *search, BIO *bio)
{
	const struct libcrypto *crypto = search->crypto;
	PKCS7 *bundle = crypto->PEM_read_bio_PKCS7(bio, NULL, refuse_password, NULL);

	search_decoded_pkcs7(search, bundle);
	crypto->PKCS7_free(bundle);
}

static bool search_pem_plain_pkcs7(struct search *search, struct bytes block)
{
	unsigned char *der = malloc(block.size);
	bool is = der && search_plain_pkcs7(
				 search, (struct bytes){der, skim_base64(block, der, block.size)});

	free(der);
	return is;
}

/* As libcrypto reads it, whatever that is. */
static void search_odd_block(struct search *search, struct bytes block)
{
	static void (*const readers[])(struct search * search, BIO * bio) = {
		search_pem_certificate, search_pem_pkcs7};
	const struct libcrypto *crypto = search->crypto;

	for (size_t i = 0; i < sizeof(readers) / sizeof(*readers); i++) {
		BIO *bio = crypto->BIO_new_mem_buf(block.data, (int)block.size);

		if (bio)
			readers[i](search, bio);
		crypto->BIO_free(bio);
	}
	gate_pause(crypto->gate);
}

static void search_block(struct search *search, struct bytes block)
{
	unsigned char start[SKIM_SIZE];
	size_t size = skim_base64(block, start, sizeof(start));
	struct bytes der = {start, size};

	if (!is_anothers(search, der) && !search_pem_plain_pkcs7(search, block))
		search_odd_block(search, block);
}

/* What cannot be decoded hides nothing that comes after it. */
static void search_pem(struct search *search, struct bytes text)
{
	struct bytes block;

	for (size_t i = 0; skim_pem(&text, &block); i++) {
		if (skim_is_certificate(block))
			search_block(search, block);
		gate_pause_at(search->crypto->gate, i);
	}
}

/* Of FILE_LIMIT at the most. */
static void search_content(struct search *search, struct bytes content)
{
	/* A SEQUENCE, or the figure 0 of a text before the first PEM block. */
	if (content.size > 0 && content.data[0] == 0x30)
		search_der(search, content);
	if (!search->best)
		search_pem(search, content);
}

bool issuer_from_content(const struct libcrypto *crypto, struct bytes certificate,
	struct bytes content, int64_t now, struct buffer *out)
{
	struct search search;

	if (begin_search(&search, crypto, certificate, now) && content.size <= FILE_LIMIT)
		search_content(&search, content);
	return end_search(&search, out);
}

/*
 * Files and directories
 */

/* Returns NULL, or why it cannot be read. */
static const char *search_file(struct search *search, const char *path)
{
	struct file_reading reading = {0};
	struct buffer content = {0};
	const char *why;

	do {
		why = file_read_piece(path, FILE_LIMIT, &reading, &content);
		gate_pause(search->crypto->gate);
	} while (!why && !reading.is_done);
	if (!why)
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

/* The names of the files that may be read, each with its NUL; NULL, or why there are none. */
static const char *read_names(const char *directory, struct buffer *names)
{
	DIR *entries = opendir(directory);
	struct dirent *entry;
	bool has_room = true;

	if (!entries)
		return strerror(errno);
	for (int i = 0; i < DIRECTORY_LIMIT && has_room && (entry = readdir(entries)); i++)
		if (has_certificates(entry->d_name))
			has_room = buffer_append(names, entry->d_name, strlen(entry->d_name) + 1);
	closedir(entries);
	return NULL;
}

/* All names at first: a descriptor must not outlive a piece of work. */
static const char *search_names(struct search *search, const char *directory)
{
	struct buffer names = {0};
	const char *why = read_names(directory, &names);
	char path[PATH_SIZE];

	for (size_t at = 0; at < names.size;) {
		const char *name = (const char *)names.data + at;
		int size = snprintf(path, sizeof(path), "%s/%s", directory, name);

		/* One that cannot be read hides no other. */
		if (size > 0 && size < (int)sizeof(path))
			search_file(search, path);
		at += strlen(name) + 1;
	}
	buffer_free(&names);
	return why;
}

static bool is_directory(const char *path)
{
	struct stat is;

	return stat(path, &is) == 0 && S_ISDIR(is.st_mode);
}

static bool is_found(const struct search *search)
{
	return search->best && search->weight.is_in_time;
}

/* All names only where the hashes have led to nothing that can be used now. */
static const char *search_path(struct search *search, const char *path)
{
	if (!is_directory(path))
		return search_file(search, path);
	search_hashed(search, path);
	return is_found(search) ? NULL : search_names(search, path);
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

/*
 * What libcrypto would take; the host may have said at any time where it is. A copy, because it may
 * do so again. False if it is too long.
 */
static bool copy_path(const char *variable, const char *path, char out[static PATH_SIZE])
{
	const char *said = secure_getenv(variable);

	return snprintf(out, PATH_SIZE, "%s", said ? said : path) < PATH_SIZE;
}

/* Of those that a colon separates. */
static void search_directories(struct search *search, char *list)
{
	char *rest = list, *directory;

	while (!is_found(search) && (directory = strsep(&rest, ":")))
		if (*directory)
			search_hashed(search, directory);
}

/*
 * X509_STORE_set_default_paths would decode all that is in the file, which is 30 ms of computing
 * with the roots of the Web alone. Mostly all are in the directory, too, where the hash leads to
 * the one that is looked for.
 */
static void search_system(struct search *search)
{
	const struct libcrypto *crypto = search->crypto;
	char path[PATH_SIZE];

	if (copy_path(crypto->X509_get_default_cert_dir_env(), crypto->X509_get_default_cert_dir(),
		    path))
		search_directories(search, path);
	if (!is_found(search) && copy_path(crypto->X509_get_default_cert_file_env(),
					 crypto->X509_get_default_cert_file(), path))
		search_file(search, path);
}

bool issuer_from_system(
	const struct libcrypto *crypto, struct bytes certificate, int64_t now, struct buffer *out)
{
	struct search search;

	if (begin_search(&search, crypto, certificate, now))
		search_system(&search);
	return end_search(&search, out);
}
