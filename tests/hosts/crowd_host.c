/* SPDX-License-Identifier: MIT */
/*
 * A server with thousands of certificates, which it loads at once, and their responder, a process
 * of its own that answers each request a while after it came.
 *
 * usage: crowd_host DIRECTORY COUNT LATENCY
 *
 * DIRECTORY keeps the certificates, so that a second run has the same. LATENCY is in milliseconds.
 * Prints one line, NAME=NUMBER …: after how many milliseconds they were loaded, and stapled, all of
 * them; how many requests that took; and the most that were with the responder at one time, and the
 * most connections.
 */
#include <errno.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ocsp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	CONNECTIONS = 512,
	INPUT_SIZE = 2048,
	DAY = 24 * 3600,
	PATIENCE = 300 * 1000, /* milliseconds; only what hangs takes so long */
};

static EVP_PKEY *key;
static X509 *authority;
static X509 **certificates;
static unsigned count, latency;

static void fail(const char *what)
{
	fprintf(stderr, "crowd_host: %s: %s\n", what, strerror(errno));
	ERR_print_errors_fp(stderr);
	exit(1);
}

static unsigned parse_number(const char *text)
{
	char *end;
	unsigned long number = strtoul(text, &end, 10);

	if (*end != '\0' || number == 0 || number > 1000000)
		fail("not a number");
	return (unsigned)number;
}

static long long milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/*
 * Certificates
 */

static EVP_PKEY *make_key(void)
{
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_id(EVP_PKEY_EC, NULL);
	EVP_PKEY *made = NULL;

	if (!ctx || EVP_PKEY_keygen_init(ctx) != 1 ||
		EVP_PKEY_CTX_set_ec_paramgen_curve_nid(ctx, NID_X9_62_prime256v1) != 1 ||
		EVP_PKEY_keygen(ctx, &made) != 1)
		fail("no key");
	EVP_PKEY_CTX_free(ctx);
	return made;
}

static void add_extension(X509 *x, int nid, const char *value)
{
	X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, nid, value);

	if (!extension || X509_add_ext(x, extension, -1) != 1)
		fail("no extension");
	X509_EXTENSION_free(extension);
}

static X509 *make_certificate(unsigned serial, const char *name, const char *aia)
{
	X509 *x = X509_new();

	if (!x)
		fail("no certificate");
	X509_set_version(x, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(x), (long)serial);
	X509_gmtime_adj(X509_getm_notBefore(x), -DAY);
	X509_gmtime_adj(X509_getm_notAfter(x), 30L * DAY);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
		(const unsigned char *)name, -1, -1, 0);
	X509_set_issuer_name(
		x, authority ? X509_get_subject_name(authority) : X509_get_subject_name(x));
	X509_set_pubkey(x, key);
	if (aia)
		add_extension(x, NID_info_access, aia);
	else
		add_extension(x, NID_basic_constraints, "critical,CA:TRUE");
	if (X509_sign(x, key, EVP_sha256()) <= 0)
		fail("no signature");
	return x;
}

static void make_all(const char *path, unsigned port)
{
	FILE *file = fopen(path, "wx");
	char aia[64], name[64];

	if (!file)
		fail(path);
	snprintf(aia, sizeof(aia), "OCSP;URI:http://127.0.0.1:%u/", port);
	key = make_key();
	authority = make_certificate(1, "Crowd CA", NULL);
	fprintf(file, "%u\n", port);
	PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL);
	PEM_write_X509(file, authority);
	for (unsigned i = 0; i < count; i++) {
		snprintf(name, sizeof(name), "host-%u.example", i);
		certificates[i] = make_certificate(1000 + i, name, aia);
		PEM_write_X509(file, certificates[i]);
	}
	if (fclose(file) != 0)
		fail(path);
}

static unsigned read_all(FILE *file)
{
	char line[32], *end;
	unsigned port;

	if (!fgets(line, sizeof(line), file))
		fail("no port");
	port = (unsigned)strtoul(line, &end, 10);
	if (end == line)
		fail("no port");
	key = PEM_read_PrivateKey(file, NULL, NULL, NULL);
	authority = PEM_read_X509(file, NULL, NULL, NULL);
	for (unsigned i = 0; i < count; i++) {
		certificates[i] = PEM_read_X509(file, NULL, NULL, NULL);
		if (!certificates[i])
			fail("too few certificates");
	}
	fclose(file);
	return port;
}

