/* SPDX-License-Identifier: MIT */
/* links: agenda.c responders.c queue.c schedule.c supply.c cache.c store.c file.c descriptor.c */
/* links: ready.c agent.c http.c freshness.c clock.c bytes.c skim.c */
/*
 * Days and weeks of a server's life in seconds. Everything that decides when whom is asked is the
 * real thing: the agenda, the responders, the schedule, the supply, the cache. The clocks, the
 * draws and the network are this file's: time goes from one event to the next, the same each run.
 */
#include "../../fetcher/agenda.h"

#include "../../fetcher/clock.h"
#include "../../fetcher/issuer.h"
#include "../../fetcher/log.h"
#include "../../fetcher/schedule.h"
#include "check.h"

#include <stdlib.h>
#include <sys/random.h>

enum {
	SECOND = 1000,
	MINUTE = 60 * SECOND,
	HOUR = 60 * MINUTE,
	DAY = 24 * HOUR,
	HOSTS = 80,
	OUTAGES = 4,
	MOST_SUBJECTS = 10000,
	TIMEOUT = 10 * SECOND,
};

#define WEEK ((int64_t)7 * DAY)

/* A Monday of 2026. */
static const int64_t origin = (int64_t)1795392000 * 1000;

/*
 * Chance and time
 */

static uint64_t seed;

static uint64_t draw_bits(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed >> 16;
}

static int64_t draw_between(int64_t least, int64_t most)
{
	return least + (int64_t)(draw_bits() % (uint64_t)(most - least + 1));
}

/* In libc's place: the jitter of the code under test comes from here. */
ssize_t getrandom(void *out, size_t size, unsigned flags)
{
	unsigned char *to = out;

	(void)flags;
	for (size_t i = 0; i < size; i++)
		to[i] = (unsigned char)draw_bits();
	return (ssize_t)size;
}

static int64_t steady;   /* what CLOCK_MONOTONIC says */
static int64_t real;     /* what time it is, as the responders know it */
static int64_t wrong_by; /* how far this machine's wall clock is ahead of that */

static size_t clock_looks;

int64_t clock_steady(void)
{
	clock_looks++;
	return steady;
}

int64_t clock_wall(void)
{
	clock_looks++;
	return real + wrong_by;
}

/*
 * What is not under test
 */

static int warnings;

void log_write(enum log_level level, const char *format, ...)
{
	(void)format;
	warnings += level <= LOG_LEVEL_WARNING;
}

bool issuer_signed(const struct libcrypto *crypto, struct bytes certificate, struct bytes candidate)
{
	(void)crypto;
	(void)certificate;
	(void)candidate;
	return false;
}

bool issuer_weigh(const struct libcrypto *crypto, struct bytes certificate, struct bytes candidate,
	int64_t now, struct issuer_weight *out)
{
	(void)crypto;
	(void)certificate;
	(void)candidate;
	(void)now;
	(void)out;
	return false;
}

bool issuer_outweighs(const struct issuer_weight *one, const struct issuer_weight *other)
{
	(void)one;
	(void)other;
	return false;
}

bool issuer_from_content(const struct libcrypto *crypto, struct bytes certificate,
	struct bytes content, int64_t now, struct buffer *out)
{
	(void)crypto;
	(void)certificate;
	(void)content;
	(void)now;
	(void)out;
	return false;
}

bool issuer_from_path(const struct libcrypto *crypto, struct bytes certificate, const char *path,
	int64_t now, struct buffer *out, const char **why)
{
	(void)crypto;
	(void)certificate;
	(void)path;
	(void)now;
	(void)out;
	*why = "";
	return false;
}

bool issuer_from_system(
	const struct libcrypto *crypto, struct bytes certificate, int64_t now, struct buffer *out)
{
	(void)crypto;
	(void)certificate;
	(void)now;
	(void)out;
	return false;
}

