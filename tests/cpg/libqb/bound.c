/*
 * A program that sends until it is through and reads nothing before, as Corosync's cpgbound and cpgverify do: again and
 * again while libcpg says to try again. Sends COUNT messages of SIZE bytes; says how many were taken, and how the last
 * call ended.
 */
#include <corosync/cpg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static void deliver(cpg_handle_t h, const struct cpg_name *g, uint32_t n, uint32_t p, void *m, size_t l)
{
	(void)h, (void)g, (void)n, (void)p, (void)m, (void)l;
}

static void confchg(cpg_handle_t h, const struct cpg_name *g, const struct cpg_address *m, size_t ms,
		    const struct cpg_address *l, size_t ls, const struct cpg_address *j, size_t js)
{
	(void)h, (void)g, (void)m, (void)ms, (void)l, (void)ls, (void)j, (void)js;
}

int main(int argc, char **argv)
{
	cpg_callbacks_t callbacks = { deliver, confchg };
	struct cpg_name name = { 5, "bound" };
	long count = atol(argv[1]), size = atol(argv[2]), sent;
	struct iovec iov = { calloc(1, size), size };
	cpg_handle_t handle;
	cs_error_t error = CS_OK;

	(void)argc;
	if (cpg_initialize(&handle, &callbacks) != CS_OK || cpg_join(handle, &name) != CS_OK)
		return 1;
	for (sent = 0; sent < count && error == CS_OK; sent += error == CS_OK) {
		while ((error = cpg_mcast_joined(handle, CPG_TYPE_AGREED, &iov, 1)) == CS_ERR_TRY_AGAIN)
			usleep(1000);
	}
	printf("%ld %d\n", sent, error);
	return 0;
}