/*
 * The responder
 */

struct connection {
	int fd;        /* -1: free */
	long long due; /* when to answer; 0: there is no whole request */
	size_t size;
	char input[INPUT_SIZE];
};

static struct counters {
	unsigned requests, most_requests, most_connections;
} counters;

static struct connection connections[CONNECTIONS];

static int decode_digit(char c)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *at = c ? strchr(digits, c) : NULL;

	return at ? (int)(at - digits) : -1;
}

/* The base64 in the path of a GET, percent-encoded in part. */
static size_t decode_path(const char *text, unsigned char *out, size_t room)
{
	unsigned bits = 0, held = 0;
	size_t size = 0;

	for (; *text && *text != ' ' && size < room; text++) {
		char c = *text;
		int digit;

		if (c == '%' && text[1] && text[2]) {
			char hex[3] = {text[1], text[2], '\0'};

			c = (char)strtol(hex, NULL, 16);
			text += 2;
		}
		digit = decode_digit(c);
		if (digit < 0)
			continue;
		bits = bits << 6 | (unsigned)digit;
		held += 6;
		if (held >= 8) {
			held -= 8;
			out[size++] = (unsigned char)(bits >> held);
		}
	}
	return size;
}

static int make_response(const unsigned char *request, size_t size, unsigned char **der)
{
	OCSP_REQUEST *asked = d2i_OCSP_REQUEST(NULL, &request, (long)size);
	OCSP_ONEREQ *one = asked ? OCSP_request_onereq_get0(asked, 0) : NULL;
	OCSP_BASICRESP *basic = OCSP_BASICRESP_new();
	ASN1_TIME *now = X509_gmtime_adj(NULL, 0), *end = X509_gmtime_adj(NULL, 7L * DAY);
	OCSP_RESPONSE *response;
	int length;

	if (!one || !basic || !now || !end)
		fail("no request");
	OCSP_basic_add1_status(
		basic, OCSP_onereq_get0_id(one), V_OCSP_CERTSTATUS_GOOD, 0, NULL, now, end);
	if (OCSP_basic_sign(basic, authority, key, EVP_sha256(), NULL, OCSP_NOCERTS) != 1)
		fail("no response");
	response = OCSP_response_create(OCSP_RESPONSE_STATUS_SUCCESSFUL, basic);
	length = i2d_OCSP_RESPONSE(response, der);
	OCSP_RESPONSE_free(response);
	OCSP_BASICRESP_free(basic);
	OCSP_REQUEST_free(asked);
	ASN1_TIME_free(now);
	ASN1_TIME_free(end);
	return length;
}

/* All in one packet; it is small, and the connection is the client's to keep. */
static void answer(struct connection *connection)
{
	unsigned char request[INPUT_SIZE], *der = NULL;
	char out[8192];
	size_t size = decode_path(connection->input + strlen("GET /"), request, sizeof(request));
	int length = make_response(request, size, &der);
	int head = snprintf(out, sizeof(out),
		"HTTP/1.1 200 OK\r\nContent-Type: application/ocsp-response\r\n"
		"Content-Length: %d\r\n\r\n",
		length);

	memcpy(out + head, der, (size_t)length);
	OPENSSL_free(der);
	connection->due = 0;
	connection->size = 0;
	if (write(connection->fd, out, (size_t)head + (size_t)length) != head + length)
		fail("no answer");
}

static void hang_up(struct connection *connection)
{
	close(connection->fd);
	*connection = (struct connection){.fd = -1};
}

static void receive(struct connection *connection)
{
	ssize_t size = read(connection->fd, connection->input + connection->size,
		INPUT_SIZE - 1 - connection->size);

	if (size <= 0) {
		hang_up(connection);
		return;
	}
	connection->size += (size_t)size;
	connection->input[connection->size] = '\0';
	if (!strstr(connection->input, "\r\n\r\n"))
		return;
	connection->due = milliseconds() + latency;
	counters.requests++;
}