bool certificate_decode(const struct libcrypto *crypto, struct bytes der, struct certificate *out)
{
	(void)crypto;
	(void)der;
	(void)out;
	return false;
}

X509 *certificate_x509(const struct libcrypto *crypto, struct bytes der)
{
	(void)crypto;
	(void)der;
	return NULL;
}

void certificate_free(struct certificate *certificate)
{
	(void)certificate;
}

struct judgement ocsp_judge(const struct libcrypto *crypto, struct bytes response,
	struct bytes certificate, struct bytes issuer, int64_t now)
{
	(void)crypto;
	(void)response;
	(void)certificate;
	(void)issuer;
	(void)now;
	return (struct judgement){.verdict = VERDICT_NOT_A_RESPONSE};
}

const char *verdict_text(enum verdict verdict)
{
	(void)verdict;
	return "?";
}

/*
 * The world
 */

enum trouble { REFUSES, HANGS, IS_BUSY };

static struct host {
	int64_t latency;
	int64_t period; /* of making responses beforehand; 0: made when asked for */
	struct {
		int64_t from, to; /* real time */
		enum trouble trouble;
	} outages[OUTAGES];
	unsigned in_flight, most_in_flight;
	int asked, failed;
} hosts[HOSTS];

static struct subject {
	struct slot *slot;
	int64_t life;
	int host, second; /* -1: it has but one */
	int64_t known_from;
	bool hangs;    /* its responder never answers, for this one alone */
	int64_t ended; /* when the last response did, or its time began */
	int asked;
	int64_t refreshed_at;
} subjects[MOST_SUBJECTS];

static int subject_count;

/* What is in the place of a response. */
struct blob {
	int64_t subject, this_update, next_update; /* seconds */
};

static struct flight {
	struct errand errand;
	struct subject *subject;
	struct host *host;
	int64_t lands; /* steady clock */
	bool fails;
} flights[RESPONDERS_PLACES];

static size_t in_flight, most_in_flight;
static int requests, spins, stale, wrong_host;
static struct cache *cache;
static struct supply supply;
static struct store no_store;

/*
 * The gate. Whatever is done for a slot looks at a clock, so these looks are what a piece of work
 * is measured by; the loop's own work is not counted.
 */

static size_t longest_piece;
static void end_piece(void)
{
	if (clock_looks > longest_piece)
		longest_piece = clock_looks;
	clock_looks = 0;
}

static void begin_piece(void)
{
	clock_looks = 0;
}

static const struct gate gate = {.enter = begin_piece, .leave = end_piece};
static const struct libcrypto no_crypto = {.gate = &gate};
static struct config config;
static struct agenda *agenda;

static void begin_world(uint64_t new_seed)
{
	seed = new_seed;
	steady = 1000 * SECOND;
	real = origin;
	wrong_by = 0;
	in_flight = most_in_flight = 0;
	requests = spins = stale = warnings = subject_count = 0;
	memset(hosts, 0, sizeof(hosts));
	memset(flights, 0, sizeof(flights));
	memset(subjects, 0, sizeof(subjects));
	for (int i = 0; i < HOSTS; i++)
		hosts[i].latency = draw_between(20, 400);
	cache = cache_create();
	supply = (struct supply){
		.crypto = &no_crypto, .cache = cache, .config = &config, .store = &no_store};
	agenda = agenda_new(&supply);
	CHECK(cache && agenda);
}

static void end_world(void)
{
	agenda_free(agenda);
	cache_destroy(cache);
	CHECK_EQ(stale, 0);
	CHECK_EQ(wrong_host, 0);
	CHECK(most_in_flight <= RESPONDERS_PLACES);
	/* It sleeps when there is nothing to do. */
	CHECK_EQ(spins, 0);
}

static struct subject *add_subject(int host, int second, int64_t life)
{
	struct subject *subject = &subjects[subject_count];
	struct certificate certificate = {.label = "subject"};
	unsigned char der[1300] = {0};
	char responders[64];

