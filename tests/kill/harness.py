#!/usr/bin/env python3
"""Kills a streaming job at every instant, starts it again, and compares all that it has made visible with what an
uninterrupted run gives. Run by `./dev kill`; what is promised and how it is tried: docs/reliability.md.

    harness.py PROGRAM [--runs N] [--seed S] [--jobs J] [--scenario NAME] [--master MASTER] [--nodes] [--bad-network]
               [--bug NAME]
"""
import argparse
import collections
import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import nodes
import oracle
import plan as plans
import proxy
import run as runs

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def one_run(
    program: str,
    directory: str,
    seed: int,
    scenario: str | None,
    server: str,
    master: str | None,
    certificates: str,
    bad_network: bool,
) -> runs.Result:
    """In a process of its own."""
    sinks = plans.SINKS if server else tuple(name for name in plans.SINKS if name != "postgres")
    plan = plans.draw(seed, plans.kill_places(ROOT), scenario, sinks, master)
    if bad_network:
        plan.slow_down(proxy.draw(seed).batch_ms)
    try:
        result = runs.Run(plan, program, pathlib.Path(directory), server, certificates, bad_network).run()
    except Exception as error:
        result = runs.Result(seed, plan.scenario, oracle.Mistakes(), collections.Counter())
        result.mistakes.add("INFRA", f"the harness failed: {error!r}")
    if not result.failed:
        shutil.rmtree(directory, ignore_errors=True)
    return result


def bad_networks(results: list[runs.Result]) -> str:
    kinds = collections.Counter(result.network for result in results if result.network)
    if not kinds:
        return "none"
    segments = sum(result.segments for result in results)
    lost = sum(result.segments_lost for result in results)
    cuts = sum(result.cuts for result in results)
    drawn = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
    return f"{drawn}; {lost} of {segments} segments lost, {cuts} connections cut"


def table(results: list[runs.Result]) -> str:
    def count(kind: str) -> int:
        return sum(result.mistakes.counts[kind] > 0 for result in results)

    places: collections.Counter[str] = collections.Counter()
    for result in results:
        places.update(result.places)
    in_executors: collections.Counter[str] = collections.Counter()
    for result in results:
        in_executors.update(result.executor_places)
    scenarios = collections.Counter(result.scenario for result in results)
    places_hit = {place for place in places | in_executors if not place.startswith("(")}
    rows = [
        ("runs", f"{len(results)}: " + ", ".join(f"{n} {name}" for name, n in sorted(scenarios.items()))),
        ("kills", f"{sum(r.kills for r in results)}, {sum(r.in_recovery for r in results)} a moment after the start"),
        ("executors killed", f"{sum(r.executor_kills for r in results)}, and {in_executors.total()} at places"),
        ("executors stopped, or cut off", str(sum(r.executor_stops for r in results))),
        ("bad networks", bad_networks(results)),
        ("graceful stops", str(sum(r.stops for r in results))),
        ("batches", str(sum(r.batches for r in results))),
        ("lines", f"{sum(r.lines for r in results)}; {sum(r.lost_by_socket for r in results)} of sockets never logged"),
        ("places hit", f"{len(places_hit)} different"),
    ]
    rows += [(f"  {place}", str(n)) for place, n in sorted(places.items())]
    rows += [(f"  {place} (executor)", str(n)) for place, n in sorted(in_executors.items())]
    sinks = collections.Counter(name for result in results for name in result.sinks)
    rows += [("runs with sinks", ", ".join(f"{n} {name}" for name, n in sorted(sinks.items())) or "none")]
    rows += [(kind, f"{count(kind)} runs") for kind in oracle.Mistakes.KINDS]
    return "\n".join(f"{name:32} {value}" for name, value in rows)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1, help="of the first run; the others follow")
    parser.add_argument("--jobs", type=int, default=2 * (os.cpu_count() or 1), help="runs at once")
    parser.add_argument("--scenario", choices=plans.SCENARIOS)
    parser.add_argument("--master", help="of a cluster, such as local-cluster[3,1], whose executors are killed, too")
    parser.add_argument("--nodes", action="store_true", help="executors on nodes (network namespaces) that are cut off")
    parser.add_argument("--bad-network", action="store_true", help="executors behind a slow, lossy network that is cut")
    parser.add_argument("--bug", help="of sluice/runtime/planted_bug.h; passes when a run fails, and then ends")
    parser.add_argument("--until-failure", action="store_true", help="no more runs after one that failed")
    options = parser.parse_args()
    if options.bug:
        os.environ["SLUICE_BUG"] = options.bug  # of the job
        options.until_failure = True

    # A short path: that of a socket has at most 107 bytes.
    server = tempfile.mkdtemp(prefix="sluice-kill-")
    script = ["bash", str(ROOT / "tests" / "servers" / "postgres.sh")]
    started = subprocess.run([*script, "start", server], check=False).returncode
    if started == 77:
        print("no run writes to PostgreSQL: it is not installed", flush=True)
    elif started != 0:
        print("harness: PostgreSQL does not start", file=sys.stderr)
        return 1
    try:
        return campaign(options, server if started == 0 else "")
    finally:
        if started == 0:
            subprocess.run([*script, "stop", server], check=False)
        shutil.rmtree(server, ignore_errors=True)