static void count_up(void)
{
	unsigned open = 0, waiting = 0;

	for (int i = 0; i < CONNECTIONS; i++) {
		open += connections[i].fd >= 0;
		waiting += connections[i].due != 0;
	}
	if (open > counters.most_connections)
		counters.most_connections = open;
	if (waiting > counters.most_requests)
		counters.most_requests = waiting;
}

static void take_connection(int listener)
{
	int fd = accept(listener, NULL, NULL);

	for (int i = 0; i < CONNECTIONS && fd >= 0; i++)
		if (connections[i].fd < 0) {
			connections[i].fd = fd;
			return;
		}
	fail("too many connections");
}

static int poll_all(int listener, struct pollfd *fds)
{
	long long now = milliseconds(), next = now + 1000;

	for (int i = 0; i < CONNECTIONS; i++) {
		fds[i] = (struct pollfd){connections[i].fd, POLLIN, 0};
		if (connections[i].due && connections[i].due < next)
			next = connections[i].due;
	}
	fds[CONNECTIONS] = (struct pollfd){listener, POLLIN, 0};
	return poll(fds, CONNECTIONS + 1, next > now ? (int)(next - now) : 0);
}

static volatile sig_atomic_t told_to_end;

static void end_soon(int number)
{
	(void)number;
	told_to_end = 1;
}

static void run_responder(int listener, int report)
{
	static struct pollfd fds[CONNECTIONS + 1];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGTERM, end_soon);
	signal(SIGPIPE, SIG_IGN);
	for (int i = 0; i < CONNECTIONS; i++)
		connections[i].fd = -1;
	while (!told_to_end) {
		long long now;

		if (poll_all(listener, fds) < 0)
			continue;
		for (int i = 0; i < CONNECTIONS; i++)
			if (fds[i].revents && connections[i].fd >= 0)
				receive(&connections[i]);
		/* Before one more is taken: that which it replaces may have been closed just after
		 * it was looked at. */
		count_up();
		if (fds[CONNECTIONS].revents)
			take_connection(listener);
		now = milliseconds();
		for (int i = 0; i < CONNECTIONS; i++)
			if (connections[i].due && connections[i].due <= now)
				answer(&connections[i]);
	}
	if (write(report, &counters, sizeof(counters)) != sizeof(counters))
		fail("no report");
	_exit(0);
}

static int listen_on(unsigned *port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((in_port_t)*port)};
	socklen_t size = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) != 0 || listen(fd, 512) != 0 ||
		getsockname(fd, (struct sockaddr *)&address, &size) != 0)
		fail("cannot listen");
	*port = ntohs(address.sin_port);
	return fd;
}

/*
 * The server
 */

static void load(SSL_CTX *ctx, X509 *x)
{
	if (SSL_CTX_use_certificate(ctx, x) != 1)
		fail("SSL_CTX_use_certificate");
}

static SSL *make_end(SSL_CTX *ctx, BIO *bio, int is_server)
{
	SSL *ssl = SSL_new(ctx);

	if (!ssl)
		fail("SSL_new");
	SSL_set_bio(ssl, bio, bio);
	if (is_server)
		SSL_set_accept_state(ssl);
	else
		SSL_set_connect_state(ssl);
	return ssl;
}

static bool advance(SSL *ssl)
{
	int result = SSL_do_handshake(ssl);

	if (result != 1 && SSL_get_error(ssl, result) != SSL_ERROR_WANT_READ)
		fail("the handshake failed");
	return result == 1;
}