	memcpy(certificate.key, &subject_count, sizeof(subject_count));
	certificate.der.data = der;
	certificate.der.size = sizeof(der);
	snprintf(responders, sizeof(responders),
		second < 0 ? "http://h%d/" : "http://h%d/ http://h%d/", host, second);
	*subject = (struct subject){.life = life, .host = host, .second = second, .ended = real};
	subject->slot = cache_add(cache, &certificate, responders, steady);
	CHECK(subject->slot);
	subject_count++;
	return subject;
}

static const enum trouble *trouble_of(const struct host *host)
{
	for (int i = 0; i < OUTAGES; i++)
		if (real >= host->outages[i].from && real < host->outages[i].to)
			return &host->outages[i].trouble;
	return NULL;
}

static void take_off(struct flight *flight)
{
	struct host *host = &hosts[strtol(flight->errand.responder + 8, NULL, 10)];
	struct subject *subject = &subjects[cache_slot_index(cache, flight->errand.slot)];
	const enum trouble *trouble = trouble_of(host);

	wrong_host += host != &hosts[subject->host] &&
		      (subject->second < 0 || host != &hosts[subject->second]);
	flight->subject = subject;
	flight->host = host;
	flight->fails = trouble || subject->hangs;
	flight->lands = steady + host->latency;
	if (subject->hangs || (trouble && *trouble == HANGS))
		flight->lands = steady + TIMEOUT;
	else if (trouble && *trouble == REFUSES)
		flight->lands = steady + 2;
	requests++;
	host->asked++;
	subject->asked++;
	host->in_flight++;
	if (host->in_flight > host->most_in_flight)
		host->most_in_flight = host->in_flight;
	if (++in_flight > most_in_flight)
		most_in_flight = in_flight;
}

/* As ocsp_judge would see it; false: it would not be taken. */
static bool make_response(const struct flight *flight, struct blob *blob)
{
	int64_t period = flight->host->period;
	int64_t made = period ? real - real % period : real;
	int64_t now = clock_wall() / 1000;

	blob->subject = flight->subject - subjects;
	blob->this_update = made / 1000;
	blob->next_update = (made + flight->subject->life) / 1000;
	return blob->this_update <= now + OCSP_SKEW && blob->next_update > now;
}

static void touch_down(struct flight *flight)
{
	struct answer answer = {.state = FETCH_FAILED, .why = "", .responder = "a host"};
	struct slot *slot = flight->errand.slot;
	struct blob blob;

	if (flight->fails) {
		answer.fault = FETCH_FAULT_RESPONDER;
		flight->host->failed++;
	} else if (real < flight->subject->known_from) {
		answer.fault = FETCH_FAULT_UNAUTHORIZED;
	} else if (make_response(flight, &blob)) {
		answer.state = FETCH_ANSWERED;
		answer.judgement = (struct judgement){.verdict = VERDICT_GOOD,
			.this_update = blob.this_update,
			.next_update = blob.next_update,
			.usable_until = blob.next_update};
		answer.response = (struct bytes){(const unsigned char *)&blob, sizeof(blob)};
		flight->subject->refreshed_at = steady;
	}
	flight->errand.slot = NULL;
	flight->host->in_flight--;
	in_flight--;
	begin_piece();
	agenda_land(agenda, slot, &answer);
	end_piece();
}

static int64_t next_landing(void)
{
	int64_t next = INT64_MAX;

	for (size_t i = 0; i < RESPONDERS_PLACES; i++)
		if (flights[i].errand.slot && flights[i].lands < next)
			next = flights[i].lands;
	return next;
}

static struct flight *free_flight(void)
{
	for (size_t i = 0; i < RESPONDERS_PLACES; i++)
		if (!flights[i].errand.slot)
			return &flights[i];
	return NULL;
}

static bool next_errand(struct errand *errand)
{
	bool is;

	begin_piece();
	is = agenda_next(agenda, errand);
	end_piece();
	return is;
}

