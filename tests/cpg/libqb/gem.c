/*
 * The calls of the Ruby binding of libcpg (gem corosync, lib/corosync/cpg.rb), in its order and with its retries:
 * connect, join, dispatch one event at a time after poll, send a list, members, leave, finalize; several connections
 * in one process, programs that leave, and one that ends without a word. Says "ok", or where it failed.
 */
#define _GNU_SOURCE
#include <corosync/cpg.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "line %d, process %d: %s\n", __LINE__, (int)getpid(), #condition); \
			_exit(1); \
		} \
	} while (0)
#define BIG 3000000

struct cpg {
	cpg_handle_t handle;
	int fd;
	struct cpg_name name;
};

/* What the callbacks saw last, and how often. */
static struct {
	int messages, confchgs, rings;
	uint32_t nodeid, pid;
	size_t length, members, left, joined;
	struct cpg_address first_left, first_joined;
	char data[64];
	unsigned char *big;
} seen;
static int echo;

/* CsHandle.cs_send: again every 50 ms, for 3 s. */
#define CS_SEND(result, call) \
	do { \
		for (int tries = 0; tries < 60; tries++) { \
			result = call; \
			if (result != CS_ERR_TRY_AGAIN) break; \
			usleep(50000); \
		} \
	} while (0)

static struct cpg_name name_of(const char *text)
{
	struct cpg_name name = { .length = strlen(text) };
	memcpy(name.value, text, name.length);
	return name;
}

static void send_text(struct cpg *cpg, const char *text)
{
	struct iovec parts[3] = { { "", 0 }, { (void *)text, strlen(text) }, { "!", 1 } };
	cs_error_t result;
	CS_SEND(result, cpg_mcast_joined(cpg->handle, CPG_TYPE_AGREED, parts, 3));
	CHECK(result == CS_OK);
}

static void on_deliver(cpg_handle_t handle, const struct cpg_name *name, uint32_t nodeid, uint32_t pid, void *data, size_t length)
{
	void *context;
	seen.messages++;
	seen.nodeid = nodeid, seen.pid = pid, seen.length = length;
	memcpy(seen.data, data, length < sizeof seen.data ? length : sizeof seen.data);
	if (length == BIG) memcpy(seen.big, data, BIG);
	CHECK(cpg_context_get(handle, &context) == CS_OK);
	CHECK(name->length == ((struct cpg *)context)->name.length);
	if (echo) {
		echo = 0;
		send_text(context, "from a callback");
	}
}

static void on_confchg(cpg_handle_t handle, const struct cpg_name *name, const struct cpg_address *members, size_t count,
		       const struct cpg_address *left, size_t left_count, const struct cpg_address *joined, size_t joined_count)
{
	seen.confchgs++;
	seen.members = count, seen.left = left_count, seen.joined = joined_count;
	if (left_count) seen.first_left = left[0];
	if (joined_count) seen.first_joined = joined[0];
}

static void on_ring(cpg_handle_t handle, struct cpg_ring_id ring, uint32_t count, const uint32_t *members)
{
	seen.rings++;
}

static void connect_to(struct cpg *cpg)
{
	cpg_model_v1_data_t model = { .cpg_deliver_fn = on_deliver, .cpg_confchg_fn = on_confchg, .cpg_totem_confchg_fn = on_ring };
	cs_error_t result;
	CS_SEND(result, cpg_model_initialize(&cpg->handle, CPG_MODEL_V1, (cpg_model_data_t *)&model, cpg));
	CHECK(result == CS_OK);
	CHECK(cpg_fd_get(cpg->handle, &cpg->fd) == CS_OK);
}

static cs_error_t join(struct cpg *cpg, const char *text)
{
	cs_error_t result;
	cpg->name = name_of(text);
	CS_SEND(result, cpg_join(cpg->handle, &cpg->name));
	return result;
}

/* dispatch(timeout): at most one event. */
static int dispatch(struct cpg *cpg, int milliseconds)
{
	struct pollfd ready = { .fd = cpg->fd, .events = POLLIN };
	cs_error_t result;
	if (poll(&ready, 1, milliseconds) == 0) return 0;
	result = cpg_dispatch(cpg->handle, CS_DISPATCH_ONE_NONBLOCKING);
	CHECK(result == CS_OK || result == CS_ERR_TRY_AGAIN);
	return result == CS_OK;
}

static void confchg(struct cpg *cpg, size_t members, size_t left, size_t joined)
{
	int before = seen.confchgs;
	while (seen.confchgs == before) CHECK(dispatch(cpg, 20000));
	CHECK(seen.members == members && seen.left == left && seen.joined == joined);
}

static void message(struct cpg *cpg, const char *text)
{
	int before = seen.messages;
	while (seen.messages == before) CHECK(dispatch(cpg, 20000));
	CHECK(seen.length == strlen(text) && !memcmp(seen.data, text, seen.length));
}

static int members(struct cpg *cpg, struct cpg_iteration_description_t *last)
{
	struct cpg_iteration_description_t member = { 0 };
	cpg_iteration_handle_t iteration;
	cs_error_t result;
	int count = 0;
	CS_SEND(result, cpg_iteration_initialize(cpg->handle, CPG_ITERATION_ONE_GROUP, &cpg->name, &iteration));
	CHECK(result == CS_OK);
	while ((result = cpg_iteration_next(iteration, &member)) == CS_OK) {
		*last = member;
		count++;
	}
	CHECK(result == CS_ERR_NO_SECTIONS);
	CHECK(cpg_iteration_finalize(iteration) == CS_OK);
	return count;
}

