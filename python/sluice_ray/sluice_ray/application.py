"""Applications on a Ray cluster, from outside: start, look at, stop. Each needs a connection (`connect`)."""

import pathlib
import secrets
import socket
import time
import warnings
from typing import Any, Callable, Iterator, Optional

import ray

import sluice_ray
from sluice_ray.actors import NAMESPACE, Application, Driver, Executor, driver_name, executor_name, kill

# What a call of an actor that is dead, being started again or cut off may throw; others are mistakes.
unreachable = (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError, ray.exceptions.RayTaskError, ValueError)

FOLLOWERS_S = 0.5  # for those who follow the log, to learn of the end before the actor goes
KNOCK_S = 10
RESTARTED = -1  # of an actor, by Ray: as often as needed


def connect(address: str, payload: Optional[pathlib.Path] = None) -> None:
    """`address`: ray://HOST:PORT, "auto" on a node of the cluster, or HOST:PORT of its head. `payload` travels."""
    # The actors' code goes along with them, so that nodes need not have this package.
    ray.cloudpickle.register_pickle_by_value(sluice_ray)
    environment = {"working_dir": str(payload)} if payload else {}
    if address.startswith("ray://"):
        knock(address)
        never_wait_for_log()
    for last in [False, False, True]:
        try:
            ray.init(address, namespace=NAMESPACE, runtime_env=environment, log_to_driver=False, logging_level="error")
            return
        except ConnectionError as error:
            # Ray's head forks a process for each ray://, of many threads in gRPC, and one in ten or so dies at once
            # (ray-project/ray issue 63202) unless the head was started with GRPC_ENABLE_FORK_SUPPORT=0.
            if "connection timeout" in str(error):
                raise ConnectionError(
                    "it does not answer. Is that the port of Ray's client server (10001), and have we its token?"
                ) from error
            if last or "Starting Ray client server failed" not in str(error):
                raise


def knock(address: str) -> None:
    """Ray's client tries for half a minute, and then it does not say why it has failed."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ConnectionError(f"{address} is not ray://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()
    except OSError as error:
        raise ConnectionError(f"{error.strerror or error}") from error
    warnings.filterwarnings("ignore", "Ray Client connection timed out")


def never_wait_for_log() -> None:
    """When Ray's client is told that its process has died it waits, before it says so, for the end of a stream of log
    lines, which the head does not end. The thread that reads it is a daemon and need not be waited for."""
    from ray.util.client.logsclient import LogstreamClient

    def close(self: Any) -> None:
        self.request_queue.put(None)

    LogstreamClient.close = close


def start(application: Application, certificates: dict[str, bytes], driver_cores: float) -> None:
    """Returns when Ray knows the actors, which may have to wait for nodes with room."""
    name = application["name"]
    options = {"max_restarts": RESTARTED, "lifetime": "detached", "scheduling_strategy": "SPREAD"}
    driver = ray.remote(Driver).options(
        **options, name=driver_name(name), num_cpus=driver_cores, max_concurrency=1000  # each call that waits is one
    )
    driver.remote(application, certificates)
    for index in range(application["executors"]):
        executor_class(application, options).options(name=executor_name(name, index)).remote(application, certificates)


def executor_class(application: Application, options: dict[str, Any]) -> Any:
    """`Executor` with the resources that it takes in Ray."""
    return ray.remote(**options, num_cpus=application["cores"], memory=application["memory"])(Executor)


def start_executor(application: Application, certificates: dict[str, bytes], address: str, index: int) -> Any:
    """The actor of one for a driver elsewhere. It ends when that driver has. Calls of it wait while it is being started
    again."""
    options = {"max_restarts": RESTARTED, "max_task_retries": RESTARTED, "lifetime": "detached"}
    made = executor_class(application, {**options, "scheduling_strategy": "SPREAD"})
    name = executor_name(application["name"], index)
    return made.options(name=name).remote(application, certificates, address, index)


def names() -> list[str]:
    """Of all applications."""
    suffix = driver_name("")
    return sorted(name.removesuffix(suffix) for name in actor_names() if name.endswith(suffix))


def actor_names() -> list[str]:
    """In our namespace."""
    named = ray.util.list_named_actors(all_namespaces=True)
    return [actor["name"] for actor in named if actor["namespace"] == NAMESPACE]


def executor_indices(name: str) -> list[int]:
    """Of the executors' actors that there are."""
    prefix = f"{name}:executor-"
    return sorted(int(actor.removeprefix(prefix)) for actor in actor_names() if actor.startswith(prefix))