/* The loop's way through its work, for so many milliseconds of steady time. */
static void live(int64_t time)
{
	int64_t end = steady + time;

	while (steady < end) {
		struct errand errand;
		int64_t next, wait;

		while (next_errand(&errand)) {
			struct flight *flight = free_flight();

			if (!CHECK(flight))
				exit(1);
			flight->errand = errand;
			take_off(flight);
		}
		next = next_landing();
		wait = agenda_wait(agenda);
		/* While something is in flight, the loop looks at it at times. */
		if (next == INT64_MAX)
			spins += wait == 0;
		if (wait < 1)
			wait = 1;
		if (next > steady + wait)
			next = steady + wait;
		if (next > end)
			next = end;
		real += next - steady;
		steady = next;
		for (size_t i = 0; i < RESPONDERS_PLACES; i++)
			if (flights[i].errand.slot && flights[i].lands <= steady)
				touch_down(&flights[i]);
		if (in_flight == 0 && cache_has_news(cache) && cache_sleep(cache, 0))
			agenda_stir(agenda);
	}
}

/* True if a client is stapled now. What it gets must be what a strict client takes. */
static bool shake_hands(struct subject *subject)
{
	int64_t now = clock_wall() / 1000;
	struct blob blob;
	size_t size = cache_read(subject->slot, now, &blob, sizeof(blob));

	if (size == 0)
		return false;
	stale += size != sizeof(blob) || blob.subject != subject - subjects ||
		 now >= blob.next_update || now < blob.this_update - OCSP_SKEW;
	subject->ended = blob.next_update * 1000;
	return true;
}

static int count_stapled(void)
{
	int stapled = 0;

	for (int i = 0; i < subject_count; i++)
		stapled += shake_hands(&subjects[i]);
	return stapled;
}

/*
 * The week
 */

enum {
	CERTIFICATES = 1000,
	RESPONDERS = 12,
	/* Before the end of a response its responder must be back by so much: it is asked ever
	 * sooner, but it is not hammered, and a try may take a timeout to fail. */
	MARGIN = 2 * SCHEDULE_BEARABLE + TIMEOUT + 5 * SECOND,
	/* The longest backoff, and a try under way. */
	RECOVERY = 11 * MINUTE,
};

/*
 * Every third responder is down once a day or so for one to seven hours, in one of three ways; what
 * Chung et al. (IMC 2018) saw in the wild was a third of them failing for hours in four months.
 */
static void plan_outages(int count)
{
	for (int i = 0; i < count; i += 3) {
		for (int j = 0; j < OUTAGES; j++) {
			int64_t from = origin + j * (WEEK / OUTAGES) + draw_between(0, 30 * HOUR);

			hosts[i].outages[j].from = from;
			hosts[i].outages[j].to = from + draw_between(HOUR, 7 * HOUR);
			hosts[i].outages[j].trouble = (enum trouble)draw_between(REFUSES, IS_BUSY);
		}
	}
}

/* True if a responder was down when the last response ended, and is or just was. */
static bool was_down(const struct host *host, int64_t ended)
{
	int64_t needed = ended - MARGIN;

	for (int i = 0; i < OUTAGES; i++)
		if (host->outages[i].from <= needed && host->outages[i].to > needed &&
			real < host->outages[i].to + RECOVERY)
			return true;
	return false;
}

static bool is_excused(const struct subject *subject)
{
	return was_down(&hosts[subject->host], subject->ended) &&
	       (subject->second < 0 || was_down(&hosts[subject->second], subject->ended));
}

/*
 * Requests that one certificate costs in a week if nothing ever fails: one at its beginning, then
 * one at a time between the half and six tenths of each response's life, which is its age older
 * than the request where responses are made beforehand. The last interval is half over on average.
 */
static double ideal_of(const struct subject *subject)
{
	double interval = 0.55 * (double)subject->life - (double)hosts[subject->host].period / 2;

	return (double)WEEK / interval + 0.5;
}