static void another_process(int leaves)
{
	struct cpg cpg;
	char text[20];
	if (fork()) return;
	connect_to(&cpg);
	CHECK(join(&cpg, "gem") == CS_OK);
	confchg(&cpg, 2, 0, 1);
	for (int i = 0; i < 100; i++) {
		snprintf(text, sizeof text, "%d", i);
		send_text(&cpg, text);
	}
	if (leaves) {
		CHECK(cpg_leave(cpg.handle, &cpg.name) == CS_OK);
		confchg(&cpg, 1, 1, 0);
		CHECK(cpg_finalize(cpg.handle) == CS_OK);
	}
	_exit(0);
}

static void watch_another_process(struct cpg *cpg, int leaves)
{
	char text[20];
	int status;
	another_process(leaves);
	confchg(cpg, 2, 0, 1);
	CHECK(seen.first_joined.reason == CPG_REASON_JOIN);
	for (int i = 0; i < 100; i++) {
		snprintf(text, sizeof text, "%d!", i);
		message(cpg, text);
		CHECK(seen.pid == seen.first_joined.pid);
	}
	confchg(cpg, 1, 1, 0);
	CHECK(seen.first_left.reason == (leaves ? CPG_REASON_LEAVE : CPG_REASON_PROCDOWN));
	CHECK(seen.first_left.pid == seen.first_joined.pid);
	wait(&status);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void send_big(struct cpg *cpg)
{
	struct iovec parts[2];
	unsigned char *big = malloc(BIG);
	cs_error_t result;
	int before = seen.messages;
	seen.big = malloc(BIG);
	for (int i = 0; i < BIG; i++) big[i] = i * 2654435761u >> 24;
	parts[0] = (struct iovec){ big, 1000 };
	parts[1] = (struct iovec){ big + 1000, BIG - 1000 };
	CS_SEND(result, cpg_mcast_joined(cpg->handle, CPG_TYPE_AGREED, parts, 2));
	CHECK(result == CS_OK);
	while (seen.messages == before) CHECK(dispatch(cpg, 20000));
	CHECK(seen.length == BIG && !memcmp(big, seen.big, BIG));
	free(big);
	free(seen.big);
}

static void zero_copy(struct cpg *cpg)
{
	void *buffer;
	CHECK(cpg_zcb_alloc(cpg->handle, 100, &buffer) == CS_OK);
	memcpy(buffer, "without a copy", 14);
	CHECK(cpg_zcb_mcast_joined(cpg->handle, CPG_TYPE_AGREED, buffer, 14) == CS_OK);
	message(cpg, "without a copy");
	CHECK(cpg_zcb_free(cpg->handle, buffer) == CS_OK);
}

int main(void)
{
	struct cpg one, two;
	struct cpg_iteration_description_t member = { 0 };
	struct cpg_address list[CPG_MEMBERS_MAX];
	cpg_flow_control_state_t flow;
	uint32_t nodeid, size;
	int count;

	connect_to(&one);
	connect_to(&two);
	CHECK(cpg_local_get(one.handle, &nodeid) == CS_OK);
	CHECK(join(&one, "gem") == CS_OK);
	confchg(&one, 1, 0, 1);
	CHECK(seen.first_joined.reason == CPG_REASON_JOIN);
	CHECK(seen.first_joined.nodeid == nodeid && seen.first_joined.pid == (uint32_t)getpid());
	CHECK(join(&two, "gem") == CS_ERR_EXIST);
	CHECK(join(&two, "another") == CS_OK);
	confchg(&two, 1, 0, 1);

	send_text(&one, "a list");
	message(&one, "a list!");
	CHECK(seen.nodeid == nodeid && seen.pid == (uint32_t)getpid());
	CHECK(!dispatch(&one, 0));
	echo = 1;
	send_text(&one, "twice");
	message(&one, "twice!");
	message(&one, "from a callback!");

	CHECK(members(&one, &member) == 1);
	CHECK(member.nodeid == nodeid && member.pid == (uint32_t)getpid());
	CHECK(cpg_membership_get(one.handle, &one.name, list, &count) == CS_OK);
	CHECK(count == 1 && list[0].nodeid == nodeid && list[0].pid == (uint32_t)getpid());
	CHECK(cpg_max_atomic_msgsize_get(one.handle, &size) == CS_OK && size == 1047552);
	CHECK(cpg_flow_control_state_get(one.handle, &flow) == CS_OK && flow == CPG_FLOW_CONTROL_DISABLED);

	watch_another_process(&one, 1);
	watch_another_process(&one, 0);
	send_big(&one);
	zero_copy(&one);

	for (int i = 0; i < 3; i++) {
		CHECK(cpg_leave(one.handle, &one.name) == CS_OK);
		confchg(&one, 0, 1, 0);
		CHECK(seen.first_left.reason == CPG_REASON_LEAVE);
		CHECK(cpg_leave(one.handle, &one.name) == CS_ERR_NOT_EXIST);
		CHECK(join(&one, "gem") == CS_OK);
		confchg(&one, 1, 0, 1);
	}
	CHECK(!dispatch(&two, 0));
	CHECK(seen.rings == 0);
	CHECK(cpg_finalize(one.handle) == CS_OK);
	CHECK(cpg_finalize(one.handle) == CS_ERR_BAD_HANDLE);
	CHECK(cpg_finalize(two.handle) == CS_OK);
	puts("ok");
	return 0;
}
