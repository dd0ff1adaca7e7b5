/* SPDX-License-Identifier: MIT */
/*
 * libcrypto, bound at run time.
 *
 * Nothing here is linked with OpenSSL. LIBCRYPTO_FUNCTIONS is the one list: it declares the table,
 * fills it, and takes each prototype from the installed headers, so that a call that does not fit
 * them does not compile. A direct call to an OpenSSL function does not link (-z defs).
 *
 * Every function here exists in OpenSSL 1.1.1 to 4.0, under the name that the headers of all of
 * them declare as a function, not as a macro.
 */
#ifndef OCSPRELOAD_LIBCRYPTO_H
#define OCSPRELOAD_LIBCRYPTO_H

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ocsp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdbool.h>

#define LIBCRYPTO_FUNCTIONS(F)                 \
	F(ASN1_INTEGER_to_BN)                  \
	F(ASN1_STRING_get0_data)               \
	F(ASN1_STRING_length)                  \
	F(ASN1_TIME_to_tm)                     \
	F(AUTHORITY_INFO_ACCESS_free)          \
	F(AUTHORITY_KEYID_free)                \
	F(BIO_ctrl)                            \
	F(BIO_free)                            \
	F(BIO_new_mem_buf)                     \
	F(BN_bn2hex)                           \
	F(BN_free)                             \
	F(CRYPTO_free)                         \
	F(CRYPTO_get_ex_new_index)             \
	F(CRYPTO_malloc)                       \
	F(ERR_pop_to_mark)                     \
	F(ERR_set_mark)                        \
	F(EVP_Digest)                          \
	F(EVP_get_digestbyname)                \
	F(EVP_sha1)                            \
	F(EVP_sha256)                          \
	F(EXTENDED_KEY_USAGE_free)             \
	F(GENERAL_NAMES_free)                  \
	F(GENERAL_NAME_get0_value)             \
	F(OBJ_find_sigid_algs)                 \
	F(OBJ_nid2sn)                          \
	F(OBJ_obj2nid)                         \
	F(OCSP_BASICRESP_free)                 \
	F(OCSP_BASICRESP_get_ext)              \
	F(OCSP_BASICRESP_get_ext_by_critical)  \
	F(OCSP_CERTID_free)                    \
	F(OCSP_REQUEST_free)                   \
	F(OCSP_REQUEST_new)                    \
	F(OCSP_RESPONSE_free)                  \
	F(OCSP_SINGLERESP_get0_id)             \
	F(OCSP_SINGLERESP_get_ext)             \
	F(OCSP_SINGLERESP_get_ext_by_critical) \
	F(OCSP_basic_verify)                   \
	F(OCSP_cert_to_id)                     \
	F(OCSP_id_cmp)                         \
	F(OCSP_id_get0_info)                   \
	F(OCSP_request_add0_id)                \
	F(OCSP_resp_count)                     \
	F(OCSP_resp_get0)                      \
	F(OCSP_resp_get0_certs)                \
	F(OCSP_resp_get0_produced_at)          \
	F(OCSP_resp_get0_signer)               \
	F(OCSP_resp_get0_tbs_sigalg)           \
	F(OCSP_response_get1_basic)            \
	F(OCSP_response_status)                \
	F(OCSP_single_get0_status)             \
	F(OPENSSL_init_crypto)                 \
	F(OPENSSL_sk_free)                     \
	F(OPENSSL_sk_new_null)                 \
	F(OPENSSL_sk_num)                      \
	F(OPENSSL_sk_push)                     \
	F(OPENSSL_sk_value)                    \
	F(OPENSSL_thread_stop)                 \
	F(PEM_read_bio_PKCS7)                  \
	F(PEM_read_bio_X509)                   \
	F(PEM_read_bio_X509_AUX)               \
	F(PKCS7_free)                          \
	F(X509_ALGOR_get0)                     \
	F(X509_EXTENSION_get_object)           \
	F(X509_NAME_cmp)                       \
	F(X509_NAME_digest)                    \
	F(X509_NAME_get_text_by_NID)           \
	F(X509_OBJECT_get0_X509)               \
	F(X509_STORE_add_cert)                 \
	F(X509_STORE_free)                     \
	F(X509_STORE_get0_objects)             \
	F(X509_STORE_get0_param)               \
	F(X509_STORE_lock)                     \
	F(X509_STORE_new)                      \
	F(X509_STORE_set_flags)                \
	F(X509_STORE_unlock)                   \
	F(X509_VERIFY_PARAM_set_time)          \
	F(X509_cmp)                            \
	F(X509_digest)                         \
	F(X509_free)                           \
	F(X509_get0_notAfter)                  \
	F(X509_get0_notBefore)                 \
	F(X509_get0_pubkey)                    \
	F(X509_get0_serialNumber)              \
	F(X509_get_default_cert_dir)           \
	F(X509_get_default_cert_dir_env)       \
	F(X509_get_default_cert_file)          \
	F(X509_get_default_cert_file_env)      \
	F(X509_get_ex_data)                    \
	F(X509_get_ext_d2i)                    \
	F(X509_get_issuer_name)                \
	F(X509_get_signature_info)             \
	F(X509_get_subject_name)               \
	F(X509_issuer_name_hash)               \
	F(X509_set_ex_data)                    \
	F(X509_subject_name_hash)              \
	F(X509_up_ref)                         \
	F(X509_verify)                         \
	F(d2i_OCSP_RESPONSE)                   \
	F(d2i_PKCS7)                           \
	F(d2i_X509)                            \
	F(i2d_OCSP_BASICRESP)                  \
	F(i2d_OCSP_REQUEST)                    \
	F(i2d_OCSP_RESPONSE)                   \
	F(i2d_X509)                            \
	F(i2d_X509_ALGOR)

struct certificate_memo;
struct gate;

/* Fields carry the name of the function: crypto->X509_free(x). */
struct libcrypto {
#define F(name) __typeof__(&name) name;
	LIBCRYPTO_FUNCTIONS(F)
#undef F
	/* Only in a copy of the table that one thread alone uses, else NULL: see certificate.h, and
	 * the gate that this thread holds, for long work to be cut in pieces. */
	struct certificate_memo *memo;
	const struct gate *gate;
};

/*
 * Fills *table with the functions of the library behind handle (from dlopen). Returns NULL, or the
 * name of the first function that is missing: the table must then not be used.
 */
const char *libcrypto_bind(struct libcrypto *table, void *handle);

/* Memory of libcrypto's own allocator, all zero, for CRYPTO_free; NULL if there is none. */
void *libcrypto_zalloc(const struct libcrypto *crypto, size_t size);

#endif