/* Lives of four hours to seven days, evenly over the orders of magnitude between them. */
static int64_t draw_life(void)
{
	int64_t life = 4 * HOUR;

	for (int64_t steps = draw_between(0, 540); steps > 0; steps--)
		life += life / 144;
	return life < WEEK ? life : WEEK;
}

static void test_a_week_with_outages(void)
{
	long handshakes = 0, missed = 0, excused = 0;
	double ideal = 0;
	int failed = 0;

	begin_world(20181031);
	plan_outages(RESPONDERS);
	for (int i = 1; i < RESPONDERS; i += 2)
		hosts[i].period = 20 * MINUTE;
	for (int i = 0; i < CERTIFICATES; i++) {
		int second = i % 10 == 0 ? (i + 1) % RESPONDERS : -1;

		ideal += ideal_of(add_subject(i % RESPONDERS, second, draw_life()));
	}
	live(MINUTE);
	for (int minute = 1; minute < WEEK / MINUTE; minute++) {
		for (int i = 0; i < subject_count; i++) {
			bool stapled = shake_hands(&subjects[i]);

			handshakes++;
			if (!stapled && is_excused(&subjects[i]))
				excused++;
			else if (!stapled && missed++ < 10)
				fprintf(stderr,
					"subject %d, host %d, minute %d: ended %lld s ago\n", i,
					subjects[i].host, minute,
					(long long)(real - subjects[i].ended) / 1000);
		}
		live(MINUTE);
	}
	for (int i = 0; i < RESPONDERS; i++) {
		failed += hosts[i].failed;
		CHECK(hosts[i].most_in_flight <= RESPONDER_MOST);
	}
	printf("a week: %ld handshakes, %ld missed, %ld while no responder was up for longer than "
	       "the response lived, %d stale; %d requests, %d of them failed; ideal %.0f\n",
		handshakes, missed, excused, stale, requests, failed, ideal);
	CHECK_EQ(missed, 0);
	/* The outages were such that they could be told from none. */
	CHECK(excused > 1000 && failed > 100);
	CHECK(requests > 0.9 * ideal && requests < 1.1 * ideal);
	end_world();
}

/*
 * Clocks
 */

static void fill_world(int count, int responders, int64_t life)
{
	for (int i = 0; i < count; i++)
		add_subject(i % responders, -1, life);
}

/* The most requests that any responder had in any minute of so many. */
static int busiest_minute(int minutes)
{
	int before[HOSTS], most = 0;

	for (int minute = 0; minute < minutes; minute++) {
		for (int i = 0; i < HOSTS; i++)
			before[i] = hosts[i].asked;
		live(MINUTE);
		for (int i = 0; i < HOSTS; i++)
			if (hosts[i].asked - before[i] > most)
				most = hosts[i].asked - before[i];
	}
	return most;
}

static void test_a_machine_that_slept_a_day(void)
{
	begin_world(1);
	fill_world(500, 4, 8 * HOUR);
	live(HOUR);
	CHECK_EQ(count_stapled(), 500);
	/* The steady clock stands still meanwhile. */
	real += DAY;
	CHECK_EQ(count_stapled(), 0);
	requests = 0;
	live(2 * MINUTE);
	CHECK_EQ(count_stapled(), 500);
	CHECK_EQ(requests, 500);
	end_world();
}

/* Only what is due by then; a few at a time, since what is held can still be stapled. */
static void test_a_machine_that_slept_less_than_a_response_lives(void)
{
	begin_world(2);
	fill_world(500, 4, 7 * DAY);
	live(HOUR);
	real += 5 * DAY;
	CHECK_EQ(count_stapled(), 500);
	for (int i = 0; i < HOSTS; i++)
		hosts[i].most_in_flight = 0;
	requests = 0;
	live(2 * MINUTE);
	CHECK_EQ(requests, 500);
	for (int i = 0; i < HOSTS; i++)
		CHECK(hosts[i].most_in_flight <= RESPONDER_START);
	end_world();
}

