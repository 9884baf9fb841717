// bench: what sluice costs beside hand-written loops, in the same run.
//
//     bench [--quick] [--json] [--only W2] [--rounds N] [--loops]
//
// A workload's loop and engine take turns, round by round, because the machine may be shared with strangers: single
// rates move by a factor of two, ratios much less.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "benchmarks/cluster.h"
#include "benchmarks/data.h"
#include "benchmarks/durability.h"
#include "benchmarks/engine.h"
#include "benchmarks/loops.h"
#include "benchmarks/network.h"
#include "benchmarks/nodes.h"
#include "sluice/runtime/process.h"
#include "sluice/sluice.h"

namespace bench {
namespace {

struct Options {
  bool quick = false;
  bool json = false;
  bool loops_only = false;
  std::string only;
  std::size_t rounds = 5;
  bool wants(std::string_view name) const { return only.empty() || only == name; }
};

struct Workload {
  std::string name;
  std::string what;
  std::size_t records_a_batch;
  std::size_t bytes_a_batch;
  std::function<Sample()> loop;
  std::function<Sample()> engine;
};

/// One side's medians over the rounds.
struct Side {
  double records_per_second = 0;
  double cpu_ns_per_record = 0;
};

struct Row {
  const Workload* workload;
  Side loop;
  Side engine;
  /// Engine's rate by the loop's: median of the rounds, each with its own loop.
  double ratio = 0;
  double cpu_ratio = 0;
};

Side side_of(const Workload& workload, const Sample& sample) {
  const auto records = static_cast<double>(workload.records_a_batch);
  return {records / median(sample.batch_seconds),
          sample.cpu_seconds / static_cast<double>(sample.batch_seconds.size()) / records * 1e9};
}

Row measure(const Workload& workload, const Options& options) {
  std::vector<double> loop_rates, loop_cpu, engine_rates, engine_cpu, ratios, cpu_ratios;
  for (std::size_t round = 0; round < options.rounds; ++round) {
    const Sample loop_sample = workload.loop();
    const Side loop = side_of(workload, loop_sample);
    loop_rates.push_back(loop.records_per_second);
    loop_cpu.push_back(loop.cpu_ns_per_record);
    if (options.loops_only) continue;
    const Sample engine_sample = workload.engine();
    if (engine_sample.result != loop_sample.result) {
      std::fprintf(stderr, "%s: the loop counts %lld, the engine %lld\n", workload.name.c_str(),
                   static_cast<long long>(loop_sample.result), static_cast<long long>(engine_sample.result));
      std::exit(1);
    }
    const Side engine = side_of(workload, engine_sample);
    engine_rates.push_back(engine.records_per_second);
    engine_cpu.push_back(engine.cpu_ns_per_record);
    ratios.push_back(engine.records_per_second / loop.records_per_second);
    cpu_ratios.push_back(loop.cpu_ns_per_record / engine.cpu_ns_per_record);
  }
  return {&workload,
          {median(loop_rates), median(loop_cpu)},
          {median(engine_rates), median(engine_cpu)},
          median(ratios),
          median(cpu_ratios)};
}

std::vector<Workload> make_workloads(const Options& options) {
  const std::size_t scale = options.quick ? 5 : 1;
  const Plan plan{.threads = 2, .warm_batches = 8, .batches = options.quick ? 16U : 24U};
  constexpr std::size_t window = 30;
  Plan window_plan = plan;
  window_plan.warm_batches = window + 2;
  std::vector<Workload> workloads;
  if (options.wants("W1") || options.wants("W2") || options.wants("W3")) {
    const auto text = std::make_shared<TextData>(8, 250'000 / scale, plan.threads);
    const auto add = [&](const char* name, const char* what, auto loop, auto engine) {
      if (!options.wants(name)) return;
      workloads.push_back({name, what, text->lines_a_batch, text->lines_a_batch * TextData::line_bytes,
                           [=] { return loop(*text); }, [=] { return engine(*text); }});
    };
    add(
        "W1", "grep: filter, count", [=](const TextData& t) { return loop_grep(t, plan); },
        [=](const TextData& t) { return engine_grep(t, plan); });
    add(
        "W2", "word count a batch", [=](const TextData& t) { return loop_word_count(t, plan); },
        [=](const TextData& t) { return engine_word_count(t, plan); });
    add(
        "W3", "word count, window of 30 batches",
        [=](const TextData& t) { return loop_window(t, window_plan, window); },
        [=](const TextData& t) { return engine_window(t, window_plan, window); });
  }
  if (options.wants("W4") || options.wants("W4full")) {
    const auto events = std::make_shared<EventData>(5, 500'000 / scale, 1'000'000 / scale);
    const auto add = [&](const char* name, const char* what, bool all) {
      if (!options.wants(name)) return;
      workloads.push_back({name, what, events->events_a_batch, events->events_a_batch * sizeof(Event),
                           [=] { return loop_state(*events, plan, all); },
                           [=] { return engine_state(*events, plan, all); }});
    };
    add("W4", "sum a key, changed keys", false);
    add("W4full", "sum a key, all keys", true);
  }
  return workloads;
}

/// From the start of a process of this program to its end, after its first batch at a 10 ms interval.
double first_batch_ms() {
  std::vector<double> times;
  for (int i = 0; i < 7; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    if (sluice::spawn_self({"--first-batch"})->wait() != 0) return -1;
    times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
  }
  return median(times);
}

/// Time to compile an example, in the root of the sources; -1 where that is not.
double compile_seconds() {
  const std::string source = "examples/word_count.cpp";
  if (!std::filesystem::exists(source)) return -1;
  const auto begin = std::chrono::steady_clock::now();
  // tidy: allow banned: because the compiler is what is measured
  if (std::system(("c++ -std=c++20 -O2 -I. -c " + source + " -o /dev/null").c_str()) != 0) return -1;
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

std::vector<Figure> empty_figures(bool quick) {
  const std::size_t batches = quick ? 200 : 500;
  return {{"CPU of an empty batch (W2, 10 ms)", empty_batch_cpu_us(batches, false), "us"},
          {"  with a checkpoint directory", empty_batch_cpu_us(batches, true), "us"}};
}

std::vector<Figure> steady_figures(bool quick) {
  const SteadyResult steady = steady_milliseconds(100, quick ? 10'000 : 60'000);
  return {{"1 ms interval, 100 records: run", steady.seconds, "s"},
          {"  batches", static_cast<double>(steady.batches), ""},
          {"  merged batches", static_cast<double>(steady.merged_batches), ""},
          {"  median total delay, first sixth", steady.first_delay_ms, "ms"},
          {"  median total delay, last sixth", steady.last_delay_ms, "ms"},
          {"  cores used", steady.cores, ""}};
}

std::vector<Figure> start_figures(bool) { return {{"process start to first batch (10 ms)", first_batch_ms(), "ms"}}; }

std::vector<Figure> compile_figures(bool) {
  const double seconds = compile_seconds();
  if (seconds < 0) return {};
  return {{"compile time of examples/word_count.cpp", seconds, "s"}};
}

struct FigureGroup {
  const char* name;
  std::vector<Figure> (*measure)(bool quick);
};

constexpr FigureGroup figure_groups[] = {{"empty", empty_figures},
                                         {"1ms", steady_figures},
                                         {"start", start_figures},
                                         {"compile", compile_figures},
                                         {"disk", disk_figures},
                                         {"10ms", short_interval_figures},
                                         {"checkpoint", checkpoint_figures},
                                         {"recovery", recovery_figures},
                                         {"wal", wal_figures},
                                         {"cost", cost_figures},
                                         {"cluster", cluster_figures},
                                         {"network", network_figures},
                                         {"nodes", nodes_figures}};

// ---- Output

void print_row(const Row& row, bool json) {
  const auto bytes =
      static_cast<double>(row.workload->bytes_a_batch) / static_cast<double>(row.workload->records_a_batch);
  if (json) {
    std::printf(
        "{\"workload\":\"%s\",\"loop_records_s\":%.0f,\"engine_records_s\":%.0f,\"loop_MB_s\":%.1f,"
        "\"engine_MB_s\":%.1f,\"loop_cpu_ns\":%.2f,\"engine_cpu_ns\":%.2f,\"ratio\":%.3f,\"cpu_ratio\":%.3f}\n",
        row.workload->name.c_str(), row.loop.records_per_second, row.engine.records_per_second,
        row.loop.records_per_second * bytes / 1e6, row.engine.records_per_second * bytes / 1e6,
        row.loop.cpu_ns_per_record, row.engine.cpu_ns_per_record, row.ratio, row.cpu_ratio);
  } else {
    std::printf("%-7s %-33s %8.2f %8.2f %9.0f %9.0f %9.1f %9.1f %7.2f %7.2f\n", row.workload->name.c_str(),
                row.workload->what.c_str(), row.loop.records_per_second / 1e6, row.engine.records_per_second / 1e6,
                row.loop.records_per_second * bytes / 1e6, row.engine.records_per_second * bytes / 1e6,
                row.loop.cpu_ns_per_record, row.engine.cpu_ns_per_record, row.ratio, row.cpu_ratio);
  }
  std::fflush(stdout);
}

void print_figure(const Figure& figure, bool json) {
  if (json) {
    std::printf("{\"figure\":\"%s\",\"value\":%.3f,\"unit\":\"%s\"}\n", figure.name.c_str(), figure.value,
                figure.unit.c_str());
  } else {
    std::printf("%-41s %10.2f %s\n", figure.name.c_str(), figure.value, figure.unit.c_str());
  }
  std::fflush(stdout);
}

int run(const Options& options) {
  const std::vector<Workload> workloads = make_workloads(options);
  if (!workloads.empty() && !options.json) {
    std::printf("2 threads, 2 partitions, median of %zu rounds; CPU: of the process, a record\n", options.rounds);
    std::printf("%-41s %17s %19s %19s %15s\n", "", "M records/s", "MB/s", "CPU ns", "engine/loop");
    std::printf("%-41s %8s %8s %9s %9s %9s %9s %7s %7s\n", "", "loop", "engine", "loop", "engine", "loop", "engine",
                "rate", "by CPU");
  }
  for (const Workload& workload : workloads) print_row(measure(workload, options), options.json);
  for (const FigureGroup& group : figure_groups) {
    if (options.loops_only || !options.wants(group.name)) continue;
    for (const Figure& figure : group.measure(options.quick)) print_figure(figure, options.json);
  }
  return 0;
}

int fail_usage() {
  std::fprintf(stderr,
               "usage: bench [--quick] [--json] [--rounds N] [--loops]\n"
               "             [--only W1|W2|W3|W4|W4full|empty|1ms|start|compile]\n"
               "             [--only disk|10ms|checkpoint|recovery|wal|cost]   what durability costs\n"
               "             [--only cluster]   what executors in processes of their own cost\n"
               "             [--only network]   what TLS costs\n"
               "             [--only nodes]     what a driver of 100 and 1,000 executors costs\n");
  return 2;
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  sluice::init(argc, argv);
  bench::Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--first-batch") {
      bench::run_first_batch();
      return 0;
    }
    if (argument == "--fill-state" && i + 1 < argc) bench::fill_state_and_die(argv[i + 1]);
    if (argument == "--recover-state" && i + 1 < argc) {
      bench::recover_state(argv[i + 1]);
      return 0;
    }
    if (argument == "--nodes" && i + 3 < argc) {
      bench::run_nodes(argv[i + 1], argv[i + 2], argv[i + 3]);
      return 0;
    }
    if (argument == "--quick") {
      options.quick = true;
    } else if (argument == "--json") {
      options.json = true;
    } else if (argument == "--loops") {
      options.loops_only = true;
    } else if (argument == "--only" && i + 1 < argc) {
      options.only = argv[++i];
    } else if (argument == "--rounds" && i + 1 < argc) {
      options.rounds = static_cast<std::size_t>(std::max(1, std::atoi(argv[++i])));
    } else {
      return bench::fail_usage();
    }
  }
  return bench::run(options);
}
