"""Runs a program that must not outlive the process that has started it.

    python guard.py DIRECTORY PROGRAM [ARGUMENT...]

Standard input is a pipe from that process: each byte of it sends SIGTERM to the program, and its end, which comes
however that process dies, SIGKILL, as does the death of the process that this script begins as. Should the guard itself
be killed, the kernel kills the program (PR_SET_PDEATHSIG). Other processes of the program's session die with it.

The first line of standard output is the program's process id; the rest is the program's. The guard's exit status is
the program's, or 128 + N after signal N. DIRECTORY holds what only the program may know; it is removed in the end.
"""

import ctypes
import os
import select
import shutil
import signal
import sys

PR_SET_PDEATHSIG = 1
CANNOT_BE_RUN = 127  # as shells have it


def become(program: list, guard: int) -> None:
    """In the child: the program takes this process over."""
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != guard:  # it has died before the kernel knew that we care
        os._exit(CANNOT_BE_RUN)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.write(1, b"%d\n" % os.getpid())
    try:
        os.execv(program[0], program)
    except OSError as error:
        os.write(2, f"{program[0]}: {error.strerror}\n".encode())
        os._exit(CANNOT_BE_RUN)


def told() -> bool:
    """A byte was read; False at the end, which is a reset where something was not read before it."""
    try:
        return bool(os.read(0, 1))
    except OSError:
        return False


def watch(child: int, parent: int) -> int:
    """Until the program has ended; its status."""
    ended, alone = os.pidfd_open(child), os.pidfd_open(parent)
    watched = [0, ended, alone]
    while True:
        ready, _, _ = select.select(watched, [], [])
        if ended in ready:
            break
        if alone not in ready and told():
            os.kill(child, signal.SIGTERM)
        else:
            os.kill(child, signal.SIGKILL)
            watched = [ended]
    # Not waited for yet, so that the number of its session is still its own.
    try:
        os.killpg(child, signal.SIGKILL)
    except OSError:
        pass  # it was alone
    return status_of(child)


def status_of(child: int) -> int:
    """As shells have it."""
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def guard_program(program: list, directory: str, parent: int) -> int:
    guard = os.getpid()
    child = os.fork()
    if child == 0:
        become(program, guard)
    # Or who reads the output would wait for the guard, too.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        return watch(child, parent)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def main() -> int:
    # Python workers may have changed these, and programs inherit them.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    # The guard is a grandchild: Ray kills the children of an actor's process with it, and then the guard could not do
    # what is left to do. The child only passes the status on.
    parent = os.getpid()
    guard = os.fork()
    if guard == 0:
        os._exit(guard_program(sys.argv[2:], sys.argv[1], parent))
    os.close(0)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    return status_of(guard)


if __name__ == "__main__":
    sys.exit(main())