/* It cannot take any answer for as long as it believes that tomorrow is today. */
static void test_a_clock_set_ahead_by_a_day_and_back(void)
{
	begin_world(3);
	fill_world(500, 4, 8 * HOUR);
	live(HOUR);
	wrong_by = DAY;
	CHECK_EQ(count_stapled(), 0);
	requests = 0;
	live(6 * HOUR);
	CHECK_EQ(count_stapled(), 0);
	/* Each is asked for ever less: a dozen times in the first hour, then about once in each. */
	CHECK(requests < 500 * 24);
	CHECK(busiest_minute(60) <= 20);
	wrong_by = 0;
	live(2 * MINUTE);
	CHECK_EQ(count_stapled(), 500);
	end_world();
}

static void test_a_clock_set_back_by_a_day_and_right_again(void)
{
	begin_world(4);
	fill_world(500, 4, 8 * HOUR);
	live(HOUR);
	wrong_by = -DAY;
	CHECK_EQ(count_stapled(), 0);
	requests = 0;
	live(6 * HOUR);
	CHECK_EQ(count_stapled(), 0);
	CHECK(requests < 500 * 24);
	wrong_by = 0;
	live(2 * MINUTE);
	CHECK_EQ(count_stapled(), 500);
	end_world();
}

/* What is due tomorrow by the old clock is due in the response's own time by the new one. */
static void test_a_clock_that_was_a_day_ahead_from_the_start(void)
{
	begin_world(5);
	wrong_by = DAY;
	fill_world(100, 4, 2 * DAY);
	live(HOUR);
	CHECK_EQ(count_stapled(), 100);
	wrong_by = 0;
	CHECK_EQ(count_stapled(), 100);
	for (int hour = 0; hour < 7 * 24; hour++) {
		live(HOUR);
		CHECK_EQ(count_stapled(), 100);
	}
	end_world();
}

/* Retries put off by a clock that is then set back do not wait until it is there again. */
static void test_retries_do_not_wait_for_a_clock_that_was_set_back(void)
{
	begin_world(6);
	hosts[0].outages[0].from = real;
	hosts[0].outages[0].to = real + 10 * HOUR;
	fill_world(20, 1, 8 * HOUR);
	wrong_by = DAY;
	live(10 * HOUR);
	wrong_by = 0;
	live(15 * MINUTE);
	CHECK_EQ(count_stapled(), 20);
	end_world();
}

/*
 * Responders
 */

/* Also where the first host fails for long, and takes its time to. */
static void test_the_second_responder_is_asked_at_once(void)
{
	begin_world(7);
	hosts[0].outages[0].from = real;
	hosts[0].outages[0].to = real + WEEK;
	hosts[0].outages[0].trouble = HANGS;
	for (int i = 0; i < 100; i++)
		add_subject(0, 1, 8 * HOUR);
	live(TIMEOUT + 10 * SECOND);
	CHECK_EQ(count_stapled(), 100);
	live(HOUR);
	/* Those that worked are remembered; the others are left alone. */
	CHECK(hosts[0].asked <= 5);
	for (int hour = 0; hour < 48; hour++) {
		live(HOUR);
		CHECK_EQ(count_stapled(), 100);
	}
	CHECK(hosts[0].asked <= 5);
	CHECK_EQ(warnings, 0);
	end_world();
}

static void test_a_responder_that_is_down_costs_it_little(void)
{
	begin_world(8);
	hosts[0].outages[0].from = real + MINUTE;
	hosts[0].outages[0].to = real + 6 * HOUR;
	fill_world(1000, 1, 7 * DAY);
	live(MINUTE);
	for (int i = 0; i < 50; i++)
		add_subject(0, -1, 7 * DAY);
	live(5 * HOUR);
	CHECK_EQ(count_stapled(), 1000);
	/* A try a second for the new, at the most; then one every five to ten minutes. */
	CHECK(hosts[0].failed < 5 * 12 + 20);
	live(HOUR + 11 * MINUTE);
	CHECK_EQ(count_stapled(), 1050);
	end_world();
}

