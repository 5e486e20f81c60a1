/* Between user mode Linux and ptrace: room for the whole state of the processor.
 *
 * Kernels for user mode before 6.13 keep as much of it as the processors of their time had; where the host has more, it
 * refuses what they give back, and they stop at once. Here the part they know is laid over the whole. */
#define _GNU_SOURCE
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static char whole[1 << 16];

long ptrace(enum __ptrace_request request, ...)
{
    va_list rest;
    va_start(rest, request);
    long pid = va_arg(rest, long);
    void *address = va_arg(rest, void *);
    void *data = va_arg(rest, void *);
    va_end(rest);

    if (request == PTRACE_SETREGSET && (long)address == NT_X86_XSTATE) {
        struct iovec *known = data;
        struct iovec all = {whole, sizeof whole};
        if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, address, &all) == 0) {
            memcpy(whole, known->iov_base, known->iov_len < all.iov_len ? known->iov_len : all.iov_len);
            data = &all;
        }
        return syscall(SYS_ptrace, request, pid, address, data);
    }
    /* The system call gives what it peeks through the pointer, the function as its result. */
    if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
        long word;
        long failed = syscall(SYS_ptrace, request, pid, address, &word);
        return failed ? failed : word;
    }
    return syscall(SYS_ptrace, request, pid, address, data);
}