/* True if the client got a staple with the right serial number in it. */
static bool shake_hands(SSL_CTX *server_ctx, SSL_CTX *client_ctx, X509 *x)
{
	BIO *server_bio = NULL, *client_bio = NULL;
	const unsigned char *der;
	OCSP_RESPONSE *response = NULL;
	OCSP_BASICRESP *basic = NULL;
	ASN1_INTEGER *serial = NULL;
	SSL *server, *client;
	bool stapled = false;
	long size;

	load(server_ctx, x);
	if (BIO_new_bio_pair(&server_bio, 0, &client_bio, 0) != 1)
		fail("no memory");
	server = make_end(server_ctx, server_bio, 1);
	client = make_end(client_ctx, client_bio, 0);
	SSL_set_tlsext_status_type(client, TLSEXT_STATUSTYPE_ocsp);
	for (int done = 0; done != 3;)
		done = advance(client) | advance(server) << 1;
	size = SSL_get_tlsext_status_ocsp_resp(client, &der);
	if (size > 0)
		response = d2i_OCSP_RESPONSE(NULL, &der, size);
	if (response)
		basic = OCSP_response_get1_basic(response);
	if (basic) {
		OCSP_SINGLERESP *single = OCSP_resp_get0(basic, 0);

		OCSP_id_get0_info(NULL, NULL, NULL, &serial,
			(OCSP_CERTID *)(void *)OCSP_SINGLERESP_get0_id(single));
		stapled = ASN1_INTEGER_cmp(serial, X509_get0_serialNumber(x)) == 0;
		if (!stapled)
			fail("another certificate's response");
	}
	OCSP_BASICRESP_free(basic);
	OCSP_RESPONSE_free(response);
	SSL_free(client);
	SSL_free(server);
	return stapled;
}

/* From the last to the first, since they are fetched in the order in which they came. */
static void wait_for_all(SSL_CTX *ctx, SSL_CTX *client, long long began)
{
	for (unsigned i = count; i-- > 0;)
		while (!shake_hands(ctx, client, certificates[i])) {
			if (milliseconds() - began > PATIENCE)
				fail("not stapled in time");
			usleep(20000);
		}
}

static void run_server(void)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
	SSL_CTX *client = SSL_CTX_new(TLS_client_method());
	long long began, loaded, last;

	if (!ctx || !client || !X509_up_ref(authority) ||
		SSL_CTX_add_extra_chain_cert(ctx, authority) != 1)
		fail("no context");
	began = milliseconds();
	for (unsigned i = 0; i < count; i++)
		load(ctx, certificates[i]);
	if (SSL_CTX_use_PrivateKey(ctx, key) != 1)
		fail("no key");
	loaded = milliseconds();
	while (!shake_hands(ctx, client, certificates[count - 1])) {
		if (milliseconds() - began > PATIENCE)
			fail("not stapled in time");
		usleep(20000);
	}
	/* Those that were under way beside it come with or just after it. */
	for (unsigned i = count > 200 ? count - 200 : 0; i < count; i++)
		while (!shake_hands(ctx, client, certificates[i]))
			usleep(1000);
	last = milliseconds();
	wait_for_all(ctx, client, began);
	printf("loaded=%lld stapled=%lld looked=%lld ", loaded - began, last - began,
		milliseconds() - last);
	SSL_CTX_free(client);
	SSL_CTX_free(ctx);
}

int main(int argc, char **argv)
{
	unsigned port = 0;
	char path[4096];
	int report[2], listener;
	FILE *file;
	pid_t responder;

	if (argc != 4) {
		fprintf(stderr, "usage: crowd_host DIRECTORY COUNT LATENCY\n");
		return 2;
	}
	count = parse_number(argv[2]);
	latency = parse_number(argv[3]);
	certificates = calloc(count, sizeof(X509 *));
	snprintf(path, sizeof(path), "%s/crowd.pem", argv[1]);
	file = fopen(path, "r");
	if (file)
		port = read_all(file);
	listener = listen_on(&port);
	if (!file)
		make_all(path, port);
	if (pipe(report) != 0)
		fail("pipe");
	responder = fork();
	if (responder < 0)
		fail("fork");
	if (responder == 0)
		run_responder(listener, report[1]);
	run_server();
	kill(responder, SIGTERM);
	if (read(report[0], &counters, sizeof(counters)) != sizeof(counters))
		fail("no report");
	waitpid(responder, NULL, 0);
	printf("requests=%u at_once=%u connections=%u\n", counters.requests, counters.most_requests,
		counters.most_connections);
	return 0;
}