/* One for which the responder never answers must not cost the others theirs. */
static void test_one_certificate_that_hangs_delays_no_other(void)
{
	begin_world(9);
	for (int i = 0; i < 5; i++)
		add_subject(0, -1, 8 * HOUR)->hangs = true;
	fill_world(200, 1, 8 * HOUR);
	live(30 * SECOND);
	CHECK_EQ(count_stapled(), 200);
	for (int hour = 0; hour < 100; hour++) {
		live(HOUR);
		CHECK_EQ(count_stapled(), 200);
	}
	/* And one that comes in the middle of its backoff has not long to wait. */
	add_subject(0, -1, 8 * HOUR);
	live(TIMEOUT + 5 * SECOND);
	CHECK_EQ(count_stapled(), 201);
	for (int i = 0; i < 5; i++)
		CHECK(subjects[i].asked < 100 * 8);
	end_world();
}

static void test_hosts_that_hang_leave_the_others_their_places(void)
{
	begin_world(10);
	for (int i = 1; i < HOSTS; i++) {
		hosts[i].outages[0].from = real;
		hosts[i].outages[0].to = real + WEEK;
		hosts[i].outages[0].trouble = HANGS;
	}
	/* Each of them with much to ask for; and one that answers, which nobody knows yet. */
	for (int i = 0; i < 20 * (HOSTS - 1); i++)
		add_subject(1 + i % (HOSTS - 1), -1, DAY);
	for (int i = 0; i < 200; i++)
		add_subject(0, -1, DAY);
	live(2 * TIMEOUT + 10 * SECOND);
	CHECK_EQ(count_stapled(), 200);
	/* When it is known, they cost it nothing. */
	for (int i = 0; i < 200; i++)
		add_subject(0, -1, DAY);
	live(15 * SECOND);
	CHECK_EQ(count_stapled(), 400);
	end_world();
}

/* Each of the hosts that hang gives its places back to a host that answers. */
static void test_a_host_that_is_known_does_not_wait_for_hosts_that_hang(void)
{
	begin_world(11);
	add_subject(0, -1, DAY);
	live(SECOND);
	for (int i = 1; i < HOSTS; i++) {
		hosts[i].outages[0].from = real;
		hosts[i].outages[0].to = real + WEEK;
		hosts[i].outages[0].trouble = HANGS;
		add_subject(i, -1, DAY);
	}
	live(SECOND);
	add_subject(0, -1, DAY);
	live(SECOND);
	CHECK_EQ(count_stapled(), 2);
	end_world();
}

static void test_a_new_certificate_is_asked_for_until_it_is_known(void)
{
	static const int known_after[] = {30, 120, 360, 1200};

	begin_world(12);
	for (size_t i = 0; i < sizeof(known_after) / sizeof(*known_after); i++)
		add_subject(0, -1, DAY)->known_from = real + known_after[i] * SECOND;
	for (size_t i = 0; i < sizeof(known_after) / sizeof(*known_after); i++) {
		struct subject *subject = &subjects[i];

		while (!shake_hands(subject) && real < origin + HOUR)
			live(SECOND);
		/* A minute, as long as it is new; ever longer after that. */
		CHECK(real - subject->known_from <= (known_after[i] <= 360 ? 61 : 600) * SECOND);
		CHECK(subject->asked <= 3 + known_after[i] / 20);
	}
	end_world();
}

/* Thousands of certificates that a responder does not know are asked for one after the other. */
static void test_bad_answers_are_not_asked_for_in_crowds(void)
{
	begin_world(13);
	hosts[0].latency = 100;
	for (int i = 0; i < 2000; i++)
		add_subject(0, -1, DAY)->known_from = real + WEEK;
	live(MINUTE);
	hosts[0].most_in_flight = 0;
	live(3 * HOUR);
	CHECK_EQ(hosts[0].most_in_flight, 1);
	end_world();
}

