/* SPDX-License-Identifier: MIT */
/* links: fetcher/descriptor.c */
#include "../../fetcher/descriptor.h"
#include "check.h"

#include <errno.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* The number that the next open will have. */
static int next_number(void)
{
	int number = dup(0);

	close(number);
	return number;
}

static void limit_numbers(rlim_t most)
{
	struct rlimit limit;

	CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = most;
	CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

/* Those below the reserve are for whoever comes first, the last are the host's. */
static void test_the_last_numbers_are_left_to_the_host(rlim_t limit, int reserve)
{
	struct descriptor descriptor;
	int number;

	limit_numbers(limit);
	while ((number = next_number()) < (int)limit - reserve) {
		CHECK(descriptor_open(&descriptor, AF_INET, SOCK_STREAM, 0));
		CHECK_EQ(descriptor.number, number);
		descriptor_close(&descriptor);
		CHECK_EQ(dup(0), number);
	}
	for (int i = 0; i < 3; i++) {
		errno = 0;
		CHECK(!descriptor_open(&descriptor, AF_INET, SOCK_STREAM, 0));
		CHECK_EQ(errno, EMFILE);
		CHECK_EQ(descriptor.number, -1);
	}
	CHECK_EQ(next_number(), number);
}

int main(void)
{
	/* Upwards: the numbers that one took are still taken for the next. */
	test_the_last_numbers_are_left_to_the_host(12, 3);
	test_the_last_numbers_are_left_to_the_host(64, 8);
	return check_result();
}