def campaign(options: argparse.Namespace, server: str) -> int:
    base = pathlib.Path(options.program).resolve().parent.parent / "kill"
    base.mkdir(exist_ok=True)
    certificates = ""
    if options.nodes and not nodes.are_possible():
        print("SKIPPED: network namespaces cannot be made here (they need root)", flush=True)
        return 0
    if options.nodes or options.bad_network:
        options.master = f"cluster[{nodes.COUNT}]"
        certificates = str(base / "certificates")
        shutil.rmtree(certificates, ignore_errors=True)
        nodes.make_certificates(options.program, pathlib.Path(certificates))
    results: list[runs.Result] = []
    interrupted = False
    with concurrent.futures.ProcessPoolExecutor(options.jobs, max_tasks_per_child=1) as pool:
        futures = [
            pool.submit(
                one_run,
                options.program,
                str(base / f"seed-{seed}"),
                seed,
                options.scenario,
                server,
                options.master,
                certificates,
                options.bad_network,
            )
            for seed in range(options.seed, options.seed + options.runs)
        ]
        try:
            for future in concurrent.futures.as_completed(futures):
                if future.cancelled():
                    continue
                result = future.result()
                results.append(result)
                verdict = ", ".join(f"{n} {kind}" for kind, n in result.mistakes.counts.items()) or "passed"
                print(
                    f"seed {result.seed} {result.scenario}: {verdict}; {result.kills} kills, {result.batches} batches, "
                    f"{result.lines} lines, {result.seconds:.0f} s",
                    flush=True,
                )
                if result.failed:
                    words = [result.description, *result.mistakes.words, result.directory]
                    print("  " + "\n  ".join(words), flush=True)
                    if options.until_failure and result.mistakes.counts.keys() != {"INFRA"}:
                        for other in futures:
                            other.cancel()
        except KeyboardInterrupt:  # those that run have it, too
            interrupted = True
            pool.shutdown(cancel_futures=True)
    print()
    print(table(results))
    failed = sorted((result for result in results if result.failed), key=lambda result: result.seed)
    for result in failed:
        if result.mistakes.counts.keys() != {"INFRA"}:
            scenario = f" --scenario {options.scenario}" if options.scenario else ""
            if options.nodes or options.bad_network:
                scenario += " --nodes" if options.nodes else " --bad-network"
            elif options.master:
                scenario += f" --master '{options.master}'"
            print(f"again: ./dev kill --runs 1 --seed {result.seed}{scenario}   ({result.directory})")
    if interrupted:
        print(f"interrupted after {len(results)} of {options.runs} runs")
        return 130
    infra = sum(result.mistakes.counts["INFRA"] > 0 for result in results)
    wrong = any(result.mistakes.counts.keys() - {"INFRA"} for result in results)
    if options.bug:
        print(f"bug {options.bug}: " + (f"noticed, in {len(results)} runs" if wrong else "NOT NOTICED"))
        return 0 if wrong else 1
    return 1 if wrong or infra > len(results) / 100 else 0


if __name__ == "__main__":
    sys.exit(main())