/*
 * Ten thousand
 */

static void check_spread(void)
{
	enum { BINS = 10 };
	int bins[BINS] = {0}, seen = 0;
	int64_t loaded = steady;

	for (int i = 0; i < subject_count; i++)
		subjects[i].refreshed_at = 0;
	/* From the half of their lives to six tenths. */
	live(7 * DAY / 2 - MINUTE);
	CHECK_EQ(requests, subject_count);
	for (int bin = 0; bin < BINS; bin++)
		live(7 * DAY / 10 / BINS + MINUTE / BINS * 2);
	for (int i = 0; i < subject_count; i++) {
		int64_t into = subjects[i].refreshed_at - loaded - 7 * DAY / 2 + MINUTE;

		if (CHECK(subjects[i].refreshed_at != 0 && into >= 0))
			bins[into * BINS / (7 * DAY / 10 + 2 * MINUTE)]++;
		seen += subjects[i].asked == 2;
	}
	CHECK_EQ(seen, subject_count);
	/* 1000 each, give or take five standard deviations. */
	for (int i = 0; i < BINS; i++)
		CHECK(bins[i] > 850 && bins[i] < 1150);
}

static void test_ten_thousand_at_once(void)
{
	int64_t began;

	begin_world(14);
	hosts[0].latency = 50;
	fill_world(10000, 1, 7 * DAY);
	began = steady;
	while (requests < 10000 && steady < began + MINUTE)
		live(100);
	live(100);
	CHECK_EQ(count_stapled(), 10000);
	/* 48 at a time, which they reach within a second: 10.5 s. */
	CHECK(steady - began < 12 * SECOND);
	CHECK_EQ(hosts[0].most_in_flight, RESPONDER_MOST);
	hosts[0].most_in_flight = 0;
	check_spread();
	CHECK(hosts[0].most_in_flight <= RESPONDER_START);
	CHECK_EQ(count_stapled(), 10000);
	end_world();
}

/* So that a host which forks or exits never waits for long: see gate.h. */
static void test_ten_thousand_are_looked_at_in_short_pieces(void)
{
	enum { PIECE = 64 * 16 };

	begin_world(15);
	hosts[0].latency = 50;
	hosts[0].outages[0].from = real + 2 * SECOND;
	hosts[0].outages[0].to = real + 5 * MINUTE;
	longest_piece = 0;
	fill_world(10000, 1, 7 * DAY);
	live(10 * MINUTE);
	printf("ten thousand: %zu looks at the clock in one piece at the most\n", longest_piece);
	CHECK(hosts[0].failed > 0);
	CHECK(longest_piece >= 64 && longest_piece <= PIECE);
	end_world();
}

int main(void)
{
	test_a_week_with_outages();
	test_a_machine_that_slept_a_day();
	test_a_machine_that_slept_less_than_a_response_lives();
	test_a_clock_set_ahead_by_a_day_and_back();
	test_a_clock_set_back_by_a_day_and_right_again();
	test_a_clock_that_was_a_day_ahead_from_the_start();
	test_retries_do_not_wait_for_a_clock_that_was_set_back();
	test_the_second_responder_is_asked_at_once();
	test_a_responder_that_is_down_costs_it_little();
	test_one_certificate_that_hangs_delays_no_other();
	test_hosts_that_hang_leave_the_others_their_places();
	test_a_host_that_is_known_does_not_wait_for_hosts_that_hang();
	test_a_new_certificate_is_asked_for_until_it_is_known();
	test_bad_answers_are_not_asked_for_in_crowds();
	test_ten_thousand_at_once();
	test_ten_thousand_are_looked_at_in_short_pieces();
	return check_result();
}