def new_run() -> str:
    """Tells an application from those of the same name before it."""
    return secrets.token_hex(8)


def ask(actor_name: str, method: str, *arguments: Any, timeout_s: float = 5) -> Any:
    """What an actor answers, or None when it does not."""
    try:
        actor = ray.get_actor(actor_name, namespace=NAMESPACE)
        return ray.get(getattr(actor, method).remote(*arguments), timeout=timeout_s)
    except unreachable:
        return None


def status(name: str) -> dict[str, Any]:
    """Facts of the driver and each executor; None of those that do not answer."""
    executors = {index: ask(executor_name(name, index), "status") for index in executor_indices(name)}
    return {
        "name": name,
        "about": ask(driver_name(name), "about"),
        "driver": ask(driver_name(name), "status"),
        "executors": executors,
    }


class Follower:
    """The log of an actor's program as it grows, whichever process the actor is."""

    def __init__(self, actor_name: str, tell: Callable[[str], None]):
        self._name = actor_name
        self._tell = tell
        self._next = 0
        self._actor = 0.0
        self._silent_since: Optional[float] = None
        self.status: Optional[int] = None  # once the program has ended for good
        self.gone = False  # the actor was removed

    def lines(self, follow: bool) -> Iterator[str]:
        """Until the program's end for good, or what there is now."""
        while True:
            answer = ask(self._name, "read", self._next, 10.0 if follow else 0.0, timeout_s=20)
            if answer is None:
                if self._is_gone(follow):
                    return
                continue
            if self._silent_since is not None:
                self._silent_since = None
            lines, after, actor, status = answer
            if self._actor and actor != self._actor:
                self._tell("Ray has started the actor again; its log begins anew")
                if after - len(lines) != 0:  # it has more lines than we had asked for
                    lines, after = [], 0
            self._actor, self._next = actor, after
            yield from lines
            if not lines and (status is not None or not follow):
                self.status = status
                return

    def _is_gone(self, follow: bool) -> bool:
        """Whether there is nothing more to wait for; tells why we wait."""
        if self._name not in actor_names():
            self.gone = True
            return True
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
            self._tell("waiting for the actor: it is being started, or Ray has no node with room for it (`ray status`)")
        if not follow and now - self._silent_since > 10:
            return True
        time.sleep(0.2)
        return False


def stop(name: str, graceful: bool, wait_s: Optional[float]) -> Optional[int]:
    """Ends an application and removes its actors. The driver's status, where it was still to be had."""
    ended: Optional[int] = None
    if graceful:
        deadline = time.monotonic() + wait_s if wait_s is not None else float("inf")
        asked: Any = None
        while time.monotonic() < deadline:
            facts = ask(driver_name(name), "status")
            if facts is None and driver_name(name) not in actor_names():
                break
            if facts is not None and facts["status"] is not None:
                ended = facts["status"]
                break
            if facts is not None and facts["born"] != asked:  # once to each actor: a second SIGTERM ends at once
                asked = facts["born"]
                ask(driver_name(name), "stop", True)
            time.sleep(0.1)
        time.sleep(FOLLOWERS_S)
    remove(name)
    return ended


def remove(name: str) -> None:
    """Kills its actors, the driver's first: executors without one do nothing."""
    indices = executor_indices(name)
    kill(driver_name(name))
    for index in indices:
        kill(executor_name(name, index))
