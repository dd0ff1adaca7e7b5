/* SPDX-License-Identifier: MIT */
#include "issuer.h"

#include "certificate.h"
#include "file.h"

/* The whole of the Web's roots is a quarter of a mebibyte. */
enum { FILE_LIMIT = 16 * 1024 * 1024 };

static bool is_issuer(const struct libcrypto *crypto, X509 *x, X509 *candidate)
{
	EVP_PKEY *key;

	if (crypto->X509_NAME_cmp(
		    crypto->X509_get_subject_name(candidate), crypto->X509_get_issuer_name(x)) != 0)
		return false;
	key = crypto->X509_get0_pubkey(candidate);
	return key && crypto->X509_verify(x, key) == 1;
}

bool issuer_signed(const struct libcrypto *crypto, struct bytes certificate, struct bytes candidate)
{
	X509 *x, *other;
	bool is;

	crypto->ERR_set_mark();
	x = certificate_x509(crypto, certificate);
	other = certificate_x509(crypto, candidate);
	is = x && other && is_issuer(crypto, x, other);
	crypto->X509_free(other);
	crypto->X509_free(x);
	crypto->ERR_pop_to_mark();
	return is;
}

/* OpenSSL's own would ask on the host's terminal. */
static int refuse_password(char *buffer, int size, int writing, void *argument)
{
	(void)buffer;
	(void)size;
	(void)writing;
	(void)argument;
	return -1;
}

/* A certificate that cannot be decoded hides none that come after it. */
static X509 *find_in_pem(const struct libcrypto *crypto, X509 *x, struct bytes pem)
{
	BIO *bio = crypto->BIO_new_mem_buf(pem.data, (int)pem.size);
	X509 *found = NULL;

	while (bio && !found && crypto->BIO_ctrl(bio, BIO_CTRL_PENDING, 0, NULL) > 0) {
		found = crypto->PEM_read_bio_X509(bio, NULL, refuse_password, NULL);
		if (found && !is_issuer(crypto, x, found)) {
			crypto->X509_free(found);
			found = NULL;
		}
	}
	crypto->BIO_free(bio);
	return found;
}

bool issuer_from_file(const struct libcrypto *crypto, struct bytes certificate, const char *path,
	struct buffer *out, const char **why)
{
	struct buffer pem = {0};
	X509 *x = NULL, *issuer = NULL;

	crypto->ERR_set_mark();
	*why = file_read(path, FILE_LIMIT, &pem);
	if (*why)
		goto out;
	*why = "the certificate cannot be decoded";
	x = certificate_x509(crypto, certificate);
	if (!x)
		goto out;
	*why = "the issuer is not in it";
	issuer = find_in_pem(crypto, x, buffer_bytes(&pem));
	if (!issuer)
		goto out;
	*why = certificate_encode(crypto, issuer, out) ? NULL : "memory ran out";
out:
	crypto->X509_free(issuer);
	crypto->X509_free(x);
	buffer_free(&pem);
	crypto->ERR_pop_to_mark();
	return !*why;
}

static X509 *find_in_store(const struct libcrypto *crypto, X509 *x)
{
	X509_STORE *store = crypto->X509_STORE_new();
	X509_STORE_CTX *context = crypto->X509_STORE_CTX_new();
	X509 *issuer = NULL;

	if (store && context && crypto->X509_STORE_set_default_paths(store) == 1 &&
		crypto->X509_STORE_CTX_init(context, store, x, NULL) == 1 &&
		crypto->X509_STORE_CTX_get1_issuer(&issuer, context, x) != 1)
		issuer = NULL;
	crypto->X509_STORE_CTX_free(context);
	crypto->X509_STORE_free(store);
	return issuer;
}

bool issuer_from_system(
	const struct libcrypto *crypto, struct bytes certificate, struct buffer *out)
{
	X509 *x, *issuer = NULL;
	bool done;

	crypto->ERR_set_mark();
	x = certificate_x509(crypto, certificate);
	if (x)
		issuer = find_in_store(crypto, x);
	/* The store compares names and key identifiers only. */
	done = issuer && is_issuer(crypto, x, issuer) && certificate_encode(crypto, issuer, out);
	crypto->X509_free(issuer);
	crypto->X509_free(x);
	crypto->ERR_pop_to_mark();
	return done;
}
