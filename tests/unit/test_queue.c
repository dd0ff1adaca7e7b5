/* SPDX-License-Identifier: MIT */
/* links: queue.c */
#include "../../fetcher/queue.h"

#include "check.h"
#include "fixtures.h"

enum { THINGS = 300, ROUNDS = 20000 };

static struct queue_node nodes[THINGS];

static void test_things_come_out_by_their_keys(void)
{
	static const int64_t keys[] = {5, INT64_MAX, -3, 5, 0, 7, INT64_MIN, 5};
	int32_t queue = QUEUE_NONE;
	int64_t before = INT64_MIN;

	for (int32_t i = 0; i < 8; i++)
		queue_push(nodes, &queue, i, keys[i]);
	for (int32_t i = 0; i < 8; i++) {
		int64_t key = keys[queue_pop(nodes, &queue)];

		CHECK(key >= before);
		before = key;
	}
	CHECK_EQ(queue, QUEUE_NONE);
	CHECK_EQ(before, INT64_MAX);
}

/* Against a table that is searched from end to end. */
static void test_pushing_removing_and_popping_at_random(void)
{
	static int64_t keys[THINGS];
	static bool is_in[THINGS];
	int32_t queue = QUEUE_NONE;
	int wrong = 0;

	for (int round = 0; round < ROUNDS; round++) {
		int32_t number = (int32_t)draw(THINGS), least = QUEUE_NONE;

		if (!is_in[number]) {
			keys[number] = draw(1000);
			queue_push(nodes, &queue, number, keys[number]);
			is_in[number] = true;
		} else if (draw(3) > 0) {
			queue_remove(nodes, &queue, number);
			is_in[number] = false;
		}
		for (int32_t i = 0; i < THINGS; i++)
			if (is_in[i] && (least == QUEUE_NONE || keys[i] < keys[least]))
				least = i;
		wrong += (queue == QUEUE_NONE) != (least == QUEUE_NONE);
		wrong += least != QUEUE_NONE && nodes[queue].key != keys[least];
		if (least != QUEUE_NONE && draw(3) == 0)
			is_in[queue_pop(nodes, &queue)] = false;
	}
	CHECK_EQ(wrong, 0);
}

static void test_two_queues_share_their_nodes(void)
{
	int32_t odd = QUEUE_NONE, even = QUEUE_NONE;

	for (int32_t i = 0; i < 100; i++)
		queue_push(nodes, i % 2 ? &odd : &even, i, 100 - i);
	queue_remove(nodes, &odd, 99);
	for (int32_t i = 98; i >= 0; i--)
		CHECK_EQ(queue_pop(nodes, i % 2 ? &odd : &even), i);
	CHECK(odd == QUEUE_NONE && even == QUEUE_NONE);
}

int main(void)
{
	test_things_come_out_by_their_keys();
	test_pushing_removing_and_popping_at_random();
	test_two_queues_share_their_nodes();
	return check_result();
}
